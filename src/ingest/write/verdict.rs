//! The meaning of a Postgres error for a batch ([`Verdict`]) and for a row ([`Fault`]).
//!
//! The classes are those of Postgres' appendix "PostgreSQL Error Codes".

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::db::DbError;
use crate::ingest::event::dead_letter::{self, Reason};
use crate::ingest::event::row::Tuple;

/// Classes of errors that a row can cause: data exception, integrity constraint, program limit, raised by a trigger.
pub const ROW_FAULTS: [&str; 4] = ["22", "23", "54", "P0"];
/// Errors of these classes that no row causes: Postgres did not understand the COPY's framing.
pub const OWN_FORMAT: [&str; 2] = ["22P03", "22P04"];

/// What to do with a batch whose COPY failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A passing error: retry the same batch soon.
    Retry,
    /// A row is at fault: isolate it.
    Bisect,
    /// The database or its schema is at fault, not the batch: keep it, report the error, and retry until an operator has
    /// repaired the database.
    Halt,
}

impl Verdict {
    /// The verdict's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Bisect => "bisect",
            Self::Halt => "halt",
        }
    }

    /// The verdict on an error.
    pub fn on(error: &DbError) -> Self {
        match error.sql_state() {
            // A trigger dropped a row.
            None if error.is_dropped_by_trigger() => Self::Bisect,
            // There was no connection, or it failed.
            None => Self::Retry,
            // No row is at fault. The next attempt finds a partition that was attached meanwhile.
            Some(_) if error.is_partition_missing() => Self::Halt,
            // Tables without events.
            Some(state) if error.table().is_some_and(|table| table.starts_with("ingest_")) => {
                match Self::on_state(state) {
                    Self::Bisect => Self::Halt,
                    verdict => verdict,
                }
            }
            Some(state) => Self::on_state(state),
        }
    }

    fn on_state(state: &SqlState) -> Self {
        match state.code() {
            code if OWN_FORMAT.contains(&code) => Self::Halt,
            // Too many connections, out of memory; a full disk halts.
            "53100" => Self::Halt,
            // A read-only server: a failover is in progress.
            "25006" => Self::Retry,
            // A lock or statement timeout.
            "55P03" | "57014" => Self::Retry,
            code => match code.get(..2).unwrap_or("") {
                class if ROW_FAULTS.contains(&class) => Self::Bisect,
                // Connection, rollback (serialization, deadlock), resources, operator intervention.
                "08" | "40" | "53" | "57" => Self::Retry,
                // Such as 42: a missing table, column or privilege.
                _ => Self::Halt,
            },
        }
    }

    /// The delay before the `attempt`-th retry (from 1): doubling, jittered, at most 2 s, or 5 s after [`Self::Halt`].
    pub fn delay(self, attempt: u32) -> Duration {
        let max_ms = if self == Self::Halt { 5_000 } else { 2_000 };
        let full_ms = 50u64.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(max_ms);
        Duration::from_millis(fastrand::u64(full_ms / 2..=full_ms))
    }
}

/// Why a row cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The reason that its dead letter shows.
    pub reason: Reason,
    /// The SQLSTATE; empty for a row that a trigger dropped.
    pub state: String,
    /// The violated constraint; empty if Postgres names none.
    pub constraint: String,
    /// The error as kept in the dead letter, beginning with the SQLSTATE if there is one.
    pub error: String,
    /// The number of COPYs that contained the row.
    pub attempts: u32,
}

impl Fault {
    /// The fault of a row that failed in a COPY of its own.
    pub fn of(error: &DbError, attempts: u32) -> Self {
        let reason = match error {
            DbError::DroppedByTrigger { .. } => Reason::DroppedByTrigger,
            _ => Reason::Rejected,
        };
        Self {
            reason,
            state: error.state_code().unwrap_or_default().to_owned(),
            constraint: error.constraint().unwrap_or_default().to_owned(),
            error: error.with_sources(),
            attempts,
        }
    }

    /// The tuple of the row's dead letter.
    pub fn dead_letter(&self, tuple: Tuple<'_>) -> Vec<u8> {
        dead_letter::encode_rejected(tuple, &self.error, self.reason, self.attempts)
    }

    /// Reads a result of a probe: the row's index and its fault.
    pub(super) fn read(row: &Row, attempts: u32) -> Result<(usize, Self), DbError> {
        let index = row.try_get::<_, i32>(0)? as usize;
        let Some(state) = row.try_get::<_, Option<&str>>(1)? else {
            let dropped = DbError::DroppedByTrigger { table: "requests", sent: 1, stored: 0 };
            return Ok((index, Self::of(&dropped, attempts)));
        };
        let (constraint, message): (&str, &str) = (row.try_get(2)?, row.try_get(3)?);
        let fault = Self {
            reason: Reason::Rejected,
            state: state.to_owned(),
            constraint: constraint.to_owned(),
            error: format!("{state} {message}"),
            attempts,
        };
        Ok((index, fault))
    }
}

/// The faults of a batch, by the index of their rows.
pub type Faults = BTreeMap<u64, Fault>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_errors_has_a_verdict() {
        let cases = [
            ("22P02", Verdict::Bisect),
            ("22P04", Verdict::Halt),
            ("23514", Verdict::Bisect),
            ("54001", Verdict::Bisect),
            ("P0001", Verdict::Bisect),
            ("42P01", Verdict::Halt),
            ("42501", Verdict::Halt),
            ("53100", Verdict::Halt),
            ("53300", Verdict::Retry),
            ("40P01", Verdict::Retry),
            ("57P01", Verdict::Retry),
            ("57014", Verdict::Retry),
            ("25006", Verdict::Retry),
            ("08006", Verdict::Retry),
            ("XX000", Verdict::Halt),
            // A server may send any text.
            ("", Verdict::Halt),
            ("é", Verdict::Halt),
            ("5é", Verdict::Halt),
        ];
        for (code, verdict) in cases {
            assert_eq!(Verdict::on_state(&SqlState::from_code(code)), verdict, "{code}");
        }
    }

    #[test]
    fn delays_double_up_to_their_limit() {
        for attempt in 1..100 {
            assert!(Verdict::Retry.delay(attempt) <= Duration::from_secs(2));
            assert!(Verdict::Halt.delay(attempt) <= Duration::from_secs(5));
        }
        assert!(Verdict::Retry.delay(1) <= Duration::from_millis(50));
        assert!(Verdict::Retry.delay(20) >= Duration::from_secs(1));
    }
}
