//! The table `changes`.

use std::sync::OnceLock;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Action, Change, Position};
use crate::db::{Database, DbError, Parameter, query_often_in_time, sql};

/// The bytes that are read for one subscriber at once, changes or messages, about: one may be larger.
pub const PAGE_BYTES: usize = 256 * 1024;
/// The most changes of a page.
const PAGE_CHANGES: i64 = 1_000;
/// The bytes of a page of the feed, which one task reads for all.
const FEED_PAGE_BYTES: i64 = 4 << 20;

/// A page of changes.
#[derive(Debug)]
pub struct ChangePage {
    /// In order.
    pub changes: Vec<Change>,
    /// The position of the next page.
    pub next: Position,
    /// Whether there may be more at once.
    pub is_full: bool,
    /// Whether changes behind the position were deleted before they were read, or the position is of another database.
    pub is_gone: bool,
}

/// Reads changes.
#[derive(Debug, Clone)]
pub struct ChangeStore {
    database: Database,
    timeout: Duration,
}

impl ChangeStore {
    /// A store over `database`, whose statements may take up to `timeout`.
    pub fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// A page of the changes behind a position.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn page(&self, after: Position) -> Result<ChangePage, DbError> {
        let all = sql!(self.database, "realtime/changes.sql", topic = "$5::text is null");
        self.read(all, after, None, FEED_PAGE_BYTES).await
    }

    /// A page of the changes of one topic, whose name has a colon.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn page_of_topic(&self, after: Position, topic: &str) -> Result<ChangePage, DbError> {
        // In the index's words, so that the planner can use it.
        let of_topic = sql!(self.database, "realtime/changes.sql", topic = "topic = $5 and topic like '%:%'");
        self.read(of_topic, after, Some(topic), PAGE_BYTES as i64).await
    }

    /// The position before which no change is added any more.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn horizon(&self) -> Result<Position, DbError> {
        // No change is behind the last position.
        Ok(self.page(Position { xid: u64::MAX, number: i64::MAX }).await?.next)
    }

    async fn read(
        &self,
        sql: &str,
        after: Position,
        topic: Option<&str>,
        bytes: i64,
    ) -> Result<ChangePage, DbError> {
        let xid = after.xid.to_string();
        let parameters: [Parameter<'_>; 5] = [
            (&xid, Type::TEXT),
            (&after.number, Type::INT8),
            (&PAGE_CHANGES, Type::INT8),
            (&bytes, Type::INT8),
            (&topic, Type::TEXT),
        ];
        let connection = self.database.get().await?;
        let rows = query_often_in_time(&connection, self.timeout, sql, &parameters).await;
        let rows = connection.release(rows)?;
        let mut page = ChangePage { changes: Vec::new(), next: after, is_full: false, is_gone: false };
        for row in &rows {
            let horizon = xid8(row.try_get("horizon")?)?;
            page.is_gone = row.try_get("is_gone")?;
            let Some(found) = row.try_get::<_, Option<i64>>("found")? else {
                page.is_gone |= after.xid > horizon && after.xid != u64::MAX;
                page.next = Position::before(horizon);
                return Ok(page);
            };
            page.changes.push(change(row)?);
            page.is_full = found == PAGE_CHANGES || found > page.changes.len() as i64;
            page.next = match (page.is_full, page.changes.last()) {
                (true, Some(last)) => last.position,
                _ => Position::before(horizon),
            };
        }
        Ok(page)
    }
}

fn change(row: &Row) -> Result<Change, DbError> {
    let text = |name| row.try_get::<_, String>(name).map(String::into_boxed_str);
    Ok(Change {
        position: Position { xid: xid8(row.try_get("xid")?)?, number: row.try_get("number")? },
        topic: text("topic")?,
        record: text("record")?,
        action: Action::parse(row.try_get("action")?).ok_or(DbError::Unexpected("an action of no name"))?,
        created_us: row.try_get("created_us")?,
        updated_us: row.try_get("updated_us")?,
        at_us: row.try_get("at_us")?,
        data: row.try_get("data")?,
        parsed: OnceLock::new(),
        held: None,
    })
}

/// Reads the text of an `xid8`. A wrong value would be a position without later changes.
fn xid8(text: &str) -> Result<u64, DbError> {
    text.parse().map_err(|_| DbError::Unexpected("an xid8 that is no number"))
}

/// The changes that one statement deletes.
pub(super) const DELETED_AT_ONCE: i64 = 5_000;
/// The time of a statement that deletes.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// Deletes changes.
#[derive(Debug, Clone)]
pub(super) struct RetentionStore {
    database: Database,
}

impl RetentionStore {
    pub(super) fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Deletes changes that came with a dump of another server whose transactions had higher numbers: they would be hidden until those of
    /// this server pass them, and then follow later changes.
    pub(super) async fn delete_foreign(&self) -> Result<(), DbError> {
        let delete = sql!(self.database, "realtime/forget_foreign_changes.sql");
        self.database.query_in_time(DELETE_TIMEOUT, delete, &[]).await?;
        Ok(())
    }

    /// Deletes up to [`DELETED_AT_ONCE`] changes that are older than so many seconds; returns how many.
    pub(super) async fn delete_old(&self, retention_s: f64) -> Result<i64, DbError> {
        let now = match self.database.deletion_time().await {
            // Logged and reported by health where it was found.
            Err(DbError::ClocksDiffer { .. }) => return Ok(0),
            now => now?,
        };
        let parameters: [Parameter<'_>; 3] =
            [(&DELETED_AT_ONCE, Type::INT8), (&retention_s, Type::FLOAT8), (&now, Type::TIMESTAMPTZ)];
        let delete = sql!(self.database, "realtime/forget_changes.sql");
        Ok(self.database.query_in_time(DELETE_TIMEOUT, delete, &parameters).await?.len() as i64)
    }
}
