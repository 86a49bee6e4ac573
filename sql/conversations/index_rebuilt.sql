-- The documents up to $1 were rebuilt. Null: all.
with ended as (
    delete from {schema}.search_rebuild where $1::uuid is null
)
update {schema}.search_rebuild set done = $1 where $1::uuid is not null
