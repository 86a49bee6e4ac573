//! Recounts routes: an event is in the target, refused or deferred.

mod store;

/// The books of a route.
#[derive(Debug, Clone)]
pub struct RouteBooks {
    /// The route.
    pub name: String,
    /// Rows that it wrote.
    pub rows: i64,
    /// Events that it refused.
    pub refused: i64,
    /// Refused events that are no longer in `requests`.
    pub refused_gone: i64,
    /// Events that wait until it is live again.
    pub deferred: i64,
    /// Deferred events that are no longer in `requests`.
    pub deferred_gone: i64,
    /// Rows of the target, by its column `event_id`, whose event counts as refused or deferred as well. `None`: there is no such column, or
    /// no target, or no right to read it.
    pub doubled: Option<i64>,
}

impl RouteBooks {
    /// Whether no event is counted twice.
    pub fn agree(&self) -> bool {
        // A range with more events than it counts holds some twice.
        self.doubled.unwrap_or(0) == 0 && self.deferred_gone >= 0
    }
}
