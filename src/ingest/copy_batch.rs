//! What one transaction settles: tuples, with what they come from and the keys that some of them have.

use std::ops::Range;

use uuid::Uuid;

use super::journal::JournalId;
use super::keys::Key;
use super::probe::{Fault, Faults};
use super::row::{self, Tuple};

/// What a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows of `requests`.
    Events,
    /// Rows of `dead_letters`.
    DeadLetters,
    /// Sequences that cannot be read: a receipt, and no rows.
    Damage,
}

/// Where in a journal a batch begins. Its sequences follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The journal.
    pub journal: JournalId,
    /// The sequence of the batch's first event.
    pub first: u64,
}

/// So many events for one transaction.
#[derive(Debug, Clone)]
pub struct CopyBatch<'a> {
    /// What they are.
    pub kind: Kind,
    /// How many they are.
    pub events: u64,
    /// Where they come from; `None` without a journal.
    pub origin: Option<Origin>,
    /// Keys, by the place in the batch, in order.
    pub keys: Vec<(u64, Key)>,
    rows: Rows<'a>,
    faults: KnownFaults<'a>,
}

/// The faults that are known of a batch, and where in it a batch begins.
#[derive(Debug, Clone, Copy, Default)]
struct KnownFaults<'a> {
    faults: Option<&'a Faults>,
    start: u64,
}

#[derive(Debug, Clone)]
enum Rows<'a> {
    RowChunks(Vec<&'a [u8]>),
    Tuples(&'a [Tuple<'a>]),
}

impl<'a> CopyBatch<'a> {
    /// A batch of chunks of tuples.
    pub fn new(
        kind: Kind,
        events: u64,
        origin: Option<Origin>,
        keys: Vec<(u64, Key)>,
        chunks: Vec<&'a [u8]>,
    ) -> Self {
        Self { kind, events, origin, keys, rows: Rows::RowChunks(chunks), faults: KnownFaults::default() }
    }

    /// A part of the batch, of which all tuples and all known faults are given. Rows with a fault become dead letters.
    pub fn part(&self, tuples: &'a [Tuple<'a>], places: &Range<u64>, faults: &'a Faults) -> Self {
        let keys = self.keys.iter().filter(|(place, _)| places.contains(place));
        Self {
            kind: self.kind,
            events: places.end - places.start,
            origin: self.origin.map(|origin| Origin { first: origin.first + places.start, ..origin }),
            keys: keys.map(|(place, key)| (place - places.start, *key)).collect(),
            rows: Rows::Tuples(tuples.get(places.start as usize..places.end as usize).unwrap_or_default()),
            faults: KnownFaults { faults: Some(faults), start: places.start },
        }
    }

    /// The known fault of the row at `place`.
    pub fn fault(&self, place: u64) -> Option<&'a Fault> {
        self.faults.faults?.get(&(self.faults.start + place))
    }

    /// Whether a row of it has a known fault.
    pub fn has_faults(&self) -> bool {
        let start = self.faults.start;
        self.faults.faults.is_some_and(|faults| faults.range(start..start + self.events).next().is_some())
    }

    /// The batch's sequences.
    pub fn sequences(&self, origin: Origin) -> Range<u64> {
        origin.first..origin.first + self.events
    }

    /// The tuples, some at a time.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let (chunks, tuples) = match &self.rows {
            Rows::RowChunks(chunks) => (chunks.clone(), &[][..]),
            Rows::Tuples(tuples) => (Vec::new(), *tuples),
        };
        chunks.into_iter().chain(tuples.iter().map(|tuple| tuple.bytes()))
    }

    /// The tuples, one by one.
    pub fn tuples(&self) -> Vec<Tuple<'a>> {
        match &self.rows {
            Rows::RowChunks(chunks) => chunks.iter().flat_map(|chunk| row::tuples(chunk)).collect(),
            Rows::Tuples(tuples) => tuples.to_vec(),
        }
    }

    /// The id of an event without a key, if there is one, and what it is stored as: it is stored whenever the batch is.
    pub fn unkeyed_id(&self) -> Option<(Uuid, Kind)> {
        let keyed = |place: u64| self.keys.iter().any(|(of, _)| *of == place);
        let place = (0..self.events).find(|place| !keyed(*place))?;
        let tuple = self.chunks().flat_map(row::tuples).nth(place as usize)?;
        let kind = if self.fault(place).is_some() { Kind::DeadLetters } else { self.kind };
        Some((Uuid::from_slice(tuple.field(0)?).ok()?, kind))
    }
}
