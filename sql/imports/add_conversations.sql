-- Conversations whose ids are taken are left out; the caller sees which are missing.
insert into {schema}.conversations (id, title, created_at, updated_at, metadata, owner)
select new.id, title, at, at, metadata, $5
from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) as given (id, title, metadata_text, at_us),
    lateral (select given.id, timestamptz 'epoch' + at_us * interval '1 microsecond', metadata_text::jsonb) as new (id, at, metadata)
on conflict (id) do nothing
returning id
