-- One node moves rows at a time, so that those of a stream keep their order. The lock ends with the transaction; false while another node has it.
select pg_try_advisory_xact_lock(hashtextextended('tidegate stream inbox {schema}', 0)) as is_mine
