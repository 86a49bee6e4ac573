-- Keys of one owner are made one after the other, so that their number has a bound.
select 1 from {schema}.users where id = $1 for update
