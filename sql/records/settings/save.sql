-- Saves all settings, and reports it to every node by the feed.
with saved as (
    insert into {schema}.app_settings (value) values ($1)
    on conflict (id) do update set value = excluded.value, version = app_settings.version + 1, updated = now()
    returning version
), reported as (
    insert into {schema}.changes (number, topic, record, action, created, updated, data)
    select nextval('{schema}.change_numbers'), 'settings:changed', version::text, 'append', now(), now(), 'null'::jsonb from saved
)
select version from saved
