-- Waits for a transaction of this lane that is still in flight, and fences off every older one.
insert into {schema}.ingest_lanes (journal, lane, epoch) values ($1, $2, 1)
on conflict (journal, lane) do update set epoch = ingest_lanes.epoch + 1
returning epoch
