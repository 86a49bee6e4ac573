//! The table `route_errors`.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Corrected, ErrorCursor, ErrorFilter, RefusedEvent, Rerouted};
use crate::db::{BY_INDEX, Database, DbError, Parameter, begin_in_time, roll_back, sql};
use crate::routes::work::apply;
use crate::routes::{RouteError, RouteName, RouteStore};

/// For each statement.
const TIMEOUT: Duration = Duration::from_secs(60);
/// For each statement of a redrive.
const LOT_TIMEOUT: Duration = Duration::from_secs(10);
/// Events of one transaction, and their estimated bytes.
const LOT_EVENTS: i64 = 5_000;
const LOT_BYTES: i64 = 16 << 20;

/// Refused events, in the tables of a database.
#[derive(Debug, Clone)]
pub struct RouteErrorStore {
    database: Database,
}

/// The result of one transaction.
struct Lot {
    done: Rerouted,
    last: Option<Uuid>,
}

impl RouteErrorStore {
    /// Those of `database`.
    pub fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// One page, newest first.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn list(
        &self,
        filter: &ErrorFilter,
        after: Option<ErrorCursor>,
        limit: i64,
    ) -> Result<Vec<RefusedEvent>, DbError> {
        let list = sql!(self.database, "routes/errors.sql");
        let after_us = after.map(|cursor| cursor.failed_at_us);
        let (after_id, after_route) = (after.map(|cursor| cursor.id), after.map(|cursor| cursor.route));
        let parameters: [Parameter<'_>; 8] = [
            (&filter.route, Type::TEXT),
            (&filter.sqlstate, Type::TEXT),
            (&filter.since_us, Type::INT8),
            (&filter.until_us, Type::INT8),
            (&after_us, Type::INT8),
            (&after_id, Type::UUID),
            (&after_route, Type::INT4),
            (&limit, Type::INT8),
        ];
        let rows = self.database.query_in_time(TIMEOUT, list, &parameters).await?;
        rows.iter().map(refused).collect()
    }

    /// The newest error of an event, with the event's content, and the content's version.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn get(&self, id: Uuid) -> Result<Option<(RefusedEvent, Option<String>, Bytes, i64)>, DbError> {
        let get = sql!(self.database, "routes/errors_of.sql");
        let rows = self.database.query_in_time(TIMEOUT, get, &[(&id, Type::UUID)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let body = row.try_get::<_, Option<Vec<u8>>>("body")?.unwrap_or_default();
        Ok(Some((refused(row)?, row.try_get("payload")?, body.into(), row.try_get("version")?)))
    }

    /// Forgets the errors of an event; false if there are none. The event stays stored.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn discard(&self, id: Uuid) -> Result<bool, DbError> {
        let discard = sql!(self.database, "routes/errors_discard.sql");
        Ok(!self.database.query_in_time(TIMEOUT, discard, &[(&id, Type::UUID)]).await?.is_empty())
    }

    /// Corrects the payload of a refused event, if its content has one of these versions; a redrive routes it then.
    ///
    /// # Errors
    ///
    /// [`RouteError::Invalid`] if jsonb cannot hold the payload.
    pub async fn correct(
        &self,
        id: Uuid,
        payload: &str,
        versions: Option<&[i64]>,
    ) -> Result<Corrected, RouteError> {
        let replace = sql!(self.database, "routes/replace_payload.sql");
        let parameters: [Parameter<'_>; 3] =
            [(&id, Type::UUID), (&payload, Type::TEXT), (&versions, Type::INT8_ARRAY)];
        let rows = self.database.query_in_time(TIMEOUT, replace, &parameters).await;
        let rows = rows.map_err(|error| RouteError::of("payload", error))?;
        let Some(row) = rows.first() else { return Ok(Corrected::NotFound) };
        let version: Option<i64> = row.try_get(0).map_err(DbError::from)?;
        Ok(version.map_or(Corrected::Mismatch, Corrected::Done))
    }

    /// Routes up to `limit` refused events of a route again: all, or those with these ids or this SQLSTATE. Events that take too long are tried
    /// in smaller numbers; one that takes too long alone is refused again.
    ///
    /// # Errors
    ///
    /// [`RouteError::Conflict`] if the target fails as a whole. Events that were taken before it stay taken.
    pub async fn redrive(
        &self,
        name: &RouteName,
        ids: Option<&[Uuid]>,
        sqlstate: Option<&str>,
        limit: u64,
    ) -> Result<Rerouted, RouteError> {
        let route = RouteStore::new(&self.database).get(name).await?.id;
        let (mut all, mut after, mut left) = (Rerouted::default(), Uuid::nil(), limit);
        let mut size = LOT_EVENTS;
        while left > 0 {
            let events = size.min(i64::try_from(left).unwrap_or(i64::MAX));
            let lot = match self.lot(route, after, ids, sqlstate, events).await {
                Err(error) if error.is_conflict() => continue,
                Err(error) if error.is_cancelled() && events > 1 => {
                    size = events / 2;
                    continue;
                }
                Err(error) if !error.is_away() && error.state_code().is_some() => {
                    let message = format!("the target fails as a whole: {}", error.with_sources());
                    return Err(RouteError::Conflict(message));
                }
                lot => lot?,
            };
            all.taken += lot.done.taken;
            all.refused += lot.done.refused;
            all.missing += lot.done.missing;
            let Some(last) = lot.last else { return Ok(all) };
            after = last;
            size = (size * 2).min(LOT_EVENTS);
            left -= left.min(lot.done.taken + lot.done.refused + lot.done.missing);
        }
        all.more = true;
        Ok(all)
    }

    async fn lot(
        &self,
        route: i32,
        after: Uuid,
        ids: Option<&[Uuid]>,
        sqlstate: Option<&str>,
        events: i64,
    ) -> Result<Lot, DbError> {
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, LOT_TIMEOUT).await?;
        let working = async {
            transaction.batch_execute(BY_INDEX).await?;
            let take = sql!(self.database, "routes/errors_take.sql");
            let parameters: [Parameter<'_>; 5] = [
                (&route, Type::INT4),
                (&after, Type::UUID),
                (&ids, Type::UUID_ARRAY),
                (&sqlstate, Type::TEXT),
                (&events, Type::INT8),
            ];
            let (mut there, mut missing, mut bytes, mut last) = (Vec::new(), Vec::new(), 0, None);
            for row in transaction.query_typed(take, &parameters).await? {
                let (id, size): (Uuid, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
                bytes += size.unwrap_or(0);
                if bytes > LOT_BYTES && !there.is_empty() {
                    break;
                }
                if size.is_some() {
                    there.push(id);
                } else {
                    missing.push(id);
                }
                last = Some(id);
            }
            let refused_again: HashSet<Uuid> =
                apply(&self.database, &transaction, route, &there).await?.into_iter().collect();
            let done = Rerouted {
                taken: (there.len() - refused_again.len().min(there.len())) as u64,
                refused: refused_again.len() as u64,
                missing: missing.len() as u64,
                more: false,
            };
            let gone: Vec<Uuid> =
                there.into_iter().filter(|id| !refused_again.contains(id)).chain(missing).collect();
            let remove = sql!(self.database, "routes/errors_remove.sql");
            let parameters: [Parameter<'_>; 2] = [(&route, Type::INT4), (&gone, Type::UUID_ARRAY)];
            transaction.execute_typed(remove, &parameters).await?;
            Ok(Lot { done, last })
        };
        match working.await {
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

fn refused(row: &Row) -> Result<RefusedEvent, DbError> {
    Ok(RefusedEvent {
        id: row.try_get("event_id")?,
        route_id: row.try_get("route")?,
        route: row.try_get("name")?,
        sqlstate: row.try_get("sqlstate")?,
        message: row.try_get("message")?,
        attempts: row.try_get("attempts")?,
        trace_id: row.try_get("trace_id")?,
        content_type: row.try_get("content_type")?,
        received_at: row.try_get("received_at")?,
        failed_at: row.try_get("failed_at")?,
        failed_at_us: row.try_get("failed_at_us")?,
        bytes: row.try_get("bytes")?,
    })
}
