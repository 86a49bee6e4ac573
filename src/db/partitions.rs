//! Keeps `requests` cut into days (UTC): makes partitions ahead, and drops those that nobody keeps any more.
//!
//! Both need locks on `requests` for a moment. A lock that is waited for holds up every COPY behind it, so each
//! statement gives up quickly and is tried again at the next round: the writer never waits for the keeper.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Database, DbError};
use crate::config::DatabaseConfig;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Between rounds in which everything went well.
const ROUND: Duration = Duration::from_secs(600);
/// The longest that a round may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(300);
/// After a round in which something has to be tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Makes and drops partitions.
#[derive(Debug, Clone)]
pub struct PartitionKeeper {
    database: Database,
    days_ahead: u64,
    retention_days: Option<u64>,
}

impl PartitionKeeper {
    /// A keeper as the settings ask.
    pub fn new(database: Database, config: &DatabaseConfig) -> Self {
        Self { database, days_ahead: config.partition_days_ahead, retention_days: config.retention_days }
    }

    /// Goes round until it is dropped.
    pub async fn run(self) {
        loop {
            let round = tokio::time::timeout(ROUND_TIMEOUT, self.round(SystemTime::now())).await;
            let wait = match round.unwrap_or(Err(DbError::Timeout(ROUND_TIMEOUT))) {
                Ok(true) => ROUND,
                Ok(false) => AGAIN,
                Err(error) => {
                    tracing::warn!(
                        error = error.with_sources(),
                        "partitions were not looked after; trying again"
                    );
                    ROUND / 10
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// One round as of `now`; false if a lock was not to be had and a partition is left for the next.
    ///
    /// # Errors
    ///
    /// Whatever Postgres says, but for a lock that was not to be had.
    pub async fn round(&self, now: SystemTime) -> Result<bool, DbError> {
        let connection = self.database.get().await?;
        let partitioned = self.database.sql(include_str!("../../sql/db/is_partitioned.sql"));
        let partitioned = connection.query_typed(&partitioned, &[]).await?;
        if !partitioned.first().map_or(Ok(false), |row| row.try_get(0))? {
            if self.retention_days.is_some() {
                tracing::warn!(
                    "RETENTION_DAYS has no effect: requests was made without partitions (PARTITIONING=off)"
                );
            }
            return Ok(true);
        }
        let list = self.database.sql(include_str!("../../sql/db/partitions.sql"));
        let mut there = Vec::new();
        for row in connection.query_typed(&list, &[]).await? {
            there.push(row.try_get::<_, String>(0)?);
        }
        let today = day_of(now);
        let mut complete = true;
        for day in (today..=today + self.days_ahead).map(Day) {
            if !there.contains(&day.partition()) {
                complete &= self
                    .execute(
                        &connection,
                        day,
                        include_str!("../../sql/db/make_partition.sql"),
                        "partition made",
                    )
                    .await?;
            }
        }
        if let Some(retention_days) = self.retention_days {
            let first_kept = Day(today.saturating_sub(retention_days));
            for day in
                there.iter().filter_map(|name| Day::of_partition(name)).filter(|day| day.0 < first_kept.0)
            {
                complete &= self
                    .execute(
                        &connection,
                        day,
                        include_str!("../../sql/db/drop_partition.sql"),
                        "partition dropped",
                    )
                    .await?;
            }
            let trim = self.database.sql(include_str!("../../sql/db/trim_default.sql"));
            connection.execute_typed(&trim, &[(&first_kept.lower_bound(), Type::UUID)]).await?;
        }
        Ok(complete)
    }

    /// Runs one of the two scripts for a day; false if a lock was not to be had.
    async fn execute(
        &self,
        connection: &tokio_postgres::Client,
        day: Day,
        script: &str,
        done: &str,
    ) -> Result<bool, DbError> {
        let script = self
            .database
            .sql(script)
            .replace("{partition}", &day.partition())
            .replace("{from}", &day.lower_bound().to_string())
            .replace("{to}", &Day(day.0 + 1).lower_bound().to_string());
        let Err(error) = connection.batch_execute(&script).await else {
            tracing::info!(partition = day.partition(), "{done}");
            return Ok(true);
        };
        let error = DbError::from(error);
        connection.batch_execute("rollback").await?;
        match error.sql_state().map(tokio_postgres::error::SqlState::code) {
            // Lock not available; another node was faster (duplicate table, undefined table); deadlock with a COPY.
            Some("55P03" | "42P07" | "42P01" | "40P01") => Ok(false),
            _ => Err(error),
        }
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
