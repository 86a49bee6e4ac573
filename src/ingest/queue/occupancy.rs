//! A fill level in events and in bytes, moved by one atomic operation.
//!
//! Both numbers share one 64-bit word: the events in the upper 24 bits, the bytes in the lower 40. So a level counts up
//! to 16.7 million events and 1 TiB, far above what the settings allow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

const BYTES_BITS: u32 = 40;

/// The most events a level can hold.
pub const MAX_EVENTS: u64 = (1 << (64 - BYTES_BITS)) - 1;
/// The most bytes a level can hold.
pub const MAX_BYTES: u64 = (1 << BYTES_BITS) - 1;

/// So many events, of so many bytes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Events.
    pub events: u64,
    /// Their encoded size in bytes.
    pub bytes: u64,
}

impl Size {
    /// Whether this load stays within `limit` in both respects.
    pub fn fits(self, limit: Self) -> bool {
        self.events <= limit.events && self.bytes <= limit.bytes
    }

    /// Whether this load is at or above `mark` in either respect.
    pub fn reaches(self, mark: Self) -> bool {
        self.events >= mark.events || self.bytes >= mark.bytes
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

/// A shared fill level. Its loads and additions are sequentially consistent, because the queue's wake-up relies on the
/// order of a level and a mark.
#[derive(Debug, Default)]
pub struct Occupancy(AtomicU64);

impl Occupancy {
    /// The level now.
    pub fn get(&self) -> Size {
        Size::unpack(self.0.load(Ordering::SeqCst))
    }

    /// Raises the level and returns what it was before. The caller knows that there is room.
    pub fn raise(&self, by: Size) -> Size {
        Size::unpack(self.0.fetch_add(by.pack(), Ordering::SeqCst))
    }

    /// Raises the level if the sum stays within `limit`.
    pub fn try_raise(&self, by: Size, limit: Size) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let sum = Size::unpack(word) + by;
                sum.fits(limit).then(|| sum.pack())
            })
            .is_ok()
    }

    /// Lowers the level by what was raised before.
    pub fn lower(&self, by: Size) {
        self.0.fetch_sub(by.pack(), Ordering::AcqRel);
    }
}

/// One consumer's mark, and what wakes it.
#[derive(Debug)]
pub(in crate::ingest) struct ThresholdNotify {
    mark_events: AtomicU64,
    mark_bytes: AtomicU64,
    arrived: Notify,
}

impl Default for ThresholdNotify {
    fn default() -> Self {
        Self {
            mark_events: AtomicU64::new(u64::MAX),
            mark_bytes: AtomicU64::new(u64::MAX),
            arrived: Notify::new(),
        }
    }
}

impl ThresholdNotify {
    /// Rings if a rise from `before` to `after` passes the mark.
    pub(in crate::ingest) fn rose(&self, before: Size, after: Size) {
        let mark = Size {
            events: self.mark_events.load(Ordering::SeqCst),
            bytes: self.mark_bytes.load(Ordering::SeqCst),
        };
        if !before.reaches(mark) && after.reaches(mark) {
            self.arrived.notify_one();
        }
    }

    /// Rings, whatever the mark.
    pub(in crate::ingest) fn ring(&self) {
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    /// Waits until `level` reaches `mark` or `closed` holds; false if `deadline` came first.
    pub(in crate::ingest) async fn wait_for(
        &self,
        mark: Size,
        deadline: Option<Instant>,
        level: impl Fn() -> Size,
        closed: impl Fn() -> bool,
    ) -> bool {
        self.mark_events.store(mark.events, Ordering::SeqCst);
        self.mark_bytes.store(mark.bytes, Ordering::SeqCst);
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // Armed before the look, so that what arrives in between is not missed.
            arrived.as_mut().enable();
            if level().reaches(mark) || closed() {
                return true;
            }
            match deadline {
                None => arrived.await,
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline.into(), arrived).await.is_err() {
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
    fn a_level_never_passes_its_limit_in_either_respect() {
        let level = Occupancy::default();
        let limit = Size { events: 3, bytes: 100 };
        assert!(level.try_raise(Size { events: 1, bytes: 60 }, limit));
        assert!(!level.try_raise(Size { events: 1, bytes: 41 }, limit));
        assert!(level.try_raise(Size { events: 2, bytes: 40 }, limit));
        assert!(!level.try_raise(Size { events: 1, bytes: 0 }, limit));
        level.lower(Size { events: 1, bytes: 60 });
        assert_eq!(level.get(), Size { events: 2, bytes: 40 });
    }
}
