//! `HEAD` and `DELETE` of `/v1/stream/{path}`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};

use super::headers::{
    STREAM_CLOSED, STREAM_COMPACTION, STREAM_EXPIRES_AT, STREAM_FIRST_OFFSET, STREAM_NEXT_OFFSET,
    STREAM_RETENTION, STREAM_TTL, set_offset, set_true,
};
use super::refusal::Refusal;
use super::{StreamsApi, target};
use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::streams::{Freshness, Lifetime, StreamHead, StreamPath};

/// The answer to `HEAD`. It renews nothing, and no cache may keep it.
pub(super) async fn head(api: &StreamsApi, path: &StreamPath) -> Result<Response, Refusal> {
    let stream = api.streams.store.get(path, Freshness::Verified).await?;
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    describe(headers, &stream);
    set_offset(headers, &STREAM_NEXT_OFFSET, stream.tail);
    if stream.closed {
        set_true(headers, &STREAM_CLOSED);
    }
    match stream.lifetime {
        None => {}
        Some(Lifetime::Ttl(seconds)) => {
            headers.insert(&STREAM_TTL, HeaderValue::from(seconds));
        }
        Some(Lifetime::ExpiresAt(time)) => set_text(headers, &STREAM_EXPIRES_AT, &time.to_string()),
    }
    if let Some(retention) = stream.retention {
        set_text(headers, &STREAM_RETENTION, &retention.to_string());
        set_offset(headers, &STREAM_FIRST_OFFSET, stream.kept_from);
    }
    if stream.compacts_by_key {
        headers.insert(&STREAM_COMPACTION, HeaderValue::from_static("key"));
    }
    let closed = if stream.closed { ":c" } else { "" };
    set_text(
        headers,
        &ETAG,
        &format!("\"{:x}-{}:{}{closed}\"", stream.id.0, stream.generation, stream.tail.0),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Writes the type of a stream.
pub(super) fn describe(headers: &mut HeaderMap, stream: &StreamHead) {
    set_text(headers, &CONTENT_TYPE, stream.content_type.as_str());
}

fn set_text(headers: &mut HeaderMap, name: &hyper::header::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// `DELETE /v1/stream/{path}`.
#[utoipa::path(
    delete,
    path = "/v1/stream/{*path}",
    tag = "streams",
    summary = "Deletes a stream",
    params(("path" = String, Path, description = "The stream")),
    responses(
        (status = 204, description = "Deleted. While forks live, its path stays taken"),
        (status = 404, description = "There is no such stream"),
        (status = 405, description = "The stream is the registry"),
        (status = 410, description = "The stream was deleted, and is kept for its forks"),
    )
)]
pub(super) async fn delete(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, Refusal> {
    let (api, path) = target::of(&state, &principal, Scope::StreamsDelete, request.uri())?;
    api.streams.store.delete(&path).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
