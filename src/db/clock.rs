//! The time that deletions by age go by.
//!
//! One wrong clock must not cost rows: Postgres is asked for the time too, the earlier of the two is used, and where they
//! differ by more than a minute nothing is deleted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Database, DbError};

/// How far the clocks may be apart.
pub(super) const MAX_APART: Duration = Duration::from_secs(60);
/// For Postgres' answer.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Database {
    /// The time by which rows may be deleted for their age: the earlier of this host's and Postgres'.
    ///
    /// # Errors
    ///
    /// [`DbError::ClocksDiffer`] if they are more than a minute apart, which is logged once and kept for health; otherwise
    /// those of the query.
    pub async fn deletion_time(&self) -> Result<SystemTime, DbError> {
        self.deletion_time_at(SystemTime::now).await
    }

    /// As [`Self::deletion_time`], by another clock of this host.
    ///
    /// # Errors
    ///
    /// As [`Self::deletion_time`].
    pub async fn deletion_time_at(&self, clock: impl Fn() -> SystemTime) -> Result<SystemTime, DbError> {
        let before = clock();
        let rows = self.query_in_time(TIMEOUT, include_str!("../../sql/db/clock.sql"), &[]).await?;
        let after = clock();
        let theirs_us: i64 = rows.first().map_or(Ok(0), |row| row.try_get("now_us"))?;
        let theirs = UNIX_EPOCH + Duration::from_micros(u64::try_from(theirs_us).unwrap_or_default());
        // What the answer took is no difference.
        let (ahead, behind) = (apart(before, theirs), apart(theirs, after));
        let ahead_s = ahead.as_secs() as i64 - behind.as_secs() as i64;
        let apart_s = ahead.max(behind).as_secs();
        let is_refused = ahead.max(behind) > MAX_APART;
        let error = DbError::ClocksDiffer { apart_s };
        match (self.housekeeping().clocks(ahead_s, is_refused), is_refused) {
            (true, true) => tracing::error!(clock.ahead_s = ahead_s, "{error}"),
            (true, false) => tracing::info!("the clocks agree again; what is old is deleted again"),
            (false, _) => {}
        }
        if is_refused { Err(error) } else { Ok(before.min(theirs)) }
    }
}

/// By how much `one` is later than `other`.
fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_default()
}
