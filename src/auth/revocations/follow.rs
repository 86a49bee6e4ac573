//! Reads what other nodes and the command line took back, and keeps the tables small.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store::{Place, Store};
use crate::auth::Verifier;
use crate::auth::clock::now_s;
use crate::auth::keys::Keys;
use crate::db::{Database, DbError};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

/// Between two looks: what one node takes back is unknown to another for no longer than this and a statement.
const ROUND: Duration = Duration::from_millis(500);
/// The same while no token is shown. Shorter than [`LONGEST_GAP`].
const IDLE: Duration = Duration::from_secs(20);
/// Between two looks while the last one failed.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// Between two times that what is of no use is deleted, and that the last use of keys is written.
const UPKEEP: Duration = Duration::from_secs(30);
/// Keys that were taken back are told of for a minute. Who has not looked for half of that may have missed one.
const LONGEST_GAP: Duration = Duration::from_secs(30);

impl Step for Subscriber {
    async fn step(&mut self) -> Result<Next, StepError> {
        let looked = self.look().await;
        self.verifier.freshness.looked(looked.is_ok());
        looked?;
        if self.kept_up.is_none_or(|kept_up| kept_up.elapsed() >= UPKEEP) {
            self.kept_up = Some(Instant::now());
            self.keep_up().await?;
        }
        self.verifier.freshness.pause(ROUND, IDLE).await;
        Ok(Next::Interval)
    }

    fn recover(&mut self) {
        self.verifier.freshness.looked(false);
    }
}

/// Follows the table `auth_revocations`.
pub(in crate::auth) struct Subscriber {
    store: Store,
    verifier: Arc<Verifier>,
    keys: Keys,
    /// From where on there may be rows that were not seen.
    from: Place,
    looked: Option<Instant>,
    kept_up: Option<Instant>,
}

impl Subscriber {
    pub(in crate::auth) fn new(
        database: &Database,
        timeout: Duration,
        verifier: &Arc<Verifier>,
        keys: Keys,
    ) -> Self {
        let store = Store::new(database, timeout);
        Self {
            store,
            verifier: Arc::clone(verifier),
            keys,
            from: Place::start(),
            looked: None,
            kept_up: None,
        }
    }

    /// Starts the task.
    pub(in crate::auth) fn start(self, supervisor: &Supervisor) {
        supervisor.periodic("revocations", Duration::ZERO, Backoff::fixed(AFTER_ERROR), self);
    }

    async fn look(&mut self) -> Result<(), DbError> {
        let began = Instant::now();
        let mut place = self.from.clone();
        let mut horizon = None;
        let (mut ended, mut keys) = (Vec::new(), Vec::new());
        loop {
            let page = self.store.page(&place).await?;
            // What the first page could not see is not behind the last one's horizon.
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
                Some(next) => place = next,
                None => {
                    self.from = horizon.clone();
                    break;
                }
            }
        }
        match self.looked.replace(began) {
            None => {
                self.verifier.revocations.loaded();
                self.keys.warm().await?;
            }
            Some(last) if last.elapsed() > LONGEST_GAP => self.verifier.keys.forget_all(),
            Some(_) => {}
        }
        Ok(())
    }

    /// Deletes what is of no use any more, and writes the last use of keys. An error of one does not stop the other.
    async fn keep_up(&self) -> Result<(), DbError> {
        self.verifier.revocations.expire(now_s());
        let forgotten = self.store.forget().await;
        self.keys.write_last_used().await?;
        forgotten
    }
}
