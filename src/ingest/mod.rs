//! The path of an event: queue → (journal) → writer → COPY, and the dead letters beside it.
//!
//! ```text
//! Ingest::admit ─▶ queue ─▶ batcher ─▶ writer (lanes) ─▶ landing ─▶ copy ─▶ requests
//!     │ full                              │ a row is refused
//!     └──────────▶ dead_letters ◀─────────┘ ─▶ landing ─▶ copy ─▶ dead_letters
//! ```
//!
//! [`Ingest`] is the handle that request handlers hold; [`Pipeline`] owns the tasks behind it.

mod batcher;
mod copy;
mod dead_letters;
pub mod id;
pub mod journal;
pub mod json;
mod landing;
pub mod level;
mod pipeline;
pub mod queue;
mod rates;
mod retry;
pub mod row;
mod writer;

use std::sync::Arc;
use std::time::Duration;

pub use dead_letters::Reason;
pub use landing::{LastError, WriterState};
pub use pipeline::{Drained, IngestSettings, Pipeline};
pub use rates::{Rate, Rates};

use dead_letters::DeadLetters;
use id::IdMint;
use json::Verdict;
use landing::WriterStatus;
use level::Load;
use queue::{Parcel, Queue};
use row::{Content, Row};

use crate::observe::Metrics;

/// What an answer to an event promises; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// In memory: lost if the process dies before the next flush.
    Queued,
    /// Synced to the journal: survives the process and the machine's power.
    Journaled,
    /// Visible in Postgres, and durable.
    Committed,
}

impl Promise {
    /// The value of `x-ack`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Journaled => "journaled",
            Self::Committed => "committed",
        }
    }
}

/// There was no room for the event within the time that it may wait.
#[derive(Debug)]
pub struct Overloaded {
    /// When it is worth another try: the time that the queue needs to drain, jittered, at least a second.
    pub retry_after: Duration,
}

/// The way into the pipeline; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Arc<Queue>,
    dead_letters: DeadLetters,
    ids: IdMint,
    metrics: Arc<Metrics>,
    rates: Arc<Rates>,
    max_json_depth: usize,
    writer_status: Arc<WriterStatus>,
    dead_letter_writer_status: Arc<WriterStatus>,
}

impl Ingest {
    /// The promise that an accepted event has.
    pub fn promise(&self) -> Promise {
        Promise::Queued
    }

    /// What to keep of a body: as `jsonb` where Postgres can, else byte for byte.
    pub fn classify(&self, body: &[u8]) -> Verdict {
        json::classify(body, self.shared.max_json_depth)
    }

    /// Ids for `count` events received at `now_us` (microseconds of Unix time).
    pub fn ids(&self, count: u64, now_us: i64) -> id::IdRange {
        self.shared.ids.reserve(count, now_us)
    }

    /// Admits one event.
    ///
    /// # Errors
    ///
    /// [`Overloaded`] if the queue stays full; the event is then kept as a dead letter, as far as those have room.
    pub async fn admit(&self, row: &Row<'_>) -> Result<Promise, Overloaded> {
        let shared = &self.shared;
        let mut encoded = Vec::with_capacity(row.encoded_len());
        row.encode(&mut encoded);
        let load = Load { events: 1, bytes: encoded.len() as u64 };
        let reserved = match shared.queue.try_reserve(load) {
            Ok(room) => Ok(room),
            Err(_full) => shared.queue.reserve(load).await,
        };
        match reserved {
            Ok(mut room) => {
                room.push(Parcel { rows: encoded.into(), events: 1 });
                shared.metrics.accepted.inc();
                Ok(self.promise())
            }
            Err(_full) => {
                if let Some(tuple) = row::tuples(&encoded).next() {
                    shared.dead_letters.add_overload(tuple);
                }
                Err(self.overloaded(1))
            }
        }
    }

    /// Whether the queue could hold these parcels if it were empty.
    pub fn can_hold(&self, parcels: &[Parcel]) -> bool {
        total(parcels).fits(self.shared.queue.limits().capacity)
    }

    /// Admits all events of a batch, or none.
    ///
    /// # Errors
    ///
    /// [`Overloaded`] if there is no room for all of them; they are counted and not kept.
    pub async fn admit_batch(&self, parcels: Vec<Parcel>) -> Result<Promise, Overloaded> {
        let load = total(&parcels);
        if load.events == 0 {
            return Ok(self.promise());
        }
        let Ok(mut room) = self.shared.queue.reserve(load).await else {
            return Err(self.overloaded(load.events));
        };
        for parcel in parcels {
            room.push(parcel);
        }
        self.shared.metrics.accepted.inc_by(load.events);
        Ok(self.promise())
    }

    fn overloaded(&self, events: u64) -> Overloaded {
        self.shared.metrics.refused.with_label_values(&[Reason::Overload.name()]).inc_by(events);
        Overloaded { retry_after: self.shared.rates.retry_after(self.shared.queue.held().events) }
    }

    /// Whether an event would be admitted at once.
    pub fn has_room(&self) -> bool {
        let queue = &self.shared.queue;
        let next = queue.held() + Load { events: 1, bytes: 1 };
        !queue.is_closed() && next.fits(queue.limits().capacity)
    }

    /// The figures that health and metrics show.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        Snapshot {
            accepted: shared.metrics.accepted.get(),
            committed: shared.metrics.committed.get(),
            dead: shared.metrics.dead.get(),
            held: shared.queue.held(),
            capacity: shared.queue.limits().capacity,
            dead_held: shared.dead_letters.held(),
            writer: shared.writer_status.get(),
            dead_letter_writer: shared.dead_letter_writer_status.get(),
        }
    }

    /// Events a second over the last seconds.
    pub fn rates(&self) -> &Rates {
        &self.shared.rates
    }
}

/// The pipeline's figures at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Events that got a promise.
    pub accepted: u64,
    /// Events stored.
    pub committed: u64,
    /// Accepted events that became dead letters.
    pub dead: u64,
    /// What the queue holds.
    pub held: Load,
    /// What the queue can hold.
    pub capacity: Load,
    /// What the dead-letter queue holds.
    pub dead_held: Load,
    /// What the writers are doing, and the last error that one met.
    pub writer: (WriterState, Option<LastError>),
    /// The same of the dead letters' writer.
    pub dead_letter_writer: (WriterState, Option<LastError>),
}

impl Snapshot {
    /// Accepted events that are neither stored nor dead.
    pub fn pending(&self) -> u64 {
        self.accepted.saturating_sub(self.committed + self.dead)
    }
}

fn total(parcels: &[Parcel]) -> Load {
    parcels.iter().fold(Load::default(), |sum, parcel| sum + parcel.load())
}

/// Classifies `body` for a row.
pub fn content(verdict: Verdict, body: &[u8]) -> Content<'_> {
    match verdict {
        Verdict::Jsonb => Content::Jsonb(body),
        Verdict::NotJsonb(_) | Verdict::NotJson(_) => Content::Bytes(body),
    }
}
