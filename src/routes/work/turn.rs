//! A turn of a route: lots of its events, one transaction each.

use std::time::{Duration, Instant};

use super::store::{RouteWork, WorkStore};
use crate::db::DbError;

/// The most events of one transaction.
const LOT_EVENTS: usize = 5_000;
/// The wait after a first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest wait before a route that fails is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The kinds of work in lots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    CatchUp,
    Backfill,
}

/// The result of a lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lot {
    /// There may be more.
    Done,
    /// Nothing is left.
    Finished,
    /// Another node, or a batch, is in the way.
    Busy,
}

/// The size of a route's lots, and its failures.
#[derive(Debug)]
pub(super) struct Pace {
    lot: usize,
    /// Failures in a row.
    pub(super) failures: u32,
    not_before: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self { lot: LOT_EVENTS, failures: 0, not_before: Instant::now() }
    }
}

/// The end of a turn.
#[derive(Debug)]
pub(super) enum Turn {
    /// There is nothing to do.
    Nothing,
    /// Another node or a batch is in the way, or a pause after a failure is not over.
    Later,
    /// There is more to do.
    More,
    /// The backfill is done.
    Filled,
    /// Nothing is deferred, and the route is live.
    CaughtUp,
    /// The target fails as a whole.
    Failed(DbError),
}

/// Works on a route for about `time`.
///
/// # Errors
///
/// If Postgres is away.
pub(super) async fn take(
    store: &WorkStore,
    route: &RouteWork,
    pace: &mut Pace,
    time: Duration,
) -> Result<Turn, DbError> {
    let Some(kind) = due(route, pace.failures > 0) else { return Ok(Turn::Nothing) };
    let begun = Instant::now();
    if pace.not_before > begun {
        return Ok(Turn::Later);
    }
    loop {
        match store.run(route.id, kind, pace.lot).await {
            Ok(lot) => {
                pace.failures = 0;
                // A lot that was too slow was an exception.
                pace.lot = (pace.lot * 2).min(LOT_EVENTS);
                match lot {
                    Lot::Done if begun.elapsed() < time => {}
                    Lot::Done => return Ok(Turn::More),
                    Lot::Finished if kind == Kind::Backfill => return Ok(Turn::Filled),
                    Lot::Finished => return Ok(Turn::CaughtUp),
                    Lot::Busy => return Ok(Turn::Later),
                }
            }
            Err(error) if error.is_cancelled() && pace.lot > 1 => pace.lot = (pace.lot / 2).max(1),
            Err(error) if error.is_conflict() => {}
            // A function of a user may go on when it is cancelled.
            Err(error) if error.is_away() && !matches!(error, DbError::Timeout(_)) => return Err(error),
            Err(error) => {
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(pace.failures.min(10));
                pace.failures += 1;
                pace.not_before = Instant::now() + pause.min(LONGEST_PAUSE);
                store.note_failure(route.id, &error).await?;
                return Ok(Turn::Failed(error));
            }
        }
    }
}

/// The work that is due. With a key, the newer events come behind the older ones. Where a backfill has failed and nothing is deferred, it shows
/// whether the target works again.
fn due(route: &RouteWork, has_failed: bool) -> Option<Kind> {
    let is_live = route.state == "live";
    if route.state == "disabled" || route.state == "removed" {
        None
    } else if route.is_filling && (route.has_key || is_live || has_failed && route.deferred == 0) {
        Some(Kind::Backfill)
    } else if !is_live || route.deferred > 0 {
        Some(Kind::CatchUp)
    } else {
        None
    }
}
