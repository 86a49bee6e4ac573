-- Reports a changed schema to every node, by the feed. $1 is the collection's name.
insert into {schema}.changes (number, topic, record, action, created, updated, data)
select nextval('{schema}.change_numbers'), 'collections:changed', $1, 'append', now(), now(), 'null'::jsonb
