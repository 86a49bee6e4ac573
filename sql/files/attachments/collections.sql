-- The numbers of the collections that have files, by skipping from one to the next in the primary key.
with recursive found as (
    (select collection from {schema}.record_files order by collection limit 1)
    union all
    select (select collection from {schema}.record_files where collection > found.collection order by collection limit 1)
    from found where found.collection is not null
)
select collection from found where collection is not null
