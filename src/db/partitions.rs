//! Daily partitions (UTC) of `requests`: created ahead, dropped after `RETENTION_DAYS`.
//!
//! Both need a lock on `requests` for a moment. A waiting lock blocks every COPY behind it, so each statement gives up quickly
//! and is retried in the next round: the writer never waits for this task.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Connection, Database, DbError, PartitionFailure, presets, sql};
use crate::config::{DatabaseConfig, limits};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The interval after a round without errors.
const INTERVAL: Duration = Duration::from_secs(600);
/// The time limit of a round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(300);
/// The interval after a round with an error.
const AFTER_ERROR: Duration = Duration::from_secs(60);
/// The interval after a round in which a lock was not available.
const AGAIN: Duration = Duration::from_secs(2);
/// The time for which a lock may be unavailable before health reports the day.
const LONGEST_BLOCKED: Duration = Duration::from_secs(300);

/// The periodic task, with the time since which a lock is unavailable.
struct PartitionTask {
    keeper: PartitionManager,
    blocked: Option<Instant>,
}

impl Step for PartitionTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let round = tokio::time::timeout(ROUND_TIMEOUT, self.keeper.round()).await;
        let Round { mut failed, blocked } = match round.unwrap_or(Err(DbError::Timeout(ROUND_TIMEOUT))) {
            // Reported by `deletion_time`.
            Err(DbError::ClocksDiffer { .. }) => return Ok(Next::After(AFTER_ERROR)),
            round => round?,
        };
        let has_failed = !failed.is_empty();
        self.blocked = (!blocked.is_empty()).then(|| self.blocked.unwrap_or_else(Instant::now));
        if self.blocked.is_some_and(|since| since.elapsed() > LONGEST_BLOCKED) {
            failed.extend(blocked);
        }
        self.keeper.report(failed);
        Ok(match (self.blocked, has_failed) {
            (Some(_), _) => Next::After(AGAIN),
            (None, true) => Next::After(AFTER_ERROR),
            (None, false) => Next::Interval,
        })
    }
}

/// Creates and drops partitions.
#[derive(Debug, Clone)]
pub struct PartitionManager {
    database: Database,
    days_ahead: u64,
    retention_days: Option<u64>,
}

/// The days that a round left undone.
#[derive(Debug, Default)]
pub struct Round {
    /// Days that Postgres refuses to create or drop.
    pub failed: Vec<PartitionFailure>,
    /// Days left for the next round: a lock was not available, or another node works on them.
    pub blocked: Vec<PartitionFailure>,
}

impl Round {
    /// Whether nothing is left.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.blocked.is_empty()
    }
}

/// The action on a day.
#[derive(Debug, Clone, Copy)]
enum Action {
    Make,
    Drop,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Make => "make",
            Self::Drop => "drop",
        }
    }

    fn script(self, database: &Database) -> &'static str {
        match self {
            Self::Make => sql!(database, "db/make_partition.sql"),
            Self::Drop => sql!(database, "db/drop_partition.sql"),
        }
    }
}

impl PartitionManager {
    /// A manager with the settings' retention.
    pub fn new(database: Database, config: &DatabaseConfig) -> Self {
        Self { database, days_ahead: limits::PARTITION_DAYS_AHEAD, retention_days: config.retention_days }
    }

    /// Starts the task that creates and drops partitions.
    pub fn start(self, supervisor: &Supervisor) {
        let task = PartitionTask { keeper: self, blocked: None };
        supervisor.periodic("partitions", INTERVAL, Backoff::fixed(AFTER_ERROR), task);
    }

    /// Records the failed days, and logs the new ones.
    fn report(&self, failed: Vec<PartitionFailure>) {
        for PartitionFailure { day, action, error } in self.database.housekeeping().partitions(failed) {
            tracing::warn!(day, action, error, "a day's partition cannot be kept; trying again each minute");
        }
    }

    /// One round: future days are created by this host's clock, as event ids are; old days are dropped by the earlier of this
    /// host's and Postgres' clock. An error on one day does not stop the others.
    ///
    /// # Errors
    ///
    /// [`DbError::ClocksDiffer`] if nothing may be dropped; errors of Postgres that concern no single day.
    pub async fn round(&self) -> Result<Round, DbError> {
        let Some(mut round) = self.make(SystemTime::now()).await? else { return Ok(Round::default()) };
        if self.retention_days.is_some() {
            match self.database.deletion_time().await {
                Ok(now) => self.drop_old(now, &mut round).await?,
                Err(error) => {
                    self.report(round.failed);
                    return Err(error);
                }
            }
        }
        Ok(round)
    }

    /// One round as of `now`, whatever the clocks are.
    ///
    /// # Errors
    ///
    /// Errors of Postgres that concern no single day.
    pub async fn round_as_of(&self, now: SystemTime) -> Result<Round, DbError> {
        let Some(mut round) = self.make(now).await? else { return Ok(Round::default()) };
        self.drop_old(now, &mut round).await?;
        Ok(round)
    }

    /// Creates the days from `now` on; `None` where `requests` is not partitioned.
    async fn make(&self, now: SystemTime) -> Result<Option<Round>, DbError> {
        let connection = self.database.get().await?;
        let partitioned = sql!(self.database, "db/is_partitioned.sql");
        let partitioned = super::query_in_time(&connection, ROUND_TIMEOUT, partitioned, &[]).await?;
        if !partitioned.first().map_or(Ok(false), |row| row.try_get(0))? {
            if self.retention_days.is_some() {
                tracing::warn!(
                    "RETENTION_DAYS has no effect: requests was made without partitions (PARTITIONING=off)"
                );
            }
            return Ok(None);
        }
        let there = self.there(&connection).await?;
        let columns = sql!(self.database, "db/columns.sql");
        let columns = super::query_in_time(&connection, ROUND_TIMEOUT, columns, &[]).await?;
        let columns: String = columns.first().map_or(Ok(String::new()), |row| row.try_get(0))?;
        let mut round = Round::default();
        let today = day_of(now);
        for day in (today..=today + self.days_ahead).map(Day) {
            if !there.contains(&day.partition()) {
                self.execute(&connection, Action::Make, day, &columns, &mut round).await?;
            }
        }
        Ok(Some(round))
    }

    /// Drops the days older than `RETENTION_DAYS` as of `now`.
    async fn drop_old(&self, now: SystemTime, round: &mut Round) -> Result<(), DbError> {
        let Some(retention_days) = self.retention_days else { return Ok(()) };
        let connection = self.database.get().await?;
        let first_kept = Day(day_of(now).saturating_sub(retention_days));
        let there = self.there(&connection).await?;
        for day in there.iter().filter_map(|name| Day::of_partition(name)).filter(|day| day.0 < first_kept.0)
        {
            self.execute(&connection, Action::Drop, day, "", round).await?;
        }
        let trim = sql!(self.database, "db/trim_default.sql");
        let bound = [(&first_kept.lower_bound() as _, Type::UUID)];
        match super::query_in_time(&connection, ROUND_TIMEOUT, trim, &bound).await {
            Err(error) if error.state_code().is_some() => {
                let error = format!("requests_default: {}", error.with_sources());
                round.failed.push(PartitionFailure { day: first_kept.iso(), action: "drop", error });
            }
            trimmed => drop(trimmed?),
        }
        Ok(())
    }

    async fn there(&self, connection: &Connection) -> Result<Vec<String>, DbError> {
        let list = sql!(self.database, "db/partitions.sql");
        let rows = super::query_in_time(connection, ROUND_TIMEOUT, list, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Runs one of the two scripts for a day, and records Postgres' error in `round`.
    async fn execute(
        &self,
        connection: &Connection,
        action: Action,
        day: Day,
        columns: &str,
        round: &mut Round,
    ) -> Result<(), DbError> {
        let script = action
            .script(&self.database)
            .replace("{presets}", &presets(ROUND_TIMEOUT))
            .replace("{columns}", columns)
            .replace("{partition}", &day.partition())
            .replace("{from}", &day.lower_bound().to_string())
            .replace("{to}", &Day(day.0 + 1).lower_bound().to_string());
        let Err(error) = connection.batch_execute(&script).await else {
            tracing::info!(
                partition = day.partition(),
                "partition {}",
                match action {
                    Action::Make => "made",
                    Action::Drop => "dropped",
                }
            );
            return Ok(());
        };
        let error = DbError::from(error);
        connection.batch_execute("rollback").await?;
        let failure = PartitionFailure { day: day.iso(), action: action.name(), error: error.with_sources() };
        let is_blocked = match error.state_code() {
            // Lock not available; deadlock with a COPY; another node dropped it.
            Some("55P03" | "40P01" | "42P01") => true,
            // Another node created it; or a table that is no partition has its name, such as a detached day.
            Some("42P07") => self.there(connection).await?.contains(&day.partition()),
            Some(_) => false,
            None => return Err(error),
        };
        if is_blocked {
            round.blocked.push(failure);
        } else {
            round.failed.push(failure);
        }
        Ok(())
    }
}

/// A day, counted from 1970-01-01 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Day(u64);

fn day_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64 / DAY_MS
}

impl Day {
    /// The smallest UUIDv7 of the day.
    fn lower_bound(self) -> Uuid {
        Uuid::from_u128(u128::from(self.0 * DAY_MS) << 80)
    }

    /// `requests_pYYYYMMDD`.
    fn partition(self) -> String {
        let (year, month, day) = self.civil();
        format!("requests_p{year:04}{month:02}{day:02}")
    }

    /// `YYYY-MM-DD`.
    fn iso(self) -> String {
        let (year, month, day) = self.civil();
        format!("{year:04}-{month:02}-{day:02}")
    }

    fn of_partition(name: &str) -> Option<Self> {
        let date = name.strip_prefix("requests_p").filter(|date| date.len() == 8)?;
        let (year, month, day) =
            (date.get(..4)?.parse().ok()?, date.get(4..6)?.parse().ok()?, date.get(6..)?.parse().ok()?);
        Self::from_civil(year, month, day)
    }

    /// Year, month and day of the Gregorian calendar.
    fn civil(self) -> (i32, u8, u8) {
        let date =
            time::Date::from_julian_day(UNIX_EPOCH_JULIAN_DAY + self.0 as i32).unwrap_or(time::Date::MAX);
        (date.year(), date.month().into(), date.day())
    }

    fn from_civil(year: i32, month: u8, day: u8) -> Option<Self> {
        let date = time::Date::from_calendar_date(year, month.try_into().ok()?, day).ok()?;
        u64::try_from(date.to_julian_day() - UNIX_EPOCH_JULIAN_DAY).ok().map(Self)
    }
}

/// The Julian day of 1970-01-01.
const UNIX_EPOCH_JULIAN_DAY: i32 = 2_440_588;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_and_its_partition_name_each_other() {
        for (day, name) in
            [(0, "requests_p19700101"), (20_777, "requests_p20261120"), (19_782, "requests_p20240229")]
        {
            assert_eq!(Day(day).partition(), name);
            assert_eq!(Day::of_partition(name), Some(Day(day)));
        }
        assert_eq!(Day::of_partition("requests_p20261399"), None);
        assert_eq!(Day::of_partition("requests_default"), None);
    }
}
