//! `/api/auth` and `/api/keys`: users, their sessions, and keys.

mod keys;
mod members;
mod sign_in;

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;

/// Every route below `/api/auth` and `/api/keys`.
pub(super) fn router() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::default()
        .routes(routes!(sign_in::register))
        .routes(routes!(sign_in::login))
        .routes(routes!(sign_in::refresh))
        .routes(routes!(sign_in::logout))
        .routes(routes!(sign_in::me))
        .routes(routes!(sign_in::sessions))
        .routes(routes!(sign_in::end_session))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::revoke))
}

/// An answer that nobody on the way may keep.
fn private(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
