//! Routes: the user's own tables, filled by one select over each batch of events, in the transaction that stores it.
//!
//! ```text
//! COPY into requests ─▶ trigger of each route ─▶ insert into the target      the batch as one set
//!                          │ a row is at fault ─▶ chunks, then rows ─▶ route_errors
//!                          └ anything else ─▶ suspended ─▶ route_deferred ─▶ catch-up ─▶ live
//! ```
//!
//! What a route does happens in Postgres, whatever stores the events: the writer, an import, a redrive, a statement of a user. This
//! module makes the triggers, and does the work that comes later.
//!
//! * **Rights.** A route's functions are `security definer` and belong to its role, which is never the service's own. They reach the
//!   service's tables through the functions of migration V20 alone. Within a definer function `set role` is refused; what a select can
//!   still set for the session, the writer sets again after a COPY (`sql/ingest/after_copy.sql`).
//! * **One select.** A definition is parsed by Postgres as one statement before it becomes part of a function
//!   (`inspection`), and its names are quoted by Postgres or by `generate`.
//!
//! | module | |
//! |---|---|
//! | `model` | names, definitions, listed routes |
//! | `generate` | the functions of a route |
//! | `tree` | what a parsed select does |
//! | `check` | tries a definition |
//! | `suggestion` | derives one |
//! | `errors` | refused events |
//! | `verify` | recounts |
//! | `work` | catches up, fills, drops and counts, later |
//! | `inspection` | parses a definition |
//! | `definition` | adds, changes, lists and removes routes |

mod check;
mod definition;
mod errors;
mod generate;
mod inspection;
mod model;
mod suggestion;
mod tree;
mod verify;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::db::{Database, DbError, sql};
use crate::ingest::BatchHook;
use crate::observe::Metrics;
use crate::supervisor::Supervisor;

pub use check::{CheckReport, CheckedError, MOST_EVENTS, Sample};
pub use definition::{Added, RouteStore};
pub use errors::{Corrected, ErrorCursor, ErrorFilter, RefusedEvent, Rerouted, RouteErrorStore};
pub use model::{Changed, Definition, ListedRoute, RouteName, RouteState, RouteStatus};
pub use suggestion::{SuggestedColumn, Suggestion};
pub use verify::{RouteBooks, TargetBooks};
pub use work::FillProgress;

/// The role of routes that name none.
pub const ROLE: &str = "tidegate_routes";

/// Why a route cannot be made, changed or run.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// A part of the definition is wrong.
    #[error("{message}")]
    Invalid {
        /// The part.
        field: &'static str,
        /// What is wrong.
        message: String,
    },
    /// There is no such route.
    #[error("there is no route {0}")]
    NotFound(String),
    /// There is one of that name.
    #[error("there is a route {0} already")]
    Exists(String),
    /// The route was changed in the meantime.
    #[error("the route has another version")]
    VersionMismatch,
    /// The route's state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The service's role may not give the route's role its rights.
    #[error("the role {role} needs more rights than this service's role can give ({cause}); an administrator runs: {}", .statements.join("; "))]
    Rights {
        /// The route's role.
        role: String,
        /// What fails.
        cause: String,
        /// The statements that give the rights.
        statements: Vec<String>,
    },
    /// `requests` stayed locked.
    #[error("requests is locked by {0}; nothing was changed")]
    Locked(String),
    /// Postgres.
    #[error("{}", .0.with_sources())]
    Database(#[from] DbError),
}

impl RouteError {
    fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    /// An error of Postgres about a part of the definition, or about the database.
    fn of(field: &'static str, error: DbError) -> Self {
        // Syntax, names, types and rights, and what cannot be in a statement.
        match error.state_code().and_then(|code| code.get(..2)) {
            // A pooler's connection.
            _ if error.is_unprepared() => Self::Database(error),
            Some("42" | "0A" | "22" | "26" | "3F") => Self::invalid(field, error.with_sources()),
            _ => Self::Database(error),
        }
    }
}

/// The templates of a route's functions, without their comments.
fn sources(database: &Database) -> [&'static str; 2] {
    [sql!(database, "routes/trigger.sql"), sql!(database, "routes/apply.sql")]
}

/// The statement that runs a route over stored events, given their ids.
fn apply_statement(database: &Database, route: i32) -> String {
    let template = sql!(database, "routes/apply_ids.sql");
    let function = definition::function_name(route);
    generate::fill(template, &[("id", &route.to_string()), ("function", &function)])
}

/// The routes of a running service.
#[derive(Debug, Clone)]
pub struct Routes {
    /// Definitions.
    pub store: RouteStore,
    /// Refused events.
    pub errors: RouteErrorStore,
    hook: Arc<RouteHook>,
    wake: Arc<Notify>,
    seen: Arc<Mutex<Vec<RouteStatus>>>,
}

impl Routes {
    /// Starts the task that catches up, fills and counts.
    pub fn start(database: &Database, metrics: &Arc<Metrics>, supervisor: &Supervisor) -> Self {
        // Until the task has looked, there may be some.
        let has_routes = Arc::new(AtomicBool::new(true));
        let (wake, seen) = (Arc::new(Notify::new()), Arc::default());
        work::Worker::start(database, metrics, &has_routes, &wake, &seen, supervisor);
        let hook = Arc::new(RouteHook { store: RouteStore::new(database), has_routes });
        Self { store: RouteStore::new(database), errors: RouteErrorStore::new(database), hook, wake, seen }
    }

    /// What the writer, imports and redrives ask.
    pub fn hook(&self) -> Arc<dyn BatchHook> {
        Arc::clone(&self.hook) as Arc<dyn BatchHook>
    }

    /// The routes as the task saw them last, in the order of their creation.
    pub fn status(&self) -> Vec<RouteStatus> {
        self.seen.lock().clone()
    }

    /// A route was added or changed by this process: neither the writer nor the task waits until the task looks again.
    pub fn changed(&self) {
        self.hook.has_routes.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// As [`Routes::hook`], without a running service.
pub fn hook(database: &Database) -> Arc<dyn BatchHook> {
    Arc::new(RouteHook { store: RouteStore::new(database), has_routes: Arc::new(AtomicBool::new(true)) })
}

/// Answers the writer.
#[derive(Debug)]
struct RouteHook {
    store: RouteStore,
    has_routes: Arc<AtomicBool>,
}

impl BatchHook for RouteHook {
    fn runs_statements(&self) -> bool {
        self.has_routes.load(Ordering::Relaxed)
    }

    fn cancelled<'a>(&'a self, error: &'a DbError) -> BoxFuture<'a, bool> {
        Box::pin(async {
            match self.store.suspend_slow(error).await {
                Ok(Some(route)) => {
                    tracing::warn!(route, "a batch took too long in a route, which is suspended");
                    true
                }
                Ok(None) => false,
                Err(error) => {
                    let error = error.with_sources();
                    tracing::warn!(error, "a batch took too long, and its routes cannot be suspended");
                    false
                }
            }
        })
    }
}
