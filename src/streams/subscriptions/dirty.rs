//! Streams that changed on this node, until their subscriptions have been looked at.

use std::collections::{HashMap, HashSet};
use std::mem::take;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::{StreamEvent, StreamEventKind, StreamListener, StreamPath};
use super::subscription::SubscriptionNumber;

/// Changed streams that are kept. Beyond them, all streams are looked at instead.
const MAX_PATHS: usize = 65_536;

/// What changed since the last look.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Streams that have grown. The flag: it may be a new one, which patterns have to be matched with though its path was linked before.
    pub(super) paths: HashMap<StreamPath, bool>,
    /// Subscriptions whose state a request changed.
    pub(super) subscriptions: HashSet<SubscriptionNumber>,
    /// More changed than was kept.
    pub(super) is_incomplete: bool,
}

/// Collects changes. Streams report them before their appenders are answered, so it does no more than that.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    changes: Mutex<Changes>,
    changed: Notify,
    /// Without subscriptions nothing is collected.
    is_on: AtomicBool,
}

impl Dirty {
    /// Starts or stops collecting.
    pub(super) fn collect(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::SeqCst);
    }

    /// Records a subscription that is to be looked at.
    pub(super) fn subscription(&self, number: SubscriptionNumber) {
        self.changes.lock().subscriptions.insert(number);
        self.changed.notify_one();
    }

    /// Waits for a change.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The changes since the last call.
    pub(super) fn take(&self) -> Changes {
        take(&mut *self.changes.lock())
    }

    /// Keeps changes whose subscriptions could not be looked at.
    pub(super) fn restore(&self, changes: Changes) {
        let mut kept = self.changes.lock();
        for (path, is_new) in changes.paths {
            *kept.paths.entry(path).or_default() |= is_new;
        }
        kept.subscriptions.extend(changes.subscriptions);
        kept.is_incomplete |= changes.is_incomplete;
        kept.bound();
    }
}

impl Changes {
    fn bound(&mut self) {
        if self.paths.len() > MAX_PATHS {
            self.paths = HashMap::new();
            self.is_incomplete = true;
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.subscriptions.is_empty() && !self.is_incomplete
    }
}

impl StreamListener for Dirty {
    fn changed(&self, event: &StreamEvent) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let is_new = match &event.kind {
            StreamEventKind::Created { .. } => true,
            StreamEventKind::Appended => false,
            StreamEventKind::Closed | StreamEventKind::Deleted => return,
        };
        let mut changes = self.changes.lock();
        match changes.paths.get_mut(&event.path) {
            // It waits for the next look already.
            Some(known) => *known |= is_new,
            None => {
                changes.paths.insert(event.path.clone(), is_new);
                changes.bound();
                drop(changes);
                self.changed.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{ContentType, Offset, StreamId};
    use super::*;
    use crate::time::Micros;

    fn event(path: &str, is_new: bool) -> StreamEvent {
        let created = StreamEventKind::Created {
            content_type: ContentType::octet_stream(),
            at: Micros(0),
            start: Offset::START,
        };
        StreamEvent {
            path: StreamPath::new(path).unwrap(),
            id: StreamId(1),
            tail: Offset(1),
            kind: if is_new { created } else { StreamEventKind::Appended },
        }
    }

    #[test]
    fn changes_are_kept_once_for_each_stream_and_their_number_is_bounded() {
        let dirty = Dirty::default();
        StreamListener::changed(&dirty, &event("a", false));
        assert!(dirty.take().is_empty(), "nothing is collected without subscriptions");
        dirty.collect(true);
        for is_new in [false, true, false] {
            StreamListener::changed(&dirty, &event("a", is_new));
        }
        let changes = dirty.take();
        assert_eq!(changes.paths.values().collect::<Vec<_>>(), [&true]);
        dirty.restore(changes);
        for n in 0..MAX_PATHS {
            StreamListener::changed(&dirty, &event(&n.to_string(), false));
        }
        let changes = dirty.take();
        assert!(changes.is_incomplete && changes.paths.len() < MAX_PATHS);
    }
}
