//! What routes do later: deferred events are caught up, backfills go on, removed routes are dropped, counts are added up.
//!
//! A suspended route takes its deferred events in lots. It is live again once none is left, under a lock that every batch of it holds
//! shared: otherwise an older event could overwrite a newer one. A lot that takes too long is tried with half of its events, and an event
//! that takes too long alone is refused.

mod fill;
mod store;
mod turn;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::fill::FillProgress;
pub(super) use self::store::apply;
use self::store::{RouteWork, WorkStore};
use self::turn::{Pace, Turn};
use super::{RouteState, RouteStatus, RouteStore};
use crate::db::{Database, DbError};
use crate::observe::Metrics;
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// Between two steps without work, and after a failure.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same where there are no routes: a service without events gives its connections back.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// The longest that one route is worked on while others wait.
const TURN: Duration = Duration::from_secs(2);
/// Records of counts that are added up to one.
const MOST_RECORDS: i64 = 200;

/// The task.
#[derive(Debug)]
pub(super) struct Worker {
    store: WorkStore,
    routes: RouteStore,
    metrics: Arc<Metrics>,
    has_routes: Arc<AtomicBool>,
    wake: Arc<Notify>,
    seen: Arc<Mutex<Vec<RouteStatus>>>,
    /// The wait before the next step, which [`Self::wake`] ends.
    wait: Duration,
    known: HashMap<i32, Known>,
}

/// What is remembered of a route between two steps.
#[derive(Debug)]
struct Known {
    name: String,
    /// Its version; another one ends a pause.
    version: i64,
    pace: Pace,
    rows: i64,
    refused: i64,
    microseconds: i64,
}

impl Worker {
    /// Starts the task. `has_routes` reports whether there are any; `wake` ends its wait for work; `seen` has their states.
    pub(super) fn start(
        database: &Database,
        metrics: &Arc<Metrics>,
        has_routes: &Arc<AtomicBool>,
        wake: &Arc<Notify>,
        seen: &Arc<Mutex<Vec<RouteStatus>>>,
        supervisor: &Supervisor,
    ) {
        let worker = Self {
            store: WorkStore::new(database),
            routes: RouteStore::new(database),
            metrics: Arc::clone(metrics),
            has_routes: Arc::clone(has_routes),
            wake: Arc::clone(wake),
            seen: Arc::clone(seen),
            wait: Duration::ZERO,
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
        let Some(known) = self.known.get_mut(&route.id) else { return Ok(false) };
        match turn::take(&self.store, route, &mut known.pace, TURN).await? {
            Turn::More => Ok(true),
            Turn::Filled => {
                tracing::info!(route = route.name, "a backfill is done");
                Ok(true)
            }
            Turn::CaughtUp => {
                tracing::info!(route = route.name, "a route is live again");
                Ok(false)
            }
            Turn::Nothing | Turn::Later | Turn::Failed(_) => Ok(false),
        }
    }

    /// Remembers what is new of a route, and counts it.
    fn observe(&mut self, route: &RouteWork) {
        let known = self.known.entry(route.id).or_insert_with(|| Known {
            name: route.name.clone(),
            version: route.version,
            pace: Pace::default(),
            rows: 0,
            refused: 0,
            microseconds: 0,
        });
        if known.version != route.version {
            (known.version, known.pace) = (route.version, Pace::default());
        }
        let is_new = |now: i64, before: &mut i64| {
            let new = (now - *before).max(0) as u64;
            *before = now;
            new
        };
        let rows = is_new(route.rows, &mut known.rows);
        let refused = is_new(route.refused, &mut known.refused);
        let microseconds = is_new(route.microseconds, &mut known.microseconds);
        // With a key a backfill keeps new events waiting, which is no failure.
        let is_suspended = route.state == "suspended" && route.sqlstate.is_some();
        self.metrics.route_worked(&route.name, rows, refused, microseconds);
        self.metrics.route_waits(&route.name, is_suspended, route.deferred);
    }
}

impl From<&RouteWork> for RouteStatus {
    fn from(route: &RouteWork) -> Self {
        let error = route.sqlstate.as_ref().zip(route.error.as_ref());
        let is_suspended = route.state == "suspended";
        Self {
            name: route.name.clone(),
            state: RouteState::named(&route.state),
            is_filling: route.is_filling,
            deferred: route.deferred,
            errors: route.errors,
            error: error.filter(|_| is_suspended).map(|(state, error)| format!("{state} {error}")),
        }
    }
}

impl Step for Worker {
    async fn step(&mut self) -> Result<Next, StepError> {
        // After a failure the supervisor has waited already.
        let wait = std::mem::take(&mut self.wait);
        let _woken = tokio::time::timeout(wait, self.wake.notified()).await;
        let routes = self.store.work().await?;
        self.has_routes.store(!routes.is_empty(), Ordering::Relaxed);
        let listed = routes.iter().filter(|route| route.state != "removed");
        *self.seen.lock() = listed.map(RouteStatus::from).collect();
        if routes.is_empty() && self.known.is_empty() {
            self.wait = IDLE_INTERVAL;
            return Ok(Next::After(Duration::ZERO));
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
        if !suspended.is_empty() && !has_more {
            // The task's report is that of the routes.
            return Err(StepError::new(suspended.join("; ")));
        }
        if !has_more {
            self.wait = INTERVAL;
        }
        Ok(Next::After(Duration::ZERO))
    }
}
