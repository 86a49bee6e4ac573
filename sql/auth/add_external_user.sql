-- Creates the user of an issuer's subject at their first request. The update changes nothing: it makes the statement return
-- an existing row.
insert into {schema}.users (issuer, subject)
values ($1, $2)
on conflict (issuer, subject) do update set subject = excluded.subject
returning id
