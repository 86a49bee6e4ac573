//! Logs of OpenTelemetry (OTLP/HTTP, <https://opentelemetry.io/docs/specs/otlp/#otlphttp>), as JSON and as protobuf.
//!
//! A log record is an event, stored the same whichever way it came: its members under their names in JSON, `attributes` and `body` as plain
//! JSON, and `resource` and `scope` beside them. Members that are unknown here are kept, of JSON; protobuf has no names for them.
//!
//! A record has no id. A retry has the same bytes, so its key is made of the hash of the decompressed body and its place in it.
//!
//! A record that cannot be kept is left out and reported as a partial success. An exporter drops a batch after 500 and 400, so a passing
//! shortage is 503 or 429.

mod from_json;
mod from_protobuf;
mod protobuf;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use utoipa_axum::routes;

use super::super::AppState;
use super::super::edge::routes::{Access, Routes};
use super::super::events::builder::{BatchBuilder, RejectReason};
use super::super::wire::error::{ApiError, Envelope};
use super::super::wire::json as json_wire;
use super::receive::{TokenPlace, receive};
use crate::ingest::keys::{self, KeyKind};
use crate::ingest::text;

/// The path of logs.
pub(super) const PATH: &str = "/v1/logs";
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

/// Levels of lists and maps in a value.
const MAX_DEPTH: usize = 32;
/// Bytes of a resource and a scope, of which each record gets a copy.
const MAX_SHARED_BYTES: usize = 64 * 1024;

/// The form of a request and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

/// The route of logs.
pub(super) fn routes() -> Routes {
    Routes::default().route(Access::Events, routes!(post))
}

#[utoipa::path(
    post,
    path = "/v1/logs",
    tag = "other SDKs",
    summary = "Takes logs of OpenTelemetry",
    request_body(content((serde_json::Value = "application/json"), (String = "application/x-protobuf"))),
    responses(
        (status = 200, description = "Taken, but for the records of partialSuccess; x-ack says what that is worth", content((serde_json::Value = "application/json"), (String = "application/x-protobuf"))),
        (status = 401, description = "The token is invalid, or missing and required", content((Envelope = "application/json"), (String = "application/x-protobuf"))),
        (status = 403, description = "The token lacks the permission events:write", content((Envelope = "application/json"), (String = "application/x-protobuf"))),
        (status = 429, description = "Too many requests; Retry-After has the seconds until the next one", content((Envelope = "application/json"), (String = "application/x-protobuf"))),
        (status = "default", description = "An error, as google.rpc.Status too", content((Envelope = "application/json"), (String = "application/x-protobuf"))),
    )
)]
async fn post(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let form = form(request.headers());
    let taken = match form {
        Some(form) => take(state, request, form).await,
        None => {
            let refused = receive(state, request, TokenPlace::Headers, None).await.err();
            Err(refused.unwrap_or_else(|| {
                json_wire::unsupported("logs are application/json or application/x-protobuf")
            }))
        }
    };
    taken.unwrap_or_else(|refusal| {
        let refusal = match refusal.status() {
            StatusCode::INTERNAL_SERVER_ERROR => refusal.with_status(StatusCode::SERVICE_UNAVAILABLE),
            _ => refusal,
        };
        refuse(refusal, form.unwrap_or(Form::Json))
    })
}

/// The form that a request declares; `None`: another one.
fn form(headers: &HeaderMap) -> Option<Form> {
    let declared = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        JSON => Some(Form::Json),
        PROTOBUF | "application/protobuf" => Some(Form::Protobuf),
        _ => None,
    }
}

async fn take(state: Arc<AppState>, request: Request, form: Form) -> Result<Response, ApiError> {
    if form == Form::Json {
        json_wire::media_type(request.headers())?;
    }
    let (received, body) = receive(state, request, TokenPlace::Headers, None).await?;
    let admitted = received.admit("otlp", body, move |body, builder, space| {
        let digest: [u8; 32] = Sha256::digest(body).into();
        let mut records = Records { builder, digest, space, written: Vec::new(), count: 0 };
        match form {
            Form::Json => {
                json_wire::check_start(body)?;
                from_json::read(text::without_mark(body), &mut records)
            }
            Form::Protobuf => from_protobuf::read(body, &mut records),
        }
    });
    let admitted = admitted.await?;
    let rejected = &admitted.batch.rejected;
    let partial = rejected.first().map(|first| (rejected.len() as u64, first.message()));
    let mut response = Response::new(Body::from(success(form, partial)));
    response.headers_mut().insert(CONTENT_TYPE, form.media_type());
    Ok(admitted.answer(response))
}

/// An `ExportLogsServiceResponse`: of a partial success it has the number of rejected records, and a reason.
fn success(form: Form, partial: Option<(u64, String)>) -> Vec<u8> {
    match (form, partial) {
        (Form::Json, None) => b"{}".to_vec(),
        (Form::Protobuf, None) => Vec::new(),
        (Form::Json, Some((rejected, message))) => {
            let partial = json!({"rejectedLogRecords": rejected.to_string(), "errorMessage": message});
            json!({"partialSuccess": partial}).to_string().into_bytes()
        }
        (Form::Protobuf, Some((rejected, message))) => {
            let (mut partial, mut response) = (Vec::new(), Vec::new());
            protobuf::put_varint(&mut partial, 1, rejected);
            protobuf::put_bytes(&mut partial, 2, message.as_bytes());
            protobuf::put_bytes(&mut response, 1, &partial);
            response
        }
    }
}

/// A `google.rpc.Status`, with the form of our own errors.
#[derive(Serialize)]
struct StatusResponse<'a> {
    code: u64,
    message: &'a str,
    #[serde(flatten)]
    error: Envelope<'a>,
}

/// The answer to a request that was not taken: a `google.rpc.Status`, with the headers that every error has.
fn refuse(refusal: ApiError, form: Form) -> Response {
    // The codes of gRPC for these statuses.
    let code = match refusal.status() {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE => 3,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 2,
    };
    let body = match form {
        // Readers of a Status skip its further member.
        Form::Json => {
            let status = StatusResponse { code, message: refusal.message(), error: refusal.envelope() };
            serde_json::to_vec(&status).unwrap_or_default()
        }
        Form::Protobuf => {
            let mut status = Vec::new();
            protobuf::put_varint(&mut status, 1, code);
            protobuf::put_bytes(&mut status, 2, refusal.message().as_bytes());
            status
        }
    };
    let mut response = refusal.into_response();
    *response.body_mut() = Body::from(body);
    response.headers_mut().insert(CONTENT_TYPE, form.media_type());
    response
}

impl Form {
    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => JSON,
            Self::Protobuf => PROTOBUF,
        })
    }
}

/// What makes a request or a record unusable.
#[derive(Debug)]
enum Fault {
    /// A record cannot be kept.
    Record(RejectReason),
    /// The request ends.
    Request(ApiError),
}

impl Fault {
    const fn record(message: &'static str) -> Self {
        Self::Record(RejectReason::Invalid(message))
    }
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self::Request(error)
    }
}

const TOO_DEEP: Fault = Fault::record("a value is nested deeper than 32 levels");
const TOO_MUCH_SHARED: RejectReason =
    RejectReason::Invalid("its resource and scope have more than 65536 bytes together");

/// The records of a request on their way into a batch.
struct Records<'b, 's> {
    builder: &'b mut BatchBuilder,
    /// Of the body.
    digest: [u8; 32],
    space: Option<&'s [u8]>,
    /// The record that is written.
    written: Vec<u8>,
    /// Records so far.
    count: u64,
}

impl Records<'_, '_> {
    /// Adds a record of `bytes` on the wire, which `write` writes as JSON, with the members `resource` and `scope`.
    fn add(
        &mut self,
        bytes: usize,
        resource: &[u8],
        scope: &[u8],
        write: impl FnOnce(&mut super::members::ObjectWriter<'_>) -> Result<(), Fault>,
    ) -> Result<(), ApiError> {
        let place = self.count;
        self.count += 1;
        if bytes > self.builder.max_event_bytes() {
            return self.builder.reject_too_large();
        }
        if resource.len() + scope.len() > MAX_SHARED_BYTES {
            return self.builder.reject(TOO_MUCH_SHARED);
        }
        self.written.clear();
        let mut record = super::members::ObjectWriter::new(&mut self.written);
        match write(&mut record) {
            Ok(()) => {}
            Err(Fault::Record(reason)) => return self.builder.reject(reason),
            Err(Fault::Request(error)) => return Err(error),
        }
        // Behind the record's own members, so that they win.
        record.raw("resource", resource);
        record.raw("scope", scope);
        record.end();
        if self.written.len() > self.builder.max_event_bytes() {
            return self.builder.reject_too_large();
        }
        let place = place.to_be_bytes();
        let parts = [&self.digest[..], &place, self.space.unwrap_or_default()];
        let parts = if self.space.is_some() { &parts[..] } else { &parts[..2] };
        let key = keys::hash(KeyKind::Otlp, parts);
        self.builder.add(&self.written, |_| Ok(Some(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_requests_form() {
        assert_eq!(success(Form::Json, None), b"{}");
        assert!(success(Form::Protobuf, None).is_empty());
        let partial = || Some((300, "no".to_owned()));
        let json: serde_json::Value = serde_json::from_slice(&success(Form::Json, partial())).unwrap();
        assert_eq!(json, json!({"partialSuccess": {"rejectedLogRecords": "300", "errorMessage": "no"}}));
        assert_eq!(success(Form::Protobuf, partial()), b"\x0a\x07\x08\xac\x02\x12\x02no");
    }
}
