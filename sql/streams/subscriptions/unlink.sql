-- Removes the link of the subscription $1 to $2.
delete from {schema}.stream_subscription_links where subscription = $1 and path = $2
