//! Tries a definition on stored or given events, in a transaction that is rolled back.

mod store;

use uuid::Uuid;

/// The most events of a check.
pub const MOST_EVENTS: usize = 1_000;

/// The events of a check.
#[derive(Debug, Clone)]
pub enum Sample {
    /// The last ones that are stored.
    Newest(usize),
    /// A JSON array of payloads.
    Given(String),
}

/// The result of a check.
#[derive(Debug, Clone)]
pub struct CheckReport {
    /// The select's columns.
    pub columns: Vec<String>,
    /// Remarks.
    pub notes: Vec<String>,
    /// The number of events of the sample.
    pub events: u64,
    /// Rows that would be written.
    pub rows: i64,
    /// Events that would be refused.
    pub refused: i64,
    /// Their errors, the most frequent first, at most 20.
    pub errors: Vec<CheckedError>,
    /// The SQLSTATE and message for which the route would be suspended.
    pub suspends: Option<(String, String)>,
    /// The plan of its insert over the sample, as `explain` prints it; empty if it has none.
    pub plan: Vec<String>,
    /// The route's share of the time that Postgres needs to store the sample, from 0 to 1.
    pub share: f64,
}

/// An error of a check.
#[derive(Debug, Clone)]
pub struct CheckedError {
    /// The SQLSTATE.
    pub sqlstate: String,
    /// The message.
    pub message: String,
    /// The number of events.
    pub events: i64,
    /// One of them.
    pub example: Uuid,
}
