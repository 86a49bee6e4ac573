//! The table `changes`.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::change::Forms;
use super::{Action, Change, Place, Poll, Position, Snapshot};
use crate::db::{BY_INDEX, Database, DbError, Parameter, ServerIdentity, query_all_in_time, sql};

/// The bytes that are read for one subscriber at once, changes or messages, about: one may be larger.
pub const PAGE_BYTES: usize = 256 * 1024;
/// The most changes of a page.
const PAGE_CHANGES: i64 = 1_000;
/// The bytes of a page of the feed, which one task reads for all.
const FEED_PAGE_BYTES: i64 = 4 << 20;

/// A page of a poll.
#[derive(Debug)]
pub struct ChangePage {
    /// In order.
    pub changes: Vec<Change>,
    /// The poll.
    pub poll: Arc<Poll>,
    /// Whether the poll may have more.
    pub is_full: bool,
    /// Whether changes behind the position were deleted before they were read, or the position is of another database.
    pub is_gone: bool,
}

impl ChangePage {
    /// The place behind which the next page begins.
    pub fn next(&self, before: Place) -> Place {
        self.changes.last().map_or(before, |last| last.place)
    }
}

/// What to read: the changes between two snapshots, behind a place.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a> {
    /// What it saw was read.
    pub base: &'a Arc<Snapshot>,
    /// The end. `None`: the snapshot of the statement.
    pub end: Option<&'a Arc<Snapshot>>,
    /// The place behind which the page begins.
    pub after: Place,
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

    /// A page of all changes.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn page(&self, range: Range<'_>) -> Result<ChangePage, DbError> {
        let last = "max(number) over (partition by xid)";
        let all = sql!(self.database, "realtime/poll.sql", topic = "$8::text[] is null", last = last);
        self.read(all, range, None, FEED_PAGE_BYTES).await
    }

    /// A page of the changes of some topics.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn page_of_topics(&self, range: Range<'_>, topics: &[String]) -> Result<ChangePage, DbError> {
        let last = sql!(self.database, "realtime/last_of_transaction.sql");
        let of_topics = match topics.iter().all(|topic| topic.contains(':')) {
            // In the index's words, so that the planner can use it.
            true => sql!(
                self.database,
                "realtime/poll.sql",
                topic = "c.topic = any($8) and c.topic like '%:%'",
                last = last
            ),
            false => sql!(self.database, "realtime/poll.sql", topic = "c.topic = any($8)", last = last),
        };
        self.read(of_topics, range, Some(topics), PAGE_BYTES as i64).await
    }

    /// The server, and a snapshot of the feed now.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn now(&self) -> Result<(ServerIdentity, Arc<Snapshot>), DbError> {
        let rows =
            self.database.query_in_time(self.timeout, sql!(self.database, "realtime/now.sql"), &[]).await?;
        let row = rows.first().ok_or(DbError::Unexpected("no snapshot"))?;
        let position = position_of_row(&self.database, row).await?;
        Ok((position.origin(), Arc::clone(position.base())))
    }

    async fn read(
        &self,
        sql: &str,
        range: Range<'_>,
        topics: Option<&[String]>,
        bytes: i64,
    ) -> Result<ChangePage, DbError> {
        let Range { base, end, after } = range;
        let running: Vec<String> = base.running().iter().map(u64::to_string).collect();
        let (xmax, end_text) = (base.xmax.to_string(), end.map(ToString::to_string));
        let parameters: Vec<Parameter<'_>> = vec![
            (&running, Type::TEXT_ARRAY),
            (&xmax, Type::TEXT),
            (&end_text, Type::TEXT),
            (&after.last, Type::INT8),
            (&after.number, Type::INT8),
            (&PAGE_CHANGES, Type::INT8),
            (&bytes, Type::INT8),
            (&topics, Type::TEXT_ARRAY),
        ];
        let connection = self.database.get().await?;
        let queries = [(BY_INDEX, Vec::new()), (sql, parameters)];
        let answers = query_all_in_time(&connection, self.timeout, &queries).await;
        let answers = connection.release(answers)?;
        let rows = answers.last().map(Vec::as_slice).unwrap_or_default();
        let row = rows.first().ok_or(DbError::Unexpected("a page without a row"))?;
        let now = snapshot(row.try_get("snapshot")?)?;
        let floor = snapshot(row.try_get("floor")?)?;
        let end = match end {
            Some(end) => Arc::clone(end),
            None => {
                let highest =
                    row.try_get::<_, Option<String>>("highest")?.map(|xid| xid8(&xid)).transpose()?;
                let below = base.xmax.saturating_sub(1);
                Arc::new(now.ended_behind(highest.map_or(below, |highest| highest.max(below))))
            }
        };
        let is_gone = !base.covers(&floor) || !now.covers(base) || !now.covers(&end);
        let poll = Arc::new(Poll {
            origin: self.database.server(row.try_get("started_us")?).await?,
            base: Arc::clone(base),
            end,
        });
        let mut page = ChangePage { changes: Vec::new(), poll, is_full: false, is_gone };
        for row in rows {
            let Some(found) = row.try_get::<_, Option<i64>>("found")? else { break };
            page.changes.push(change(row, &page.poll)?);
            page.is_full = found == PAGE_CHANGES || found > page.changes.len() as i64;
        }
        if !page.is_full
            && let Some(last) = page.changes.last_mut()
        {
            last.is_last = true;
        }
        Ok(page)
    }
}

fn change(row: &Row, poll: &Arc<Poll>) -> Result<Change, DbError> {
    let text = |name| row.try_get::<_, String>(name).map(String::into_boxed_str);
    Ok(Change {
        xid: xid8(row.try_get("xid")?)?,
        place: Place { last: row.try_get("last")?, number: row.try_get("number")? },
        poll: Arc::clone(poll),
        is_last: false,
        topic: text("topic")?,
        record: text("record")?,
        keys: row.try_get("keys")?,
        action: Action::parse(row.try_get("action")?).ok_or(DbError::Unexpected("an action of no name"))?,
        created_us: row.try_get("created_us")?,
        updated_us: row.try_get("updated_us")?,
        at_us: row.try_get("at_us")?,
        data: row.try_get("data")?,
        old: row.try_get("old")?,
        forms: Forms::default(),
        held: None,
    })
}

/// The position of a statement that selects the columns of `sql/realtime/now.sql`: everything behind it is new to what the statement read.
///
/// # Errors
///
/// [`DbError`] if a column is missing or malformed, or the server's identity cannot be read.
pub async fn position_of_row(database: &Database, row: &Row) -> Result<Position, DbError> {
    let now = snapshot(row.try_get("snapshot")?)?;
    // A change that the floor saw may be deleted, and higher than those that are left.
    let below = snapshot(row.try_get("floor")?)?.xmax.saturating_sub(1);
    let highest = row.try_get::<_, Option<String>>("highest")?.map(|xid| xid8(&xid)).transpose()?;
    let highest = highest.map_or(below, |highest| highest.max(below));
    let origin = database.server(row.try_get("started_us")?).await?;
    Ok(Position::of(origin, Arc::new(now.ended_behind(highest))))
}

/// Reads a snapshot. A wrong one would be a position without later changes.
fn snapshot(text: &str) -> Result<Snapshot, DbError> {
    Snapshot::parse(text).ok_or(DbError::Unexpected("a snapshot that is none"))
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

    /// Forgets positions that came with a dump or a backup of another server, and deletes changes whose transactions had higher numbers there:
    /// they would count as those of later transactions.
    pub(super) async fn delete_foreign(&self) -> Result<(), DbError> {
        for delete in [
            sql!(self.database, "realtime/origin.sql"),
            sql!(self.database, "realtime/forget_foreign_changes.sql"),
        ] {
            self.database.query_in_time(DELETE_TIMEOUT, delete, &[]).await?;
        }
        Ok(())
    }

    /// Keeps a position of the feed, and moves the floor to the newest one that is older than `retention_s` seconds. False: the clocks
    /// differ too much, which is logged and reported by health where it was found.
    pub(super) async fn keep_position(&self, seen: &Snapshot, retention_s: f64) -> Result<bool, DbError> {
        let now = match self.database.deletion_time().await {
            Err(DbError::ClocksDiffer { .. }) => return Ok(false),
            now => now?,
        };
        let seen = seen.to_string();
        let parameters: [Parameter<'_>; 3] =
            [(&now, Type::TIMESTAMPTZ), (&seen, Type::TEXT), (&retention_s, Type::FLOAT8)];
        let keep = sql!(self.database, "realtime/keep_position.sql");
        self.database.query_in_time(DELETE_TIMEOUT, keep, &parameters).await?;
        Ok(true)
    }

    /// Deletes up to [`DELETED_AT_ONCE`] changes that the floor saw; returns how many. See [`super::ChangeRetention::start`].
    pub(super) async fn delete_old(&self, idle_topics: Option<&str>) -> Result<i64, DbError> {
        let parameters: [Parameter<'_>; 2] = [(&DELETED_AT_ONCE, Type::INT8), (&idle_topics, Type::TEXT)];
        let delete = sql!(self.database, "realtime/forget_changes.sql");
        Ok(self.database.query_in_time(DELETE_TIMEOUT, delete, &parameters).await?.len() as i64)
    }
}

/// The time of a check of a watched table: it may wait for the locks of some of its parts.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The tables that users watch.
#[derive(Debug, Clone)]
pub(super) struct WatchStore {
    database: Database,
}

impl WatchStore {
    pub(super) fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Those of these topics whose tables are watched.
    pub(super) async fn watched(&self, topics: &[String]) -> Result<Vec<String>, DbError> {
        let watched = sql!(self.database, "realtime/watched.sql");
        let rows =
            self.database.query_in_time(CHECK_TIMEOUT, watched, &[(&topics, Type::TEXT_ARRAY)]).await?;
        rows.iter().map(|row| Ok(row.try_get("topic")?)).collect()
    }

    /// The ids of all watches.
    pub(super) async fn ids(&self) -> Result<Vec<i64>, DbError> {
        let ids = sql!(self.database, "realtime/watches.sql");
        let rows = self.database.query_in_time(CHECK_TIMEOUT, ids, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// Follows what happened to a watched table; returns what was done, and whether it is a failure.
    pub(super) async fn check(&self, id: i64) -> Result<Vec<(String, bool)>, DbError> {
        let check = sql!(self.database, "realtime/check_watch.sql");
        let rows = self.database.query_in_time(CHECK_TIMEOUT, check, &[(&id, Type::INT8)]).await?;
        rows.iter().map(|row| Ok((row.try_get("message")?, row.try_get("is_failure")?))).collect()
    }
}
