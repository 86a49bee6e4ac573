-- Appended to a statement that changes records and returns them as `changed`; its $1 is the topic.
, fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select version, $1, id, '{action}', created, updated, data from changed
    returning 1
)
select id, version, created, updated, data::text as data from changed
where (select {schema}.expect_rows('changes', count(*), (select count(*) from fed)) from changed){checked}
