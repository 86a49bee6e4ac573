//! `POST /api/events/ticket`: a ticket for the URL of a stream or a WebSocket.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Principal;
use crate::auth::limits::LimitSubject;
use crate::auth::tickets::TICKET_S;
use crate::http::AppState;
use crate::http::edge::authorize;
use crate::http::edge::client::ClientAddress;
use crate::http::wire::error::ApiError;
use crate::http::wire::query;

#[derive(Serialize, ToSchema)]
#[schema(as = Ticket)]
struct TicketResponse<'a> {
    /// For `?ticket=`; the first request with it uses it up.
    ticket: &'a str,
    /// Seconds until it expires.
    expires_in: u32,
}

/// `POST /api/events/ticket`.
#[utoipa::path(
    post,
    path = "/api/events/ticket",
    tag = "realtime",
    summary = "A one-use ticket with the caller's permissions, for the URL of a stream or a WebSocket",
    responses(
        (status = 201, description = "The ticket", body = TicketResponse),
        (status = 409, description = "The caller has too many unused tickets"),
    )
)]
pub(in crate::http) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(client): Extension<ClientAddress>,
    headers: HeaderMap,
    RawQuery(parameters): RawQuery,
) -> Result<Response, ApiError> {
    if let Some((name, _)) = query::pairs(parameters.as_deref().unwrap_or_default()).next() {
        return Err(query::unknown_parameter(&name));
    }
    if !principal.is_known() && !state.verifier.is_open() {
        return Err(ApiError::token_needed());
    }
    let credential = authorize::credential(&state, &headers)?;
    let caller = LimitSubject::of(&principal, client.ip);
    let ticket = state.services()?.accounts.tickets.create(&credential, &caller).await?;
    let shown = TicketResponse { ticket: ticket.reveal(), expires_in: TICKET_S };
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
