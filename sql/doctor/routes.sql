-- The routes whose target is gone, or lacks a column that the route fills.
select r.name, format('%I.%I', r.target_schema, r.target_table) as target, t.relation is null as is_gone,
    coalesce((
        select string_agg(wanted.name, ', ')
        from unnest(r.target_columns) as wanted (name)
        where not exists (
            select from pg_attribute where attrelid = t.relation and attname = wanted.name and attnum > 0 and not attisdropped
        )
    ), '') as missing
from {schema}.event_routes r
cross join lateral (select to_regclass(format('%I.%I', r.target_schema, r.target_table)) as relation) t
where r.state <> 'removed'
order by r.name
