-- Adds the position $5 of the name $2 of the identity $1, which the connection $4 keeps. An owner $3 has up to $6: in the place of one more goes
-- the one that was unused for the longest time, of a connection that has ended or has not renewed it for five minutes. No row: all are in use.
with owned as materialized (
    select count(*) as count from (select from {schema}.client_positions where owner = $3 limit $6) as owned
), gone as (
    delete from {schema}.client_positions p using (
        select identity, name from {schema}.client_positions, owned
        where owned.count >= $6 and owner = $3 and (not is_open or at < now() - interval '5 minutes')
        order by at limit 1 for update of client_positions skip locked
    ) as oldest
    where p.identity = oldest.identity and p.name = oldest.name
    returning 1
)
insert into {schema}.client_positions (identity, name, owner, holder, position)
select $1, $2, $3, $4, $5 from owned where owned.count < $6 or exists (select from gone)
    or exists (select from {schema}.client_positions where identity = $1 and name = $2)
on conflict (identity, name) do update set holder = excluded.holder, position = excluded.position, is_open = true, at = now()
returning 1
