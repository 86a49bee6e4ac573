-- What the route did with the sample.
select r.state, r.sqlstate, r.error, coalesce(sum(c.rows), 0)::bigint as rows, coalesce(sum(c.errors), 0)::bigint as refused,
    coalesce(sum(c.microseconds), 0)::bigint as microseconds
from {schema}.event_routes r left join {schema}.route_counts c on c.route = r.id
where r.id = $1
group by r.id
