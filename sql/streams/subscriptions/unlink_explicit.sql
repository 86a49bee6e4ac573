-- Makes the link of the subscription $1 to $2 one by its pattern.
update {schema}.stream_subscription_links set is_explicit = false where subscription = $1 and path = $2 and is_explicit
