-- The changes of `page`, a common table expression of transactions, numbers and places, and the sum of their sizes in order. `found` is their
-- number.
sized as (
    select c.xid, c.number, page.last, topic, record, action, keys, c.data::text as data,
        c.old::text as old,
        (extract(epoch from created) * 1000000)::bigint as created_us,
        (extract(epoch from updated) * 1000000)::bigint as updated_us,
        (extract(epoch from at) * 1000000)::bigint as at_us,
        octet_length(c.data::text) + coalesce(octet_length(c.old::text), 0) as bytes,
        count(*) over () as found,
        sum(octet_length(c.data::text) + coalesce(octet_length(c.old::text), 0)) over (order by page.last, page.number) as sum
    from page
    join {schema}.changes c on c.xid = page.xid and c.number = page.number
)
