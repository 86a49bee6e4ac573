//! The pipeline's figures for health and metrics.

use crate::ingest::admit::admission::Ingest;
use crate::ingest::checkpoint::ledger::Account;
use crate::ingest::journal::{Lost, Usage};
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::refusal::Refusal;
use crate::ingest::status::{LastError, WriterState};
use crate::ingest::write::lanes::LaneReport;

/// The pipeline's figures at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Accepted events.
    pub accepted: u64,
    /// Stored events.
    pub committed: u64,
    /// Events skipped because of their keys.
    pub duplicates: u64,
    /// Accepted events that became dead letters.
    pub dead: u64,
    /// Accepted events that are not settled; with a journal, including those of former runs.
    pub pending: u64,
    /// Admitted events that are neither stored nor dead.
    pub held: Size,
    /// The queue's capacity.
    pub capacity: Size,
    /// Overloads that are not stored yet.
    pub dead_held: Size,
    /// The lanes.
    pub lanes: Vec<LaneReport>,
    /// The writers' state and last error.
    pub writer: (WriterState, Option<LastError>),
    /// The state and last error of the dead-letter writer.
    pub dead_letter_writer: (WriterState, Option<LastError>),
    /// `None` with DURABILITY=memory.
    pub journal: Option<JournalSnapshot>,
}

/// The journal's figures at one moment.
#[derive(Debug, Clone)]
pub struct JournalSnapshot {
    /// Its files.
    pub usage: Usage,
    /// Bytes of events that are not settled.
    pub pending_bytes: u64,
    /// Acknowledged events that the journal lost, until an operator acknowledges the loss.
    pub acknowledged_lost: Lost,
    /// Why it refused the last events, until it accepts one or the cause has passed.
    pub refusal: Option<Refusal>,
    /// Each journal's account, as of the last checkpoint.
    pub accounts: Vec<Account>,
    /// Events that Postgres lost and the journal did not hold any more.
    pub lost: u64,
    /// The checkpointer's state and last error.
    pub checkpoint: (WriterState, Option<LastError>),
}

impl Ingest {
    /// Accepted events that are not settled, and those of them that are in the queue.
    pub fn pending(&self) -> (u64, u64) {
        let (held, metrics) = (self.shared.queue.held().events, &self.shared.metrics);
        let settled = || metrics.committed.get() + metrics.duplicates.get() + metrics.dead.get();
        let pending = match &self.shared.journal {
            Some(journal) => journal.backlog.pending() + held,
            None => metrics.accepted.get().saturating_sub(settled()),
        };
        (pending, held)
    }

    /// The current figures.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let metrics = &shared.metrics;
        let held = shared.queue.held();
        Snapshot {
            accepted: metrics.accepted.get(),
            committed: metrics.committed.get(),
            duplicates: metrics.duplicates.get(),
            dead: metrics.dead.get(),
            pending: self.pending().0,
            held,
            capacity: shared.queue.limits().capacity,
            dead_held: shared.dead_letters.held(),
            lanes: shared.lanes.iter().map(|lane| lane.report()).collect(),
            writer: shared.writer_status.get(),
            dead_letter_writer: shared.dead_letter_writer_status.get(),
            journal: shared.journal.as_ref().map(|journal| JournalSnapshot {
                usage: journal.backlog.reader().usage(),
                pending_bytes: journal.backlog.pending_bytes(),
                acknowledged_lost: journal.backlog.reader().lost(),
                refusal: journal.backlog.reader().refusal().map(Refusal::from),
                accounts: journal.ledger.accounts(),
                lost: journal.ledger.lost(),
                checkpoint: journal.checkpoint_status.get(),
            }),
        }
    }
}
