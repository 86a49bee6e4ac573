//! `GET /api/stress/sse-stream`: server-sent events at a rate.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};

use super::stream_plan::{LAST_EVENT_ID, StreamPlan};
use super::stream_source::StreamSource;
use crate::http::AppState;
use crate::http::event_stream::EventStream;
use crate::http::server::ConnectionHandle;
use crate::http::wire::error::ApiError;

/// Streams messages until the last, or until the client disconnects.
#[utoipa::path(
    get,
    path = "/api/stress/sse-stream",
    tag = "stress",
    summary = "Server-sent events at a rate",
    params(
        ("rate" = Option<f64>, Query, description = "Messages a second, up to 10000"),
        ("count" = Option<u64>, Query, description = "Messages; without it there is no end", minimum = 1),
        ("size" = Option<u64>, Query, description = "Bytes of a message", minimum = 1),
        ("shape" = Option<String>, Query, description = "flat, nested, array, multiline or mixed"),
        ("format" = Option<String>, Query, description = "plain or datastar"),
        ("events" = Option<String>, Query, description = "Names of events, with commas"),
        ("last-event-id" = Option<u64>, Header, description = "The last event received"),
    ),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The client has received all of it"),
    )
)]
pub(in crate::http) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(connection): Extension<ConnectionHandle>,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    state.services()?;
    let Some(stress) = &state.stress else { return Err(ApiError::unknown_path()) };
    let streams = &stress.streams;
    let Query(parameters) = parameters.map_err(|_| ApiError::invalid("the query cannot be read"))?;
    let last_event_id = headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes);
    let plan = StreamPlan::parse(&parameters, last_event_id, stress.settings.now().sse_rate)?;
    if plan.is_complete(0) {
        // After a 204 a client does not reconnect (WHATWG HTML, section 9.2.1).
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let Ok(permit) = Arc::clone(&streams.permits).try_acquire_owned() else {
        let message = "too many streams (a fifth of MAX_SUBSCRIBERS); try again later";
        return Err(ApiError::unavailable("overloaded", message, Duration::from_secs(1)));
    };
    let stream = EventStream {
        state: Arc::clone(&state),
        connection: connection.clone(),
        heartbeat: streams.heartbeat,
        access: None,
        retry_ms: None,
    };
    Ok(stream.respond(StreamSource::new(plan, connection, &state.metrics, permit, streams.buffer_bytes)))
}
