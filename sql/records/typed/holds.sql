-- Whether a rule holds for a record as it would be: $1 is its id, $2 its members, $3 and $4 its times.
select exists (
    select from (select $1::text collate "C" as id, $2::jsonb as data, $3::timestamptz as created, $4::timestamptz as updated) as record
    where {conditions}
) as holds
