//! The stored parts of an import, for parts that depend on earlier ones.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The numbers of the stored parts.
#[derive(Debug)]
pub(super) struct StoredParts {
    /// Stored parts after the first missing one.
    ahead: Mutex<BTreeSet<i32>>,
    /// The first missing part.
    first_missing: watch::Sender<i32>,
}

impl StoredParts {
    /// With these parts stored.
    pub(super) fn new(stored: impl Iterator<Item = i32>) -> Self {
        let turns = Self { ahead: Mutex::default(), first_missing: watch::Sender::new(0) };
        for number in stored {
            turns.stored(number);
        }
        turns
    }

    /// Records that a part is stored.
    pub(super) fn stored(&self, number: i32) {
        let mut ahead = self.ahead.lock();
        ahead.insert(number);
        self.first_missing.send_if_modified(|first| {
            let before = *first;
            while ahead.remove(first) {
                *first += 1;
            }
            *first != before
        });
    }

    /// Whether all earlier parts are stored.
    pub(super) fn is_next(&self, number: i32) -> bool {
        *self.first_missing.borrow() >= number
    }

    /// Waits until all earlier parts are stored.
    pub(super) async fn wait_for(&self, number: i32) {
        let mut watched = self.first_missing.subscribe();
        let _sender_is_here = watched.wait_for(|first| *first >= number).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_is_next_when_all_before_it_are_stored() {
        let turns = StoredParts::new([0, 2].into_iter());
        assert!(turns.is_next(1) && !turns.is_next(2));
        turns.stored(3);
        assert!(!turns.is_next(3));
        turns.stored(1);
        turns.wait_for(4).await;
        assert!(!turns.is_next(5));
    }
}
