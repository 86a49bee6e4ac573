-- A new route. Its trigger is made in the same transaction.
insert into {schema}.event_routes (name, target_schema, target_table, statement, target_columns, key_columns, on_conflict, run_as, strict, serial,
    whole, state, was_live)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, case when $12 then 'live' else 'disabled' end, $12)
on conflict (name) do nothing
returning id
