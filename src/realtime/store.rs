//! The table `changes`.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::change::Forms;
use super::order::{MAX_PLACES, OrderKey, Orders, Placed, PollOrder};
use super::{Action, Change, Place, Poll, Position, Snapshot};
use crate::db::{
    BY_INDEX, Database, DbError, Parameter, ServerIdentity, query_all_in_time, query_bare_in_time, sql,
};

/// The bytes that are read for one subscriber at once, changes or messages, about: one may be larger.
pub const PAGE_BYTES: usize = 256 * 1024;
/// The most changes of a page.
const PAGE_CHANGES: i64 = 1_000;
/// The bytes of a page of the feed, which one task reads for all.
const FEED_PAGE_BYTES: i64 = 4 << 20;

/// The common table expressions of a poll.
const PLACED: &str = sql!("realtime/placed.sql");
/// That of a page's changes.
const SIZED: &str = sql!("realtime/sized.sql");

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
    /// Marks its end: that of the poll, unless the poll has more.
    fn ends(&mut self, is_full: bool) {
        self.is_full = is_full;
        if let Some(last) = self.changes.last_mut() {
            last.is_last = !is_full;
        }
    }

    /// The place behind which the next page begins.
    pub fn next(&self, before: Place) -> Place {
        self.changes.last().map_or(before, |last| last.place)
    }
}

/// What a backend saw at a moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    /// Its process. Another one of the same number has another snapshot, as a crash of Postgres ends all.
    backend: i32,
    snapshot: Snapshot,
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
    orders: Arc<Orders>,
}

/// The statements that read a poll, and what they read of it.
struct PollQuery<'a> {
    /// `sql/realtime/poll.sql`.
    page: &'static str,
    /// `sql/realtime/order.sql`.
    order: &'static str,
    /// `None`: all topics.
    topics: Option<&'a [String]>,
    /// The bytes of a page, about.
    bytes: i64,
}

impl ChangeStore {
    /// A store over `database`, whose statements may take up to `timeout`.
    pub fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout, orders: Arc::default() }
    }

    /// A page of all changes.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn page(&self, range: Range<'_>) -> Result<ChangePage, DbError> {
        const ALL: &str = "$8::text[] is null";
        const TIPS: &str = sql!("realtime/tips_of_all.sql");
        let query = PollQuery {
            page: sql!(
                self.database,
                "realtime/poll.sql",
                placed = PLACED,
                sized = SIZED,
                tips = TIPS,
                topic = ALL
            ),
            order: sql!(self.database, "realtime/order.sql", placed = PLACED, tips = TIPS, topic = ALL),
            topics: None,
            bytes: FEED_PAGE_BYTES,
        };
        self.read(&query, range).await
    }

    /// A page of the changes of some topics.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn page_of_topics(&self, range: Range<'_>, topics: &[String]) -> Result<ChangePage, DbError> {
        // In the index's words, so that the planner can use it.
        const INDEXED: &str = "c.topic = any($8) and c.topic like '%:%'";
        const ANY: &str = "c.topic = any($8)";
        const TIPS: &str = sql!("realtime/tips_of_topics.sql");
        let (page, order) = match topics.iter().all(|topic| topic.contains(':')) {
            true => (
                sql!(
                    self.database,
                    "realtime/poll.sql",
                    placed = PLACED,
                    sized = SIZED,
                    tips = TIPS,
                    topic = INDEXED
                ),
                sql!(self.database, "realtime/order.sql", placed = PLACED, tips = TIPS, topic = INDEXED),
            ),
            false => (
                sql!(
                    self.database,
                    "realtime/poll.sql",
                    placed = PLACED,
                    sized = SIZED,
                    tips = TIPS,
                    topic = ANY
                ),
                sql!(self.database, "realtime/order.sql", placed = PLACED, tips = TIPS, topic = ANY),
            ),
        };
        let query = PollQuery { page, order, topics: Some(topics), bytes: PAGE_BYTES as i64 };
        self.read(&query, range).await
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

    /// A look that costs little: while it is the same, nothing was committed.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn look(&self) -> Result<Look, DbError> {
        let connection = self.database.get().await?;
        let rows =
            query_bare_in_time(&connection, self.timeout, sql!(self.database, "realtime/look.sql")).await;
        let rows = connection.release(rows)?;
        let row = rows.first().ok_or(DbError::Unexpected("no snapshot"))?;
        Ok(Look { backend: row.try_get("backend")?, snapshot: snapshot(row.try_get("snapshot")?)? })
    }

    async fn read(&self, query: &PollQuery<'_>, range: Range<'_>) -> Result<ChangePage, DbError> {
        match range.end {
            // A poll with a second page has many as a rule.
            Some(end) if range.after != Place::START => self.read_by_order(query, range, end).await,
            _ => self.read_poll(query, range).await,
        }
    }

    /// Reads the first page of a poll.
    async fn read_poll(&self, query: &PollQuery<'_>, range: Range<'_>) -> Result<ChangePage, DbError> {
        let parameters = PollParameters::new(range, query.topics);
        let rows = self.query(query.page, parameters.all(&PAGE_CHANGES, &query.bytes)).await?;
        let row = rows.first().ok_or(DbError::Unexpected("a page without a row"))?;
        let end = match range.end {
            Some(end) => Arc::clone(end),
            None => Arc::new(end_of_row(row, range.base)?),
        };
        let mut page = self.page_of_rows(&rows, range.base, end).await?;
        let found: Option<i64> = row.try_get("found")?;
        let is_full = found.is_some_and(|found| found == PAGE_CHANGES || found > page.changes.len() as i64);
        page.ends(is_full);
        Ok(page)
    }

    /// Reads a further page of a poll.
    async fn read_by_order(
        &self,
        query: &PollQuery<'_>,
        range: Range<'_>,
        end: &Arc<Snapshot>,
    ) -> Result<ChangePage, DbError> {
        let Range { base, after, .. } = range;
        let topics = query.topics.map(<[String]>::to_vec);
        let key = OrderKey { base: Arc::clone(base), end: Arc::clone(end), topics };
        let order = match self.orders.find(&key, after) {
            Some(order) => order,
            None => {
                let parameters = PollParameters::new(range, query.topics);
                let rows = self.query(query.order, parameters.all(&MAX_PLACES, &query.bytes)).await?;
                let placed = |row: &Row| {
                    let place = Place { last: row.try_get("last")?, number: row.try_get("number")? };
                    Ok(Placed { xid: xid8(row.try_get("xid")?)?, place })
                };
                let places = rows.iter().map(placed).collect::<Result<Vec<_>, DbError>>()?;
                let order = Arc::new(PollOrder::new(key, after, places));
                self.orders.keep(Arc::clone(&order));
                order
            }
        };
        let (places, is_more) = order.page(after, PAGE_CHANGES as usize).unwrap_or_default();
        let xids: Vec<String> = places.iter().map(|placed| placed.xid.to_string()).collect();
        let numbers: Vec<i64> = places.iter().map(|placed| placed.place.number).collect();
        let lasts: Vec<i64> = places.iter().map(|placed| placed.place.last).collect();
        let parameters: Vec<Parameter<'_>> = vec![
            (&xids, Type::TEXT_ARRAY),
            (&numbers, Type::INT8_ARRAY),
            (&lasts, Type::INT8_ARRAY),
            (&query.bytes, Type::INT8),
        ];
        let rows = self.query(sql!(self.database, "realtime/page.sql", sized = SIZED), parameters).await?;
        let mut page = self.page_of_rows(&rows, base, Arc::clone(end)).await?;
        // Those that are missing were deleted, and the page is gone, or are behind the limit of bytes.
        let is_full = is_more || page.changes.len() < places.len();
        page.ends(is_full);
        Ok(page)
    }

    async fn query(&self, sql: &str, parameters: Vec<Parameter<'_>>) -> Result<Vec<Row>, DbError> {
        let connection = self.database.get().await?;
        let queries = [(BY_INDEX, Vec::new()), (sql, parameters)];
        let answers = query_all_in_time(&connection, self.timeout, &queries).await;
        Ok(connection.release(answers)?.pop().unwrap_or_default())
    }

    /// The page that a statement returned.
    async fn page_of_rows(
        &self,
        rows: &[Row],
        base: &Arc<Snapshot>,
        end: Arc<Snapshot>,
    ) -> Result<ChangePage, DbError> {
        let row = rows.first().ok_or(DbError::Unexpected("a page without a row"))?;
        let now = snapshot(row.try_get("snapshot")?)?;
        let floor = snapshot(row.try_get("floor")?)?;
        let is_gone = !base.covers(&floor) || !now.covers(base) || !now.covers(&end);
        let origin = self.database.server(row.try_get("started_us")?).await?;
        let poll = Arc::new(Poll { origin, base: Arc::clone(base), end });
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            if row.try_get::<_, Option<i64>>("number")?.is_some() {
                changes.push(change(row, &poll)?);
            }
        }
        Ok(ChangePage { changes, poll, is_full: false, is_gone })
    }
}

/// The parameters of `sql/realtime/placed.sql` and the statements that begin with it.
struct PollParameters<'a> {
    running: Vec<String>,
    xmax: String,
    end: Option<String>,
    after: Place,
    topics: Option<&'a [String]>,
}

impl<'a> PollParameters<'a> {
    fn new(range: Range<'_>, topics: Option<&'a [String]>) -> Self {
        Self {
            running: range.base.running().iter().map(u64::to_string).collect(),
            xmax: range.base.xmax.to_string(),
            end: range.end.map(ToString::to_string),
            after: range.after,
            topics,
        }
    }

    fn all<'b>(&'b self, limit: &'b i64, bytes: &'b i64) -> Vec<Parameter<'b>> {
        vec![
            (&self.running, Type::TEXT_ARRAY),
            (&self.xmax, Type::TEXT),
            (&self.end, Type::TEXT),
            (&self.after.last, Type::INT8),
            (&self.after.number, Type::INT8),
            (limit, Type::INT8),
            (bytes, Type::INT8),
            (&self.topics, Type::TEXT_ARRAY),
        ]
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
    })
}

/// The position of a statement that selects the columns of `sql/realtime/now.sql`: everything behind it is new to what the statement read.
///
/// # Errors
///
/// [`DbError`] if a column is missing or malformed, or the server's identity cannot be read.
pub async fn position_of_row(database: &Database, row: &Row) -> Result<Position, DbError> {
    // A change that the floor saw may be deleted, and higher than those that are left.
    let end = end_of_row(row, &snapshot(row.try_get("floor")?)?)?;
    let origin = database.server(row.try_get("started_us")?).await?;
    Ok(Position::of(origin, Arc::new(end)))
}

/// The snapshot of a statement, ended behind the highest change that it or an older one saw.
fn end_of_row(row: &Row, older: &Snapshot) -> Result<Snapshot, DbError> {
    let below = older.xmax.saturating_sub(1);
    let highest = row.try_get::<_, Option<String>>("highest")?.map(|xid| xid8(&xid)).transpose()?;
    let highest = highest.map_or(below, |highest| highest.max(below));
    Ok(snapshot(row.try_get("snapshot")?)?.ended_behind(highest))
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
