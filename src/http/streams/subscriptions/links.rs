//! Links of subscriptions to streams by name.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use hyper::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::refusal::{ErrorResponse, Refusal};
use super::{Id, check_caller, check_existing, id, json, paths, stream_path};
use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::authorize::Requirement;
use crate::streams::subscriptions::{SubscriptionError, SubscriptionId};

#[derive(Deserialize, ToSchema)]
#[schema(as = SubscriptionStreams)]
struct LinkRequest {
    /// Paths of streams.
    streams: Vec<String>,
}

/// `POST /v1/stream/__ds/subscriptions/{id}/streams`.
#[utoipa::path(
    post,
    path = "/v1/stream/__ds/subscriptions/{id}/streams",
    tag = "streams",
    summary = "Links streams to a subscription, at their ends",
    params(("id" = String, Path, description = "The subscription")),
    request_body = LinkRequest,
    responses(
        (status = 204, description = "They are linked; those that were keep their offsets"),
        (status = 404, description = "There is no such subscription", body = ErrorResponse),
    )
)]
pub(super) async fn link(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    path: Id,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    check_caller(&state, &principal)?;
    let (id, LinkRequest { streams }) = (id(path)?, json(body)?);
    if streams.is_empty() {
        return Err(SubscriptionError::invalid("streams", "takes at least one path").into());
    }
    let (streams, subscriptions) = (paths(&streams)?, state.streams()?.subscriptions()?);
    for path in &streams {
        Requirement::Stream(Scope::StreamsClaim, path.as_str().into()).check(&state, &principal)?;
    }
    check_existing(&state, &principal, subscriptions, &id).await?;
    subscriptions.link(&id, &streams).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v1/stream/__ds/subscriptions/{id}/streams/{path}`.
#[utoipa::path(
    delete,
    path = "/v1/stream/__ds/subscriptions/{id}/streams/{*path}",
    tag = "streams",
    summary = "Ends the link of a subscription to a stream by name",
    params(
        ("id" = String, Path, description = "The subscription"),
        ("path" = String, Path, description = "The stream"),
    ),
    responses(
        (status = 204, description = "It is linked by the pattern alone, or not at all"),
        (status = 404, description = "There is no such subscription", body = ErrorResponse),
    )
)]
pub(super) async fn unlink(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    check_caller(&state, &principal)?;
    let Path((name, path)) =
        path.map_err(|_| SubscriptionError::invalid("path", "takes UTF-8, percent-encoded"))?;
    let (id, path) = (SubscriptionId::new(&name)?, stream_path(&path, "path")?);
    let subscriptions = state.streams()?.subscriptions()?;
    check_existing(&state, &principal, subscriptions, &id).await?;
    subscriptions.unlink(&id, &path).await?;
    Ok(StatusCode::NO_CONTENT)
}
