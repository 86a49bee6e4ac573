-- The user of an issuer's subject, made when he first comes. The update changes nothing; it makes a row that is there
-- come back.
insert into {schema}.users (issuer, subject)
values ($1, $2)
on conflict (issuer, subject) do update set subject = excluded.subject
returning id
