//! PostHog's capture API, and the answers that its libraries need beside it: no feature flag exists.
//!
//! A body is an envelope with `batch`, an event, or an array of events; as JSON, gzipped (declared or not), or in base64 within a form. An event is stored as
//! it came, and gets the envelope's other members unless it has them itself; `api_key` and `token` are the token and are not stored. The key
//! is `uuid`.
//!
//! The official client for Node drops a batch after four HTTP errors and keeps it after errors of the network. So a passing shortage ends
//! the connection without an answer, and a request that comes while the service starts is held for a while.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use percent_encoding::percent_decode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::AppState;
use super::super::edge::routes::{Access, Routes};
use super::super::events::ack::parameter;
use super::super::events::builder::{RejectReason, RejectedEvent};
use super::super::openapi::bodies::RejectedResponse;
use super::super::server::ConnectionHandle;
use super::super::wire::body::WholeBody;
use super::super::wire::encoding::Encoding;
use super::super::wire::error::ApiError;
use super::super::wire::json;
use super::envelope::{Envelope, EventForm};
use super::receive::{TokenPlace, receive};
use crate::ingest::keys::KeyKind;

/// The paths that take events.
const CAPTURES: [&str; 4] = ["/batch", "/capture", "/e", "/i/v0/e"];
/// The paths that answer questions of the libraries, without the service's own segments.
const QUESTIONS: [&str; 3] = ["/flags", "/flags/definitions", "/decide"];

/// The start of the paths of what pages ask first.
const CONFIG: &str = "/array/";

/// The field of a form with the events.
const DATA: &[u8] = b"data=";

/// The time for which a request waits for a start. Clients wait for 10 s.
const START_WAIT: Duration = Duration::from_secs(8);

const FORM: EventForm = EventForm {
    events: "batch",
    tokens: &["api_key", "token"],
    properties: Some("properties"),
    key: ("uuid", KeyKind::PostHog),
    bad_key: RejectReason::Invalid("uuid takes a text of up to 1024 bytes"),
    required: Some(("event", RejectReason::Invalid("event takes a text"))),
};

/// Padding is optional, as some libraries leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The paths that have no parameters.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    CAPTURES.into_iter().chain(QUESTIONS)
}

/// Whether a path is one of these routes, which pages of all sites call.
pub(super) fn is_for_pages(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.starts_with(CONFIG) || paths().any(|one| one == path)
}

/// The routes of PostHog's API.
pub(super) fn routes() -> Routes {
    let routes = CAPTURES
        .iter()
        .fold(Routes::default(), |routes, path| routes.route_at(Access::Events, routes!(capture), path));
    routes
        .route(Access::Fixed, routes!(flags))
        .route(Access::Fixed, routes!(definitions))
        .route(Access::Fixed, routes!(decide))
        .route(Access::Fixed, routes!(config))
        .route(Access::Fixed, routes!(config_script))
}

/// The answer to accepted events.
#[derive(Serialize, ToSchema)]
#[schema(as = PostHogAnswer)]
struct PostHogResponse<'a> {
    status: &'static str,
    /// Events that were left out.
    #[serde(skip_serializing_if = "<[RejectedEvent]>::is_empty")]
    #[schema(value_type = Vec<RejectedResponse>)]
    rejected: &'a [RejectedEvent],
}

#[utoipa::path(
    post,
    path = "/batch",
    tag = "other SDKs",
    summary = "Takes events of PostHog's libraries",
    params(("compression" = Option<String>, Query, description = "base64, gzip or gzip-js")),
    request_body(content((serde_json::Value = "application/json"), (String = "application/x-www-form-urlencoded"), (String = "text/plain"))),
    responses((status = 200, description = "Taken; x-ack says what that is worth", body = PostHogResponse))
)]
async fn capture(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let connection = request.extensions().get::<ConnectionHandle>().cloned();
    take(state, request).await.unwrap_or_else(|refusal| {
        if let StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR = refusal.status()
            && let Some(connection) = connection
        {
            // The answer is counted, and not sent.
            connection.reset();
        }
        refusal.into_response()
    })
}

async fn take(state: Arc<AppState>, request: Request) -> Result<Response, ApiError> {
    let _may_be_late = tokio::time::timeout(START_WAIT, state.lifecycle.started()).await;
    let query = parameter(request.uri().query(), "compression");
    let is_encoded = request.headers().contains_key(CONTENT_ENCODING);
    let encoding = match query.as_deref() {
        // By the query instead of a header, which would cost a page a preflight.
        Some("gzip" | "gzip-js") if !is_encoded => Some(Encoding::Gzip),
        _ => None,
    };
    let (mut received, body) = receive(state, request, TokenPlace::HeadersOrBody, encoding).await?;
    let is_base64 = query.as_deref() == Some("base64");
    let is_form = has_form(&received.head);
    let (unpacked, body) =
        json::parse(body, move |body: &WholeBody| unpack(body, is_form, is_base64)).await?;
    let body = match unpacked {
        None => body.without_mark(),
        Some(bytes) => WholeBody::gathered_within(bytes, received.budget())?.without_mark(),
    };
    let body = match received.awaits_token() {
        false => body,
        true => {
            // Errors in a body are reported to permitted callers only.
            let token = move |body: &WholeBody| {
                Ok(Envelope::of_any(body, &FORM)
                    .ok()
                    .and_then(|envelope| envelope.token)
                    .map(Cow::into_owned))
            };
            let (token, body) = json::parse(body, token).await?;
            received.authorize(token.as_deref()).await?;
            body
        }
    };
    let admitted = received.admit("posthog", body, move |body, builder, space| {
        Envelope::of_any(body, &FORM)?.add(&FORM, builder, None, space)
    });
    let admitted = admitted.await?.some_or_refused()?;
    let response = PostHogResponse { status: "Ok", rejected: &admitted.batch.rejected };
    let response = serde_json::to_vec(&response).map_err(|_| ApiError::internal())?;
    Ok(admitted.answer(json::json(StatusCode::OK, Body::from(response))))
}

fn has_form(head: &Parts) -> bool {
    let declared = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    declared.to_ascii_lowercase().starts_with(b"application/x-www-form-urlencoded")
}

/// The JSON within a form and within base64; `None`: the body is JSON itself.
fn unpack(body: &[u8], is_form: bool, is_base64: bool) -> Result<Option<Vec<u8>>, ApiError> {
    let is_form = !starts_as_json(body) && (is_form || body.starts_with(DATA));
    let mut fields = body.split(|byte| *byte == b'&').filter_map(|field| field.strip_prefix(DATA));
    let data = match is_form.then(|| fields.next_back()) {
        Some(Some(data)) => match Cow::from(percent_decode(data)) {
            // A form's `+` is a space, but base64's own where the library did not encode it.
            json if starts_as_json(&json) => {
                let spaced: Vec<u8> =
                    data.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
                return Ok(Some(percent_decode(&spaced).collect()));
            }
            base64 => base64,
        },
        Some(None) => return Err(ApiError::invalid("the form has no data").field("data")),
        None if is_base64 => Cow::Borrowed(body.trim_ascii()),
        None => return Ok(None),
    };
    let plain: Vec<u8> = data.iter().map(|byte| if *byte == b' ' { b'+' } else { *byte }).collect();
    match BASE64.decode(plain) {
        Ok(json) => Ok(Some(json)),
        Err(_) => Err(ApiError::invalid("data is neither JSON nor base64").field("data")),
    }
}

fn starts_as_json(text: &[u8]) -> bool {
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// An answer that is the same for everybody.
fn fixed(body: &serde_json::Value) -> Response {
    json::json(StatusCode::OK, Body::from(body.to_string()))
}

#[utoipa::path(
    post,
    path = "/flags",
    tag = "other SDKs",
    summary = "Answers that no feature flag is on",
    responses((status = 200, description = "No flags", body = serde_json::Value))
)]
async fn flags() -> Response {
    fixed(
        &json!({"flags": {}, "featureFlags": {}, "featureFlagPayloads": {}, "errorsWhileComputingFlags": false}),
    )
}

#[utoipa::path(
    get,
    path = "/flags/definitions",
    tag = "other SDKs",
    summary = "Answers that there is no feature flag to evaluate",
    responses((status = 200, description = "No flags", body = serde_json::Value))
)]
async fn definitions() -> Response {
    fixed(&json!({"flags": [], "group_type_mapping": {}, "cohorts": {}}))
}

#[utoipa::path(
    post,
    path = "/decide",
    tag = "other SDKs",
    summary = "Answers older libraries that no feature flag is on",
    responses((status = 200, description = "No flags", body = serde_json::Value))
)]
async fn decide() -> Response {
    fixed(&json!({
        "config": {}, "featureFlags": {}, "featureFlagPayloads": {}, "errorsWhileComputingFlags": false,
        "supportedCompression": ["gzip", "gzip-js", "base64"], "sessionRecording": false, "isAuthenticated": false,
        "toolbarParams": {}, "siteApps": [], "capturePerformance": false,
    }))
}

/// What pages may turn on: nothing but compression.
fn remote_config() -> serde_json::Value {
    json!({
        "hasFeatureFlags": false, "sessionRecording": false, "surveys": false, "heatmaps": false, "siteApps": [],
        "supportedCompression": ["gzip", "gzip-js", "base64"], "capturePerformance": false,
        "autocapture_opt_out": false, "defaultIdentifiedOnly": true,
    })
}

#[utoipa::path(
    get,
    path = "/array/{key}/config",
    tag = "other SDKs",
    summary = "Answers pages that nothing is configured here",
    params(("key" = String, Path, description = "A key, which is ignored")),
    responses((status = 200, description = "No flags, recordings and surveys", body = serde_json::Value))
)]
async fn config() -> Response {
    fixed(&remote_config())
}

#[utoipa::path(
    get,
    path = "/array/{key}/config.js",
    tag = "other SDKs",
    summary = "The same as a script",
    params(("key" = String, Path, description = "A key, which is ignored")),
    responses((status = 200, description = "A script without effect", body = String, content_type = "application/javascript"))
)]
async fn config_script() -> Response {
    let mut response = Response::new(Body::from("/* nothing is configured here */"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/javascript"));
    response
}
