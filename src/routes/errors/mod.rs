//! Events that routes refused: listed, routed again, or forgotten. The events themselves are in `requests`.

mod store;

use uuid::Uuid;

pub use store::RouteErrorStore;

/// A selection of refused events.
#[derive(Debug, Clone, Default)]
pub struct ErrorFilter {
    /// Of this route.
    pub route: Option<String>,
    /// With this SQLSTATE.
    pub sqlstate: Option<String>,
    /// Refused at this time or later, in microseconds of Unix time.
    pub since_us: Option<i64>,
    /// Refused before this time.
    pub until_us: Option<i64>,
}

/// The end of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCursor {
    /// The time at which its last event was refused, in microseconds of Unix time.
    pub failed_at_us: i64,
    /// The event.
    pub id: Uuid,
    /// The number of the route.
    pub route: i32,
}

/// An event that a route refused.
#[derive(Debug, Clone)]
pub struct RefusedEvent {
    /// The event's id.
    pub id: Uuid,
    /// The number of the route.
    pub route_id: i32,
    /// Its name.
    pub route: String,
    /// The SQLSTATE.
    pub sqlstate: String,
    /// Postgres' message.
    pub message: String,
    /// The number of attempts.
    pub attempts: i32,
    /// The event's trace id; empty if it is no longer there.
    pub trace_id: String,
    /// The declared media type.
    pub content_type: Option<String>,
    /// RFC 3339.
    pub received_at: String,
    /// RFC 3339.
    pub failed_at: String,
    /// `failed_at` in microseconds of Unix time.
    pub failed_at_us: i64,
    /// The body's size in bytes.
    pub bytes: i64,
}

/// The result of routing refused events again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rerouted {
    /// Taken.
    pub taken: u64,
    /// Refused again.
    pub refused: u64,
    /// No longer in `requests`; their errors are forgotten.
    pub missing: u64,
    /// Whether the limit was reached, so that there may be more.
    pub more: bool,
}

/// The result of a correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corrected {
    /// The content has this version now.
    Done(i64),
    /// It has another version than the caller expects.
    Mismatch,
    /// No route has refused such an event.
    NotFound,
}
