-- Dead letters of events that were accepted from this id on.
select count(*) from dead_letters where id >= $1 and reason is distinct from 'overload'
