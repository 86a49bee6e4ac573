-- Collections that only the face of typed collections serves: those of accounts and of the system, and those with hidden fields. Their changes have
-- topics of their own in the feed.
alter table {schema}.collections add column private boolean not null default false;
