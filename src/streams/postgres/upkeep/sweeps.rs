//! The end of streams: those that have expired count as deleted, and the bytes of deleted ones are removed.
//!
//! For requests a stream ends by Postgres' clock, at once. Here both clocks have to agree, since what is removed does not come back.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::store::UpkeepStore;
use crate::streams::postgres::life::{Deleted, LifeStore};
use crate::streams::{StreamError, StreamId};
use crate::supervisor::{Next, Step, StepError};
use crate::time::Micros;

/// The interval between two sweeps.
const INTERVAL: Duration = Duration::from_secs(2);
/// The pause behind a full page.
const PAUSE: Duration = Duration::from_millis(20);
/// Expired streams of a page.
const PAGE: usize = 500;
/// Chunks that are removed at once.
const MAX_CHUNKS: i64 = 2_000;

/// Hears of streams that have ended.
pub(in crate::streams::postgres) type Sweep = Box<dyn Fn(Vec<Deleted>) + Send + Sync>;

/// Ends streams and removes their bytes.
pub(in crate::streams::postgres) struct SweepTask {
    pub(in crate::streams::postgres) store: UpkeepStore,
    pub(in crate::streams::postgres) life: LifeStore,
    pub(in crate::streams::postgres) ended: Sweep,
}

impl fmt::Debug for SweepTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SweepTask").field("store", &self.store).finish_non_exhaustive()
    }
}

impl SweepTask {
    /// The interval of its steps.
    pub(in crate::streams::postgres) const INTERVAL: Duration = INTERVAL;

    async fn expire(&self, before: SystemTime) -> Result<(), StepError> {
        let (before, mut after) = (Micros::from(before), StreamId(0));
        loop {
            let page = self.store.expired(before, after, PAGE).await?;
            for id in &page {
                after = *id;
                match self.life.expire(*id, before).await {
                    Ok(deleted) => (self.ended)(deleted),
                    Err(StreamError::Database(error)) => return Err(StepError::new(error.with_sources())),
                    Err(error) => return Err(StepError::new(error.to_string())),
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }
}

impl Step for SweepTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let has_more = self.store.erase(MAX_CHUNKS).await?;
        if !self.store.has_expired().await? {
            return Ok(if has_more { Next::After(PAUSE) } else { Next::Interval });
        }
        let before = self.store.deletion_time().await?;
        self.expire(before).await?;
        Ok(if has_more { Next::After(PAUSE) } else { Next::Interval })
    }
}
