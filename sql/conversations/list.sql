-- Pages of lists, newest activity first, for several requests. $1 to $5: each one's owner, cursor, limit and offset. `found` counts up to
-- the limit, which is one more than the page has, so it reports whether there is a next page. A page ends before it exceeds $6 bytes; if
-- $7, after it exceeds them. Its first row is always returned, and reports whether it `fits`. {mine} is one of two conditions, as each has
-- an index of its own.
select asked.place::integer as place, page.*
from unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::bigint[], $5::bigint[]) with ordinality
    as asked (owner, at, id, most, passed_over, place)
cross join lateral (
    with page as (
        select c.id, c.title, c.created_at, c.updated_at, c.metadata::text as metadata
        from {schema}.conversations c
        where {mine} and (c.updated_at, c.id) < (asked.at, asked.id)
        order by c.updated_at desc, c.id desc
        limit asked.most offset asked.passed_over
    ), sized as (
        select *, count(*) over () as found, row_number() over nearest as nth,
            sum(octet_length(title) + octet_length(metadata)) over nearest
                - case when $7 then octet_length(title) + octet_length(metadata) else 0 end <= $6 as fits
        from page
        window nearest as (order by updated_at desc, id desc)
    )
    select id, title, created_at, updated_at, metadata, found, fits from sized where fits or nth = 1
) as page
order by asked.place, page.updated_at desc, page.id desc
