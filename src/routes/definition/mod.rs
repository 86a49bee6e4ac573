//! Adds, changes, lists and removes routes.

mod store;

pub use store::RouteStore;
pub(super) use store::{CANCELLED, function_name};

/// A route that was added or changed.
#[derive(Debug, Clone)]
pub struct Added {
    /// Whether it is new.
    pub changed: super::Changed,
    /// Its version.
    pub version: i64,
    /// Remarks for its author.
    pub notes: Vec<String>,
}
