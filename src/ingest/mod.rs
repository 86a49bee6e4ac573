//! The path of an event: queue → journal → writer → COPY, and the dead letters beside it.
//!
//! ```text
//! Ingest::admit ─▶ queue ─▶ group commit ─▶ journal ─▶ backlog ─▶ batcher ─▶ lanes ─▶ copy writer ─▶ requests + receipt
//!     │ full         └──────── DURABILITY=memory ──────────────────▶│            └ a row is rejected ─▶ dead_letters + receipt
//!     └──────────▶ dead_letters (overloads)
//!                                  checkpointer: trims what is durable in Postgres, stores again what Postgres has lost
//! ```
//!
//! An event is *settled* once a receipt records its outcome: committed, duplicate, dead, discarded or quarantined.
//!
//! [`Ingest`] is the handle that request handlers hold; [`Pipeline`] owns the tasks behind it. The submodules, each of
//! which uses only those above it:
//!
//! | module | |
//! |---|---|
//! | `event` | ids, keys, tuples, and which bodies can be `jsonb` |
//! | `journal` | accepted events on disk: the package `tidegate-journal`, in `journal/` |
//! | `queue` | the bounded queue, occupancy, and the requests that wait |
//! | `checkpoint` | receipts, the backlog, and what may be trimmed |
//! | `write` | batches, lanes, COPY, and the isolation of bad rows |
//! | `dead_letters` | overloads, the store, redrive |
//! | `admit` | admission and group commit |
//! | `audit` | verify, reconcile, figures |

mod admit;
mod audit;
mod checkpoint;
pub mod dead_letters;
mod event;
mod pipeline;
mod queue;
mod status;
mod write;

pub use admit::admission::{Accepted, AckRequest, Event, Ingest, Receipt};
pub use admit::rates::{Rate, Rates};
pub use audit::snapshot::{JournalSnapshot, Snapshot};
pub use audit::{reconcile, verify};
pub use checkpoint::checkpointer::CheckpointError;
pub use checkpoint::ledger::Account;
pub use event::row::content;
pub use event::{id, json, keys, row, text};
pub use pipeline::{Drained, IngestSettings, OpenJournal, Pipeline};
pub use queue::RowChunk;
pub use queue::commit_waiter::{DeadEvent, NotStored};
pub use queue::occupancy;
pub use queue::refusal::{Refusal, Refused};
pub use status::{LastError, WriterState};
pub use tidegate_journal as journal;
pub(crate) use write::copy::copy_rows;
pub(crate) use write::copy_writer::set_again;
pub use write::hook::BatchHook;
pub use write::lanes::{LaneActivity, LaneReport};
pub use write::restore::{Restored, Restorer};
pub(crate) use write::verdict::Verdict as WriteVerdict;

/// The level of an acknowledgement; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLevel {
    /// In memory: lost if the process crashes before the next flush.
    Queued,
    /// Synced to the journal: survives a crash and a power failure.
    Journaled,
    /// Visible in Postgres and durable.
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
