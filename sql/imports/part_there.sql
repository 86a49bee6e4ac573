-- Whether a part is noted. Asked behind the statement that claims it, so that the claim that it waited for is seen.
select 1 from {schema}.import_parts where file_id = $1 and number = $2
