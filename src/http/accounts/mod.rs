//! `/api/auth` and `/api/keys`: users, their sessions, and keys.

mod keys;
mod members;
mod sign_in;

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;

use super::Face;

/// Every route below `/api/auth` and `/api/keys`.
pub(super) fn router() -> Router<Arc<Face>> {
    Router::new()
        .route("/api/auth/register", post(sign_in::register))
        .route("/api/auth/login", post(sign_in::login))
        .route("/api/auth/refresh", post(sign_in::refresh))
        .route("/api/auth/logout", post(sign_in::logout))
        .route("/api/auth/me", get(sign_in::me))
        .route("/api/auth/sessions", get(sign_in::sessions))
        .route("/api/auth/sessions/{id}", delete(sign_in::end_session))
        .route("/api/keys", post(keys::create).get(keys::list))
        .route("/api/keys/{id}", delete(keys::revoke))
}

/// An answer that nobody on the way may keep.
fn private(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
