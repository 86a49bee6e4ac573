-- The statements that a route's role ($1) still needs for its target ($2), in order. $3: the schema of the service. The service's own role
-- has to be a member of it, to make it the owner of functions; a superuser may as it is. A target of 0: none.
with names as (
    select $1::text as role, $2::oid as target, n.nspname as target_schema, c.relname as target_name, $3::text as own_schema,
        (select oid from pg_roles where rolname = $1) as role_oid,
        (select rolsuper from pg_roles where rolname = current_user) as is_super
    from (select) as one left join pg_class c on c.oid = $2 left join pg_namespace n on n.oid = c.relnamespace
)
select statement from (
    select 0 as place, format('grant usage on schema %I to %I', target_schema, current_user) as statement from names
    where target_schema is not null and has_schema_privilege(current_user, target_schema, 'usage') is not true
    union all
    select 1, format('create role %I nologin', role) from names where role_oid is null
    union all
    select 2, format('grant %I to %I', role, current_user) from names
    where not is_super and pg_has_role(current_user, role_oid, 'member') is not true
    union all
    select 3, format('grant usage on schema %I to %I', own_schema, role) from names
    where has_schema_privilege(role_oid, own_schema, 'usage') is not true
    union all
    select 4, format('grant create on schema %I to %I', own_schema, role) from names
    where not is_super and has_schema_privilege(role_oid, own_schema, 'create') is not true
    union all
    select 5, format('grant usage on schema %I to %I', target_schema, role) from names
    where has_schema_privilege(role_oid, target_schema, 'usage') is not true
        and target_schema <> own_schema
    union all
    select 6, format('grant select, insert, update on table %I.%I to %I', target_schema, target_name, role) from names
    where target_name is not null and (has_table_privilege(role_oid, target, 'select') is not true
        or has_table_privilege(role_oid, target, 'insert') is not true
        or has_table_privilege(role_oid, target, 'update') is not true)
    union all
    select 7, format('grant usage on sequence %s to %I', d.objid::regclass, role)
    from names
    join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = target and d.classid = 'pg_class'::regclass and d.deptype = 'a'
    join pg_class s on s.oid = d.objid and s.relkind = 'S'
    where has_sequence_privilege(role_oid, d.objid, 'usage') is not true
    union all
    select 8, format('grant execute on function %s to %I', f.oid::regprocedure, role)
    from names
    join pg_proc f on f.pronamespace = to_regnamespace(quote_ident(own_schema)) and f.proname in (
        'tidegate_route_begin', 'tidegate_route_end', 'tidegate_route_suspend', 'tidegate_route_defer', 'tidegate_route_pass')
    where has_function_privilege(role_oid, f.oid, 'execute') is not true
) as statements
order by place, statement
