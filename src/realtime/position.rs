//! Positions in the feed, and the snapshots that they are made of.
//!
//! A position is a snapshot of Postgres (`pg_snapshot`): the changes of the transactions that it saw were delivered. A *poll* delivers what
//! a newer snapshot sees and the older one did not. Within a poll, a position names both snapshots and the last change that was delivered.
//!
//! A crash of Postgres may assign the ids of lost transactions again. So a position ends behind the highest change that was seen, whose
//! transaction was flushed to disk, and never at the snapshot's own end.

use std::fmt;
use std::sync::Arc;

use super::Change;
use crate::db::ServerIdentity;

/// A position in the feed. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    origin: ServerIdentity,
    /// The changes that this snapshot saw were delivered.
    base: Arc<Snapshot>,
    /// Of the poll that followed it, a part was delivered.
    poll: Option<Partial>,
}

/// The delivered part of a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Partial {
    /// The end of the poll.
    end: Arc<Snapshot>,
    place: Place,
}

/// The snapshots between which a poll reads the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// The server.
    pub origin: ServerIdentity,
    /// What it saw was delivered.
    pub base: Arc<Snapshot>,
    /// What it saw, and `base` did not, is delivered.
    pub end: Arc<Snapshot>,
}

/// A change's place in its poll: whole transactions in the order of their last change, and the changes of each in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The number of the transaction's last change.
    pub last: i64,
    /// The change's number.
    pub number: i64,
}

impl Place {
    /// The place before all changes of a poll.
    pub const START: Self = Self { last: -1, number: -1 };
}

/// The longest text of a position that is written, in bytes: it comes back in a header or in a URL.
pub const MAX_POSITION_BYTES: usize = 4 * 1024;

impl Position {
    /// The position behind everything that a snapshot saw.
    pub fn of(origin: ServerIdentity, snapshot: Arc<Snapshot>) -> Self {
        Self { origin, base: snapshot, poll: None }
    }

    /// The position behind a change of a poll.
    pub fn within(poll: &Poll, place: Place) -> Self {
        let partial = Partial { end: Arc::clone(&poll.end), place };
        Self { origin: poll.origin, base: Arc::clone(&poll.base), poll: Some(partial) }
    }

    /// A position of no server: too old everywhere.
    pub fn unknown() -> Self {
        Self::of(ServerIdentity::default(), Arc::default())
    }

    /// The server whose transactions it names.
    pub fn origin(&self) -> ServerIdentity {
        self.origin
    }

    /// The snapshot whose changes were all delivered.
    pub fn base(&self) -> &Arc<Snapshot> {
        &self.base
    }

    /// The poll that was delivered in part: its end, and the last place that was delivered.
    pub fn partial(&self) -> Option<(&Arc<Snapshot>, Place)> {
        self.poll.as_ref().map(|poll| (&poll.end, poll.place))
    }

    /// The newest snapshot that it names.
    pub fn newest(&self) -> &Arc<Snapshot> {
        self.poll.as_ref().map_or(&self.base, |poll| &poll.end)
    }

    /// Whether this change of its server was delivered up to here.
    pub fn includes(&self, change: &Change) -> bool {
        let saw = |snapshot: &Snapshot| snapshot.saw(change.xid);
        self.origin == change.poll.origin
            && (saw(&self.base)
                || self.poll.as_ref().is_some_and(|poll| saw(&poll.end) && change.place <= poll.place))
    }

    /// The position behind nothing that one of `others` is not behind.
    pub fn oldest<'a>(others: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let others: Vec<&Self> = others.collect();
        if let [only] = *others {
            return Some(only.clone());
        }
        let older = |a: &'a Self, b: &'a Self| if a.base.covers(&b.base) { b } else { a };
        let oldest = others.iter().copied().reduce(older)?;
        match others.iter().find(|other| other.origin != oldest.origin) {
            None => Some(Self::of(oldest.origin, Arc::clone(&oldest.base))),
            Some(_foreign) => Some(Self::unknown()),
        }
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_POSITION_BYTES {
            return None;
        }
        let mut parts = text.split('~');
        let mut server = parts.next()?.bytes();
        let origin =
            ServerIdentity { system: unpack_number(&mut server)?, timeline: unpack_number(&mut server)? };
        if server.next().is_some() {
            return None;
        }
        let base = Arc::new(Snapshot::unpack(parts.next()?)?);
        let Some(end) = parts.next() else { return Some(Self::of(origin, base)) };
        let end = Arc::new(Snapshot::unpack(end)?);
        let mut number = || i64::try_from(digits(parts.next()?)?).ok();
        let place = Place { last: number()?, number: number()? };
        let is_whole = parts.next().is_none() && end.covers(&base) && place.number <= place.last;
        is_whole.then(|| Self::within(&Poll { origin, base, end }, place))
    }
}

/// Its snapshots, packed. One that would be too long repeats a few changes instead: it stays at the begin of its poll, or before the oldest
/// running transaction.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut server = Vec::new();
        pack_number(self.origin.system, &mut server);
        pack_number(self.origin.timeline, &mut server);
        let base = format!("{}~{}", String::from_utf8_lossy(&server), self.base.pack());
        if base.len() > MAX_POSITION_BYTES {
            return write!(f, "{}~{}", String::from_utf8_lossy(&server), self.base.least().pack());
        }
        f.write_str(&base)?;
        if let Some(Partial { end, place }) = &self.poll {
            let rest = format!("~{}~{}~{}", end.pack(), place.last, place.number);
            if base.len() + rest.len() <= MAX_POSITION_BYTES {
                f.write_str(&rest)?;
            }
        }
        Ok(())
    }
}

/// The transactions that a statement saw (`pg_snapshot`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// All earlier ones had ended.
    pub xmin: u64,
    /// This one and all later ones had not begun.
    pub xmax: u64,
    /// Those between that had not ended, in ascending order.
    running: Vec<u64>,
}

/// The most running transactions that a snapshot of a client may name; Postgres has fewer connections.
const MAX_RUNNING: usize = 2_000;

/// The digits of a packed number that another digit follows, and those that end one: 5 bits each. All may stand in a URL and a header.
const MORE: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const LAST: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZwxyz-_";

impl Snapshot {
    /// One that saw nothing.
    pub fn empty() -> Self {
        Self { xmin: 1, xmax: 1, running: Vec::new() }
    }

    /// Reads the text that Postgres writes, `xmin:xmax:xid,…`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let (xmin, xmax) = (digits(parts.next()?)?, digits(parts.next()?)?);
        let list = parts.next()?;
        let mut running = match list {
            "" => Vec::new(),
            list => list.split(',').take(MAX_RUNNING + 1).map(digits).collect::<Option<Vec<_>>>()?,
        };
        running.sort_unstable();
        (xmin <= xmax && running.len() <= MAX_RUNNING).then_some(Self { xmin, xmax, running })
    }

    /// Whether it saw this transaction.
    pub fn saw(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// Whether it saw everything that `other` saw.
    pub fn covers(&self, other: &Self) -> bool {
        other.xmax <= self.xmax && self.running.iter().all(|xid| !other.saw(*xid))
    }

    /// The same snapshot of the feed, ended behind the transaction `last`, the highest that has a change which it saw.
    pub fn ended_behind(&self, last: u64) -> Self {
        let xmax = last.saturating_add(1).min(self.xmax);
        let running: Vec<u64> = self.running.iter().copied().filter(|xid| *xid < xmax).collect();
        Self { xmin: running.first().copied().unwrap_or(xmax), xmax, running }
    }

    /// The transactions that it saw running.
    pub fn running(&self) -> &[u64] {
        &self.running
    }

    /// A snapshot of few bytes that saw nothing that this one did not.
    pub fn least(&self) -> Self {
        Self { xmin: self.xmin, xmax: self.xmin, running: Vec::new() }
    }

    /// The length of its text.
    pub fn text_bytes(&self) -> usize {
        let digits = |xid: &u64| 1 + xid.checked_ilog10().unwrap_or_default() as usize;
        let commas = self.running.len().saturating_sub(1);
        digits(&self.xmin)
            + 1
            + digits(&self.xmax)
            + 1
            + commas
            + self.running.iter().map(digits).sum::<usize>()
    }

    /// Packs it: `xmax`, and from there the distance to each running transaction, downwards. Distances as a rule take a byte.
    fn pack(&self) -> String {
        let mut out = Vec::with_capacity(16 + self.running.len());
        pack_number(self.xmax, &mut out);
        let mut above = self.xmax;
        for xid in self.running.iter().rev() {
            pack_number(above.saturating_sub(*xid), &mut out);
            above = *xid;
        }
        String::from_utf8(out).unwrap_or_default()
    }

    /// Reads what [`Self::pack`] writes.
    fn unpack(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let xmax = unpack_number(&mut bytes)?;
        let (mut running, mut above) = (Vec::new(), xmax);
        while bytes.len() > 0 {
            let distance = unpack_number(&mut bytes).filter(|distance| *distance > 0)?;
            above = above.checked_sub(distance)?;
            running.push(above);
        }
        running.reverse();
        let xmin = running.first().copied().unwrap_or(xmax);
        (running.len() <= MAX_RUNNING).then_some(Self { xmin, xmax, running })
    }
}

fn pack_number(number: u64, out: &mut Vec<u8>) {
    let digit = |shift: u32| (number >> shift & 31) as usize;
    let count = (64 - number.leading_zeros()).div_ceil(5).max(1);
    for nth in (1..count).rev() {
        out.push(MORE[digit(nth * 5)]);
    }
    out.push(LAST[digit(0)]);
}

fn unpack_number(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut number = 0_u64;
    loop {
        let byte = bytes.next()?;
        let place =
            |digits: &[u8; 32]| digits.iter().position(|digit| *digit == byte).map(|digit| digit as u64);
        let (digit, is_last) = match place(MORE) {
            Some(digit) => (digit, false),
            None => (place(LAST)?, true),
        };
        number = number.checked_mul(32)?.checked_add(digit)?;
        if is_last {
            return Some(number);
        }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.running.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

/// Reads digits alone: `parse` would accept a sign.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(xmax: u64, distances: &[u64]) -> Snapshot {
        let (mut running, mut above) = (Vec::new(), xmax);
        for distance in distances {
            above = above.saturating_sub((*distance).max(1));
            running.push(above);
        }
        running.reverse();
        running.dedup();
        Snapshot { xmin: running.first().copied().unwrap_or(xmax), xmax, running }
    }

    #[test]
    fn a_snapshot_saw_ended_transactions() {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        let seen: Vec<u64> = (8..22).filter(|xid| snapshot.saw(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
        assert_eq!(Snapshot::parse("5:5:").unwrap().to_string(), "5:5:");
        for bad in ["", "1", "1:2", "2:1:", "1:2:x", "1:2:+1", "-1:2:", "1:2:1,"] {
            assert_eq!(Snapshot::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_position_ends_behind_the_highest_change_and_not_at_its_snapshots_end() {
        let snapshot = Snapshot::parse("10:40:10,14,30").unwrap();
        let ended = snapshot.ended_behind(20);
        assert_eq!(ended, Snapshot::parse("10:21:10,14").unwrap());
        assert!(!ended.saw(21) && ended.saw(20) && !ended.saw(14), "a reused id 21 is new");
        assert_eq!(snapshot.ended_behind(9), Snapshot::parse("10:10:").unwrap());
        assert_eq!(snapshot.ended_behind(u64::MAX), snapshot);
    }

    #[test]
    fn a_position_is_short_and_bounded() {
        let running: Vec<u64> = (0..200).map(|nth| 1 + nth % 3).collect();
        let (base, end) = (snapshot(900_000_000_000, &running), snapshot(900_000_000_500, &running));
        let origin = ServerIdentity { system: u64::MAX, timeline: 3 };
        let poll = Poll { origin, base: Arc::new(base), end: Arc::new(end) };
        let place = Place { last: i64::MAX, number: i64::MAX };
        let position = Position::within(&poll, place);
        assert!(position.to_string().len() <= 600, "{}", position.to_string().len());
        let running = vec![1_000_000_000_000; 2_000];
        let poll = Poll { base: Arc::new(snapshot(u64::MAX, &running)), ..poll };
        let read = Position::parse(&Position::within(&poll, place).to_string()).unwrap();
        assert_eq!((read.partial(), **read.base() == poll.base.least()), (None, true), "it repeats some");
    }

    proptest! {
        #[test]
        fn positions_are_read_as_they_are_written(
            xmax: u64, distances in prop::collection::vec(1..2_000_u64, 0..60), more in 0..u64::MAX / 4, system: u64,
            last in 0..i64::MAX, before in 0..1_000_i64, is_partial: bool
        ) {
            let base = Arc::new(snapshot(xmax / 2, &distances));
            let end = Arc::new(snapshot(xmax / 2 + more % 5_000, &[]));
            let poll = Poll { origin: ServerIdentity { system, timeline: 1 }, base, end };
            let place = Place { last, number: last - before };
            prop_assume!(place.number >= 0);
            let position = if is_partial { Position::within(&poll, place) } else { Position::of(poll.origin, poll.base) };
            prop_assert_eq!(Position::parse(&position.to_string()), Some(position));
        }

        #[test]
        fn a_snapshot_covers_another_if_it_saw_all_that_the_other_saw(
            a in (1..40_u64, prop::collection::vec(1..6_u64, 0..6)), b in (1..40_u64, prop::collection::vec(1..6_u64, 0..6))
        ) {
            let (a, b) = (snapshot(a.0, &a.1), snapshot(b.0, &b.1));
            let expected = (0..60).all(|xid| a.saw(xid) || !b.saw(xid));
            // A smaller end may cover too if the rest of the other was running; to say no there repeats changes, and loses none.
            prop_assert!(expected || !a.covers(&b));
            prop_assert!(!expected || a.covers(&b) || b.xmax > a.xmax);
            let least = a.least();
            prop_assert!((0..60).all(|xid| a.saw(xid) || !least.saw(xid)));
            prop_assert_eq!(a.to_string().len(), a.text_bytes());
            prop_assert_eq!(Snapshot::parse(&a.to_string()), Some(a));
        }

        #[test]
        fn no_text_makes_reading_panic(text in ".{0,40}", parts in "[0-9A-Za-z~_-]{0,40}") {
            let _ = (Position::parse(&text), Position::parse(&parts), Snapshot::parse(&text));
        }
    }
}
