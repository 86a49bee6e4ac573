//! The pipeline's figures, for health and metrics.

use crate::ingest::admit::admission::Ingest;
use crate::ingest::checkpoint::ledger::Account;
use crate::ingest::journal::{Lost, Usage};
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::refusal::Refusal;
use crate::ingest::status::{LastError, WriterState};

/// The pipeline's figures at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Events that got a level.
    pub accepted: u64,
    /// Events stored.
    pub committed: u64,
    /// Events left out, as their keys were there.
    pub duplicates: u64,
    /// Accepted events that became dead letters.
    pub dead: u64,
    /// Accepted events that are not settled; with a journal, those of former runs too.
    pub pending: u64,
    /// What the queue holds.
    pub held: Size,
    /// What the queue can hold.
    pub capacity: Size,
    /// What the dead-letter queue holds.
    pub dead_held: Size,
    /// What the writers are doing, and the last error that one met.
    pub writer: (WriterState, Option<LastError>),
    /// The same of the dead letters' writer.
    pub dead_letter_writer: (WriterState, Option<LastError>),
    /// The journal, if there is one.
    pub journal: Option<JournalSnapshot>,
}

/// The journal's figures at one moment.
#[derive(Debug, Clone)]
pub struct JournalSnapshot {
    /// Its files.
    pub usage: Usage,
    /// Bytes of events that Postgres does not have.
    pub pending_bytes: u64,
    /// Acknowledged events that the journal lost, until an operator has acknowledged the loss.
    pub acknowledged_lost: Lost,
    /// Why it takes nothing, if so.
    pub refusal: Option<Refusal>,
    /// Each journal's account, as of the last fence.
    pub accounts: Vec<Account>,
    /// Events that Postgres lost and the journal did not hold any more.
    pub lost: u64,
    /// What the fences' keeper is doing, and the last error that it met.
    pub fence: (WriterState, Option<LastError>),
}

impl Ingest {
    /// The figures that health and metrics show.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let metrics = &shared.metrics;
        let held = shared.queue.held();
        let settled = metrics.committed.get() + metrics.duplicates.get() + metrics.dead.get();
        Snapshot {
            accepted: metrics.accepted.get(),
            committed: metrics.committed.get(),
            duplicates: metrics.duplicates.get(),
            dead: metrics.dead.get(),
            pending: match &shared.journal {
                Some(journal) => journal.backlog.pending() + held.events,
                None => metrics.accepted.get().saturating_sub(settled),
            },
            held,
            capacity: shared.queue.limits().capacity,
            dead_held: shared.dead_letters.held(),
            writer: shared.writer_status.get(),
            dead_letter_writer: shared.dead_letter_writer_status.get(),
            journal: shared.journal.as_ref().map(|journal| JournalSnapshot {
                usage: journal.backlog.store().usage(),
                pending_bytes: journal.backlog.pending_bytes(),
                acknowledged_lost: journal.backlog.store().lost(),
                refusal: self.journal_takes().err(),
                accounts: journal.ledger.accounts(),
                lost: journal.ledger.lost(),
                fence: journal.fence_status.get(),
            }),
        }
    }
}
