//! Occupancy in events and bytes, changed by one atomic operation, and a wake-up at a threshold.
//!
//! Both numbers share one 64-bit word: the events in the upper 24 bits, the bytes in the lower 40. An occupancy therefore
//! counts up to 16.7 million events and 1 TiB, far above what the settings allow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

const BYTES_BITS: u32 = 40;

/// The most events that an [`Occupancy`] can count.
pub const MAX_EVENTS: u64 = (1 << (64 - BYTES_BITS)) - 1;
/// The most bytes that an [`Occupancy`] can count.
pub const MAX_BYTES: u64 = (1 << BYTES_BITS) - 1;

/// A number of events and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Events.
    pub events: u64,
    /// Their encoded size in bytes.
    pub bytes: u64,
}

impl Size {
    /// Whether neither events nor bytes exceed `limit`.
    pub fn fits(self, limit: Self) -> bool {
        self.events <= limit.events && self.bytes <= limit.bytes
    }

    /// Whether events or bytes are at or above `threshold`.
    pub fn reaches(self, threshold: Self) -> bool {
        self.events >= threshold.events || self.bytes >= threshold.bytes
    }

    fn pack(self) -> u64 {
        self.events << BYTES_BITS | self.bytes
    }

    fn unpack(word: u64) -> Self {
        Self { events: word >> BYTES_BITS, bytes: word & MAX_BYTES }
    }
}

impl std::ops::Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { events: self.events + other.events, bytes: self.bytes + other.bytes }
    }
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// A shared count of events and bytes.
///
/// Its reads and additions are sequentially consistent: `ThresholdNotify` relies on the order of a count and a threshold.
#[derive(Debug, Default)]
pub struct Occupancy(AtomicU64);

impl Occupancy {
    /// The current count.
    pub fn get(&self) -> Size {
        Size::unpack(self.0.load(Ordering::SeqCst))
    }

    /// Adds `by` and returns the count before it. The caller guarantees that the sum does not overflow.
    pub fn raise(&self, by: Size) -> Size {
        Size::unpack(self.0.fetch_add(by.pack(), Ordering::SeqCst))
    }

    /// Adds `by` if the sum stays within `limit`.
    pub fn try_raise(&self, by: Size, limit: Size) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let sum = Size::unpack(word) + by;
                sum.fits(limit).then(|| sum.pack())
            })
            .is_ok()
    }

    /// Subtracts `by`, which was added before.
    pub fn lower(&self, by: Size) {
        self.0.fetch_sub(by.pack(), Ordering::AcqRel);
    }
}

/// Wakes one consumer when an occupancy reaches the consumer's threshold.
///
/// The consumer publishes its threshold. Only the producer that lifts the occupancy over it wakes the consumer: a wake-up
/// costs a system call, and this way there is one for each COPY instead of one for each event.
#[derive(Debug)]
pub(in crate::ingest) struct ThresholdNotify {
    threshold_events: AtomicU64,
    threshold_bytes: AtomicU64,
    reached: Notify,
}

impl Default for ThresholdNotify {
    fn default() -> Self {
        Self {
            threshold_events: AtomicU64::new(u64::MAX),
            threshold_bytes: AtomicU64::new(u64::MAX),
            reached: Notify::new(),
        }
    }
}

impl ThresholdNotify {
    /// Wakes the consumer if a rise from `before` to `after` crosses the threshold.
    pub(in crate::ingest) fn raised(&self, before: Size, after: Size) {
        let threshold = Size {
            events: self.threshold_events.load(Ordering::SeqCst),
            bytes: self.threshold_bytes.load(Ordering::SeqCst),
        };
        if !before.reaches(threshold) && after.reaches(threshold) {
            self.reached.notify_one();
        }
    }

    /// Wakes the consumer, whatever the threshold.
    pub(in crate::ingest) fn notify(&self) {
        self.reached.notify_waiters();
        self.reached.notify_one();
    }

    /// Waits until `occupancy` reaches `threshold` or `closed` is true; false if `deadline` came first.
    pub(in crate::ingest) async fn wait_for(
        &self,
        threshold: Size,
        deadline: Option<Instant>,
        occupancy: impl Fn() -> Size,
        closed: impl Fn() -> bool,
    ) -> bool {
        self.threshold_events.store(threshold.events, Ordering::SeqCst);
        self.threshold_bytes.store(threshold.bytes, Ordering::SeqCst);
        loop {
            let reached = self.reached.notified();
            tokio::pin!(reached);
            // Armed before the check, so that no arrival in between is missed.
            reached.as_mut().enable();
            if occupancy().reaches(threshold) || closed() {
                return true;
            }
            match deadline {
                None => reached.await,
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline.into(), reached).await.is_err() {
                        return false;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_stays_within_its_limit_in_events_and_in_bytes() {
        let occupancy = Occupancy::default();
        let limit = Size { events: 3, bytes: 100 };
        assert!(occupancy.try_raise(Size { events: 1, bytes: 60 }, limit));
        assert!(!occupancy.try_raise(Size { events: 1, bytes: 41 }, limit));
        assert!(occupancy.try_raise(Size { events: 2, bytes: 40 }, limit));
        assert!(!occupancy.try_raise(Size { events: 1, bytes: 0 }, limit));
        occupancy.lower(Size { events: 1, bytes: 60 });
        assert_eq!(occupancy.get(), Size { events: 2, bytes: 40 });
    }
}
