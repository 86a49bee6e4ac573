-- Keys of one owner are made one after the other, so that their number has a bound. His id stays as it is, so what refers to him
-- meanwhile, such as a conversation that he begins, need not wait.
select 1 from {schema}.users where id = $1 for no key update
