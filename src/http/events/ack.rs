//! The acknowledgement that a producer requests, and the idempotency key of its events.
//!
//! `?ack=queued|journaled|committed` names the level. Without it `Prefer` (RFC 7240) applies: `wait=N` waits up to
//! N seconds for `committed`, `respond-async` accepts the node's own level.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use crate::config::limits;
use crate::http::wire::error::ApiError;
use crate::http::wire::query;
use crate::http::{Services, X_ACK, X_RECEIPT, X_TRACE_ID};
use crate::ingest::keys::{self, Key, KeyKind};
use crate::ingest::{Accepted, AckLevel, AckRequest};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// All of the request's events were stored before, under the same keys.
const X_DUPLICATE: HeaderName = HeaderName::from_static("x-duplicate");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(in crate::http) const CE_ID: HeaderName = HeaderName::from_static("ce-id");
pub(in crate::http) const CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");

/// The longest that a request waits for its events to be committed.
const ACK_TIMEOUT: Duration = Duration::from_millis(limits::ACK_TIMEOUT_MS);
/// The longest key, in bytes.
pub(in crate::http) const MAX_KEY: usize = 1024;
/// The longest `id_field`, in bytes.
const MAX_ID_FIELD: usize = 256;

/// The parts that a key is a hash of.
pub(in crate::http) type KeyParts<'a> = (KeyKind, Vec<&'a [u8]>);

/// The acknowledgement that a request asks for, and the preference that named it.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct RequestedAck {
    pub(in crate::http) request: AckRequest,
    /// For `Preference-Applied`.
    preference: Option<&'static str>,
}

/// Reads the requested acknowledgement. It checks the query too, as requests with events bypass the router.
pub(in crate::http) fn requested(services: &Services, head: &Parts) -> Result<RequestedAck, ApiError> {
    query::check(head.uri.query())?;
    let default = AckRequest { level: services.ingest.level(), timeout: ACK_TIMEOUT };
    let Some(ack) = parameter(head.uri.query(), "ack") else { return Ok(preferred(&head.headers, default)) };
    let reject = |message: String| Err(ApiError::invalid(message).field("ack"));
    match AckLevel::named(&ack) {
        Some(level) if services.ingest.can_ack(level) => {
            Ok(RequestedAck { request: AckRequest { level, ..default }, preference: None })
        }
        Some(level) => reject(format!("this node does not support {}: DURABILITY=memory", level.name())),
        None => reject("ack takes queued, journaled or committed".into()),
    }
}

fn preferred(headers: &HeaderMap, default: AckRequest) -> RequestedAck {
    let mut requested = RequestedAck { request: default, preference: None };
    // Unknown preferences are ignored, as RFC 7240 requires.
    let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    for preference in values.flat_map(|value| value.split(',')) {
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        let seconds = value.split(';').next().unwrap_or_default().trim().trim_matches('"').parse();
        match (name.trim().to_ascii_lowercase().as_str(), seconds) {
            ("wait", Ok(seconds)) => {
                let timeout = Duration::from_secs(seconds).min(ACK_TIMEOUT);
                let request = AckRequest { level: AckLevel::Committed, timeout };
                return RequestedAck { request, preference: Some("wait") };
            }
            ("respond-async", _) => requested.preference = Some("respond-async"),
            _ => {}
        }
    }
    requested
}

/// A decoded parameter of the query.
pub(in crate::http) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// The checked value of `id_field`.
pub(in crate::http) fn id_field(head: &Parts) -> Result<Option<String>, ApiError> {
    match parameter(head.uri.query(), "id_field") {
        Some(name) if name.is_empty() || name.len() > MAX_ID_FIELD => {
            let message = format!("id_field takes the name of a member, of 1 to {MAX_ID_FIELD} bytes");
            Err(ApiError::invalid(message).field("id_field"))
        }
        name => Ok(name),
    }
}

/// The write-only key of a request. The key is public: without a key space of its own, anyone could use the idempotency keys
/// of other producers' future events, which would then be dropped as duplicates.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct KeySpace(pub(in crate::http) Uuid);

/// The key space of a request's events; `None`: the shared one.
pub(in crate::http) fn key_space(head: &Parts) -> Option<&[u8]> {
    head.extensions.get::<KeySpace>().map(|KeySpace(id)| &id.as_bytes()[..])
}

/// The parts of the request's idempotency key.
pub(in crate::http) fn key(head: &Parts) -> Result<Option<KeyParts<'_>>, ApiError> {
    let headers = &head.headers;
    let in_space = |mut parts: Vec<_>| {
        parts.extend(key_space(head));
        parts
    };
    if let Some(value) = headers.get(IDEMPOTENCY_KEY) {
        let bytes = value.as_bytes();
        // The header is a quoted string (RFC 9651); many clients omit the quotes.
        let bare = bytes.strip_prefix(b"\"").and_then(|bytes| bytes.strip_suffix(b"\"")).unwrap_or(bytes);
        return Ok(Some((KeyKind::Header, in_space(vec![checked(bare, "idempotency-key")?]))));
    }
    match (headers.get(CE_SOURCE), headers.get(CE_ID)) {
        (Some(source), Some(id)) => {
            let parts = vec![checked(source.as_bytes(), "ce-source")?, checked(id.as_bytes(), "ce-id")?];
            Ok(Some((KeyKind::CloudEvent, in_space(parts))))
        }
        _ => Ok(None),
    }
}

fn checked<'a>(key: &'a [u8], field: &'static str) -> Result<&'a [u8], ApiError> {
    if (1..=MAX_KEY).contains(&key.len()) {
        return Ok(key);
    }
    Err(ApiError::invalid(format!("{field} takes 1 to {MAX_KEY} bytes")).field(field))
}

/// The key of the event at `index` of a batch with a key.
pub(in crate::http) fn key_in_batch(kind: KeyKind, parts: &[Vec<u8>], index: u64) -> Key {
    let index = index.to_be_bytes();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).chain([&index[..]]).collect();
    keys::hash(kind, &parts)
}

/// The answer to accepted events.
pub(in crate::http) fn answer(
    accepted: &Accepted,
    requested: RequestedAck,
    trace_id: HeaderValue,
    body: Body,
) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = match accepted.level {
        AckLevel::Committed => StatusCode::CREATED,
        _ => StatusCode::ACCEPTED,
    };
    let headers = response.headers_mut();
    headers.insert(X_TRACE_ID.clone(), trace_id);
    headers.insert(X_ACK.clone(), HeaderValue::from_static(accepted.level.name()));
    if let Some(receipt) = accepted.receipt
        && let Ok(receipt) = HeaderValue::try_from(receipt.to_string())
    {
        headers.insert(X_RECEIPT.clone(), receipt);
    }
    if accepted.duplicates.count > 0
        && accepted.receipt.is_some_and(|of| of.events == accepted.duplicates.count)
    {
        headers.insert(X_DUPLICATE, HeaderValue::from_static("true"));
    }
    if let Some(preference) = requested.preference {
        headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static(preference));
    }
    response
}
