//! A lane takes one part after the other and stores it, however long that takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use super::landing::Landed;
use super::model::Job;
use super::part::Part;
use super::store::Store;
use super::turns::Turns;
use crate::conversations::Conversations;
use crate::db::DbError;
use crate::ingest::WriteVerdict as Verdict;
use crate::observe::{LogThrottle, Metrics};

/// Before a part is tried again for the first time, and at the most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
static RETRIES: LogThrottle = LogThrottle::new();

/// What the lanes of an import share.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) job: Job,
    pub(super) store: Store,
    pub(super) parts: Mutex<mpsc::Receiver<Part>>,
    pub(super) turns: Turns,
    /// Lines that were left out so far.
    pub(super) rejected: AtomicU64,
    /// Of which so many are noted.
    pub(super) max_rejected: u64,
    pub(super) conversations: Conversations,
    pub(super) metrics: Arc<Metrics>,
}

/// Why an import ends before its last part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is not there any more.
    Gone,
    /// Postgres refuses a part for what no line of it says: the reason.
    Refused(String),
}

/// The reason for clients. Postgres' own message may quote values of others.
pub(super) fn refused(error: &DbError) -> String {
    if error.is_dropped_by_trigger() {
        return "a trigger of the database dropped rows of a part of the file".to_owned();
    }
    format!("Postgres refused a part of the file (SQLSTATE {})", error.state_code().unwrap_or_default())
}

impl Lanes {
    /// Stores parts until there are no more.
    pub(super) async fn run(&self) -> Result<(), Ended> {
        loop {
            let next = self.parts.lock().await.recv().await;
            let Some(part) = next else { return Ok(()) };
            if let Err(ended) = self.land(&part).await {
                // The others end with the parts that they have. Those that wait for this one go on without it, and find the same.
                self.parts.lock().await.close();
                self.turns.stored(part.number);
                return Err(ended);
            }
            self.turns.stored(part.number);
        }
    }

    async fn land(&self, part: &Part) -> Result<(), Ended> {
        let mut pause = FIRST_PAUSE;
        loop {
            let noted = self.max_rejected.saturating_sub(self.rejected.load(Ordering::Relaxed)) as usize;
            let is_next = self.turns.is_next(part.number);
            let error = match self.store.land(&self.job, part, is_next, noted).await {
                Ok(Landed::Stored { stored, rejected }) => {
                    self.rejected.fetch_add(rejected, Ordering::Relaxed);
                    self.metrics.import_stored(stored, rejected);
                    if part.speaks() {
                        self.conversations.wake();
                    }
                    return Ok(());
                }
                Ok(Landed::There) => return Ok(()),
                Ok(Landed::Gone) => return Err(Ended::Gone),
                Ok(Landed::Early) => {
                    self.turns.wait_for(part.number).await;
                    continue;
                }
                Err(error) => error,
            };
            let file = self.job.file_id;
            if error.is_dropped_by_trigger() || Verdict::on(&error) == Verdict::Bisect {
                tracing::error!(%file, part = part.number, error = error.with_sources(), "a part is refused");
                return Err(Ended::Refused(refused(&error)));
            }
            if let Some(left_out) = RETRIES.ready() {
                let error = error.with_sources();
                tracing::warn!(%file, part = part.number, error, left_out, "a part was not stored; trying again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
