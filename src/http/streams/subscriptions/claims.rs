//! The work of a wake: claimed, acknowledged and released.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::refusal::{ErrorResponse, Refusal};
use super::{Id, check_caller, check_existing, id, json, stream_path};
use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::authorize::Requirement;
use crate::streams::ReadFrom;
use crate::streams::subscriptions::{
    Ack, Kind, MAX_REQUEST_STREAMS, StreamStatus, SubscriptionError, WakeRef,
};

#[derive(Deserialize, ToSchema)]
#[schema(as = SubscriptionClaim)]
struct ClaimRequest {
    /// The name of the worker.
    worker: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionClaimed)]
struct ClaimResponse {
    wake_id: String,
    generation: u64,
    /// For acknowledging and releasing, as `Authorization: Bearer`.
    token: String,
    /// Streams with unacknowledged data first, at most 1,000.
    #[schema(value_type = Vec<Object>)]
    streams: Vec<StreamStatus>,
    lease_ttl_ms: u64,
}

/// `POST /v1/stream/__ds/subscriptions/{id}/claim`.
#[utoipa::path(
    post,
    path = "/v1/stream/__ds/subscriptions/{id}/claim",
    tag = "streams",
    summary = "Claims the work of a pull-wake subscription for a worker",
    params(("id" = String, Path, description = "The subscription")),
    request_body = ClaimRequest,
    responses(
        (status = 200, description = "It is the worker's until the lease ends", body = ClaimResponse),
        (status = 404, description = "There is no such subscription", body = ErrorResponse),
        (status = 409, description = "Another worker holds the lease, or there is nothing to do", body = ErrorResponse),
    )
)]
pub(super) async fn claim_wake(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    path: Id,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    check_caller(&state, &principal)?;
    let (id, ClaimRequest { worker }) = (id(path)?, json(body)?);
    let subscriptions = state.streams()?.subscriptions()?;
    // The usual case needs no look at the subscription.
    if Requirement::Scope(Scope::StreamsClaim).check(&state, &principal).is_err() {
        check_existing(&state, &principal, subscriptions, &id).await?.ok_or(SubscriptionError::NotFound)?;
    }
    let claimed = subscriptions.claim(&id, &worker).await?;
    let shown = ClaimResponse {
        wake_id: claimed.wake.id,
        generation: claimed.wake.generation,
        token: claimed.token,
        streams: claimed.links.iter().map(StreamStatus::new).collect(),
        lease_ttl_ms: claimed.lease_ms,
    };
    let mut response = Json(shown).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[derive(Deserialize, ToSchema)]
#[schema(as = SubscriptionAcks)]
struct AckRequest {
    wake_id: String,
    generation: u64,
    /// Last processed offsets.
    #[serde(default)]
    acks: Option<Vec<StreamAck>>,
    /// The wake is over; else its lease is extended.
    #[serde(default)]
    done: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = SubscriptionAck)]
struct StreamAck {
    #[serde(alias = "path")]
    stream: String,
    offset: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionAcked)]
struct AckResponse {
    ok: bool,
    /// Other data waits: the next wake has begun.
    next_wake: bool,
}

/// The token of a wake: `Authorization: Bearer …`, once.
fn token(headers: &HeaderMap) -> Result<&str, SubscriptionError> {
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(SubscriptionError::TokenInvalid);
    };
    let (scheme, token) =
        value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(SubscriptionError::TokenInvalid)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim())
    } else {
        Err(SubscriptionError::TokenInvalid)
    }
}

async fn acknowledge(
    state: &AppState,
    kind: Kind,
    path: Id,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let (id, token) = (id(path)?, token(headers)?);
    let request: AckRequest = json(body)?;
    let acks = request.acks.unwrap_or_default();
    if acks.len() > MAX_REQUEST_STREAMS {
        return Err(SubscriptionError::invalid("acks", "takes at most 1000 offsets").into());
    }
    let acks = acks.into_iter().map(|ack| {
        let offset = ReadFrom::parse(&ack.offset)
            .ok_or_else(|| SubscriptionError::invalid("acks", "takes offsets of streams"))?;
        Ok(Ack { path: stream_path(&ack.stream, "acks")?, offset })
    });
    let acks: Vec<Ack> = acks.collect::<Result<_, SubscriptionError>>()?;
    let wake = WakeRef { id: request.wake_id, generation: request.generation };
    let is_done = request.done.unwrap_or(false);
    let subscriptions = state.streams()?.subscriptions()?;
    let next_wake = subscriptions.acknowledge(&id, kind, token, &wake, &acks, is_done).await?;
    Ok(Json(AckResponse { ok: true, next_wake }).into_response())
}

/// `POST /v1/stream/__ds/subscriptions/{id}/callback`.
#[utoipa::path(
    post,
    path = "/v1/stream/__ds/subscriptions/{id}/callback",
    tag = "streams",
    summary = "Acknowledges offsets of a webhook's wake",
    description = "With the callback_token of the wake, as Authorization: Bearer.",
    params(("id" = String, Path, description = "The subscription")),
    request_body = AckRequest,
    responses(
        (status = 200, description = "Acknowledged; with done the webhook's wake is over", body = AckResponse),
        (status = 401, description = "The callback_token is missing, invalid or expired", body = ErrorResponse),
        (status = 409, description = "The wake is over, or an offset is invalid; then none is acknowledged", body = ErrorResponse),
    )
)]
pub(super) async fn callback(
    State(state): State<Arc<AppState>>,
    path: Id,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    acknowledge(&state, Kind::Webhook, path, &headers, body).await
}

/// `POST /v1/stream/__ds/subscriptions/{id}/ack`.
#[utoipa::path(
    post,
    path = "/v1/stream/__ds/subscriptions/{id}/ack",
    tag = "streams",
    summary = "Acknowledges offsets of a claimed wake, and extends its lease or ends it",
    description = "With the token of the claim, as Authorization: Bearer.",
    params(("id" = String, Path, description = "The subscription")),
    request_body = AckRequest,
    responses(
        (status = 200, description = "Acknowledged; with done the worker's wake is over, else its lease begins anew", body = AckResponse),
        (status = 401, description = "The token of the claim is missing, invalid or expired", body = ErrorResponse),
        (status = 409, description = "Another worker holds the wake, or it is over, or an offset is invalid; then none is acknowledged", body = ErrorResponse),
    )
)]
pub(super) async fn ack(
    State(state): State<Arc<AppState>>,
    path: Id,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    acknowledge(&state, Kind::PullWake, path, &headers, body).await
}

#[derive(Deserialize, ToSchema)]
#[schema(as = SubscriptionRelease)]
struct ReleaseRequest {
    wake_id: String,
    generation: u64,
}

/// `POST /v1/stream/__ds/subscriptions/{id}/release`.
#[utoipa::path(
    post,
    path = "/v1/stream/__ds/subscriptions/{id}/release",
    tag = "streams",
    summary = "Gives a claimed wake back without acknowledging anything",
    description = "With the token of the claim, as Authorization: Bearer.",
    params(("id" = String, Path, description = "The subscription")),
    request_body = ReleaseRequest,
    responses(
        (status = 204, description = "Another worker can claim it"),
        (status = 401, description = "The token is missing, invalid or expired", body = ErrorResponse),
        (status = 409, description = "The wake is over", body = ErrorResponse),
    )
)]
pub(super) async fn release(
    State(state): State<Arc<AppState>>,
    path: Id,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    let (id, token) = (id(path)?, token(&headers)?);
    let ReleaseRequest { wake_id, generation } = json(body)?;
    let wake = WakeRef { id: wake_id, generation };
    state.streams()?.subscriptions()?.release(&id, token, &wake).await?;
    Ok(StatusCode::NO_CONTENT)
}
