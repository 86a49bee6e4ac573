-- Those of the paths ($1) at which there are streams.
select path from {schema}.streams where path = any($1) and state < 2
