-- Search reads the feed by snapshots, as subscribers do: an open transaction delays its own changes and no others. What `seen` saw is indexed. Of
-- a poll that is indexed in part, `until` is the end, and (xid, number) the last change that was read; `part` as before.
alter table {schema}.feed_readers add column seen text, add column until text;

-- What was read until now are all changes up to (xid, number): the poll that begins before that transaction goes on behind its change.
update {schema}.feed_readers
set seen = greatest(xid::text::bigint, 1) || ':' || greatest(xid::text::bigint, 1) || ':';

alter table {schema}.feed_readers alter column seen set not null;
