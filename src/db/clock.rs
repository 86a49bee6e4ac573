//! The clock for deletions by age.
//!
//! One wrong clock must not cost rows. Postgres' clock is read too, and the earlier time is used; nothing is deleted while the
//! two differ by more than a minute.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Database, DbError, sql};

/// The largest difference between the clocks at which rows are deleted.
pub(super) const MAX_APART: Duration = Duration::from_secs(60);
/// The time for Postgres' answer.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Database {
    /// The reference time for deletions by age: the earlier of this host's and Postgres' clock.
    ///
    /// # Errors
    ///
    /// [`DbError::ClocksDiffer`] if they differ by more than a minute, which is logged once and reported in health; otherwise
    /// those of the query.
    pub async fn deletion_time(&self) -> Result<SystemTime, DbError> {
        self.deletion_time_at(SystemTime::now).await
    }

    /// As [`Self::deletion_time`], with another clock for this host.
    ///
    /// # Errors
    ///
    /// As [`Self::deletion_time`].
    pub async fn deletion_time_at(&self, clock: impl Fn() -> SystemTime) -> Result<SystemTime, DbError> {
        let before = clock();
        let rows = self.query_in_time(TIMEOUT, sql!("db/clock.sql"), &[]).await?;
        let after = clock();
        let theirs_us: i64 = rows.first().map_or(Ok(0), |row| row.try_get("now_us"))?;
        let theirs = UNIX_EPOCH + Duration::from_micros(u64::try_from(theirs_us).unwrap_or_default());
        // The duration of the query is not a difference between the clocks.
        let (ahead, behind) = (apart(before, theirs), apart(theirs, after));
        let ahead_s = ahead.as_secs() as i64 - behind.as_secs() as i64;
        let apart_s = ahead.max(behind).as_secs();
        let is_refused = ahead.max(behind) > MAX_APART;
        let error = DbError::ClocksDiffer { apart_s };
        match (self.housekeeping().clocks(ahead_s, is_refused), is_refused) {
            (true, true) => tracing::error!(clock.ahead_s = ahead_s, "{error}"),
            (true, false) => tracing::info!("the clocks agree again; deletion by age resumes"),
            (false, _) => {}
        }
        if is_refused { Err(error) } else { Ok(before.min(theirs)) }
    }
}

/// The time by which `one` is later than `other`.
fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_default()
}
