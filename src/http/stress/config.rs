//! `/api/stress/config`: the configuration of stress runs, a part of which can be changed. Changes apply to this process and
//! are lost with it.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::AppState;
use super::super::wire::error::ApiError;
use super::super::wire::query;
use crate::config::{Config, limits};
use crate::records::Name;
use crate::typed::TypeError;

/// The part that can be changed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = StressTunables)]
pub(super) struct Tunables {
    /// The collection of a run that names none.
    default_collection: String,
    /// Messages a second of a stream without a rate.
    pub(super) sse_rate: u64,
    /// Bytes of a large payload.
    pub(super) large_payload_bytes: usize,
    /// The default delay of `error/timeout`, in milliseconds.
    pub(super) error_delay_ms: u64,
}

/// Changes of a configuration.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TunableChanges)]
pub(super) struct ConfigRequest {
    default_collection: Option<String>,
    /// Messages a second.
    sse_rate: Option<u64>,
    large_payload_bytes: Option<u64>,
    error_delay_ms: Option<u64>,
}

/// The settings that bound a run, which cannot be changed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = StressLimits)]
struct Limits {
    max_sse_rate: u64,
    max_sse_streams: usize,
    max_sse_message_bytes: usize,
    sse_buffer_bytes: u64,
    max_large_payload_bytes: usize,
    max_large_in_flight: usize,
    max_error_delay_ms: u64,
    max_record_bytes: usize,
    max_collections: i64,
    max_page_bytes: usize,
}

/// The configuration of this process.
#[derive(Debug)]
pub(super) struct StressSettings {
    tunables: RwLock<Tunables>,
    limits: Limits,
}

#[derive(Serialize, ToSchema)]
#[schema(as = StressConfig)]
struct ConfigResponse<'a> {
    #[serde(flatten)]
    tunables: Tunables,
    limits: &'a Limits,
}

impl StressSettings {
    pub(super) fn new(config: &Config) -> Self {
        let large_payload_bytes = usize::try_from(config.memory().large_payload).unwrap_or(usize::MAX);
        Self {
            tunables: RwLock::new(Tunables {
                default_collection: limits::STRESS_COLLECTION.to_owned(),
                sse_rate: limits::SSE_RATE,
                large_payload_bytes,
                error_delay_ms: limits::STRESS_DELAY_MS,
            }),
            limits: Limits {
                max_sse_rate: limits::SSE_MAX_RATE,
                max_sse_streams: config.max_stress_streams(),
                max_sse_message_bytes: limits::SSE_MAX_MESSAGE_BYTES,
                sse_buffer_bytes: config.subscribers.subscriber_bytes as u64,
                max_large_payload_bytes: large_payload_bytes,
                max_large_in_flight: limits::MAX_LARGE_IN_FLIGHT,
                max_error_delay_ms: limits::MAX_STRESS_DELAY_MS,
                max_record_bytes: config.ingest.max_event_bytes,
                max_collections: limits::MAX_COLLECTIONS,
                max_page_bytes: limits::MAX_PAGE_BYTES,
            },
        }
    }

    pub(super) fn now(&self) -> Tunables {
        self.tunables.read().clone()
    }

    /// Applies all of `changes`, or none.
    fn change(&self, changes: &ConfigRequest) -> Result<(), TypeError> {
        let mut tunables = self.tunables.write();
        let mut changed = tunables.clone();
        let limits = &self.limits;
        if let Some(name) = &changes.default_collection {
            let takes = || TypeError::member("default_collection", "takes the name of a collection");
            changed.default_collection = Name::parse(name).ok_or_else(takes)?.as_str().to_owned();
        }
        if let Some(rate) = within("sse_rate", changes.sse_rate, 1, limits.max_sse_rate)? {
            changed.sse_rate = rate;
        }
        let max_bytes = limits.max_large_payload_bytes as u64;
        if let Some(bytes) = within("large_payload_bytes", changes.large_payload_bytes, 2, max_bytes)? {
            changed.large_payload_bytes = bytes as usize;
        }
        if let Some(delay) = within("error_delay_ms", changes.error_delay_ms, 1, limits.max_error_delay_ms)? {
            changed.error_delay_ms = delay;
        }
        *tunables = changed;
        Ok(())
    }

    fn answer(&self) -> Response {
        Json(ConfigResponse { tunables: self.now(), limits: &self.limits }).into_response()
    }
}

/// `GET`: the current configuration.
#[utoipa::path(
    get,
    path = "/api/stress/config",
    tag = "stress",
    summary = "The configuration of a run",
    responses((status = 200, description = "The current configuration", body = ConfigResponse))
)]
pub(super) async fn get(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let Some(stress) = &state.stress else { return Err(ApiError::unknown_path()) };
    Ok(stress.settings.answer())
}

/// `POST`: changes the named members; answers as `GET`.
#[utoipa::path(
    post,
    path = "/api/stress/config",
    tag = "stress",
    summary = "Changes the configuration, in this process",
    request_body = ConfigRequest,
    responses((status = 200, description = "The current configuration", body = ConfigResponse))
)]
pub(super) async fn post(
    State(state): State<Arc<AppState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let Some(stress) = &state.stress else { return Err(ApiError::unknown_path()) };
    let changes: ConfigRequest = query::json(body).await?;
    stress.settings.change(&changes)?;
    tracing::info!(changes = ?changes, "the stress API's configuration was changed");
    Ok(stress.settings.answer())
}

fn within(name: &str, given: Option<u64>, min: u64, max: u64) -> Result<Option<u64>, TypeError> {
    match given {
        Some(number) if !(min..=max).contains(&number) => {
            Err(TypeError::member(name, &format!("takes a whole number from {min} to {max}")))
        }
        given => Ok(given),
    }
}
