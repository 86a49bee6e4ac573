//! Each journal's account: accepted = committed + duplicates + dead + discarded + quarantined + pending.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::receipts::Counts;
use crate::ingest::journal::JournalId;

/// One journal's account: accepted = settled (by one of five outcomes) + pending.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// The journal.
    pub journal: JournalId,
    /// Synced sequences.
    pub accepted: u64,
    /// The sums of its receipts.
    pub counts: Counts,
}

impl Account {
    /// Accepted events that are not settled.
    pub fn pending(&self) -> u64 {
        self.accepted.saturating_sub(self.counts.total())
    }

    /// Whether no more events are settled than accepted. (A check of its table makes each receipt add up.)
    pub fn is_balanced(&self) -> bool {
        self.counts.total() <= self.accepted
    }
}

/// The accounts, written by the checkpointer and read by health and metrics.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Mutex<Vec<Account>>,
    /// By journal.
    lost: Mutex<HashMap<JournalId, u64>>,
}

impl Ledger {
    /// The accounts of the journals on disk, oldest first, as of the last checkpoint.
    pub fn accounts(&self) -> Vec<Account> {
        self.accounts.lock().clone()
    }

    pub(super) fn set(&self, accounts: Vec<Account>) {
        *self.accounts.lock() = accounts;
    }

    /// Sets the number of a journal's lost events; returns the previous number, if any.
    pub(super) fn set_lost(&self, journal: JournalId, events: u64) -> Option<u64> {
        self.lost.lock().insert(journal, events)
    }

    /// Events that Postgres lost and the journal did not hold any more.
    pub fn lost(&self) -> u64 {
        self.lost.lock().values().sum()
    }
}
