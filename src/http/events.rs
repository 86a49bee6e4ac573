//! `POST /api/v1/events`: one event, whatever it is.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;

use super::batch::decode::{Encoding, decode_whole};
use super::body::{self, LimitedBody};
use super::error::ApiError;
use super::{Core, X_ACK, X_TRACE_ID};
use crate::ingest::Promise;
use crate::ingest::id::unix_now_us;
use crate::ingest::row::Row;

/// The longest trace id, in characters.
pub(super) const MAX_TRACE_ID: usize = 128;

/// Takes the event, and answers 202 once it has the promise that `x-ack` names.
pub(super) async fn post(core: &Core, head: &Parts, body: &mut LimitedBody) -> Result<Response, ApiError> {
    let trace_id = trace_id(&head.headers)?;
    let whole = match encoding(&head.headers)? {
        Encoding::Identity => body::read_whole(body, &core.bodies).await?,
        encoding => decode_whole(body, encoding, &core.bodies).await?,
    };
    let now_us = unix_now_us();
    let id = core.ingest.ids(1, now_us).take();
    let mut id_text = [0; uuid::fmt::Hyphenated::LENGTH];
    let trace_id = match trace_id {
        Some(trace_id) => trace_id,
        None => HeaderValue::from_str(id.hyphenated().encode_lower(&mut id_text))
            .map_err(|_| ApiError::internal())?,
    };
    let content_type = content_type(&head.headers);
    let row = Row {
        id,
        trace_id: trace_id.as_bytes(),
        content: crate::ingest::content(core.ingest.classify(&whole), &whole),
        content_type: content_type.as_deref(),
        received_at_us: now_us,
    };
    let promise = core.ingest.admit(&row).await?;
    Ok(accepted(promise, trace_id, Body::empty()))
}

/// The 202 that carries a promise.
pub(super) fn accepted(promise: Promise, trace_id: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(X_TRACE_ID.clone(), trace_id);
    headers.insert(X_ACK.clone(), HeaderValue::from_static(promise.name()));
    response
}

/// The client's trace id, checked.
pub(super) fn trace_id(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let Some(value) = headers.get(&X_TRACE_ID) else { return Ok(None) };
    let bytes = value.as_bytes();
    if (1..=MAX_TRACE_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) {
        return Ok(Some(value.clone()));
    }
    let message = format!("x-trace-id takes 1 to {MAX_TRACE_ID} visible ASCII characters");
    Err(ApiError::invalid(message).field("x-trace-id"))
}

pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    headers.get(CONTENT_ENCODING).map_or(Ok(Encoding::Identity), |value| Encoding::parse(value.as_bytes()))
}

/// The declared media type. A header may hold any bytes but control characters, a text column takes UTF-8.
pub(super) fn content_type(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()))
}
