-- Locks the subscription with the id $1, or the number $2.
select {columns} from {schema}.stream_subscriptions s where s.id = $1 or s.number = $2 for no key update
