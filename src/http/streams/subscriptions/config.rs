//! Subscriptions: created, shown and deleted.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::refusal::{ErrorResponse, Refusal};
use super::{Id, check_caller, check_config, check_existing, id, json, paths, stream_path};
use crate::auth::Principal;
use crate::http::AppState;
use crate::streams::subscriptions::{
    DEFAULT_LEASE_MS, Delivery, Pattern, Phase, SubscriptionConfig, SubscriptionError, SubscriptionView,
    Subscriptions, Wake, link_type,
};
use crate::time::{Micros, Millis};

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
pub(super) async fn put(
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
pub(super) async fn get(
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
pub(super) async fn delete(
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
