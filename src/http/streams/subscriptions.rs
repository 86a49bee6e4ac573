//! Subscriptions to streams: `/v1/stream/__ds/subscriptions/{id}` and the public keys of webhooks (sections 6 and 7 of the protocol).
//!
//! Errors have the protocol's own codes: `{"error": {"code": "FENCED", "message": "…"}}`. A callback, an acknowledgement and a release show the token
//! of their wake instead of one of the service.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::authorize::Requirement;
use crate::http::edge::routes::{Access, Routes};
use crate::http::wire::error::ApiError;
use crate::ingest::text;
use crate::streams::subscriptions::{
    Ack, DEFAULT_LEASE_MS, Delivery, Kind, MAX_REQUEST_STREAMS, Pattern, Phase, StreamStatus,
    SubscriptionConfig, SubscriptionError, SubscriptionId, SubscriptionView, Subscriptions, Wake, WakeRef,
    link_type,
};
use crate::streams::{ReadFrom, StreamError, StreamPath};
use crate::time::{Micros, Millis};
use crate::typed::{self, TypeError};

/// After a shortage that may pass in a moment.
const RETRY: Duration = Duration::from_secs(1);

/// Every route of subscriptions.
pub(super) fn routes() -> Routes {
    let claim = Access::Paths(Scope::StreamsClaim);
    Routes::default()
        .route(claim, routes!(put, get, delete))
        .route(claim, routes!(link))
        .route(claim, routes!(unlink))
        .route(claim, routes!(claim_wake))
        .route(Access::WakeToken, routes!(callback))
        .route(Access::WakeToken, routes!(ack))
        .route(Access::WakeToken, routes!(release))
        .route(Access::Fixed, routes!(jwks))
}

/// An error in the protocol's form.
#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionError)]
struct ErrorResponse {
    error: ErrorDetail,
}

/// The details of an error of subscriptions.
#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionErrorDetail)]
struct ErrorDetail {
    /// A code of the protocol.
    #[schema(example = "FENCED")]
    code: &'static str,
    /// A sentence for people.
    message: String,
    /// The member at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The worker that holds the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_holder: Option<String>,
    /// The generation of its wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

/// A refusal of a request about subscriptions.
#[derive(Debug)]
pub(super) enum Refusal {
    Api(ApiError),
    Subscription(SubscriptionError),
    Type(TypeError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<SubscriptionError> for Refusal {
    fn from(error: SubscriptionError) -> Self {
        Self::Subscription(error)
    }
}

impl From<TypeError> for Refusal {
    fn from(error: TypeError) -> Self {
        Self::Type(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, detail) = match self {
            Self::Api(error) => return error.into_response(),
            Self::Type(error) => {
                let detail = detail("INVALID_REQUEST", &error);
                (StatusCode::BAD_REQUEST, ErrorDetail { field: Some(error.field().to_owned()), ..detail })
            }
            Self::Subscription(error) => match of_subscription(error) {
                Ok(answer) => answer,
                Err(error) => return error.into_response(),
            },
        };
        let mut response = (status, Json(ErrorResponse { error: detail })).into_response();
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn detail(code: &'static str, message: &impl ToString) -> ErrorDetail {
    ErrorDetail { code, message: message.to_string(), field: None, current_holder: None, generation: None }
}

/// The status and the details of an error; `Err`: it is one of the service, in its form.
fn of_subscription(error: SubscriptionError) -> Result<(StatusCode, ErrorDetail), ApiError> {
    use StatusCode as S;
    let (status, code) = match &error {
        SubscriptionError::Invalid { .. } | SubscriptionError::TooMany => (S::BAD_REQUEST, "INVALID_REQUEST"),
        SubscriptionError::WebhookUrl(_) => (S::BAD_REQUEST, "WEBHOOK_URL_REJECTED"),
        SubscriptionError::TokenInvalid => (S::UNAUTHORIZED, "TOKEN_INVALID"),
        SubscriptionError::TokenExpired => (S::UNAUTHORIZED, "TOKEN_EXPIRED"),
        SubscriptionError::NotFound => (S::NOT_FOUND, "SUBSCRIPTION_NOT_FOUND"),
        SubscriptionError::Exists => (S::CONFLICT, "SUBSCRIPTION_ALREADY_EXISTS"),
        SubscriptionError::Fenced => (S::CONFLICT, "FENCED"),
        SubscriptionError::AlreadyClaimed { .. } => (S::CONFLICT, "ALREADY_CLAIMED"),
        SubscriptionError::NoPendingWork => (S::CONFLICT, "NO_PENDING_WORK"),
        SubscriptionError::InvalidOffset(_) => (S::CONFLICT, "INVALID_OFFSET"),
        SubscriptionError::Streams(StreamError::Database(error)) | SubscriptionError::Database(error) => {
            return Err(ApiError::from(&**error));
        }
        SubscriptionError::Streams(_) => {
            return Err(ApiError::unavailable("overloaded", error.to_string(), RETRY));
        }
        SubscriptionError::NoRandomness => return Err(ApiError::internal()),
    };
    let detail = detail(code, &error);
    Ok(match error {
        SubscriptionError::Invalid { field, .. } => {
            (status, ErrorDetail { field: Some(field.to_owned()), ..detail })
        }
        SubscriptionError::WebhookUrl(_) => {
            (status, ErrorDetail { field: Some("webhook.url".to_owned()), ..detail })
        }
        SubscriptionError::AlreadyClaimed { holder, generation } => {
            let (current_holder, generation) = (Some(holder), Some(generation));
            (status, ErrorDetail { current_holder, generation, ..detail })
        }
        _ => (status, detail),
    })
}

/// The two kinds of subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = SubscriptionType)]
enum KindName {
    Webhook,
    PullWake,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = SubscriptionRequest)]
struct SubscriptionRequest {
    #[serde(rename = "type")]
    kind: KindName,
    /// A pattern of paths: `*` is one segment, `**` any number.
    pattern: Option<String>,
    /// Paths of streams.
    streams: Option<Vec<String>>,
    webhook: Option<WebhookRequest>,
    /// The path of the stream that takes the wakes of type pull-wake.
    wake_stream: Option<String>,
    /// Milliseconds, from 1,000 to 600,000; 30,000 without it.
    lease_ttl_ms: Option<u64>,
    description: Option<String>,
}

#[derive(Deserialize, ToSchema)]
struct WebhookRequest {
    /// https; http only to this machine, with WEBHOOK_ALLOW_PRIVATE.
    url: String,
}

impl SubscriptionRequest {
    fn into_config(self) -> Result<SubscriptionConfig, SubscriptionError> {
        let delivery = match (self.kind, self.webhook) {
            (KindName::Webhook, Some(webhook)) => Delivery::Webhook(webhook.url),
            (KindName::Webhook, None) => {
                return Err(SubscriptionError::invalid("webhook", "is missing: type webhook needs its url"));
            }
            (KindName::PullWake, _) => Delivery::PullWake,
        };
        let pattern = self.pattern.filter(|pattern| !pattern.is_empty());
        let pattern = pattern.map(|pattern| Pattern::parse(&pattern)).transpose();
        let streams = paths(&self.streams.unwrap_or_default())?;
        let wake_stream = self.wake_stream.filter(|path| !path.is_empty());
        Ok(SubscriptionConfig {
            delivery,
            pattern: pattern.map_err(|error| SubscriptionError::invalid("pattern", &error.to_string()))?,
            streams: streams.into_iter().collect::<BTreeSet<_>>(),
            wake_stream: wake_stream.map(|path| stream_path(&path, "wake_stream")).transpose()?,
            lease_ms: self.lease_ttl_ms.unwrap_or(DEFAULT_LEASE_MS),
            description: self.description,
        })
    }
}

/// A path in a body: relative to the root of streams. A `/` at its beginning or end has no meaning.
fn stream_path(text: &str, field: &'static str) -> Result<StreamPath, SubscriptionError> {
    StreamPath::new(text.trim_matches('/'))
        .map_err(|error| SubscriptionError::Invalid { field, message: error.to_string() })
}

fn paths(texts: &[String]) -> Result<Vec<StreamPath>, SubscriptionError> {
    if texts.len() > MAX_REQUEST_STREAMS {
        return Err(SubscriptionError::invalid("streams", "takes at most 1000 paths"));
    }
    texts.iter().map(|text| stream_path(text, "streams")).collect()
}

#[derive(Serialize, ToSchema)]
#[schema(as = Subscription)]
struct SubscriptionResponse {
    id: String,
    subscription_id: String,
    #[serde(rename = "type")]
    kind: KindName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    /// Linked streams, at most 1,000.
    streams: Vec<LinkResponse>,
    /// There are more linked streams than are shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    has_more_streams: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<WebhookResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wake_stream: Option<String>,
    lease_ttl_ms: u64,
    created_at: String,
    /// `active`, or `failed`: the last attempt to wake failed, and is repeated.
    status: &'static str,
    /// The failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// The time of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionLink)]
struct LinkResponse {
    path: String,
    /// `explicit`, or `glob`: by the pattern.
    link_type: &'static str,
    acked_offset: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionWebhook)]
struct WebhookResponse {
    url: String,
    signing: SigningResponse,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionSigning)]
struct SigningResponse {
    alg: &'static str,
    kid: String,
    jwks_url: String,
}

fn millis(time: Micros) -> String {
    Millis(time.0.div_euclid(1_000)).to_string()
}

impl SubscriptionResponse {
    async fn new(subscriptions: &Subscriptions, view: SubscriptionView) -> Result<Self, SubscriptionError> {
        let SubscriptionView { subscription, state, links, has_more } = view;
        let config = &subscription.config;
        let (kind, webhook) = match &config.delivery {
            Delivery::PullWake => (KindName::PullWake, None),
            Delivery::Webhook(url) => {
                let jwks_url = subscriptions.urls().jwks().unwrap_or_default();
                let signing =
                    SigningResponse { alg: "ed25519", kid: subscriptions.signing_key().await?, jwks_url };
                (KindName::Webhook, Some(WebhookResponse { url: url.clone(), signing }))
            }
        };
        let next_attempt_at = match &state.wake {
            Some(Wake { phase: Phase::Due(at), .. }) if state.is_failed() => Some(millis(*at)),
            _ => None,
        };
        let id = subscription.id.as_str().to_owned();
        Ok(Self {
            subscription_id: id.clone(),
            id,
            kind,
            pattern: config.pattern.as_ref().map(|pattern| pattern.as_str().to_owned()),
            streams: links
                .iter()
                .map(|link| LinkResponse {
                    path: link.path.to_string(),
                    link_type: link_type(link),
                    acked_offset: link.acked.to_string(),
                })
                .collect(),
            has_more_streams: has_more,
            webhook,
            wake_stream: config.wake_stream.as_ref().map(ToString::to_string),
            lease_ttl_ms: config.lease_ms,
            created_at: millis(subscription.created_at),
            status: if state.is_failed() { "failed" } else { "active" },
            last_error: state.failure,
            next_attempt_at,
            description: config.description.clone(),
        })
    }
}

/// Reads a JSON body.
fn json<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large("the body is larger than 2 MiB"),
        _ => ApiError::invalid("the body broke off before its end"),
    })?;
    Ok(typed::from_slice(text::without_mark(&body))?)
}

type Id = Result<Path<String>, PathRejection>;

/// Refuses callers without the scope for any stream, before anything is read from their request.
fn check_caller(state: &AppState, principal: &Principal) -> Result<(), ApiError> {
    Requirement::SomeStream(Scope::StreamsClaim).check(state, principal)
}

fn id(id: Id) -> Result<SubscriptionId, Refusal> {
    let Path(id) = id.map_err(|_| SubscriptionError::invalid("id", "takes UTF-8, percent-encoded"))?;
    Ok(SubscriptionId::new(&id)?)
}

/// Checks that a caller has the scope `streams:claim` for all streams of a subscription: for every path that its pattern may match, and for
/// those that it names. A wake stream is written on behalf of the caller.
fn check_config<'a>(
    state: &AppState,
    principal: &Principal,
    config: &SubscriptionConfig,
    streams: impl Iterator<Item = &'a StreamPath>,
) -> Result<(), ApiError> {
    if Requirement::Scope(Scope::StreamsClaim).check(state, principal).is_err() {
        let prefix = config.pattern.as_ref().map(|pattern| pattern.literal_prefix().to_owned());
        let mut names: Vec<String> = streams.map(ToString::to_string).chain(prefix).collect();
        if names.is_empty() {
            names.push(String::new());
        }
        for name in names {
            Requirement::Stream(Scope::StreamsClaim, name.into()).check(state, principal)?;
        }
    }
    match &config.wake_stream {
        Some(path) => Requirement::Stream(Scope::StreamsWrite, path.as_str().into()).check(state, principal),
        None => Ok(()),
    }
}

/// Checks that a caller has the scope for a subscription that exists; `None`: there is none.
async fn check_existing(
    state: &AppState,
    principal: &Principal,
    subscriptions: &Subscriptions,
    id: &SubscriptionId,
) -> Result<Option<SubscriptionView>, Refusal> {
    match subscriptions.get(id).await {
        Ok(view) => {
            let named = view.links.iter().filter(|link| link.is_explicit).map(|link| &link.path);
            check_config(state, principal, &view.subscription.config, named)?;
            Ok(Some(view))
        }
        Err(SubscriptionError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `PUT /v1/stream/__ds/subscriptions/{id}`.
#[utoipa::path(
    put,
    path = "/v1/stream/__ds/subscriptions/{id}",
    tag = "streams",
    summary = "Creates a subscription to streams",
    params(("id" = String, Path, description = "The subscription")),
    request_body = SubscriptionRequest,
    responses(
        (status = 200, description = "There was one of the same configuration", body = SubscriptionResponse),
        (status = 201, description = "Created; streams that exist are linked at their ends", body = SubscriptionResponse),
        (status = 400, description = "An invalid member, or a URL that webhooks may not reach", body = ErrorResponse),
        (status = 409, description = "There is one of another configuration", body = ErrorResponse),
    )
)]
async fn put(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    path: Id,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    check_caller(&state, &principal)?;
    let (id, request): (_, SubscriptionRequest) = (id(path)?, json(body)?);
    let config = request.into_config()?;
    config.check()?;
    check_config(&state, &principal, &config, config.streams.iter())?;
    let subscriptions = state.streams()?.subscriptions()?;
    let (view, is_new) = subscriptions.create(&id, &config).await?;
    let shown = SubscriptionResponse::new(subscriptions, view).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(shown)).into_response())
}

/// `GET /v1/stream/__ds/subscriptions/{id}`.
#[utoipa::path(
    get,
    path = "/v1/stream/__ds/subscriptions/{id}",
    tag = "streams",
    summary = "A subscription to streams, and its acknowledged offsets",
    params(("id" = String, Path, description = "The subscription")),
    responses(
        (status = 200, description = "The subscription", body = SubscriptionResponse),
        (status = 404, description = "There is none", body = ErrorResponse),
    )
)]
async fn get(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    path: Id,
) -> Result<Response, Refusal> {
    check_caller(&state, &principal)?;
    let (id, subscriptions) = (id(path)?, state.streams()?.subscriptions()?);
    let view =
        check_existing(&state, &principal, subscriptions, &id).await?.ok_or(SubscriptionError::NotFound)?;
    let mut response = Json(SubscriptionResponse::new(subscriptions, view).await?).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `DELETE /v1/stream/__ds/subscriptions/{id}`.
#[utoipa::path(
    delete,
    path = "/v1/stream/__ds/subscriptions/{id}",
    tag = "streams",
    summary = "Deletes a subscription to streams, and fences its workers",
    params(("id" = String, Path, description = "The subscription")),
    responses((status = 204, description = "There is none any more"))
)]
async fn delete(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    path: Id,
) -> Result<StatusCode, Refusal> {
    check_caller(&state, &principal)?;
    let (id, subscriptions) = (id(path)?, state.streams()?.subscriptions()?);
    if check_existing(&state, &principal, subscriptions, &id).await?.is_some() {
        subscriptions.delete(&id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

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
async fn link(
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
async fn unlink(
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
async fn claim_wake(
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
        (status = 200, description = "Acknowledged", body = AckResponse),
        (status = 401, description = "The token is missing, invalid or expired", body = ErrorResponse),
        (status = 409, description = "The wake is over, or an offset is invalid; then none is acknowledged", body = ErrorResponse),
    )
)]
async fn callback(
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
        (status = 200, description = "Acknowledged", body = AckResponse),
        (status = 401, description = "The token is missing, invalid or expired", body = ErrorResponse),
        (status = 409, description = "The wake is over, or an offset is invalid; then none is acknowledged", body = ErrorResponse),
    )
)]
async fn ack(
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
async fn release(
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

/// `GET /v1/stream/__ds/jwks.json`.
#[utoipa::path(
    get,
    path = "/v1/stream/__ds/jwks.json",
    tag = "streams",
    summary = "The public keys of webhooks' signatures (RFC 7517)",
    responses((status = 200, description = "The keys", content_type = "application/jwk-set+json"))
)]
async fn jwks(State(state): State<Arc<AppState>>) -> Result<Response, Refusal> {
    let keys = state.streams()?.subscriptions()?.public_keys().await?;
    let mut response = Json(keys).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}
