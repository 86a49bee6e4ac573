-- The records of a view collection whose query reads what is not there, or is about to be changed.
select ''::text collate "C" as id, 0::bigint as version, timestamptz 'epoch' as created, timestamptz 'epoch' as updated, '{}'::jsonb as data
where false
