//! `/api/auth` and `/api/keys`: users, their sessions, and keys.

mod keys;
mod sign_in;

use axum::Json;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use utoipa_axum::routes;

pub(super) use sign_in::{client, start_session};

use super::edge::routes::{Access, Routes};

/// Every route of users and keys.
pub(super) fn routes() -> Routes {
    Routes::default()
        .route(Access::Public, routes!(sign_in::register))
        .route(Access::Public, routes!(sign_in::login))
        .route(Access::Public, routes!(sign_in::refresh))
        .route(Access::SignedIn, routes!(sign_in::logout))
        .route(Access::SignedIn, routes!(sign_in::me))
        .route(Access::SignedIn, routes!(sign_in::sessions))
        .route(Access::SignedIn, routes!(sign_in::end_session))
        .route(Access::SignedIn, routes!(keys::create, keys::list))
        .route(Access::SignedIn, routes!(keys::revoke))
}

/// An answer that no cache may store.
pub(super) fn private(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
