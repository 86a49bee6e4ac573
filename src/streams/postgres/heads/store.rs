//! Rows of streams.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::known::Segment;
use super::{SharedPart, Status, Stream};
use crate::db::{BY_INDEX, Database, DbError, query_all_in_time, query_alone_in_time, sql};
use crate::streams::{
    ContentType, ForkOrigin, Lifetime, ListedStream, Offset, Retention, StreamHead, StreamId, StreamPath,
};
use crate::time::Micros;

/// The columns of a stream, of which [`COLUMNS`] are a part.
pub(in crate::streams::postgres) const HEAD: &str = sql!("streams/head.sql");
/// The columns of a stream but for its status.
pub(in crate::streams::postgres) const COLUMNS: &str = sql!("streams/head_columns.sql");

/// Reads the rows of streams, with a quota of the pool.
#[derive(Debug, Clone)]
pub(in crate::streams::postgres) struct HeadStore {
    database: Database,
    timeout: Duration,
}

impl HeadStore {
    pub(in crate::streams::postgres) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// The streams at paths, in order.
    pub(super) async fn read(&self, paths: &[&str]) -> Result<Vec<Option<Arc<Stream>>>, DbError> {
        let living = sql!(self.database, "streams/living.sql", columns = COLUMNS);
        let mut streams = vec![None; paths.len()];
        let every: Vec<usize> = (0..paths.len()).collect();
        self.read_into(&mut streams, living, paths, &every).await?;
        let missing: Vec<usize> =
            every.into_iter().filter(|place| matches!(streams.get(*place), Some(None))).collect();
        if !missing.is_empty() {
            // Ended or not there. Which of them is kept for its forks takes longer to find.
            let sql = sql!(self.database, "streams/heads.sql", head = HEAD, columns = COLUMNS);
            self.read_into(&mut streams, sql, paths, &missing).await?;
        }
        Ok(streams)
    }

    /// Reads the streams at some places of the paths.
    async fn read_into(
        &self,
        streams: &mut [Option<Arc<Stream>>],
        sql: &str,
        paths: &[&str],
        places: &[usize],
    ) -> Result<(), DbError> {
        let paths: Vec<&str> = places.iter().filter_map(|place| paths.get(*place).copied()).collect();
        let connection = self.database.get().await?;
        let read = query_alone_in_time(&connection, self.timeout, sql, &[(&paths, Type::TEXT_ARRAY)]).await;
        for row in connection.release(read)? {
            let place = usize::try_from(row.try_get::<_, i64>("place")? - 1).unwrap_or(usize::MAX);
            if let Some(slot) = places.get(place).and_then(|place| streams.get_mut(*place)) {
                *slot = Some(Arc::new(stream(&row)?));
            }
        }
        Ok(())
    }

    /// The parts that a stream's bytes are in, from the start on: those of the streams that it was forked from, then its own.
    pub(in crate::streams::postgres) async fn segments(
        &self,
        id: StreamId,
    ) -> Result<Arc<[Segment]>, DbError> {
        let parameter = id.0 as i64;
        let queries = [
            (BY_INDEX, Vec::new()),
            (sql!(self.database, "streams/segments.sql"), vec![(&parameter as _, Type::INT8)]),
        ];
        let connection = self.database.get().await?;
        let read = query_all_in_time(&connection, self.timeout, &queries).await;
        let rows = connection.release(read)?.pop().unwrap_or_default();
        let mut segments = vec![Segment { id, end: Offset(u64::MAX), generation: 0 }];
        for row in rows {
            let (id, end) = (StreamId(number(&row, "id")?), Offset(number(&row, "fork_end")?));
            // A fork of a fork may end before the place where that one begins.
            let end = segments.last().map_or(end, |below| below.end.min(end));
            segments.push(Segment { id, end, generation: number(&row, "generation")? });
        }
        segments.reverse();
        Ok(segments.into())
    }

    /// Living streams whose paths begin with `prefix`, behind `after`.
    pub(in crate::streams::postgres) async fn list(
        &self,
        prefix: &str,
        after: Option<&StreamPath>,
        limit: usize,
    ) -> Result<Vec<ListedStream>, DbError> {
        let after = after.map_or("", StreamPath::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let queries = [
            (BY_INDEX, Vec::new()),
            (
                sql!(self.database, "streams/list.sql"),
                vec![(&prefix as _, Type::TEXT), (&after as _, Type::TEXT), (&limit as _, Type::INT8)],
            ),
        ];
        let connection = self.database.get().await?;
        let read = query_all_in_time(&connection, self.timeout, &queries).await;
        let rows = connection.release(read)?.pop().unwrap_or_default();
        let listed = |row: &Row| {
            Ok(ListedStream {
                path: path(row.try_get("path")?)?,
                id: StreamId(number(row, "id")?),
                tail: Offset(number(row, "tail")?),
            })
        };
        rows.iter().map(listed).collect()
    }
}

fn path(text: &str) -> Result<StreamPath, DbError> {
    StreamPath::new(text).map_err(|_| DbError::Unexpected("a path of no stream"))
}

fn number(row: &Row, column: &str) -> Result<u64, DbError> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or_default())
}

/// A stream of a row with the columns of `sql/streams/head.sql`.
pub(in crate::streams::postgres) fn stream(row: &Row) -> Result<Stream, DbError> {
    let optional = |column: &str| -> Result<Option<u64>, DbError> {
        Ok(row.try_get::<_, Option<i64>>(column)?.map(|number| u64::try_from(number).unwrap_or_default()))
    };
    let expires_at = row.try_get::<_, Option<i64>>("expires_us")?.map(Micros);
    let lifetime = match (optional("ttl_s")?, expires_at) {
        (Some(seconds), _) => Some(Lifetime::Ttl(seconds)),
        (None, end) => end.map(Lifetime::ExpiresAt),
    };
    let origin = match row.try_get::<_, Option<&str>>("fork_source")? {
        None => None,
        Some(source) => Some(Arc::new(ForkOrigin {
            source: path(source)?,
            offset: Offset(optional("fork_offset")?.unwrap_or_default()),
            sub_offset: optional("fork_sub_offset")?.unwrap_or_default(),
            inherits_lifetime: row.try_get("inherits_lifetime")?,
        })),
    };
    let shared = optional("source")?.zip(optional("fork_end")?);
    let retention = Retention { age_s: optional("retention_age_s")?, bytes: optional("retention_bytes")? };
    let content_type = ContentType::parse(row.try_get("content_type")?);
    let left_us = row.try_get::<_, Option<i64>>("left_us")?;
    let left = left_us.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or_default()));
    Ok(Stream {
        path: path(row.try_get("path")?)?,
        status: match row.try_get("status")? {
            "living" => Status::Living,
            "kept" => Status::Kept,
            _ => Status::Ended,
        },
        head: StreamHead {
            id: StreamId(number(row, "id")?),
            content_type: content_type.map_err(|_| DbError::Unexpected("no content type"))?,
            tail: Offset(number(row, "tail")?),
            closed: row.try_get("is_closed")?,
            lifetime,
            expires_at,
            ends: left.and_then(|left| Instant::now().checked_add(left)),
            created_at: Micros(row.try_get("created_us")?),
            kept_from: Offset(number(row, "kept_from")?),
            retention: (retention.age_s.is_some() || retention.bytes.is_some()).then_some(retention),
            compacts_by_key: row.try_get("compacts_by_key")?,
            generation: u64::try_from(row.try_get::<_, i32>("generation")?).unwrap_or_default(),
            origin,
        },
        shared: shared.map(|(source, end)| SharedPart { source: StreamId(source), end: Offset(end) }),
    })
}
