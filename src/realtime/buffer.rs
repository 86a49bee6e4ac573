//! What waits for a follower, bounded in changes and in bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Change;
use crate::config::RealtimeConfig;

/// Why a follower gets nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// More waits for him than may.
    Slow,
    /// Changes were deleted before the feed had read them.
    Behind,
}

impl Dropped {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Behind => "behind",
        }
    }
}

/// What waits for a follower.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    dropped: Option<Dropped>,
}

impl Buffer {
    /// Adds a change; says so if that drops the follower.
    pub(super) fn push(&self, change: &Arc<Change>, config: &RealtimeConfig) -> Option<Dropped> {
        let mut waiting = self.waiting();
        if waiting.dropped.is_some() {
            return None;
        }
        let bytes = waiting.bytes + change.bytes();
        let is_full = waiting.changes.len() >= config.follower_changes
            || (bytes > config.follower_bytes && !waiting.changes.is_empty());
        if is_full {
            *waiting = Waiting { dropped: Some(Dropped::Slow), ..Waiting::default() };
        } else {
            waiting.bytes = bytes;
            waiting.changes.push_back(Arc::clone(change));
        }
        drop(waiting);
        self.filled.notify_one();
        is_full.then_some(Dropped::Slow)
    }

    /// Drops the follower; whether he was not yet.
    pub(super) fn drop_with(&self, why: Dropped) -> bool {
        let mut waiting = self.waiting();
        let is_new = waiting.dropped.is_none();
        if is_new {
            *waiting = Waiting { dropped: Some(why), ..Waiting::default() };
        }
        drop(waiting);
        self.filled.notify_one();
        is_new
    }

    /// Waits until there is something to take, or nothing more comes.
    pub(super) async fn ready(&self) {
        while self.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Waits until nothing more comes.
    pub(super) async fn ended(&self) -> Dropped {
        loop {
            if let Some(why) = self.dropped() {
                return why;
            }
            self.filled.notified().await;
        }
    }

    /// Takes the next change, if there is one.
    pub(super) fn take(&self) -> Result<Option<Arc<Change>>, Dropped> {
        let mut waiting = self.waiting();
        if let Some(why) = waiting.dropped {
            return Err(why);
        }
        let change = waiting.changes.pop_front();
        if let Some(change) = &change {
            waiting.bytes -= change.bytes();
        }
        Ok(change)
    }

    /// Whether nothing waits, and more may come.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.dropped.is_none() && waiting.changes.is_empty()
    }

    fn dropped(&self) -> Option<Dropped> {
        self.waiting().dropped
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::super::{Action, Position};
    use super::*;

    fn change(number: i64, bytes: usize) -> Arc<Change> {
        Arc::new(Change {
            position: Position { xid: 1, number },
            topic: "a:1".into(),
            record: "r".into(),
            action: Action::Create,
            created_us: 0,
            updated_us: 0,
            at_us: 0,
            data: "x".repeat(bytes),
            encoded: OnceLock::new(),
        })
    }

    #[test]
    fn a_buffer_is_bounded_in_changes_and_bytes_and_is_empty_once_it_was_full() {
        let config = RealtimeConfig {
            feed_poll_ms: 50,
            max_followers: 1,
            max_user_followers: 1,
            follower_changes: 3,
            follower_bytes: 10_000,
            followers_bytes: 1_000_000,
            follower_heartbeat_s: 1,
        };
        let buffer = Buffer::default();
        assert!((0..3).all(|n| buffer.push(&change(n, 10), &config).is_none()));
        assert_eq!(buffer.push(&change(3, 10), &config), Some(Dropped::Slow));
        assert_eq!(buffer.push(&change(4, 10), &config), None, "that is told once");
        assert_eq!((buffer.dropped(), buffer.waiting().changes.len()), (Some(Dropped::Slow), 0));
        let buffer = Buffer::default();
        assert_eq!(buffer.push(&change(0, 100_000), &config), None, "one always fits, however large it is");
        assert_eq!(buffer.push(&change(1, 10), &config), Some(Dropped::Slow));
        assert!(!buffer.drop_with(Dropped::Behind), "the first reason stands");
    }
}
