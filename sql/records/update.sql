-- $1 is the topic. Clocks of several nodes differ: a record is never updated before it was created. `before` is the row that the transaction has
-- locked, as its snapshot has it. `old` is that state for the feed: own members, and the time of the update before this one.
with changed as (
    update {table} as record
    set version = nextval('{schema}.change_numbers'), updated = greatest($3, before.updated), data = $4
    from {table} as before
    where record.id = $2 and before.id = $2
    returning record.id, record.version, record.created, record.updated, record.data,
        before.data || jsonb_build_object(
            'updated', to_char(before.updated at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
        ) as old
)
