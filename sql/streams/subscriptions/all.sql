-- Every subscription; with $1 the revision of those that the caller knows, nothing if they are still the same. Configurations do not change, so
-- the last number and the count tell two sets apart.
with set as (
    select coalesce(max(number), 0) * 65536 + count(*) as revision from {schema}.stream_subscriptions
)
select set.revision, {columns}
from set
left join {schema}.stream_subscriptions s on true
where set.revision <> $1
