-- Whether a part is recorded. A separate statement after the one that claims it, so that it sees the claim that the first one waited for.
select 1 from {schema}.import_parts where file_id = $1 and number = $2
