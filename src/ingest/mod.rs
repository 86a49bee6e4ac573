//! The path of an event: queue → journal → writer → COPY, and the dead letters beside it.
//!
//! ```text
//! Ingest::admit ─▶ queue ─▶ group_commit ─▶ journal ─▶ backlog ─▶ batcher ─▶ writer (lanes) ─▶ landing ─▶ requests + receipt
//!     │ full         └──────── DURABILITY=memory ──────────────────▶│             │ a row is refused
//!     └──────────▶ dead_letters (overloads)                                       └─▶ dead_letters + receipt
//!                                          fence: what is durable in Postgres is trimmed, what it lost is stored again
//! ```
//!
//! [`Ingest`] is the handle that request handlers hold; [`Pipeline`] owns the tasks behind it.

mod admission;
mod backlog;
mod batcher;
mod checkpoint;
mod claims;
mod commit_waiter;
pub(crate) mod copy;
mod copy_batch;
mod copy_writer;
pub mod dead_letters;
mod group_commit;
pub mod id;
pub mod journal;
pub mod json;
pub mod keys;
mod ledger;
mod numeric;
pub mod occupancy;
mod pipeline;
mod probe;
pub mod queue;
pub mod queued_batch;
mod rates;
mod receipts;
pub mod reconcile;
pub mod recovered;
mod refusal;
mod registered_journals;
pub(crate) mod retry;
pub mod row;
mod snapshot;
mod source;
mod status;
pub mod text;
mod threshold_notify;
pub mod verify;
mod writer;

pub use admission::{Accepted, AckRequest, Event, Ingest, Receipt, content};
pub use checkpoint::CheckpointError;
pub use commit_waiter::{DeadEvent, LocalWaker, NotStored};
pub use ledger::Account;
pub use pipeline::{Drained, IngestSettings, OpenJournal, Pipeline};
pub use rates::{Rate, Rates};
pub use refusal::{Refusal, Refused};
pub use registered_journals::RegisteredJournals;
pub use snapshot::{JournalSnapshot, Snapshot};
pub use status::{LastError, WriterState};

/// What an answer to an event promises; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLevel {
    /// In memory: lost if the process dies before the next flush.
    Queued,
    /// Synced to the journal: survives the process and the machine's power.
    Journaled,
    /// Visible in Postgres, and durable.
    Committed,
}

impl AckLevel {
    /// The value of `x-ack`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Journaled => "journaled",
            Self::Committed => "committed",
        }
    }

    /// The level with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Queued, Self::Journaled, Self::Committed].into_iter().find(|level| level.name() == name)
    }
}
