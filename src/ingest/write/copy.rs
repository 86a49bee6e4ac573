//! One COPY of encoded tuples into a table.
//!
//! tokio-postgres' `BinaryCopyInWriter` encodes each value again and sends every 4 KiB; our tuples are encoded already,
//! so they are framed here by hand and sent in pieces of [`PIECE_BYTES`], large enough that a piece's fixed cost does
//! not count and small enough that Postgres parses one while the next is on its way.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::Transaction;
use uuid::Uuid;

use super::verdict::{Fault, Faults};
use crate::ingest::event::keys::Key;
use crate::ingest::event::row::{self, Tuple};
use crate::ingest::journal::JournalId;

/// Signature, flags and header extension of the binary format ("COPY", Postgres' manual).
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A field count of −1 ends the data.
const TRAILER: [u8; 2] = (-1i16).to_be_bytes();
const PIECE_BYTES: usize = 128 * 1024;

/// Sends `chunks` of tuples by `copy`, a `copy … from stdin (format binary)`, within `transaction`; returns how many
/// rows Postgres took. That is fewer than were sent where a trigger returned null for one.
///
/// In the extended protocol a COPY's completion is reported *before* an implicit transaction is committed, so only the
/// answer to the caller's `commit` is proof. The statement is prepared and closed within the transaction, so that it
/// works behind a pooler that hands the server on afterwards.
///
/// # Errors
///
/// Whatever Postgres says; nothing is stored then.
pub async fn copy_rows<'a>(
    transaction: &Transaction<'_>,
    copy: &str,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Result<u64, tokio_postgres::Error> {
    let sink = transaction.copy_in::<_, Bytes>(copy).await?;
    tokio::pin!(sink);
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    piece.put_slice(HEADER);
    for chunk in chunks {
        if piece.len() + chunk.len() > PIECE_BYTES && !piece.is_empty() {
            sink.feed(piece.split().freeze()).await?;
            piece.reserve(PIECE_BYTES.max(chunk.len()));
        }
        piece.put_slice(chunk);
    }
    piece.put_slice(&TRAILER);
    sink.send(piece.freeze()).await?;
    sink.finish().await
}

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
