//! `/_test/inject-error`: sets, lists and clears faults.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::auth::Scope;
use crate::faults::{Fault, FaultPlan, FaultRequest};
use crate::http::AppState;
use crate::http::edge::routes::{Access, Routes};
use crate::http::wire::error::ApiError;
use crate::http::wire::query;

#[derive(Serialize, ToSchema)]
#[schema(as = Faults)]
struct FaultsResponse {
    #[schema(value_type = Vec<FaultRequest>)]
    faults: Vec<Fault>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ClearedFaults)]
struct ClearedFaultsResponse {
    cleared: usize,
}

/// Every route of faults, which exist only with `FAULTS=on`.
pub(in crate::http) fn routes() -> Routes {
    let access = Access::Scope(Scope::Admin);
    Routes::default().route(access, routes!(inject, list, clear)).route(access, routes!(panic_in_task))
}

/// Sets a fault, and answers with it.
#[utoipa::path(
    post,
    path = "/_test/inject-error",
    tag = "faults",
    summary = "Sets a fault",
    request_body = FaultRequest,
    responses(
        (status = 200, description = "The fault as it is set", body = FaultRequest),
        (status = 409, description = "Too many faults"),
    )
)]
async fn inject(State(state): State<Arc<AppState>>, body: Result<Bytes, BytesRejection>) -> Response {
    let Some(faults) = &state.faults else { return ApiError::unknown_path().into_response() };
    let taken = query::json(body).await.and_then(|request| faults.set(request));
    taken.map(Json).into_response()
}

/// Makes a background task panic: the service stops in order, or restarts the task.
#[utoipa::path(
    post,
    path = "/_test/panic/{task}",
    tag = "faults",
    summary = "Makes a background task panic",
    params(("task" = String, Path, description = "A name of `tasks` in `/api/health`")),
    responses(
        (status = 202, description = "It panics at its next step"),
        (status = 404, description = "There is no such task"),
    )
)]
async fn panic_in_task(
    State(state): State<Arc<AppState>>,
    task: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    // A path that is not UTF-8 names no task.
    match state.faults.is_some() && task.is_ok_and(|Path(task)| state.supervisor.panic_in(&task)) {
        true => Ok(StatusCode::ACCEPTED),
        false => Err(ApiError::unknown_path()),
    }
}

/// Lists the current faults, by their paths.
#[utoipa::path(
    get,
    path = "/_test/inject-error",
    tag = "faults",
    summary = "The current faults",
    responses((status = 200, description = "Faults, by their paths", body = FaultsResponse))
)]
async fn list(State(state): State<Arc<AppState>>) -> Result<Json<impl Serialize>, ApiError> {
    let Some(faults) = &state.faults else { return Err(ApiError::unknown_path()) };
    Ok(Json(FaultsResponse { faults: faults.with(|plan| plan.list().cloned().collect()) }))
}

/// Removes all faults, and answers with their number.
#[utoipa::path(
    delete,
    path = "/_test/inject-error",
    tag = "faults",
    summary = "Removes all faults",
    responses((status = 200, description = "The number of removed faults", body = ClearedFaultsResponse))
)]
async fn clear(State(state): State<Arc<AppState>>) -> Result<Json<impl Serialize>, ApiError> {
    let Some(faults) = &state.faults else { return Err(ApiError::unknown_path()) };
    Ok(Json(ClearedFaultsResponse { cleared: faults.with(FaultPlan::clear) }))
}
