//! What routes do later: deferred events are caught up, backfills go on, removed routes are dropped, counts are added up.
//!
//! A suspended route takes its deferred events in lots. It is live again once none is left, under a lock that every batch of it holds
//! shared: otherwise an older event could overwrite a newer one. A lot that takes too long is tried with half of its events, and an event
//! that takes too long alone is refused.

mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::store::{RouteWork, WorkStore};
use super::RouteStore;
use crate::db::{Database, DbError};
use crate::observe::Metrics;
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// Between two steps without work, and after a failure.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same where there are no routes: a service without events gives its connections back.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// The longest that one route is worked on while others wait.
const TURN: Duration = Duration::from_secs(2);
/// Events of one transaction.
const LOT_EVENTS: usize = 5_000;
/// The longest wait before a route that fails is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Records of counts that are added up to one.
const MOST_RECORDS: i64 = 200;

/// The task.
#[derive(Debug)]
pub(super) struct Worker {
    store: WorkStore,
    routes: RouteStore,
    metrics: Arc<Metrics>,
    has_routes: Arc<AtomicBool>,
    known: HashMap<i32, Known>,
}

/// What is remembered of a route between two steps.
#[derive(Debug)]
struct Known {
    name: String,
    /// Its version; another one ends a pause.
    version: i64,
    lot: usize,
    failures: u32,
    not_before: Instant,
    rows: i64,
    refused: i64,
    microseconds: i64,
}

/// The kinds of work in lots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    CatchUp,
    Backfill,
}

/// The result of a lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lot {
    /// There may be more.
    Done,
    /// Nothing is left.
    Finished,
    /// Another node, or a batch, is in the way.
    Busy,
}

impl Worker {
    /// Starts the task. `has_routes` reports whether there are any.
    pub(super) fn start(
        database: &Database,
        metrics: &Arc<Metrics>,
        has_routes: &Arc<AtomicBool>,
        supervisor: &Supervisor,
    ) {
        let worker = Self {
            store: WorkStore::new(database),
            routes: RouteStore::new(database),
            metrics: Arc::clone(metrics),
            has_routes: Arc::clone(has_routes),
            known: HashMap::new(),
        };
        supervisor.periodic("routes", INTERVAL, Backoff::fixed(INTERVAL), worker);
    }

    /// Works on one route for a while; returns whether there is more to do at once.
    async fn work(&mut self, route: &RouteWork) -> Result<bool, DbError> {
        if route.state == "removed" {
            // Later, if requests is locked.
            let _dropped = self.routes.drop_trigger(route.id, Duration::ZERO, |_| ()).await;
            return Ok(false);
        }
        if route.records > MOST_RECORDS {
            self.store.compact(route.id).await?;
        }
        if route.state == "disabled" {
            return Ok(false);
        }
        let fills = route.is_filling && (route.has_key || route.state == "live");
        // The newer events of a key come behind the older ones.
        let catches_up =
            !(route.is_filling && route.has_key) && (route.state == "suspended" || route.deferred > 0);
        if !fills && !catches_up {
            return Ok(false);
        }
        let begun = Instant::now();
        loop {
            let Some(known) = self.known.get(&route.id) else { return Ok(false) };
            if known.not_before > begun {
                return Ok(false);
            }
            let lot = known.lot;
            let kind = if fills { Kind::Backfill } else { Kind::CatchUp };
            let done = self.store.run(route.id, kind, lot).await;
            let Some(known) = self.known.get_mut(&route.id) else { return Ok(false) };
            match done {
                Ok(lot) => {
                    known.failures = 0;
                    // A lot that was too slow was an exception.
                    known.lot = (known.lot * 2).min(LOT_EVENTS);
                    match lot {
                        Lot::Done if begun.elapsed() < TURN => {}
                        Lot::Done => return Ok(true),
                        Lot::Finished if !fills => {
                            tracing::info!(route = route.name, "a route is live again");
                            return Ok(false);
                        }
                        Lot::Finished => {
                            tracing::info!(route = route.name, "a backfill is done");
                            return Ok(true);
                        }
                        Lot::Busy => return Ok(false),
                    }
                }
                Err(error) if error.is_cancelled() && known.lot > 1 => known.lot = (known.lot / 2).max(1),
                Err(error) if error.is_conflict() => {}
                Err(error) if error.is_away() => return Err(error),
                Err(error) => {
                    known.failures += 1;
                    let pause = INTERVAL * 2_u32.saturating_pow(known.failures.min(10));
                    known.not_before = Instant::now() + pause.min(LONGEST_PAUSE);
                    self.store.note_failure(route.id, &error).await?;
                    return Ok(false);
                }
            }
        }
    }

    /// Remembers what is new of a route, and counts it.
    fn observe(&mut self, route: &RouteWork) {
        let known = self.known.entry(route.id).or_insert_with(|| Known {
            name: route.name.clone(),
            version: route.version,
            lot: LOT_EVENTS,
            failures: 0,
            not_before: Instant::now(),
            rows: 0,
            refused: 0,
            microseconds: 0,
        });
        if known.version != route.version {
            (known.version, known.failures, known.not_before) = (route.version, 0, Instant::now());
        }
        let is_new = |now: i64, before: &mut i64| {
            let new = (now - *before).max(0) as u64;
            *before = now;
            new
        };
        let rows = is_new(route.rows, &mut known.rows);
        let refused = is_new(route.refused, &mut known.refused);
        let microseconds = is_new(route.microseconds, &mut known.microseconds);
        let is_suspended = route.state == "suspended";
        self.metrics.route_worked(&route.name, rows, refused, microseconds);
        self.metrics.route_waits(&route.name, is_suspended, route.deferred);
    }
}

impl Step for Worker {
    async fn step(&mut self) -> Result<Next, StepError> {
        let routes = self.store.work().await?;
        self.has_routes.store(!routes.is_empty(), Ordering::Relaxed);
        if routes.is_empty() && self.known.is_empty() {
            return Ok(Next::After(IDLE_INTERVAL));
        }
        let is_listed = |id: &i32| routes.iter().any(|route| route.id == *id && route.state != "removed");
        for known in self.known.iter().filter(|(id, _)| !is_listed(id)).map(|(_, known)| known) {
            self.metrics.route_removed(&known.name);
        }
        self.known.retain(|id, _| is_listed(id));
        let mut has_more = false;
        let mut suspended = Vec::new();
        for route in &routes {
            if route.state != "removed" {
                self.observe(route);
            }
            has_more |= self.work(route).await?;
            if let (Some(state), Some(error), "suspended") =
                (&route.sqlstate, &route.error, route.state.as_str())
            {
                suspended.push(format!("the route {} is suspended: {state} {error}", route.name));
            }
        }
        match suspended.is_empty() {
            // The task's report is that of the routes.
            false if !has_more => Err(StepError::new(suspended.join("; "))),
            _ => Ok(if has_more { Next::After(Duration::ZERO) } else { Next::Interval }),
        }
    }
}
