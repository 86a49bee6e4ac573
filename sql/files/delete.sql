-- A file ($2) of an owner ($1). Its content stays for the sweeper, as others may have the same.
delete from {schema}.files where id = $2 and owner is not distinct from $1
returning id
