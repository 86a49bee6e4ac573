-- Newest activity first, from the place ($2, $3) on, up to the conversation that passes $6 bytes. `found` counts up to one
-- more than the page has ($4), which tells whether there is a next one. {mine} is one of two conditions on $1, as each has
-- an index of its own.
with page as (
    select id, title, created_at, updated_at, metadata::text as metadata
    from {schema}.conversations
    where {mine} and (updated_at, id) < ($2, $3)
    order by updated_at desc, id desc
    limit $4 offset $5
), sized as (
    select *, count(*) over () as found, octet_length(title) + octet_length(metadata) as bytes,
        sum(octet_length(title) + octet_length(metadata)) over (order by updated_at desc, id desc) as sum
    from page
)
select id, title, created_at, updated_at, metadata, found
from sized
where sum - bytes <= $6
order by updated_at desc, id desc
