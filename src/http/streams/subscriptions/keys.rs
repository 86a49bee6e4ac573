//! The public keys of webhooks.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use super::refusal::Refusal;
use crate::http::AppState;

/// `GET /v1/stream/__ds/jwks.json`.
#[utoipa::path(
    get,
    path = "/v1/stream/__ds/jwks.json",
    tag = "streams",
    summary = "The public keys of webhooks' signatures (RFC 7517)",
    responses((status = 200, description = "The keys", content_type = "application/jwk-set+json"))
)]
pub(super) async fn jwks(State(state): State<Arc<AppState>>) -> Result<Response, Refusal> {
    let keys = state.streams()?.subscriptions()?.public_keys().await?;
    let mut response = Json(keys).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}
