-- Adds the messages of several requests. $1 to $4: each request's conversation, its required owner, its key and the hash of its body;
-- $5 to $12: each message's request number and columns. A request whose key is known is not repeated, and a request of which a trigger
-- drops a row is rejected. Writers of a conversation hold its lock (try_locks.sql), so no other transaction adds keys or times. Each key
-- appears once.
with mine as (
    select request.*, known.hash as known, known.ids, known.first
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[]) with ordinality
        as request (conversation_id, owner, key, hash, request)
    cross join lateral (
        select true from {schema}.conversations c
        where c.id = request.conversation_id and c.owner is not distinct from request.owner
        limit 1
    ) as c
    left join lateral (
        select k.hash, k.ids, k.first from {schema}.message_keys k
        where k.conversation_id = request.conversation_id and k.key = request.key
        limit 1
    ) as known on true
    where request.conversation_id = any((select current_setting('tidegate.locked')::uuid[])::uuid[])
), new as (
    select mine.request, mine.conversation_id, mine.key, mine.hash,
        m.id, m.role, m.content, m.token_count, m.metadata, m.done, m.extra,
        row_number() over (partition by mine.conversation_id order by m.place) - 1 as nth
    from unnest($5::integer[], $6::uuid[], $7::text[], $8::text[], $9::integer[], $10::jsonb[], $11::boolean[],
        $12::jsonb[]) with ordinality as m (request, id, role, content, token_count, metadata, done, extra, place)
    full join mine on mine.request = m.request
    where coalesce(mine.request, 0) > 0 and mine.first is null
), touched as (
    update {schema}.conversations c
    set updated_at = greatest(clock_timestamp(), c.updated_at + interval '1 microsecond')
        + n.more * interval '1 microsecond'
    from (select conversation_id, count(*) - 1 as more from new group by conversation_id) as n
    where c.id = n.conversation_id
    returning c.id as conversation_id, c.updated_at - n.more * interval '1 microsecond' as first
), placed as (
    select new.*, touched.first + new.nth * interval '1 microsecond' as at
    from new full join touched on touched.conversation_id = new.conversation_id
    where coalesce(touched.first, 'infinity') < 'infinity'
), added as (
    insert into {schema}.messages (id, conversation_id, role, content, timestamp, token_count, metadata, extra)
    select id, conversation_id, role, content, at, token_count, metadata, extra from placed
    returning 1
), begun as (
    insert into {schema}.message_drafts (message_id, length, bytes)
    select id, char_length(content), octet_length(content) from placed where not done
    returning 1
), keyed as (
    insert into {schema}.message_keys (conversation_id, key, hash, ids, first)
    select conversation_id, key, hash, array_agg(id order by at), min(at)
    from placed
    where key is not null
    group by conversation_id, key, hash
    returning 1
), fed as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'conversation:' || conversation_id, id::text, 'create', at, at,
        jsonb_build_object(
            'role', role, 'content', content, 'token_count', token_count, 'metadata', metadata, 'done', done
        ) || case when extra is null then '{}'::jsonb else jsonb_build_object('extra', extra) end
    from (select * from placed order by conversation_id, at) as placed
    returning 1
)
select mine.request::integer as request, mine.known, mine.ids, coalesce(mine.first, new.first) as first
from mine
full join (select request, min(at) as first from placed group by request) as new on new.request = mine.request
where (
    select {schema}.expect_rows('conversations', count(distinct conversation_id), (select count(*) from touched)) from new
) and (
    select {schema}.expect_rows('messages', count(*), (select count(*) from added))
        and {schema}.expect_rows('message_drafts', count(*) filter (where not done), (select count(*) from begun))
        and {schema}.expect_rows(
            'message_keys', count(distinct (conversation_id, key)) filter (where key is not null), (select count(*) from keyed)
        )
        and {schema}.expect_rows('changes', count(*), (select count(*) from fed))
    from placed
)
