-- An import's progress. Its parts exist while it runs; after its end only the sums are kept.
select state, imports.lines + sums.lines as lines, imports.stored + sums.stored as stored,
    imports.rejected + sums.rejected as rejected, error, size as total_bytes,
    case state when 'done' then size else least(sums.bytes, size) end as bytes,
    to_char((timestamptz 'epoch' + started_us * interval '1 microsecond') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as started,
    to_char(finished at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as finished
from {schema}.imports join {schema}.files on files.id = imports.file_id,
    lateral (
        select coalesce(sum(lines), 0)::bigint as lines, coalesce(sum(stored), 0)::bigint as stored,
            coalesce(sum(rejected), 0)::bigint as rejected, coalesce(sum(bytes), 0)::bigint as bytes
        from {schema}.import_parts
        where import_parts.file_id = imports.file_id and state = 'running'
    ) as sums
where imports.file_id = $1
