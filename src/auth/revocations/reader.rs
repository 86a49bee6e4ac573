//! The periodic task that reads the revocations of other nodes and the command line, and deletes old rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store::{RevocationCursor, RevocationStore};
use crate::auth::clock::now_s;
use crate::auth::keys::Keys;
use crate::auth::tickets::Tickets;
use crate::auth::{Accounts, Verifier};
use crate::db::{Database, DbError};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// The interval between two polls: the delay of a revocation on other nodes, plus a statement.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The same while no token is used. Shorter than [`LONGEST_GAP`].
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(20);
/// The interval after a failed poll.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// The interval between deletions of old rows, and between writes of the last uses of keys.
const UPKEEP: Duration = Duration::from_secs(30);
/// Revocations of keys stay in the table for a minute. A gap of half of that may have missed one.
const LONGEST_GAP: Duration = Duration::from_secs(30);

impl Step for RevocationReader {
    async fn step(&mut self) -> Result<Next, StepError> {
        // Before the poll and not behind it, so that a success is reported at once.
        if std::mem::take(&mut self.pauses) {
            self.verifier.freshness.pause(POLL_INTERVAL, IDLE_POLL_INTERVAL).await;
        }
        let polled = self.poll().await;
        self.verifier.freshness.polled(polled.is_ok());
        polled?;
        if self.last_upkeep.is_none_or(|last_upkeep| last_upkeep.elapsed() >= UPKEEP) {
            self.last_upkeep = Some(Instant::now());
            self.run_upkeep().await?;
        }
        self.pauses = true;
        Ok(Next::Interval)
    }

    fn recover(&mut self) {
        self.verifier.freshness.polled(false);
    }
}

/// Reads the table `auth_revocations`.
pub(in crate::auth) struct RevocationReader {
    store: RevocationStore,
    verifier: Arc<Verifier>,
    keys: Keys,
    tickets: Tickets,
    /// The cursor before rows that may not have been read.
    from: RevocationCursor,
    last_poll: Option<Instant>,
    last_upkeep: Option<Instant>,
    /// Whether the last step succeeded, so that the next one begins with a pause.
    pauses: bool,
}

impl RevocationReader {
    pub(in crate::auth) fn new(
        database: &Database,
        timeout: Duration,
        verifier: &Arc<Verifier>,
        accounts: &Accounts,
    ) -> Self {
        let store = RevocationStore::new(database, timeout);
        Self {
            store,
            verifier: Arc::clone(verifier),
            keys: accounts.keys.clone(),
            tickets: accounts.tickets.clone(),
            from: RevocationCursor::start(),
            last_poll: None,
            last_upkeep: None,
            pauses: false,
        }
    }

    /// Starts the task.
    pub(in crate::auth) fn start(self, supervisor: &Supervisor) {
        supervisor.periodic("revocations", Duration::ZERO, Backoff::fixed(AFTER_ERROR), self);
    }

    async fn poll(&mut self) -> Result<(), DbError> {
        let began = Instant::now();
        let mut cursor = self.from.clone();
        let mut horizon = None;
        let (mut ended, mut keys) = (Vec::new(), Vec::new());
        loop {
            let page = self.store.page(&cursor).await?;
            // Rows that the first page could not see are not behind the last page's horizon.
            let horizon = horizon.get_or_insert(page.horizon);
            for revocation in page.revocations {
                match revocation.is_session {
                    true => ended.push((revocation.subject, revocation.until_s)),
                    false => keys.push(revocation.subject),
                }
            }
            self.verifier.revocations.end(ended.drain(..), now_s());
            self.verifier.keys.forget(&keys);
            keys.clear();
            match page.next {
                Some(next) => cursor = next,
                None => {
                    self.from = horizon.clone();
                    break;
                }
            }
        }
        match self.last_poll.replace(began) {
            None => {
                self.verifier.revocations.loaded();
                self.keys.warm().await?;
            }
            Some(last) if last.elapsed() > LONGEST_GAP => self.verifier.keys.forget_all(),
            Some(_) => {}
        }
        Ok(())
    }

    /// Deletes old rows, and writes the last uses of keys. An error of one does not stop the others.
    async fn run_upkeep(&self) -> Result<(), DbError> {
        self.verifier.revocations.expire(now_s());
        let forgotten = self.store.forget().await;
        let expired = self.tickets.forget().await;
        self.keys.write_last_used().await?;
        forgotten.and(expired)
    }
}
