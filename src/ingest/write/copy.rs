//! What one COPY takes, and its protocol.
//!
//! tokio-postgres' `BinaryCopyInWriter` encodes each value again and sends every 4 KiB. The tuples here are encoded
//! already, so they are framed by hand and sent in messages of [`MESSAGE_BYTES`]: large enough that the fixed cost of a
//! message does not count, small enough that Postgres parses one while the next is on its way.

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
const MESSAGE_BYTES: usize = 128 * 1024;

/// Sends `chunks` of tuples by `copy`, a `copy … from stdin (format binary)`, within `transaction`. Returns the number of
/// stored rows, which is lower than the number sent if a trigger returned null for one.
///
/// In the extended protocol the completion of a COPY is reported *before* an implicit transaction is committed, so only the
/// answer to the caller's `commit` proves it. The statement is prepared and closed within the transaction, as poolers
/// require.
///
/// # Errors
///
/// Any error of Postgres; nothing is stored then.
pub async fn copy_rows<'a>(
    transaction: &Transaction<'_>,
    copy: &str,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Result<u64, tokio_postgres::Error> {
    let sink = transaction.copy_in::<_, Bytes>(copy).await?;
    tokio::pin!(sink);
    let mut message = BytesMut::with_capacity(MESSAGE_BYTES);
    message.put_slice(HEADER);
    for chunk in chunks {
        if message.len() + chunk.len() > MESSAGE_BYTES && !message.is_empty() {
            sink.feed(message.split().freeze()).await?;
            message.reserve(MESSAGE_BYTES.max(chunk.len()));
        }
        message.put_slice(chunk);
    }
    message.put_slice(&TRAILER);
    sink.send(message.freeze()).await?;
    sink.finish().await
}

/// The kind of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows of `requests`.
    Events,
    /// Rows of `dead_letters`.
    DeadLetters,
    /// Unreadable sequences: a receipt without rows.
    Damage,
}

/// The position of a batch in a journal. Its sequences are consecutive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The journal.
    pub journal: JournalId,
    /// The sequence of the batch's first event.
    pub first: u64,
}

/// Events that one transaction stores and settles.
#[derive(Debug, Clone)]
pub struct CopyBatch<'a> {
    /// The kind of rows.
    pub kind: Kind,
    /// The number of events.
    pub events: u64,
    /// The position in the journal; `None` without one.
    pub origin: Option<Origin>,
    /// Keys, by the index of their events, in order.
    pub keys: Vec<(u64, Key)>,
    rows: Rows<'a>,
    faults: KnownFaults<'a>,
}

/// The known faults of a whole batch, and the index at which this part of it begins.
#[derive(Debug, Clone, Copy, Default)]
struct KnownFaults<'a> {
    faults: Option<&'a Faults>,
    start: u64,
}

#[derive(Debug, Clone)]
enum Rows<'a> {
    Chunks(Vec<&'a [u8]>),
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
        Self { kind, events, origin, keys, rows: Rows::Chunks(chunks), faults: KnownFaults::default() }
    }

    /// The part `range` of this batch, given all of its tuples and known faults. Rows with a fault become dead letters.
    pub fn part(&self, tuples: &'a [Tuple<'a>], range: &Range<u64>, faults: &'a Faults) -> Self {
        let keys = self.keys.iter().filter(|(index, _)| range.contains(index));
        Self {
            kind: self.kind,
            events: range.end - range.start,
            origin: self.origin.map(|origin| Origin { first: origin.first + range.start, ..origin }),
            keys: keys.map(|(index, key)| (index - range.start, *key)).collect(),
            rows: Rows::Tuples(tuples.get(range.start as usize..range.end as usize).unwrap_or_default()),
            faults: KnownFaults { faults: Some(faults), start: range.start },
        }
    }

    /// The known fault of the row at `index`.
    pub fn fault(&self, index: u64) -> Option<&'a Fault> {
        self.faults.faults?.get(&(self.faults.start + index))
    }

    /// Whether any row has a known fault.
    pub fn has_faults(&self) -> bool {
        let start = self.faults.start;
        self.faults.faults.is_some_and(|faults| faults.range(start..start + self.events).next().is_some())
    }

    /// The batch's sequences.
    pub fn sequences(&self, origin: Origin) -> Range<u64> {
        origin.first..origin.first + self.events
    }

    /// The tuples, one or more in each chunk.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let (chunks, tuples) = match &self.rows {
            Rows::Chunks(chunks) => (chunks.clone(), &[][..]),
            Rows::Tuples(tuples) => (Vec::new(), *tuples),
        };
        chunks.into_iter().chain(tuples.iter().map(|tuple| tuple.bytes()))
    }

    /// The tuples, one by one.
    pub fn tuples(&self) -> Vec<Tuple<'a>> {
        match &self.rows {
            Rows::Chunks(chunks) => chunks.iter().flat_map(|chunk| row::tuples(chunk)).collect(),
            Rows::Tuples(tuples) => tuples.to_vec(),
        }
    }

    /// The id of an event without a key, if there is one, and the kind of its row. It is stored if and only if the batch is.
    pub fn unkeyed_id(&self) -> Option<(Uuid, Kind)> {
        let has_key = |index: u64| self.keys.iter().any(|(keyed, _)| *keyed == index);
        let index = (0..self.events).find(|index| !has_key(*index))?;
        let tuple = self.chunks().flat_map(row::tuples).nth(index as usize)?;
        let kind = if self.fault(index).is_some() { Kind::DeadLetters } else { self.kind };
        Some((row::tuple_id(tuple)?, kind))
    }
}
