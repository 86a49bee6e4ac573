//! What each request passes on its way to its handler, and its answer on its way back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request as AxumRequest, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tower_service::Service;
use tracing::Instrument;

use super::authorize::{self, EventsAdmission};
use super::client::{self, ClientAddress};
use super::{cors, framing, headers};
use crate::http::events::ack::KeySpace;
use crate::http::server::ConnectionHandle;
use crate::http::wire::body::{BodyLimits, LimitedBody};
use crate::http::wire::error::ApiError;
use crate::http::wire::path;
use crate::http::{AppState, BATCH, EVENTS, batch, events, faults};
use crate::observe::Metrics;

/// Answers one request that came by `connection`.
pub(in crate::http) async fn answer(
    state: &Arc<AppState>,
    router: &mut Router,
    mut request: Request<Incoming>,
    connection: &ConnectionHandle,
) -> Response {
    if let Some(mut refusal) = framing::reject(&mut request) {
        let (head, incoming) = request.into_parts();
        let deadline = Instant::now() + state.limits.body_timeout;
        let limits = BodyLimits { bytes: state.limits.event_bytes, setting: "MAX_EVENT_BYTES", deadline };
        LimitedBody::new(&head, incoming, limits).discard().await;
        count(&state.metrics, "unmatched", refusal.status());
        headers::nosniff(refusal.headers_mut());
        return refusal;
    }
    if let Some(uri) = path::with_plain_event_route(request.uri()) {
        *request.uri_mut() = uri;
    }
    match &state.faults {
        None => dispatch(state, router, request, connection).await,
        Some(faults) => Box::pin(faults::around(faults, state, router, request, connection)).await,
    }
}

/// Answers one request, apart from faults. What web pages of other origins may do is said around all of it.
pub(in crate::http) async fn dispatch(
    state: &Arc<AppState>,
    router: &mut Router,
    request: Request<Incoming>,
    connection: &ConnectionHandle,
) -> Response {
    let Some(origin) = cors::allowed(&state.cors_origins, request.uri(), request.headers()) else {
        return routed(state, router, request, connection).await;
    };
    let mut response = match cors::preflight(request.method(), request.headers()) {
        Some(response) => response,
        None => routed(state, router, request, connection).await,
    };
    cors::let_read(response.headers_mut(), origin);
    response
}

async fn routed(
    state: &Arc<AppState>,
    router: &mut Router,
    mut request: Request<Incoming>,
    connection: &ConnectionHandle,
) -> Response {
    let hot = match (request.uri().path(), request.method()) {
        (EVENTS, &Method::POST) => &state.hot[0],
        (BATCH, &Method::POST) => &state.hot[1],
        _ => {
            let client = client::client(connection.peer(), request.headers(), &state.trusted_proxies);
            request.extensions_mut().insert(client);
            request.extensions_mut().insert(connection.clone());
            return to_its_end(router.call(request)).await;
        }
    };
    let started = Instant::now();
    let (mut head, incoming) = request.into_parts();
    let (bytes, setting) = match hot.route {
        EVENTS => (state.limits.event_bytes, "MAX_EVENT_BYTES"),
        _ => (state.limits.batch_bytes, "MAX_BATCH_BYTES"),
    };
    let limits = BodyLimits { bytes, setting, deadline: started + state.limits.body_timeout };
    let mut body = LimitedBody::new(&head, incoming, limits);
    let admitted = authorize::admit_events(state, hot.needs, &head, connection.peer()).await;
    let answer = match admitted.and_then(|admission| Ok((admission, state.services()?))) {
        Err(refusal) => Err(refusal),
        Ok((EventsAdmission { quota, max_body_bytes, key_space }, services)) => {
            if let Some(id) = key_space {
                head.extensions.insert(KeySpace(id));
            }
            if let Some(bytes) = max_body_bytes {
                body.lower_limit(bytes, "the most that a write-only key may send");
            }
            let answer = if hot.route == EVENTS {
                events::post(services, &head, &mut body).await
            } else {
                // On the heap, as every idle connection holds room for the largest future that it may run.
                Box::pin(batch::post(services, &head, &mut body)).await
            };
            answer.map(|answered| (answered, quota))
        }
    };
    let elapsed = started.elapsed();
    hot.seconds.observe(elapsed.as_secs_f64());
    let mut response = match answer {
        Ok(((mut response, level), quota)) => {
            if let Some(quota) = quota {
                quota.write(response.headers_mut());
            }
            match response.status() {
                StatusCode::ACCEPTED => hot.accepted.inc(),
                status => count(&state.metrics, hot.route, status),
            }
            if let Some(seconds) = hot.ack_seconds.get(level as usize) {
                seconds.observe(elapsed.as_secs_f64());
            }
            response
        }
        Err(refusal) => {
            body.discard().await;
            let response = refusal.into_response();
            count(&state.metrics, hot.route, response.status());
            response
        }
    };
    headers::nosniff(response.headers_mut());
    log_request(&Method::POST, hot.route, response.status(), elapsed);
    response
}

/// Runs a handler to its end, though its client may have gone: one that is dropped half way would give a connection back
/// to the pool in the middle of a statement, and whoever is next, an event's writer perhaps, would wait for that.
async fn to_its_end(
    handler: impl Future<Output = Result<Response, Infallible>> + Send + 'static,
) -> Response {
    match tokio::spawn(handler).await {
        Ok(Ok(response)) => response,
        Err(panicked) => {
            tracing::error!(error = panicked.to_string(), "a request was not answered");
            ApiError::internal().into_response()
        }
    }
}

/// Counts, times and logs what goes through the router, and writes the headers that all of it has.
pub(in crate::http) async fn track(
    State(state): State<Arc<AppState>>,
    request: AxumRequest,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let by_tls = request.extensions().get::<ClientAddress>().is_some_and(|client| client.by_tls);
    let id = headers::request_id(request.headers());
    let span = tracing::debug_span!("request", http.request_id = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    headers::write(response.headers_mut(), id, by_tls);
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let elapsed = started.elapsed();
    count(&state.metrics, route, response.status());
    state.metrics.request_seconds.with_label_values(&[route]).observe(elapsed.as_secs_f64());
    log_request(&method, route, response.status(), elapsed);
    response
}

pub(in crate::http) fn count(metrics: &Metrics, route: &str, status: StatusCode) {
    metrics.requests.with_label_values(&[route, status.as_str()]).inc();
}

fn log_request(method: &Method, route: &str, status: StatusCode, elapsed: Duration) {
    tracing::debug!(
        http.method = method.as_str(),
        http.route = route,
        http.status = status.as_u16(),
        elapsed_us = elapsed.as_micros() as u64,
        "request"
    );
}
