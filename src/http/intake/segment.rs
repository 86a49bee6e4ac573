//! Segment's HTTP tracking API.
//!
//! A batch has events in `batch`; a single call is an event, whose `type` is the last part of the path. An event is stored as it came. It
//! gets the envelope's other members, such as `sentAt`, unless it has them itself; `writeKey` is the token and is not stored. The key is
//! `messageId`, which repeats in a retry, as bodies do not.
//!
//! The official client for Node retries nothing so patiently as 429 with `Retry-After`, so a passing shortage is 429 here, not 503.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::AppState;
use super::super::edge::routes::{Access, Routes};
use super::super::events::builder::{RejectReason, RejectedEvent};
use super::super::openapi::bodies::RejectedResponse;
use super::super::wire::body::WholeBody;
use super::super::wire::error::ApiError;
use super::super::wire::json;
use super::envelope::{Envelope, EventForm};
use super::receive::{TokenPlace, receive};
use crate::ingest::keys::KeyKind;

/// The last parts of the paths of single calls, and the `type` of their events. Browsers' library sends the first letter.
const CALLS: [(&str, &str); 12] = [
    ("/v1/track", "track"),
    ("/v1/identify", "identify"),
    ("/v1/page", "page"),
    ("/v1/screen", "screen"),
    ("/v1/group", "group"),
    ("/v1/alias", "alias"),
    ("/v1/t", "track"),
    ("/v1/i", "identify"),
    ("/v1/p", "page"),
    ("/v1/s", "screen"),
    ("/v1/g", "group"),
    ("/v1/a", "alias"),
];
const BATCHES: [&str; 3] = ["/v1/batch", "/v1/import", "/v1/b"];

const FORM: EventForm = EventForm {
    events: "batch",
    tokens: &["writeKey"],
    properties: None,
    key: ("messageId", KeyKind::Segment),
    bad_key: RejectReason::Invalid("messageId takes a text of up to 1024 bytes"),
    required: None,
};

/// The paths of all calls.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    CALLS.iter().map(|(path, _)| *path).chain(BATCHES)
}

/// The routes of Segment's API.
pub(super) fn routes() -> Routes {
    let calls = CALLS.iter().map(|(path, _)| (*path, routes!(post_call)));
    let batches = BATCHES.iter().map(|path| (*path, routes!(post_batch)));
    calls
        .chain(batches)
        .fold(Routes::default(), |routes, (path, handlers)| routes.route_at(Access::Events, handlers, path))
}

/// The answer to accepted events.
#[derive(Serialize, ToSchema)]
#[schema(as = SegmentAnswer)]
struct SegmentResponse<'a> {
    success: bool,
    /// Events of a batch that were left out.
    #[serde(skip_serializing_if = "<[RejectedEvent]>::is_empty")]
    #[schema(value_type = Vec<RejectedResponse>)]
    rejected: &'a [RejectedEvent],
}

#[utoipa::path(
    post,
    path = "/v1/track",
    tag = "other SDKs",
    summary = "Takes an event of Segment's libraries",
    request_body(content((serde_json::Value = "application/json"), (String = "text/plain"))),
    responses((status = 200, description = "Taken; x-ack says what that is worth", body = SegmentResponse))
)]
async fn post_call(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let path = request.uri().path();
    let call = CALLS.iter().find(|(call, _)| *call == path).map_or("track", |(_, call)| *call);
    answer(take(state, request, Some(call)).await)
}

#[utoipa::path(
    post,
    path = "/v1/batch",
    tag = "other SDKs",
    summary = "Takes a batch of events of Segment's libraries",
    request_body(content((serde_json::Value = "application/json"), (String = "text/plain"))),
    responses((status = 200, description = "Taken; x-ack says what that is worth", body = SegmentResponse))
)]
async fn post_batch(State(state): State<Arc<AppState>>, request: Request) -> Response {
    answer(take(state, request, None).await)
}

/// A passing shortage is 429, as the official client waits for its `Retry-After` without counting a retry.
fn answer(taken: Result<Response, ApiError>) -> Response {
    taken.unwrap_or_else(|refusal| match refusal.status() {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR => {
            refusal.with_status(StatusCode::TOO_MANY_REQUESTS).into_response()
        }
        _ => refusal.into_response(),
    })
}

/// Admits the events of a batch, or the event of a call.
async fn take(
    state: Arc<AppState>,
    request: Request,
    call: Option<&'static str>,
) -> Result<Response, ApiError> {
    let (mut received, body) = receive(state, request, TokenPlace::HeadersOrBody, None).await?;
    let body = body.without_mark();
    let body = match received.awaits_token() {
        false => body,
        true => {
            // Errors in a body are reported to permitted callers only.
            let token = move |body: &WholeBody| {
                Ok(envelope(body, call).ok().and_then(|envelope| envelope.token).map(Cow::into_owned))
            };
            let (token, body) = json::parse(body, token).await?;
            received.authorize(token.as_deref()).await?;
            body
        }
    };
    let admitted = received.admit("segment", body, move |body, builder, space| {
        envelope(body, call)?.add(&FORM, builder, call.map(|call| ("type", call)), space)
    });
    let admitted = admitted.await?.some_or_refused()?;
    let response = SegmentResponse { success: true, rejected: &admitted.batch.rejected };
    let response = serde_json::to_vec(&response).map_err(|_| ApiError::internal())?;
    Ok(admitted.answer(json::json(StatusCode::OK, Body::from(response))))
}

fn envelope<'a>(body: &'a [u8], call: Option<&'static str>) -> Result<Envelope<'a>, ApiError> {
    match call {
        None => Envelope::of_batch(body, &FORM),
        Some(_) => Envelope::of_event(body, &FORM),
    }
}
