-- Entries with the columns of a record, for expressions.
select id, created, created as updated, jsonb_build_object('level', level, 'message', message, 'data', data) as data
from {schema}.request_logs
