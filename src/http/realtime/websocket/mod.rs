//! `GET /api/events/ws`: what changes, over a WebSocket (RFC 6455) whose topics its client adds and removes.
//!
//! The handshake authorizes as any request does, or by a ticket. Without either, the first frame has the token, soon: browsers cannot
//! set headers of a handshake. They always name the page's origin in it, so pages of other origins are rejected.
//!
//! ```text
//! handshake ─▶ session: one task a connection ─┬─ frames of the client, one request at a time
//!                                              └─ changes, as a Subscription returns them
//! ```

mod allowance;
mod frame;
mod session;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_VERSION, UPGRADE};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use self::session::{Session, SessionParts};
use crate::auth::Principal;
use crate::http::AppState;
use crate::http::edge::authorize::{Proof, TicketCaller};
use crate::http::edge::client::ClientAddress;
use crate::http::edge::origin;
use crate::http::server::{ConnectionHandle, Detachable, DetachedConnection};
use crate::http::wire::error::ApiError;
use crate::http::wire::query;

/// The longest message of a client, and so the longest frame: a thousand topics of usual length.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The read buffer, which every connection has.
const READ_BUFFER: usize = 4 * 1024;
/// Frames are collected up to this before the socket is asked. A longer message is sent in fragments of this size, as the buffer would grow with
/// it and stay so.
const WRITE_BUFFER: usize = 16 * 1024;
/// The time for the token of a connection without one.
const AUTH_LIMIT: Duration = Duration::from_secs(5);

/// `GET /api/events/ws`.
#[utoipa::path(
    get,
    path = "/api/events/ws",
    tag = "realtime",
    summary = "What changes, over a WebSocket",
    description = "Frames of the client: {\"subscribe\": [topics], \"from\"?: position}, {\"unsubscribe\": [topics]}, {\"auth\": token}. \
        Frames of the service: {\"event\", \"id\"?, \"data\"?} with the events ready, change, reset, stats, unsubscribed, heartbeat, error and cut.",
    params(("ticket" = Option<String>, Query, description = "A ticket (POST /api/events/ticket), instead of a token")),
    responses(
        (status = 101, description = "The WebSocket"),
        (status = 403, description = "The handshake of a page of another origin"),
        (status = 426, description = "No handshake of a WebSocket"),
    )
)]
pub(in crate::http) async fn open(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(client): Extension<ClientAddress>,
    Extension(connection): Extension<ConnectionHandle>,
    ticket: Option<Extension<TicketCaller>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, _no_body) = request.into_parts();
    let mut request = Request::from_parts(head, ());
    let unknown = query::pairs(request.uri().query().unwrap_or_default()).find(|(name, _)| name != "ticket");
    if let Some((name, _)) = unknown {
        return Err(query::unknown_parameter(&name));
    }
    origin::check_handshake(request.headers(), &state.cors_origins)?;
    let Ok(response) = create_response(&request) else { return Ok(upgrade_required()) };
    let services = state.services()?;
    let realtime = services.realtime()?.clone();
    let is_admitted = principal.is_known() || state.verifier.is_open();
    let user = services.accounts.user_of(&principal).await?;
    let subscription = if is_admitted { Some(realtime.connect(user)?) } else { None };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER);
    let parts = SessionParts {
        auth_by: subscription.is_none().then(|| Instant::now() + AUTH_LIMIT),
        state,
        connection,
        client,
        proof: Proof::new(ticket, std::mem::take(request.headers_mut())),
        principal,
        user,
        subscription,
    };
    let session = Detachable::new(move |connection: DetachedConnection| async move {
        let (socket, read) = connection.into_socket();
        let opening = WebSocketStream::from_partially_read(socket, read.into(), Role::Server, Some(config));
        Session::new(parts, realtime, opening.await).run().await;
    });
    let mut response = response.map(|()| Body::empty());
    response.extensions_mut().insert(session);
    Ok(response)
}

/// The answer to a request that is no handshake of the version 13 (RFC 6455, section 4.4).
fn upgrade_required() -> Response {
    let message = "this path takes the handshake of a WebSocket of version 13";
    let refusal = ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message);
    let mut response = refusal.into_response();
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}
