//! Event ids: UUIDv7 (RFC 9562), assigned when an event is accepted.
//!
//! The 74 random bits of RFC 9562 hold a tag of 34 random bits, drawn once by each journal (or by the process, without a
//! journal), and a sequence of 40 bits. So the ids of one journal never collide, they sort in the order of acceptance within
//! a millisecond, and a journal's events can be counted by id alone, without another index.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;
const TAG_BITS: u32 = 34;

/// The 34 bits of an id that identify its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u64);

impl Tag {
    /// The tag of the journal with this id.
    pub fn of_journal(journal: Uuid) -> Self {
        Self(journal.as_u128() as u64 & ((1 << TAG_BITS) - 1))
    }

    /// The tag in an event's id.
    pub fn of_event(id: Uuid) -> Self {
        let random = id.as_u128();
        let rand_b = random & ((1 << 62) - 1);
        let rand_a = (random >> 64) & 0xFFF;
        Self(((rand_a << 62 | rand_b) >> SEQUENCE_BITS) as u64)
    }

    /// Bytes 6 to 10 of the ids with this tag, as returned by the SQL function `ingest_tag`.
    pub fn bytes(self) -> [u8; 5] {
        let id = event_id(0, self, 0).into_bytes();
        std::array::from_fn(|index| id[6 + index])
    }
}

/// The id of the event `sequence` (modulo 2^40) of a journal, accepted at `unix_ms` (milliseconds of Unix time).
#[inline]
pub fn event_id(unix_ms: u64, tag: Tag, sequence: u64) -> Uuid {
    let random = u128::from(tag.0) << SEQUENCE_BITS | u128::from(sequence & SEQUENCE_MASK);
    let (rand_a, rand_b) = (random >> 62, random & ((1 << 62) - 1));
    Uuid::from_u128(
        u128::from(unix_ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b,
    )
}

/// The sequence in an event's id.
pub fn sequence(id: Uuid) -> u64 {
    id.as_u128() as u64 & SEQUENCE_MASK
}

/// The time in an event's id, in milliseconds of Unix time.
pub fn unix_ms(id: Uuid) -> u64 {
    (id.as_u128() >> 80) as u64
}

/// A generator of ids.
#[derive(Debug)]
pub struct IdMint {
    tag: Tag,
    next: AtomicU64,
}

impl IdMint {
    /// A generator with a new tag.
    pub fn new() -> Self {
        Self { tag: Tag::of_journal(Uuid::new_v4()), next: AtomicU64::new(0) }
    }

    /// Reserves `count` consecutive sequences; returns the tag and the first sequence.
    pub fn reserve_range(&self, count: u64) -> (Tag, u64) {
        (self.tag, self.next.fetch_add(count, Ordering::Relaxed))
    }

    /// Reserves `count` consecutive ids with the time `now_us` (microseconds of Unix time).
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

/// Consecutive ids. The caller takes no more than it has reserved.
#[derive(Debug)]
pub struct IdRange {
    unix_ms: u64,
    tag: Tag,
    next: u64,
}

impl IdRange {
    /// The next id.
    #[inline]
    pub fn take(&mut self) -> Uuid {
        let id = event_id(self.unix_ms, self.tag, self.next);
        self.next += 1;
        id
    }
}

/// The last millisecond that a UUIDv7 can represent (RFC 9562, section 5.7).
pub const MAX_UNIX_MS: u64 = (1 << 48) - 1;

/// The smallest UUIDv7 of the millisecond `unix_ms`: where a partition begins.
pub fn lower_bound(unix_ms: u64) -> Uuid {
    Uuid::from_u128(u128::from(unix_ms & MAX_UNIX_MS) << 80)
}

/// The current time in microseconds of Unix time.
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
        for (n, id) in ids.iter().enumerate() {
            let bytes: [u8; 5] = id.as_bytes()[6..11].try_into().unwrap();
            assert_eq!((Tag::of_event(*id), mint.tag.bytes()), (mint.tag, bytes));
            assert_eq!((sequence(*id), unix_ms(*id)), (n as u64, 1_700_000_000_123));
        }
        assert!(mint.reserve(1, 1_700_000_000_123_456).take() > ids[999]);
        assert!(lower_bound(1_700_000_000_123) < ids[0] && ids[999] < lower_bound(1_700_000_000_124));
    }
}
