//! Recounts routes: an event is in the target, refused or deferred.

mod store;

use serde::Serialize;

/// The books of a route.
#[derive(Debug, Clone, Serialize)]
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
    /// The count of its target. `None`: no column of it is the event's id, another route writes there, or it cannot be read.
    pub target: Option<TargetBooks>,
}

/// The count of a target, by the column that is the event's id.
#[derive(Debug, Clone, Serialize)]
pub struct TargetBooks {
    /// The column.
    pub column: String,
    /// Its rows.
    pub rows: i64,
    /// Rows whose event counts as refused or deferred as well.
    pub doubled: i64,
    /// Rows of events beyond those that the select makes of them.
    pub repeated: i64,
    /// Rows without an event: it is no longer in `requests`, the select does not take it now, or the row is of another program.
    pub without_event: i64,
    /// Events that the select takes, and that are neither in the target, nor refused, nor deferred: stored before the route or while it was
    /// disabled, or their rows were deleted. `None`: with a key, a newer event takes the place of an older one.
    pub not_routed: Option<i64>,
}

impl RouteBooks {
    /// Whether no event is counted twice.
    pub fn agree(&self) -> bool {
        let doubled = self.target.as_ref().map_or(0, |target| target.doubled + target.repeated);
        // A range with more events than it counts holds some twice.
        doubled == 0 && self.deferred_gone >= 0
    }
}
