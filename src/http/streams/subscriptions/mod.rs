//! Subscriptions to streams: `/v1/stream/__ds/subscriptions/{id}` and the public keys of webhooks (sections 6 and 7 of the protocol).
//!
//! Errors have the protocol's own codes: `{"error": {"code": "FENCED", "message": "…"}}`. A callback, an acknowledgement and a release show the token
//! of their wake instead of one of the service.

mod claims;
mod config;
mod keys;
mod links;
mod refusal;

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::{BytesRejection, PathRejection};
use hyper::StatusCode;
use serde::de::DeserializeOwned;
use utoipa_axum::routes;

use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::authorize::Requirement;
use crate::http::edge::routes::{Access, Routes};
use crate::http::wire::error::ApiError;
use crate::ingest::text;
use crate::streams::StreamPath;
use crate::streams::subscriptions::{
    MAX_REQUEST_STREAMS, SubscriptionConfig, SubscriptionError, SubscriptionId, SubscriptionView,
    Subscriptions,
};
use crate::typed;
use refusal::Refusal;

/// Every route of subscriptions.
pub(super) fn routes() -> Routes {
    let claim = Access::Paths(Scope::StreamsClaim);
    Routes::default()
        .route(claim, routes!(config::put, config::get, config::delete))
        .route(claim, routes!(links::link))
        .route(claim, routes!(links::unlink))
        .route(claim, routes!(claims::claim_wake))
        .route(Access::WakeToken, routes!(claims::callback))
        .route(Access::WakeToken, routes!(claims::ack))
        .route(Access::WakeToken, routes!(claims::release))
        .route(Access::Fixed, routes!(keys::jwks))
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
