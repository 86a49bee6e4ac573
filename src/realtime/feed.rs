//! Reads the table `changes` while somebody follows, and hands on what it finds.
//!
//! It begins at the horizon of its first look: before it nothing is added any more, and from it on all is handed on, in
//! order. What was committed here wakes it; what other nodes commit it finds when it looks by itself, after `FEED_POLL_MS`. A
//! change is found once all transactions that are older have ended, so for a while it looks again sooner.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Position;
use super::buffer::Dropped;
use super::hub::{Feed, Hub};
use super::store::Changes;
use crate::db::{Database, DbError};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between two looks: what is committed meanwhile is found together.
const GAP: Duration = Duration::from_millis(3);
/// After an error.
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// Without subscribers, the time after which a step ends and the next one begins.
const IDLE: Duration = Duration::from_secs(10);

/// Reads the feed for the hub.
pub(super) struct FeedReader {
    hub: Hub,
    changes: Changes,
    /// `None`: there are no subscribers, or the feed begins anew.
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    after: Position,
    /// The wait for a change of another node, doubled while none comes.
    pause: Duration,
}

impl FeedReader {
    /// Starts the task that reads the feed, over a share of the pool.
    pub(super) fn start(hub: &Hub, share: &Database, supervisor: &Supervisor) {
        let reader = Self { hub: hub.clone(), changes: Changes::new(share, TIMEOUT), place: None };
        supervisor.periodic("feed", Duration::ZERO, Backoff::fixed(AFTER_ERROR), reader);
    }

    /// The place from which on everything is delivered.
    async fn begin(&self) -> Result<Place, DbError> {
        let begun = self.changes.horizon().await;
        let after = begun.inspect_err(|_| self.hub.set_feed(Feed::Failing))?;
        self.hub.set_handed_on(after);
        self.hub.set_feed(Feed::Running);
        Ok(Place { after, pause: GAP })
    }
}

impl Step for FeedReader {
    async fn step(&mut self) -> Result<Next, StepError> {
        if !self.hub.is_followed() {
            self.place = None;
            let _idle = tokio::time::timeout(IDLE, self.hub.woken()).await;
            return Ok(Next::Interval);
        }
        let begun = match self.place.take() {
            Some(place) => place,
            None => self.begin().await?,
        };
        let place = self.place.insert(begun);
        match look(&self.hub, &self.changes, &mut place.after).await? {
            Look::More => return Ok(Next::Interval),
            Look::Done => {}
            Look::Gone => {
                tracing::warn!(
                    "changes were deleted before they were read (CHANGES_RETENTION_S); subscribers begin anew"
                );
                self.recover();
                return Ok(Next::Interval);
            }
        }
        tokio::time::sleep(GAP).await;
        let slowest = Duration::from_millis(self.hub.config().feed_poll_ms);
        place.pause = tokio::select! {
            () = self.hub.woken() => GAP,
            () = tokio::time::sleep(place.pause) => (place.pause * 2).min(slowest),
        };
        Ok(Next::Interval)
    }

    /// Subscribers begin anew: part of a page may have been delivered.
    fn recover(&mut self) {
        self.place = None;
        self.hub.drop_all(Dropped::Behind);
    }
}

/// What a look found.
enum Look {
    /// All that there is.
    Done,
    /// As much as is read at once.
    More,
    /// Something is missing.
    Gone,
}

async fn look(hub: &Hub, changes: &Changes, after: &mut Position) -> Result<Look, DbError> {
    let lot = changes.lot(*after).await?;
    if lot.is_gone {
        return Ok(Look::Gone);
    }
    if let Some(oldest) = lot.changes.first() {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as i64);
        // Clocks of two machines differ.
        let lag_us = now_us.saturating_sub(oldest.at_us).max(0);
        hub.metrics().feed_lag_seconds.observe(lag_us as f64 / 1e6);
    }
    for change in lot.changes {
        hub.publish(change);
    }
    *after = lot.next;
    hub.set_handed_on(lot.next);
    Ok(if lot.is_full { Look::More } else { Look::Done })
}
