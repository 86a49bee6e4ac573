-- Notes the end of a compaction of a stream ($1), unless another node has compacted it since ($2: the generation): up to an offset ($3), and the bytes that it
-- left ($4).
update {schema}.streams set compacted_to = $3, compacted_bytes = $4, compacts_until = null
where id = $1 and generation = $2
