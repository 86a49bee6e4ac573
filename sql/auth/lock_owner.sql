-- Serialises the creation of one owner's keys, so that their number is bounded. The owner's id does not change, so rows that refer to it,
-- such as a new conversation, need not wait.
select 1 from {schema}.users where id = $1 for no key update
