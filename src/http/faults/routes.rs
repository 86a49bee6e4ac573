//! `/_test/inject-error`: sets, lists and clears faults.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;

use crate::faults::{Fault, FaultPlan};
use crate::http::error::ApiError;
use crate::http::{Face, not_found, query};

/// Where faults are set.
const PATH: &str = "/_test/inject-error";

#[derive(Serialize)]
struct Listed {
    faults: Vec<Fault>,
}

#[derive(Serialize)]
struct Cleared {
    cleared: usize,
}

/// The routes, which are there only if faults are.
pub(in crate::http) fn routes() -> Router<Arc<Face>> {
    Router::new().route(PATH, post(inject).get(list).delete(clear))
}

/// Sets a fault and answers with it as it was taken.
async fn inject(State(face): State<Arc<Face>>, body: Result<Bytes, BytesRejection>) -> Response {
    let Some(faults) = &face.faults else { return not_found().await.into_response() };
    let taken = query::json(body).and_then(|json| Ok(faults.set(&json)?));
    taken.map(Json).into_response()
}

/// Lists the faults that are left, by their paths.
async fn list(State(face): State<Arc<Face>>) -> Result<Json<impl Serialize>, ApiError> {
    let Some(faults) = &face.faults else { return Err(not_found().await) };
    Ok(Json(Listed { faults: faults.with(|plan| plan.list().cloned().collect()) }))
}

/// Takes all faults away, and answers how many there were.
async fn clear(State(face): State<Arc<Face>>) -> Result<Json<impl Serialize>, ApiError> {
    let Some(faults) = &face.faults else { return Err(not_found().await) };
    Ok(Json(Cleared { cleared: faults.with(FaultPlan::clear) }))
}
