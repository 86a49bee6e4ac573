//! `POST /api/v1/events`: one event of any content.

pub(super) mod ack;
pub(super) mod builder;

use std::borrow::Cow;

use axum::body::Body;
use axum::response::IntoResponse;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;

use self::ack::RequestedAck;
use super::wire::body::{self, LimitedBody, WholeBody};
use super::wire::encoding::{Encoding, decode_whole};
use super::wire::error::ApiError;
use super::wire::json;
use super::{AckedResponse, Services, X_TRACE_ID};
use crate::ingest::id::unix_now_us;
use crate::ingest::json::JsonKind;
use crate::ingest::keys::Key;
use crate::ingest::row::Content;
use crate::ingest::{Event, keys, text};
use crate::offload::INLINE_BYTES;

/// Characters of a trace id.
pub(super) const MAX_TRACE_ID: usize = 128;

/// Admits the event, and answers once it has reached the level that `x-ack` names.
#[utoipa::path(
    post,
    path = "/api/v1/events",
    tag = "events",
    summary = "Takes one event of any content",
    params(
        ("ack" = Option<String>, Query, description = "What the answer waits for: queued, journaled or committed"),
        ("key" = Option<String>, Query, description = "A write-only key (tg_w_…), for pages of its origins"),
        ("x-trace-id" = Option<String>, Header, description = "1 to 128 visible ASCII characters"),
        ("idempotency-key" = Option<String>, Header, description = "Of two events with one key the first is stored"),
    ),
    request_body(content((serde_json::Value = "application/json"), (String = "text/plain")), description = "Any bytes, of any content-type; JSON is kept as jsonb, and application/cloudevents+json is a CloudEvent"),
    responses(
        (status = 201, description = "Stored, with ack=committed", headers(("x-ack" = String, description = "committed"), ("x-trace-id" = String, description = "Its trace id"), ("x-receipt" = String, description = "Its id"), ("x-duplicate" = Option<String>, description = "true: an event with its key was stored before"))),
        (status = 202, description = "Taken; x-ack says what that is worth", headers(("x-ack" = String, description = "queued, journaled or committed"), ("x-trace-id" = String, description = "Its trace id"), ("x-receipt" = String, description = "Its id"))),
        (status = 422, description = "Postgres refused it, with ack=committed"),
        (status = 503, description = "The queue or the journal is full"),
    )
)]
pub(super) async fn post(
    services: &Services,
    head: &Parts,
    body: &mut LimitedBody,
) -> Result<AckedResponse, ApiError> {
    let trace_id = trace_id(&head.headers)?;
    let requested = ack::requested(services, head)?;
    let key = ack::key(head)?.map(|(kind, parts)| keys::hash(kind, &parts));
    let whole = match Encoding::of(&head.headers)? {
        Encoding::Identity => body::read_whole(body, &services.bodies).await?,
        encoding => decode_whole(body, encoding, &services.bodies).await?,
    };
    let content_type = content_type(&head.headers);
    let (verdict, whole) = classify(services, whole).await?;
    // A body that is not JSON is stored unchanged, with its byte-order mark.
    let text = text::without_mark(&whole);
    let content = match verdict {
        JsonKind::Jsonb => Content::Jsonb(text),
        JsonKind::NotJsonb(_) | JsonKind::NotJson(_) => Content::Bytes(&whole),
    };
    admit(services, requested, trace_id, content, content_type.as_deref(), key).await
}

/// Admits one event, and answers.
pub(super) async fn admit(
    services: &Services,
    requested: RequestedAck,
    trace_id: Option<HeaderValue>,
    content: Content<'_>,
    content_type: Option<&str>,
    key: Option<Key>,
) -> Result<AckedResponse, ApiError> {
    let event = Event {
        trace_id: trace_id.as_ref().map(HeaderValue::as_bytes),
        content,
        content_type,
        received_at_us: unix_now_us(),
        key,
    };
    let accepted = services.ingest.admit(&event, requested.request).await?;
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let trace_id = match trace_id {
        Some(trace_id) => trace_id,
        None => {
            let id = accepted.trace_id.unwrap_or_default();
            HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
                .map_err(|_| ApiError::internal())?
        }
    };
    let mut response = ack::answer(&accepted, requested, trace_id, Body::empty());
    if let Some(dead) = accepted.dead.1.first() {
        let refusal = ApiError::not_stored(&dead.cause).into_response();
        *response.status_mut() = refusal.status();
        response.headers_mut().extend(refusal.headers().clone());
        *response.body_mut() = refusal.into_body();
    }
    Ok((response, accepted.level))
}

/// Classifies an event, off this thread if it is large.
pub(super) async fn classify(
    services: &Services,
    event: WholeBody,
) -> Result<(JsonKind, WholeBody), ApiError> {
    if event.len() <= INLINE_BYTES {
        return Ok((services.ingest.classify(text::without_mark(&event)), event));
    }
    let ingest = services.ingest.clone();
    // On the heap, as every idle connection holds room for the largest future that it may run.
    Box::pin(json::parse(event, move |event| Ok(ingest.classify(text::without_mark(event))))).await
}

/// The client's trace id.
pub(super) fn trace_id(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    // Clients send an empty one while their tracer is off.
    let Some(value) = headers.get(&X_TRACE_ID).filter(|value| !value.as_bytes().trim_ascii().is_empty())
    else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    if (1..=MAX_TRACE_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) {
        return Ok(Some(value.clone()));
    }
    let message = format!("x-trace-id takes 1 to {MAX_TRACE_ID} visible ASCII characters");
    Err(ApiError::invalid(message).field("x-trace-id"))
}

/// The declared media type. A header may hold any bytes but control characters, a text column takes UTF-8.
pub(super) fn content_type(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()))
}
