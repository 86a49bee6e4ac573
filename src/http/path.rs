//! Ids that stand in paths.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;

/// The ids of a path. What is no id is the id of nothing, so it is refused as what is `missing` is.
pub(super) fn known<T, E>(ids: Result<Path<T>, PathRejection>, missing: E) -> Result<T, E> {
    ids.map(|Path(ids)| ids).map_err(|_| missing)
}
