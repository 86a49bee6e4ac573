//! The books: accepted = committed + duplicates + dead + discarded + quarantined + pending, for each journal.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::receipts::Counts;
use crate::ingest::journal::JournalId;

/// One journal's account: accepted = settled (in its five kinds) + pending.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// The journal.
    pub journal: JournalId,
    /// Sequences that were synced.
    pub accepted: u64,
    /// What its receipts say.
    pub counts: Counts,
}

impl Account {
    /// Accepted and not settled.
    pub fn pending(&self) -> u64 {
        self.accepted.saturating_sub(self.counts.total())
    }

    /// Whether no more was settled than accepted. (That each receipt adds up is a check of its table.)
    pub fn is_balanced(&self) -> bool {
        self.counts.total() <= self.accepted
    }
}

/// What the keeper knows; read by health and metrics.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Mutex<Vec<Account>>,
    /// By journal.
    lost: Mutex<HashMap<JournalId, u64>>,
}

impl Ledger {
    /// The accounts of the journals on disk, oldest first, as of the last fence.
    pub fn accounts(&self) -> Vec<Account> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::ingest) fn set(&self, accounts: Vec<Account>) {
        *self.accounts.lock().unwrap_or_else(PoisonError::into_inner) = accounts;
    }

    /// So many events of a journal are gone; how many were before, if it was looked at.
    pub(in crate::ingest) fn set_lost(&self, journal: JournalId, events: u64) -> Option<u64> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(journal, events)
    }

    /// Events that Postgres lost and the journal did not hold any more.
    pub fn lost(&self) -> u64 {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}
