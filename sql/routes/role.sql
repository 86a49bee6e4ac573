-- Why the role $1 may not run a route; null: it may. No row: there is no such role.
select case
    when rolsuper then 'is a superuser'
    when rolname in (current_user, session_user) then 'is the service''s own role'
    when rolbypassrls or rolcreaterole or rolcreatedb or rolreplication then 'may do more than write to tables'
    when pg_has_role(oid, session_user, 'member') or pg_has_role(oid, current_user, 'member') then 'is a member of the service''s own role'
    when exists (
        select from pg_roles other
        where (other.rolsuper or other.rolname ~ '^pg_(read|write)_server_files$' or other.rolname = 'pg_execute_server_program')
            and pg_has_role(r.oid, other.oid, 'member')
    ) then 'is a member of a role that may act on the host'
end as reason
from pg_roles r
where rolname = $1
