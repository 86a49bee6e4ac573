//! The fate of single events, for their producer.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Database, DbError, Parameter, sql, trace_index};
use crate::ingest::admit::admission::Ingest;
use crate::ingest::event::id::{self, Tag};

/// For each statement.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The fate of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// In `requests`.
    Committed,
    /// In `dead_letters`.
    DeadLettered,
    /// Skipped: the event with this id has the same key and was stored.
    Duplicate(Uuid),
    /// A dead letter that an operator deleted.
    Discarded,
    /// It could not be read from the journal.
    Quarantined,
    /// It was stored, and removed later by an operator or RETENTION_DAYS.
    Removed,
    /// Accepted and not settled yet.
    Pending,
    /// Unknown.
    NeverSeen,
}

impl Fate {
    /// The fate's name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::DeadLettered => "dead_lettered",
            Self::Duplicate(_) => "duplicate",
            Self::Discarded => "discarded",
            Self::Quarantined => "quarantined",
            Self::Removed => "removed",
            Self::Pending => "pending",
            Self::NeverSeen => "never_seen",
        }
    }
}

/// Finds events by id or trace id.
#[derive(Debug, Clone)]
pub struct Reconciler {
    database: Database,
    ingest: Ingest,
}

impl Reconciler {
    /// Searches `database`, and the journal of `ingest`.
    pub fn new(database: &Database, ingest: &Ingest) -> Self {
        Self { database: database.clone(), ingest: ingest.clone() }
    }

    /// The fate of each event.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn fates(&self, ids: &[Uuid]) -> Result<Vec<Fate>, DbError> {
        // Read before the tables, so that an event that is stored in between is found in one of them.
        let pending: Vec<bool> =
            ids.iter().map(|id| self.ingest.is_pending(Tag::of_event(*id), id::sequence(*id))).collect();
        let reconcile = sql!(self.database, "ingest/reconcile.sql");
        let ids = ids.to_vec();
        let rows = self.database.query_in_time(TIMEOUT, reconcile, &[(&ids, Type::UUID_ARRAY)]).await?;
        let mut fates = Vec::with_capacity(ids.len());
        for (row, pending) in rows.iter().zip(pending) {
            let is = |column| row.try_get::<_, bool>(column);
            let count = |column| row.try_get::<_, i64>(column);
            let fate = match row.try_get::<_, Option<Uuid>>("first_id")? {
                _ if is("committed")? => Fate::Committed,
                _ if is("dead_lettered")? => Fate::DeadLettered,
                Some(first) => Fate::Duplicate(first),
                None if is("removed")? => Fate::Removed,
                None if count("discarded")? > 0 => Fate::Discarded,
                None if count("quarantined")? > 0 => Fate::Quarantined,
                None if is("settled")? => Fate::Removed,
                None if pending => Fate::Pending,
                None => Fate::NeverSeen,
            };
            fates.push(fate);
        }
        Ok(fates)
    }

    /// Whether trace ids are indexed, so that any span of time can be searched.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn finds_at_any_time(&self) -> Result<bool, DbError> {
        trace_index::is_complete(&self.database).await
    }

    /// At most `limit` stored events with these trace ids, accepted in a span of time (microseconds of Unix time).
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn find(
        &self,
        trace_ids: &[String],
        since_us: i64,
        until_us: i64,
        limit: i64,
    ) -> Result<Vec<(Uuid, String)>, DbError> {
        let find = sql!(self.database, "ingest/find_traces.sql");
        let bound = |us: i64| id::lower_bound(((us.max(0) / 1000) as u64).min(id::MAX_UNIX_MS));
        let (from, to, traces) = (bound(since_us), bound(until_us), trace_ids.to_vec());
        let parameters: [Parameter<'_>; 4] =
            [(&from, Type::UUID), (&to, Type::UUID), (&traces, Type::TEXT_ARRAY), (&limit, Type::INT8)];
        let rows = self.database.query_in_time(TIMEOUT, find, &parameters).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
