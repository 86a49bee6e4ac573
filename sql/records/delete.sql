-- The feed gets the record's last content. $1 is the topic, $3 the time.
with changed as (
    delete from {table}
    where id = $2
    returning id, nextval('{schema}.change_numbers') as version, created, greatest($3, updated) as updated, data
)
