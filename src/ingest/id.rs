//! Ids of events: UUIDv7 (RFC 9562), fixed when an event is accepted.
//!
//! The 74 bits that RFC 9562 leaves to chance hold a tag of 34 random bits, drawn once by each process, and a sequence
//! of 40 bits. So ids of one process never collide, sort in the order of acceptance within a millisecond, and the
//! events of one process can be counted by id alone, without a further index.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;
const TAG_BITS: u32 = 34;

/// Gives out ids.
#[derive(Debug)]
pub struct IdMint {
    tag: u64,
    next: AtomicU64,
}

impl IdMint {
    /// A mint with a tag of its own.
    pub fn new() -> Self {
        let random = Uuid::new_v4().as_u128() as u64;
        Self { tag: random & ((1 << TAG_BITS) - 1), next: AtomicU64::new(0) }
    }

    /// The first of `count` ids in a row, all with the time `now_us` (microseconds of Unix time).
    pub fn reserve(&self, count: u64, now_us: i64) -> IdRange {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        IdRange { unix_ms: (now_us / 1000) as u64, tag: self.tag, next: first }
    }
}

impl Default for IdMint {
    fn default() -> Self {
        Self::new()
    }
}

/// Ids that follow each other; whoever reserved them takes no more than were reserved.
#[derive(Debug)]
pub struct IdRange {
    unix_ms: u64,
    tag: u64,
    next: u64,
}

impl IdRange {
    /// The next id.
    #[inline]
    pub fn take(&mut self) -> Uuid {
        let sequence = self.next & SEQUENCE_MASK;
        self.next += 1;
        let random = u128::from(self.tag) << SEQUENCE_BITS | u128::from(sequence);
        let (rand_a, rand_b) = (random >> 62, random & ((1 << 62) - 1));
        Uuid::from_u128(
            u128::from(self.unix_ms & 0xFFFF_FFFF_FFFF) << 80
                | 0x7 << 76
                | rand_a << 64
                | 0b10 << 62
                | rand_b,
        )
    }
}

/// The smallest UUIDv7 of the millisecond `unix_ms`: where a partition begins.
pub fn lower_bound(unix_ms: u64) -> Uuid {
    Uuid::from_u128(u128::from(unix_ms & 0xFFFF_FFFF_FFFF) << 80)
}

/// Microseconds of Unix time, now.
pub fn unix_now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_carry_the_time_and_rise() {
        let mint = IdMint::new();
        let mut range = mint.reserve(1000, 1_700_000_000_123_456);
        let ids: Vec<Uuid> = (0..1000).map(|_| range.take()).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
        for id in &ids {
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            assert_eq!((seconds, nanos / 1_000_000), (1_700_000_000, 123));
        }
        assert!(mint.reserve(1, 1_700_000_000_123_456).take() > ids[999]);
        assert!(lower_bound(1_700_000_000_123) < ids[0] && ids[999] < lower_bound(1_700_000_000_124));
    }
}
