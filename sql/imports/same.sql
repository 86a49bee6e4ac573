-- Whether a file is being imported as it is asked for.
select 1 from {schema}.imports
where file_id = $1 and state = 'running' and kind is not distinct from $2 and mapping = $3::text::jsonb
