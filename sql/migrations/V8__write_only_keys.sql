-- Keys that web pages publish. A key with origins sends events from pages of these origins, and does nothing else.

alter table {schema}.api_keys
    add column origins text[],
    add constraint api_keys_write_only check (
        origins is null or (cardinality(origins) > 0 and scopes = '{events:write}' and not admin)
    );
