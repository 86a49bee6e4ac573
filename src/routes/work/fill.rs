//! A backfill by a command, beside a running service or without one.

use std::time::Duration;

use super::store::WorkStore;
use super::turn::{self, Pace, Turn};
use crate::routes::{ListedRoute, RouteError, RouteName, RouteState, RouteStore};

/// The time between two reports.
const REPORT: Duration = Duration::from_millis(500);
/// The pause while the service is at work on the route.
const PAUSE: Duration = Duration::from_millis(100);
/// Failures in a row after which the command ends.
const ATTEMPTS: u32 = 3;

/// The progress of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillProgress {
    /// Stored events that were routed so far.
    pub events: i64,
    /// All that are to be read, about; `None`: the backfill is done.
    pub total: Option<i64>,
    /// Newer events that wait for it.
    pub deferred: i64,
}

impl RouteStore {
    /// Works on a route until its backfill is done and it is live. A running service takes lots of it, too; each lot is one
    /// transaction, so that the work goes on where it ended, whichever of them ends.
    ///
    /// # Errors
    ///
    /// [`RouteError::Conflict`] if the route is disabled meanwhile, or its target fails as a whole several times.
    pub async fn fill(
        &self,
        name: &RouteName,
        report: impl Fn(FillProgress) + Send + Sync,
    ) -> Result<ListedRoute, RouteError> {
        let store = WorkStore::new(&self.database);
        let id = self.get(name).await?.id;
        let mut pace = Pace::default();
        let mut total = None;
        loop {
            let routes = store.work().await?;
            let Some(route) = routes.into_iter().find(|route| route.id == id && route.state != "removed")
            else {
                return Err(RouteError::NotFound(name.as_str().to_owned()));
            };
            total = match total {
                _ if !route.is_filling => None,
                None => Some(route.backfilled + store.left(id).await?),
                total => total,
            };
            report(FillProgress { events: route.backfilled, total, deferred: route.deferred });
            match turn::take(&store, &route, &mut pace, REPORT).await? {
                Turn::More | Turn::Filled | Turn::CaughtUp => {}
                Turn::Nothing => {
                    let route = self.get(name).await?;
                    return match route.state {
                        RouteState::Disabled => {
                            let message = "the route was disabled; its backfill goes on once it is enabled";
                            Err(RouteError::Conflict(message.to_owned()))
                        }
                        _ => Ok(route),
                    };
                }
                Turn::Failed(error) if pace.failures >= ATTEMPTS => {
                    let message = format!(
                        "the route is suspended: {}; its backfill goes on once the target works",
                        error.with_sources()
                    );
                    return Err(RouteError::Conflict(message));
                }
                Turn::Later | Turn::Failed(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
