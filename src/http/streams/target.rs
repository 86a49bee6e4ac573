//! The stream that a request names, and the caller's permission for it.

use hyper::{StatusCode, Uri};

use super::{PREFIX, StreamsApi};
use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::authorize::Requirement;
use crate::http::wire::error::ApiError;
use crate::streams::{PathError, StreamPath};

/// The stream of a request whose caller has the scope for it.
pub(super) fn of<'a>(
    state: &'a AppState,
    principal: &Principal,
    scope: Scope,
    uri: &Uri,
) -> Result<(&'a StreamsApi, StreamPath), ApiError> {
    let api = state.streams()?;
    let path = parse(uri.path().strip_prefix(PREFIX).unwrap_or_default(), "path")?;
    check(state, principal, scope, &path)?;
    let is_read = scope == Scope::StreamsRead;
    if !is_read && api.streams.settings.registry.as_ref() == Some(&path) {
        let message = "the registry is written by the service alone";
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message));
    }
    Ok((api, path))
}

/// Checks that a caller has a scope for a path.
pub(super) fn check(
    state: &AppState,
    principal: &Principal,
    scope: Scope,
    path: &StreamPath,
) -> Result<(), ApiError> {
    Requirement::Stream(scope, path.as_str().into()).check(state, principal)
}

/// A percent-encoded path, below `/v1/stream/`.
pub(super) fn parse(encoded: &str, field: &'static str) -> Result<StreamPath, ApiError> {
    StreamPath::decode(encoded).map_err(|error| match error {
        // There is nothing else below it.
        PathError::Reserved => ApiError::unknown_path(),
        error => ApiError::invalid(error.to_string()).field(field),
    })
}
