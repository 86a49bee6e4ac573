-- The first migration decides; later settings change nothing.
insert into {schema}.tidegate_choices (name, value) values ($1, $2) on conflict (name) do nothing
