-- Behind create.sql: a record that is neither made nor there was dropped by a trigger. Those that are there are looked for only if some
-- were not made.
case (select count(*) from changed)
    when cardinality($2::text[]) then true
    else (
        select {schema}.expect_rows(
            'records', count(distinct asked.id),
            (select count(*) from changed) + (select count(*) from {table} where id = any($2))
        )
        from unnest($2::text[]) as asked (id)
    )
end
