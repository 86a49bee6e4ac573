//! Tells a producer what became of its events.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Database, DbError, Parameter, trace_index};
use crate::ingest::admit::admission::Ingest;
use crate::ingest::event::id::{self, Tag};

/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// In `requests`.
    Committed,
    /// In `dead_letters`.
    DeadLettered,
    /// Left out, since an event with its key was stored: this one.
    Duplicate(Uuid),
    /// It was a dead letter that an operator deleted.
    Discarded,
    /// It could not be read from the journal any more.
    Quarantined,
    /// It was stored, and somebody or RETENTION_DAYS took it out again.
    Removed,
    /// Accepted, and on its way.
    Pending,
    /// No trace of it.
    NeverSeen,
}

impl Fate {
    /// Its name in answers.
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

/// Looks for events.
#[derive(Debug, Clone)]
pub struct Reconciler {
    database: Database,
    ingest: Ingest,
}

impl Reconciler {
    /// Looks in `database`, and in the journal behind `ingest`.
    pub fn new(database: &Database, ingest: &Ingest) -> Self {
        Self { database: database.clone(), ingest: ingest.clone() }
    }

    /// What became of each event.
    ///
    /// # Errors
    ///
    /// Whatever Postgres says.
    pub async fn fates(&self, ids: &[Uuid]) -> Result<Vec<Fate>, DbError> {
        // Asked first: what is stored in between is found in its table, then.
        let pending: Vec<bool> =
            ids.iter().map(|id| self.ingest.is_pending(Tag::of_event(*id), id::sequence(*id))).collect();
        let reconcile = self.database.sql(include_str!("../../../sql/ingest/reconcile.sql"));
        let ids = ids.to_vec();
        let rows = self.database.query_in_time(TIMEOUT, &reconcile, &[(&ids, Type::UUID_ARRAY)]).await?;
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

    /// Whether trace ids are indexed, so that a span of any length can be searched.
    ///
    /// # Errors
    ///
    /// Whatever Postgres says.
    pub async fn finds_at_any_time(&self) -> Result<bool, DbError> {
        trace_index::is_complete(&self.database).await
    }

    /// The stored events with these trace ids, accepted in a span of time (microseconds of Unix time), at most `limit`.
    ///
    /// # Errors
    ///
    /// Whatever Postgres says.
    pub async fn find(
        &self,
        trace_ids: &[String],
        since_us: i64,
        until_us: i64,
        limit: i64,
    ) -> Result<Vec<(Uuid, String)>, DbError> {
        let find = self.database.sql(include_str!("../../../sql/ingest/find_traces.sql"));
        let bound = |us: i64| id::lower_bound(((us.max(0) / 1000) as u64).min(id::MAX_UNIX_MS));
        let (from, to, traces) = (bound(since_us), bound(until_us), trace_ids.to_vec());
        let parameters: [Parameter<'_>; 4] =
            [(&from, Type::UUID), (&to, Type::UUID), (&traces, Type::TEXT_ARRAY), (&limit, Type::INT8)];
        let rows = self.database.query_in_time(TIMEOUT, &find, &parameters).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
