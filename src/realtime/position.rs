//! A position in the feed's order, and the snapshot of a statement, which relates tables to it.

use std::fmt;

/// A position in the feed's order: the changes up to it, itself included, were delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The transaction's id.
    pub xid: u64,
    /// The change's number.
    pub number: i64,
}

impl Position {
    /// The position before every change of this transaction, behind all changes of earlier ones.
    pub fn before(xid: u64) -> Self {
        Self { xid, number: -1 }
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (xid, number) = text.split_once('.')?;
        let number = number.parse().ok().filter(|number| *number >= -1)?;
        Some(Self { xid: digits(xid)?, number })
    }
}

/// `xid.number`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.xid, self.number)
    }
}

/// The transactions that a statement saw (`pg_snapshot`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All earlier ones had ended.
    pub xmin: u64,
    /// This one and all later ones had not begun.
    pub xmax: u64,
    /// Those between that had not ended.
    running: Vec<u64>,
}

/// The most running transactions that a snapshot of a client may name; Postgres has fewer connections.
const MAX_RUNNING: usize = 2_000;

impl Snapshot {
    /// Reads the text that Postgres writes, `xmin:xmax:xid,…`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let (xmin, xmax) = (digits(parts.next()?)?, digits(parts.next()?)?);
        let list = parts.next()?;
        let running = match list {
            "" => Vec::new(),
            list => list.split(',').take(MAX_RUNNING + 1).map(digits).collect::<Option<Vec<_>>>()?,
        };
        (xmin <= xmax && running.len() <= MAX_RUNNING).then_some(Self { xmin, xmax, running })
    }

    /// Whether it saw this transaction.
    pub fn saw(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
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

    /// The position up to which it saw everything.
    pub fn position(&self) -> Position {
        Position::before(self.xmin)
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

    proptest! {
        #[test]
        fn positions_and_snapshots_round_trip(xid: u64, number in -1..i64::MAX, more in 0..1000_u64, text in ".{0,30}") {
            let position = Position { xid, number };
            prop_assert_eq!(Position::parse(&position.to_string()), Some(position));
            let running = (0..more % 4).map(|n| xid / 2 + n).collect();
            let snapshot = Snapshot { xmin: xid / 2, xmax: xid / 2 + more, running };
            prop_assert_eq!(snapshot.to_string().len(), snapshot.text_bytes());
            let least = snapshot.least();
            prop_assert!((0..more + 2).all(|n| snapshot.saw(xid / 2 + n) || !least.saw(xid / 2 + n)));
            prop_assert_eq!(least.position(), snapshot.position());
            prop_assert_eq!(Snapshot::parse(&snapshot.to_string()), Some(snapshot));
            let _ = (Position::parse(&text), Snapshot::parse(&text));
        }
    }
}
