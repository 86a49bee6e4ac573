-- Appended to a statement that changes records and returns them as `changed`; its $1 is the topic. An update returns the state before it, too.
, fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data, old)
    select version, $1, id, '{action}', created, updated, data, {old} from changed
    returning 1
)
select id, version, created, updated, data::text as data from changed
where (
    -- Without a call in the usual case, as many small statements end here.
    select case when fed.count = changed.count then true else {schema}.expect_rows('changes', changed.count, fed.count) end
    from (select count(*) from changed) as changed, (select count(*) from fed) as fed
){checked}
