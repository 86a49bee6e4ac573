//! `/api/stress/config`: what a stress run reads before it begins, and what it may change while the service runs. Changes
//! are this process's, and gone with it.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::openapi::bodies::TunableChanges;
use super::super::wire::error::ApiError;
use super::super::wire::query;
use super::super::{AppState, not_found};
use crate::config::Config;
use crate::records::Name;

/// What can be changed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = StressTunables)]
pub(super) struct Tunables {
    /// The collection that a run uses if it is told no other.
    default_collection: String,
    /// Messages a second of a stream that asks for no rate.
    pub(super) sse_rate: u64,
    /// Bytes of a large payload.
    pub(super) large_payload_bytes: usize,
    /// Milliseconds that `error/timeout` takes if it is told nothing else.
    pub(super) error_delay_ms: u64,
}

/// What cannot: the settings that bound a run.
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
struct Answer<'a> {
    #[serde(flatten)]
    tunables: Tunables,
    limits: &'a Limits,
}

impl StressSettings {
    pub(super) fn new(config: &Config) -> Self {
        let (stress, large, records) = (&config.stress, &config.large, &config.records);
        Self {
            tunables: RwLock::new(Tunables {
                default_collection: stress.stress_default_collection.clone(),
                sse_rate: stress.sse_default_rate,
                large_payload_bytes: large.max_large_payload_bytes,
                error_delay_ms: stress.stress_default_delay_ms.min(large.max_stress_delay_ms),
            }),
            limits: Limits {
                max_sse_rate: stress.sse_max_rate,
                max_sse_streams: stress.max_sse_streams,
                max_sse_message_bytes: stress.sse_max_message_bytes,
                sse_buffer_bytes: stress.sse_buffer_bytes,
                max_large_payload_bytes: large.max_large_payload_bytes,
                max_large_in_flight: large.max_large_in_flight,
                max_error_delay_ms: large.max_stress_delay_ms,
                max_record_bytes: records.max_record_bytes,
                max_collections: records.max_collections,
                max_page_bytes: records.max_page_bytes,
            },
        }
    }

    pub(super) fn now(&self) -> Tunables {
        self.tunables.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes all of `changes`, or none.
    fn change(&self, changes: &Map<String, Value>) -> Result<(), ApiError> {
        let mut tunables = self.tunables.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = tunables.clone();
        let limits = &self.limits;
        for (name, value) in changes {
            match name.as_str() {
                "default_collection" => {
                    let given = value.as_str().and_then(Name::parse);
                    let given = given.ok_or_else(|| refuse(name, "the name of a collection"))?;
                    changed.default_collection = given.as_str().to_owned();
                }
                "sse_rate" => changed.sse_rate = whole(name, value, 1, limits.max_sse_rate)?,
                "large_payload_bytes" => {
                    let most = limits.max_large_payload_bytes as u64;
                    changed.large_payload_bytes = whole(name, value, 2, most)? as usize;
                }
                "error_delay_ms" => {
                    changed.error_delay_ms = whole(name, value, 1, limits.max_error_delay_ms)?;
                }
                _ => return Err(refuse(name, "nothing: there is no such member that can be changed")),
            }
        }
        *tunables = changed;
        Ok(())
    }

    fn answer(&self) -> Response {
        Json(Answer { tunables: self.now(), limits: &self.limits }).into_response()
    }
}

/// `GET`: what holds now.
#[utoipa::path(
    get,
    path = "/api/stress/config",
    tag = "stress",
    summary = "What a run reads before it begins",
    responses((status = 200, description = "What holds now", body = Answer))
)]
pub(super) async fn get(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let Some(stress) = &state.stress else { return Err(not_found().await) };
    Ok(stress.settings.answer())
}

/// `POST`: changes the members that are named; answers as `GET`.
#[utoipa::path(
    post,
    path = "/api/stress/config",
    tag = "stress",
    summary = "Changes what a run reads, in this process",
    request_body = TunableChanges,
    responses((status = 200, description = "What holds now", body = Answer))
)]
pub(super) async fn post(
    State(state): State<Arc<AppState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let Some(stress) = &state.stress else { return Err(not_found().await) };
    let changes: Map<String, Value> = query::json(body).await?;
    stress.settings.change(&changes)?;
    let names: Vec<&str> = changes.keys().map(String::as_str).collect();
    tracing::info!(members = names.join(","), "the stress API's configuration was changed");
    Ok(stress.settings.answer())
}

fn whole(name: &str, value: &Value, least: u64, most: u64) -> Result<u64, ApiError> {
    let given = value.as_u64().filter(|given| (least..=most).contains(given));
    given.ok_or_else(|| refuse(name, &format!("a whole number from {least} to {most}")))
}

fn refuse(name: &str, takes: &str) -> ApiError {
    // Only the start of a long name is repeated.
    let name: String = name.chars().take(100).collect();
    ApiError::invalid(format!("{name} takes {takes}")).field(name)
}
