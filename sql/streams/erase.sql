-- Removes chunks and producers of deleted streams, up to $1 chunks, and the rows of streams that have none left and no forks.
with deleted as materialized (
    select id from {schema}.streams where state = 2 order by id limit 100
), chosen as materialized (
    select c.stream, c.next
    from deleted
    cross join lateral (
        select stream, next from {schema}.stream_chunks where stream = deleted.id order by next limit $1
    ) as c
    limit $1
), erased as (
    delete from {schema}.stream_chunks c using chosen where c.stream = chosen.stream and c.next = chosen.next
    returning 1
), empty as materialized (
    select id from deleted
    where not exists (select from {schema}.stream_chunks c where c.stream = deleted.id)
        and not exists (select from {schema}.streams f where f.source = deleted.id)
), producers as (
    delete from {schema}.stream_producers p using empty where p.stream = empty.id
), rows as (
    delete from {schema}.streams s using empty where s.id = empty.id
    returning 1
)
select (select count(*) from erased) as chunks, (select count(*) from rows) as streams
