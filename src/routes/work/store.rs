//! The statements of the task.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::turn::{Kind, Lot};
use crate::db::{BY_INDEX, Database, DbError, Parameter, Transaction, begin_in_time, roll_back, sql};
use crate::ingest::set_again;
use crate::routes::apply_statement;
use crate::routes::definition::CANCELLED;

/// For each statement, and so for a lot.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For the answer of a route's function, which may go on when Postgres cancels it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// For the count of the events of a backfill.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);
/// The estimated bytes of the events of a lot, which Postgres holds at once; one event may have more.
const LOT_BYTES: i64 = 16 << 20;

/// What a route has still to do.
#[derive(Debug)]
pub(super) struct RouteWork {
    pub(super) id: i32,
    pub(super) name: String,
    pub(super) state: String,
    pub(super) sqlstate: Option<String>,
    pub(super) error: Option<String>,
    pub(super) has_key: bool,
    pub(super) is_filling: bool,
    /// Stored events that a backfill has routed.
    pub(super) backfilled: i64,
    pub(super) version: i64,
    pub(super) rows: i64,
    pub(super) refused: i64,
    pub(super) microseconds: i64,
    /// Rows of its counts.
    pub(super) records: i64,
    /// Events that are refused now, of which up to 10,000 are counted.
    pub(super) errors: i64,
    /// Deferred events.
    pub(super) deferred: i64,
}

/// The tables of routes, for the task.
#[derive(Debug)]
pub(super) struct WorkStore {
    database: Database,
}

impl WorkStore {
    pub(super) fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Every route.
    pub(super) async fn work(&self) -> Result<Vec<RouteWork>, DbError> {
        let work = sql!(self.database, "routes/work.sql");
        let rows = self.database.query_in_time(TIMEOUT, work, &[]).await?;
        let work = rows.iter().map(|row| {
            Ok(RouteWork {
                id: row.try_get("id")?,
                name: row.try_get("name")?,
                state: row.try_get("state")?,
                sqlstate: row.try_get("sqlstate")?,
                error: row.try_get("error")?,
                has_key: row.try_get("has_key")?,
                is_filling: row.try_get("is_filling")?,
                backfilled: row.try_get("backfilled")?,
                version: row.try_get("version")?,
                rows: row.try_get("rows")?,
                refused: row.try_get("refused")?,
                microseconds: row.try_get("microseconds")?,
                records: row.try_get("records")?,
                errors: row.try_get("errors")?,
                deferred: row.try_get("deferred")?,
            })
        });
        work.collect()
    }

    /// The events that an open backfill has still to read: counted, or of a large table the planner's estimate of all.
    pub(super) async fn left(&self, route: i32) -> Result<i64, DbError> {
        let count = sql!(self.database, "routes/backfill_count.sql");
        match self.database.query_in_time(COUNT_TIMEOUT, count, &[(&route, Type::INT4)]).await {
            Err(error) if error.is_cancelled() => {}
            counted => return first(&counted?),
        }
        let estimate = sql!(self.database, "routes/backfill_estimate.sql");
        let plan: serde_json::Value = first(&self.database.query_in_time(TIMEOUT, estimate, &[]).await?)?;
        Ok(plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_f64).unwrap_or(0.0) as i64)
    }

    /// Adds the counts of a route up.
    pub(super) async fn compact(&self, route: i32) -> Result<(), DbError> {
        let compact = sql!(self.database, "routes/compact_counts.sql");
        self.database.query_in_time(TIMEOUT, compact, &[(&route, Type::INT4)]).await?;
        Ok(())
    }

    /// Records an error of a route as a whole.
    pub(super) async fn note_failure(&self, route: i32, error: &DbError) -> Result<(), DbError> {
        let note = sql!(self.database, "routes/note_failure.sql");
        let state = match error {
            DbError::Timeout(_) => CANCELLED,
            error => error.state_code().unwrap_or(""),
        };
        let message = error.message();
        let parameters: [Parameter<'_>; 3] =
            [(&route, Type::INT4), (&state, Type::TEXT), (&message, Type::TEXT)];
        self.database.query_in_time(TIMEOUT, note, &parameters).await?;
        Ok(())
    }

    /// Routes deferred events, the oldest first. The last ones are routed, and the route becomes live, while no batch of it is under way.
    async fn catch_up(
        &self,
        transaction: &Transaction<'_>,
        route: i32,
        events: usize,
    ) -> Result<Lot, DbError> {
        let route_parameter: [Parameter<'_>; 1] = [(&route, Type::INT4)];
        let deferred = sql!(self.database, "routes/deferred.sql");
        let deferred: i64 = first(&transaction.query_typed(deferred, &route_parameter).await?)?;
        let mut is_last = deferred <= events as i64;
        if is_last {
            let lock_timeout = sql!("routes/lock_timeout.sql").replace("{ms}", "2000");
            transaction.batch_execute(&lock_timeout).await?;
            let lock = sql!(self.database, "routes/lock_route.sql");
            match transaction.query_typed(lock, &route_parameter).await.map_err(DbError::from) {
                Err(error) if error.is_locked() => return Ok(Lot::Busy),
                locked => locked?,
            };
        }
        let take = sql!(self.database, "routes/take_deferred.sql");
        let parameters: [Parameter<'_>; 2] = [(&route, Type::INT4), (&(events as i64), Type::INT8)];
        let mut ids = Vec::new();
        let mut bytes = 0;
        for row in transaction.query_typed(take, &parameters).await? {
            bytes += row.try_get::<_, i64>(1)?;
            let fits = ids.is_empty() || bytes <= LOT_BYTES && ids.len() < events;
            ids.push((row.try_get::<_, Uuid>(0)?, fits));
        }
        let (now, later): (Vec<_>, Vec<_>) = ids.into_iter().partition(|(_, fits)| *fits);
        let [now, later]: [Vec<Uuid>; 2] =
            [now, later].map(|ids| ids.into_iter().map(|(id, _)| id).collect());
        if !later.is_empty() {
            is_last = false;
            let back = sql!(self.database, "routes/put_back.sql");
            let parameters: [Parameter<'_>; 2] = [(&route, Type::INT4), (&later, Type::UUID_ARRAY)];
            transaction.query_typed(back, &parameters).await?;
        }
        apply(&self.database, transaction, route, &now).await?;
        if !is_last {
            return Ok(Lot::Done);
        }
        let live = sql!(self.database, "routes/go_live.sql");
        let has_events = !now.is_empty();
        let parameters: [Parameter<'_>; 2] = [(&route, Type::INT4), (&has_events, Type::BOOL)];
        let live = transaction.query_typed(live, &parameters).await?;
        Ok(match (live.is_empty(), has_events) {
            (false, _) => Lot::Finished,
            (true, true) => Lot::Done,
            (true, false) => Lot::Busy,
        })
    }

    /// Routes the next events of a backfill.
    async fn backfill(
        &self,
        transaction: &Transaction<'_>,
        route: i32,
        events: usize,
    ) -> Result<Lot, DbError> {
        let next = sql!(self.database, "routes/backfill_next.sql");
        let limit = events as i64;
        let parameters: [Parameter<'_>; 2] = [(&route, Type::INT4), (&limit, Type::INT8)];
        let rows = transaction.query_typed(next, &parameters).await?;
        let is_last = rows.len() < events;
        let (mut ids, mut bytes, mut last, mut read) = (Vec::new(), 0, None, 0_i64);
        for row in &rows {
            bytes += row.try_get::<_, i64>(1)?;
            if bytes > LOT_BYTES && read > 0 {
                break;
            }
            let id: Uuid = row.try_get(0)?;
            (last, read) = (Some(id), read + 1);
            if !row.try_get::<_, bool>(2)? {
                ids.push(id);
            }
        }
        apply(&self.database, transaction, route, &ids).await?;
        if let Some(last) = last {
            let moved = sql!(self.database, "routes/backfill_move.sql");
            let parameters: [Parameter<'_>; 3] =
                [(&route, Type::INT4), (&last, Type::UUID), (&(ids.len() as i64), Type::INT8)];
            transaction.execute_typed(moved, &parameters).await?;
        }
        if !is_last || read < rows.len() as i64 {
            return Ok(Lot::Done);
        }
        let end = sql!(self.database, "routes/backfill_end.sql");
        transaction.execute_typed(end, &[(&route, Type::INT4)]).await?;
        Ok(Lot::Finished)
    }

    /// Runs a lot of `events` in a transaction, unless another node is at work on the route.
    pub(super) async fn run(&self, route: i32, kind: Kind, events: usize) -> Result<Lot, DbError> {
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        let begun = async {
            transaction.batch_execute(BY_INDEX).await?;
            let try_work = sql!(self.database, "routes/try_work.sql");
            match first::<bool>(&transaction.query_typed(try_work, &[(&route, Type::INT4)]).await?)? {
                true if kind == Kind::Backfill => self.backfill(&transaction, route, events).await,
                true => self.catch_up(&transaction, route, events).await,
                false => Ok(Lot::Busy),
            }
        };
        match begun.await {
            Ok(Lot::Busy) => {
                transaction.rollback().await?;
                Ok(Lot::Busy)
            }
            Ok(lot) => {
                transaction.commit().await?;
                Ok(lot)
            }
            Err(error @ DbError::Timeout(_)) => {
                drop(transaction);
                connection.release(Err(error))
            }
            Err(error) => Err(roll_back(transaction, error).await),
        }
    }
}

/// Runs a route over stored events; returns those that it refused. A single one that takes too long is refused.
///
/// # Errors
///
/// If the target fails as a whole, or several events take too long.
pub(in crate::routes) async fn apply(
    database: &Database,
    transaction: &Transaction<'_>,
    route: i32,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, DbError> {
    let apply = apply_statement(database, route);
    let applied = async {
        let parameters: [Parameter<'_>; 1] = [(&ids, Type::UUID_ARRAY)];
        let applying = transaction.query_typed(&apply, &parameters);
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, applying).await;
        let rows = answered.map_err(|_elapsed| DbError::Timeout(ANSWER_TIMEOUT))??;
        let row = rows.first().ok_or(DbError::Unexpected("no result of a route"))?;
        Ok::<_, DbError>(row.try_get::<_, Vec<Uuid>>("ids")?)
    };
    // What functions of users have set for the session.
    let reset = async {
        set_again(transaction, TIMEOUT).await?;
        Ok::<_, DbError>(transaction.batch_execute(BY_INDEX).await?)
    };
    let [id] = ids else {
        let refused = if ids.is_empty() { Vec::new() } else { applied.await? };
        reset.await?;
        return Ok(refused);
    };
    let savepoint = sql!("routes/savepoint.sql");
    transaction.batch_execute(savepoint).await?;
    let error = match applied.await {
        Err(error) if error.is_cancelled() => error,
        applied => {
            let refused = applied?;
            reset.await?;
            return Ok(refused);
        }
    };
    transaction.batch_execute(sql!("routes/rollback_to_savepoint.sql")).await?;
    let refuse = sql!(database, "routes/refuse.sql");
    let (state, message) = (error.state_code().unwrap_or(""), error.message());
    let parameters: [Parameter<'_>; 4] =
        [(&route, Type::INT4), (id, Type::UUID), (&state, Type::TEXT), (&message, Type::TEXT)];
    transaction.query_typed(refuse, &parameters).await?;
    Ok(vec![*id])
}

/// The first value of the first row.
fn first<T>(rows: &[tokio_postgres::Row]) -> Result<T, DbError>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    Ok(rows.first().ok_or(DbError::Unexpected("no row"))?.try_get(0)?)
}
