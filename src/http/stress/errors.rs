//! `/api/stress/error`: failures on demand. Each is a real failure, handled like one that was not requested.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use hyper::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::super::AppState;
use super::super::records::collection_of_record;
use super::super::wire::error::ApiError;
use crate::config::limits;
use crate::records::RecordId;

/// `GET /api/stress/error/404/{collection}/{id}`: looks for a record whose id no record can have.
#[utoipa::path(
    get,
    path = "/api/stress/error/404/{collection}/{id}",
    tag = "stress",
    summary = "Looks for a record that no collection has",
    params(("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items"), ("id" = String, Path, description = "Anything")),
    responses((status = 404, description = "Always"))
)]
pub(super) async fn not_found(
    State(state): State<Arc<AppState>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let services = state.services()?;
    let name = collection_of_record(path)?;
    let found = services.records()?.get(&name, RecordId::impossible()).await;
    Err(found.map_or_else(ApiError::from, |_| ApiError::internal()))
}

/// `GET /api/stress/error/auth`: verifies an invalid token.
#[utoipa::path(
    get,
    path = "/api/stress/error/auth",
    tag = "stress",
    summary = "Verifies an invalid token",
    responses((status = 401, description = "Always"))
)]
pub(super) async fn unauthorized(State(state): State<Arc<AppState>>) -> Result<StatusCode, ApiError> {
    match state.verifier.verify("not.a.token") {
        Err(refused) => Err(refused.into()),
        Ok(_) => Err(ApiError::internal()),
    }
}

/// `GET /api/stress/error/500`: runs a statement that fails.
#[utoipa::path(
    get,
    path = "/api/stress/error/500",
    tag = "stress",
    summary = "Runs a statement that fails",
    responses((status = 500, description = "Always"))
)]
pub(super) async fn internal(State(state): State<Arc<AppState>>) -> Result<StatusCode, ApiError> {
    state.services()?.stress()?.failing.fail().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TimeoutQuery {
    /// Milliseconds, up to 30000.
    delay_ms: Option<u64>,
    /// `before`, `statement` (the default) or `pool`.
    mode: Option<String>,
}

/// `GET /api/stress/error/timeout`: takes too long, in one of three places.
#[utoipa::path(
    get,
    path = "/api/stress/error/timeout",
    tag = "stress",
    summary = "Takes too long",
    params(TimeoutQuery),
    responses(
        (status = 503, description = "mode=pool: no connection was available"),
        (status = 504, description = "mode=statement or before: it took too long"),
    )
)]
pub(super) async fn timeout(
    State(state): State<Arc<AppState>>,
    query: Result<Query<TimeoutQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let services = state.services()?;
    let Some(stress) = &state.stress else { return Err(ApiError::unknown_path()) };
    let Query(query) = query.map_err(|rejection| ApiError::invalid(rejection.body_text()).field("query"))?;
    let most = limits::MAX_STRESS_DELAY_MS;
    let delay_ms = query.delay_ms.unwrap_or_else(|| stress.settings.now().error_delay_ms);
    if !(1..=most).contains(&delay_ms) {
        let message = format!("delay_ms takes 1 to {most}");
        return Err(ApiError::invalid(message).field("delay_ms"));
    }
    let delay = Duration::from_millis(delay_ms);
    match query.mode.as_deref() {
        None | Some("statement") => services.stress()?.failing.exceed(delay).await?,
        Some("pool") => services.stress()?.failing.exhaust(delay).await?,
        Some("before") => {
            tokio::time::sleep(delay).await;
            let message = "the request took too long before it reached the database";
            return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message));
        }
        Some(_) => return Err(ApiError::invalid("mode takes before, statement or pool").field("mode")),
    }
    Ok(StatusCode::NO_CONTENT)
}
