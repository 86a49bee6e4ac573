-- The counts of a part's lines.
with noted as (
    insert into {schema}.import_rejected (file_id, line, reason)
    select $1, line, reason from unnest($5::bigint[], $6::text[]) as rejected (line, reason)
    returning 1
), settled as (
    update {schema}.import_parts set stored = $3, rejected = $4 where file_id = $1 and number = $2 returning 1
)
select {schema}.expect_rows('import_rejected', cardinality($5), (select count(*) from noted))
    and {schema}.expect_rows('import_parts', 1, (select count(*) from settled))
