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

/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between two looks: what is committed meanwhile is found together.
const GAP: Duration = Duration::from_millis(3);
/// After an error.
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// Goes round until it is dropped.
pub(super) async fn run(hub: Hub, share: Database) {
    let changes = Changes::new(&share, TIMEOUT);
    loop {
        while !hub.is_followed() {
            hub.woken().await;
        }
        match changes.horizon().await {
            Ok(horizon) => follow(&hub, &changes, horizon).await,
            Err(error) => {
                tracing::warn!(error = error.with_sources(), "the feed cannot be read; trying again");
                hub.set_feed(Feed::Failing);
                tokio::time::sleep(AFTER_ERROR).await;
                hub.set_feed(Feed::Idle);
            }
        }
    }
}

/// Hands on what comes after a place until nobody follows any more.
async fn follow(hub: &Hub, changes: &Changes, mut after: Position) {
    hub.set_handed_on(after);
    hub.set_feed(Feed::Running);
    let slowest = Duration::from_millis(hub.config().feed_poll_ms);
    let (mut pause, mut is_failing) = (GAP, false);
    while hub.is_followed() {
        match look(hub, changes, &mut after).await {
            Ok(Look::More) => continue,
            Ok(Look::Done) => is_failing = false,
            Ok(Look::Gone) => {
                tracing::warn!(
                    "changes were deleted before they were read (CHANGES_RETENTION_S); followers begin anew"
                );
                hub.drop_all(Dropped::Behind);
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(error = error.with_sources(), "the feed cannot be read; trying again");
                }
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        }
        tokio::time::sleep(GAP).await;
        pause = tokio::select! {
            () = hub.woken() => GAP,
            () = tokio::time::sleep(pause) => (pause * 2).min(slowest),
        };
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
