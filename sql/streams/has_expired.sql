-- Whether streams have ended by themselves and do not count as deleted yet.
select exists (select from {schema}.streams where has_lifetime and state < 2 and state = 0 and expires_at <= now())
