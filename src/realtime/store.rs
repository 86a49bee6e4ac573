//! The table `changes`: read in lots, and kept as long as `CHANGES_RETENTION_S` says.

use std::sync::OnceLock;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Action, Change, LOT_BYTES, Position};
use crate::db::{Database, DbError, Parameter, query_often_in_time};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// Changes that are read at once, and the bytes at which that is enough.
const LOT_CHANGES: i64 = 1_000;
const FEED_LOT_BYTES: i64 = 4 << 20;

/// What was read of the feed at once.
#[derive(Debug)]
pub struct Lot {
    /// In order.
    pub changes: Vec<Change>,
    /// Where to go on.
    pub next: Position,
    /// Whether there may be more at once.
    pub is_full: bool,
    /// Whether something that comes after the place was deleted before it was read, or the place is none of this database's.
    pub is_gone: bool,
}

/// Reads the feed.
#[derive(Debug, Clone)]
pub struct Changes {
    database: Database,
    timeout: Duration,
    all: String,
    of_topic: String,
}

impl Changes {
    /// Over `database`, a share of the pool, whose statements may take up to `timeout`.
    pub fn new(database: &Database, timeout: Duration) -> Self {
        let sql = database.sql(include_str!("../../sql/realtime/changes.sql"));
        Self {
            database: database.clone(),
            timeout,
            all: sql.replace("{topic}", "$5::text is null"),
            // As the index says it, so that the planner sees that it fits.
            of_topic: sql.replace("{topic}", "topic = $5 and topic like '%:%'"),
        }
    }

    /// The changes after a place.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn lot(&self, after: Position) -> Result<Lot, DbError> {
        self.read(&self.all, after, None).await
    }

    /// Those of one topic, whose name has a colon.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn lot_of_topic(&self, after: Position, topic: &str) -> Result<Lot, DbError> {
        self.read(&self.of_topic, after, Some(topic)).await
    }

    /// The place before which nothing is added any more.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn horizon(&self) -> Result<Position, DbError> {
        // Nothing comes after the last place.
        Ok(self.read(&self.all, Position { xid: u64::MAX, number: i64::MAX }, None).await?.next)
    }

    async fn read(&self, sql: &str, after: Position, topic: Option<&str>) -> Result<Lot, DbError> {
        let xid = after.xid.to_string();
        // One task reads all; of those who read a topic there are many.
        let bytes = if topic.is_some() { LOT_BYTES as i64 } else { FEED_LOT_BYTES };
        let parameters: [Parameter<'_>; 5] = [
            (&xid, Type::TEXT),
            (&after.number, Type::INT8),
            (&LOT_CHANGES, Type::INT8),
            (&bytes, Type::INT8),
            (&topic, Type::TEXT),
        ];
        let connection = self.database.get().await?;
        let rows = query_often_in_time(&connection, self.timeout, sql, &parameters).await;
        let rows = connection.release(rows)?;
        let mut lot = Lot { changes: Vec::new(), next: after, is_full: false, is_gone: false };
        for row in &rows {
            let horizon = xid8(row.try_get("horizon")?)?;
            lot.is_gone = row.try_get("is_gone")?;
            let Some(found) = row.try_get::<_, Option<i64>>("found")? else {
                lot.is_gone |= after.xid > horizon && after.xid != u64::MAX;
                lot.next = Position::before(horizon);
                return Ok(lot);
            };
            lot.changes.push(change(row)?);
            lot.is_full = found == LOT_CHANGES || found > lot.changes.len() as i64;
            lot.next = match (lot.is_full, lot.changes.last()) {
                (true, Some(last)) => last.position,
                _ => Position::before(horizon),
            };
        }
        Ok(lot)
    }
}

fn change(row: &Row) -> Result<Change, DbError> {
    let text = |name| row.try_get::<_, String>(name).map(String::into_boxed_str);
    Ok(Change {
        position: Position { xid: xid8(row.try_get("xid")?)?, number: row.try_get("number")? },
        topic: text("topic")?,
        record: text("record")?,
        // The table's check keeps other words out.
        action: Action::parse(row.try_get("action")?).ok_or(DbError::Unexpected("an action of no name"))?,
        created_us: row.try_get("created_us")?,
        updated_us: row.try_get("updated_us")?,
        at_us: row.try_get("at_us")?,
        data: row.try_get("data")?,
        encoded: OnceLock::new(),
        held: None,
    })
}

/// What Postgres writes of an `xid8` is a number; anything else would be a place that nothing comes after.
fn xid8(text: &str) -> Result<u64, DbError> {
    text.parse().map_err(|_| DbError::Unexpected("an xid8 that is no number"))
}

/// Changes that one statement deletes.
const LOT: i64 = 5_000;
/// Between two of them, so that others have their turn.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two steps that found less than a batch.
const INTERVAL: Duration = Duration::from_secs(10);
/// After an error, which may be one that lasts: a role that may not delete.
const AFTER_ERROR: Duration = Duration::from_secs(60);
/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A keeper's steps.
struct Retention {
    keeper: ChangeKeeper,
    foreign_forgotten: bool,
}

impl Step for Retention {
    async fn step(&mut self) -> Result<Next, StepError> {
        if !self.foreign_forgotten {
            self.keeper.forget_foreign().await?;
            self.foreign_forgotten = true;
        }
        Ok(if self.keeper.forget().await? { Next::After(PAUSE) } else { Next::Interval })
    }
}

/// Deletes changes that are older than `CHANGES_RETENTION_S`.
#[derive(Debug, Clone)]
pub struct ChangeKeeper {
    database: Database,
    forget: String,
    retention_s: f64,
}

impl ChangeKeeper {
    /// Over `database`, a share of the pool, for changes older than so many seconds.
    pub fn new(database: &Database, retention_s: u64) -> Self {
        let forget = database.sql(include_str!("../../sql/realtime/forget_changes.sql"));
        Self { database: database.clone(), forget, retention_s: retention_s as f64 }
    }

    /// Starts the task.
    pub fn start(self, supervisor: &Supervisor) {
        let task = Retention { keeper: self, foreign_forgotten: false };
        supervisor.periodic("change-retention", INTERVAL, Backoff::fixed(AFTER_ERROR), task);
    }

    /// Deletes what came with a dump of another server whose transactions had higher numbers: it would be hidden until
    /// those of this one pass them, and then stand behind what happened since.
    async fn forget_foreign(&self) -> Result<(), DbError> {
        let forget = self.database.sql(include_str!("../../sql/realtime/forget_foreign_changes.sql"));
        self.database.query_in_time(TIMEOUT, &forget, &[]).await?;
        Ok(())
    }

    /// Deletes a batch; whether there may be more.
    async fn forget(&self) -> Result<bool, DbError> {
        let now = match self.database.deletion_time().await {
            // Logged and kept for health where it was found.
            Err(DbError::ClocksDiffer { .. }) => return Ok(false),
            now => now?,
        };
        let parameters: [Parameter<'_>; 3] =
            [(&LOT, Type::INT8), (&self.retention_s, Type::FLOAT8), (&now, Type::TIMESTAMPTZ)];
        let deleted = self.database.query_in_time(TIMEOUT, &self.forget, &parameters).await?;
        Ok(deleted.len() as i64 == LOT)
    }
}
