-- The first statement of each batch: only one transaction may write for this lane, unless its epoch was raised. Reads the checkpoint number
-- too: a lower one than before means that the database went back in time.
select journals.fence
from {schema}.ingest_lanes lanes
join {schema}.ingest_journals journals using (journal)
where journal = $1 and lane = $2 and epoch = $3
for no key update of lanes
