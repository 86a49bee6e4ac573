-- After create.sql: a record that was neither created nor existed was dropped by a trigger. Existing ones are counted only if some were
-- not created.
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
