//! The pipeline of every request and its answer: framing, faults, CORS, then the route's access and quota, its handler,
//! headers, metrics and log.
//!
//! Requests with events take the same steps as all others. They skip the router, as their paths are compared first, and
//! run in the connection's own task.

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::header::{ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::Instrument;

use super::authorize::{self, Admission, EventsAdmission};
use super::client::{self, ClientAddress};
use super::routes::{Access, PathRoutes};
use super::{cors, framing, headers};
use crate::config::limits;
use crate::http::batch::BatchFormat;
use crate::http::events::ack::KeySpace;
use crate::http::intake::cloudevents::{self, Mode};
use crate::http::server::ConnectionHandle;
use crate::http::wire::body::{BodyLimits, LimitedBody};
use crate::http::wire::error::ApiError;
use crate::http::wire::{path, query};
use crate::http::{
    AppState, BATCH, EVENTS, HotRoute, batch, events, faults, intake, pocketbase, streams, web,
};
use crate::observe::Metrics;

/// The label of requests without a route.
const UNMATCHED: &str = "unmatched";

/// Answers one request.
pub(in crate::http) async fn answer(
    state: &Arc<AppState>,
    router: &Router,
    mut request: Request<Incoming>,
    connection: &ConnectionHandle,
) -> Response {
    let refused = framing::reject(&mut request)
        .or_else(|| web::enter(state, &mut request).err().map(IntoResponse::into_response));
    if let Some(mut refusal) = refused {
        let (head, incoming) = request.into_parts();
        let deadline = Instant::now() + state.limits.body_timeout;
        let limits = BodyLimits { bytes: state.limits.event_bytes, setting: "MAX_EVENT_BYTES", deadline };
        LimitedBody::new(&head, incoming, limits).discard().await;
        count(&state.metrics, UNMATCHED, refusal.status());
        headers::nosniff(refusal.headers_mut());
        return refusal;
    }
    if let Some(uri) = path::with_plain_event_route(request.uri(), intake::paths(state.protocols)) {
        *request.uri_mut() = uri;
    }
    match &state.faults {
        None => cross_origin(state, router, request, connection).await,
        Some(faults) => {
            let next = |request| cross_origin(state, router, request, connection);
            Box::pin(faults::around(faults, state, request, connection, next)).await
        }
    }
}

/// Answers one request, with the CORS headers that it calls for.
async fn cross_origin(
    state: &Arc<AppState>,
    router: &Router,
    request: Request<Incoming>,
    connection: &ConnectionHandle,
) -> Response {
    let path = request.uri().path();
    // Rules guard typed collections, and tokens come in a header that no browser adds by itself.
    let is_of_rules = !state.verifier.is_open()
        && state.cors_origins.is_empty()
        && (pocketbase::speaks(state.modules, path) || pocketbase::is_health(state.modules, path));
    let is_for_pages = is_of_rules || intake::is_for_pages(state.protocols, path);
    let allowed = cors::allowed(&state.cors_origins, request.uri(), request.headers(), is_for_pages);
    let Some(origin) = allowed else {
        return routed(state, router, request, connection).await;
    };
    let mut response = match cors::preflight(request.method(), request.headers()) {
        Some(response) => response,
        None => routed(state, router, request, connection).await,
    };
    cors::let_read(response.headers_mut(), origin);
    if is_of_rules {
        // As PocketBase answers. Browsers take it only where there are no credentials.
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    }
    response
}

async fn routed(
    state: &Arc<AppState>,
    router: &Router,
    request: Request<Incoming>,
    connection: &ConnectionHandle,
) -> Response {
    let hot = match (request.uri().path(), request.method()) {
        (EVENTS, &Method::POST) => &state.hot[0],
        (BATCH, &Method::POST) => &state.hot[1],
        (EVENTS | BATCH, &Method::OPTIONS) if cloudevents::asks_to_send(state, request.headers()) => {
            return answer_handshake(state, request.headers());
        }
        _ => {
            let exchange = Exchange {
                state: Arc::clone(state),
                router: router.clone(),
                connection: connection.clone(),
                started: Instant::now(),
            };
            return match waits(request.uri()) {
                false => to_its_end(exchange.answer(request)).await,
                true => {
                    // This future is dropped when the client goes.
                    let gone = CancellationToken::new();
                    let _guard = gone.clone().drop_guard();
                    let mut request = request;
                    request.extensions_mut().insert(ClientGone(gone));
                    to_its_end(exchange.answer(request)).await
                }
            };
        }
    };
    answer_events(state, hot, request, connection).await
}

/// Answers the handshake before CloudEvents are sent to a webhook.
fn answer_handshake(state: &AppState, request: &HeaderMap) -> Response {
    let started = Instant::now();
    let admitted = authorize::check_host(state, request);
    let answer = admitted.map(|()| cloudevents::answer_handshake(request, state.budgets.events_a_minute()));
    let mut response = answer.unwrap_or_else(ApiError::into_response);
    headers::nosniff(response.headers_mut());
    count(&state.metrics, EVENTS, response.status());
    log(&Method::OPTIONS, EVENTS, response.status(), started.elapsed());
    response
}

/// Answers a request with events.
async fn answer_events(
    state: &AppState,
    hot: &HotRoute,
    request: Request<Incoming>,
    connection: &ConnectionHandle,
) -> Response {
    let started = Instant::now();
    let (mut head, incoming) = request.into_parts();
    let mode = cloudevents::mode(state, &head.headers);
    let (bytes, setting) = match (mode, hot.route) {
        (Some(Mode::Binary | Mode::Structured), _) | (None, EVENTS) => {
            (state.limits.event_bytes, "MAX_EVENT_BYTES")
        }
        _ => (limits::MAX_BATCH_BYTES, "the most of a batch"),
    };
    let limits = BodyLimits { bytes, setting, deadline: started + state.limits.body_timeout };
    let mut body = LimitedBody::new(&head, incoming, limits);
    let admitted = authorize::admit_events(state, &head, connection.peer()).await;
    let answer = match admitted.and_then(|admission| Ok((admission, state.services()?))) {
        Err(refusal) => Err(refusal),
        Ok((EventsAdmission { quota, max_body_bytes, key_space }, services)) => {
            if let Some(id) = key_space {
                head.extensions.insert(KeySpace(id));
            }
            if let Some(bytes) = max_body_bytes {
                body.lower_limit(bytes, "the limit of a write-only key");
            }
            // On the heap, as every idle connection holds room for the largest future that it may run.
            let answer = match (mode, hot.route) {
                (None, EVENTS) => events::post(services, &head, &mut body).await,
                (None, _) => Box::pin(batch::post(services, &head, &mut body, BatchFormat::Events)).await,
                (Some(Mode::Batched), _) => {
                    Box::pin(batch::post(services, &head, &mut body, BatchFormat::CloudEvents)).await
                }
                (Some(mode), _) => Box::pin(cloudevents::post(services, &head, &mut body, mode)).await,
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
    log(&Method::POST, hot.route, response.status(), elapsed);
    response
}

/// A request on its way through the router.
struct Exchange {
    state: Arc<AppState>,
    router: Router,
    connection: ConnectionHandle,
    started: Instant,
}

impl Exchange {
    async fn answer(self, mut request: Request<Incoming>) -> Response {
        let logged = pocketbase::RequestLog::begin(&self.state, &mut request);
        let method = request.method().clone();
        let state = Arc::clone(&self.state);
        let started = self.started;
        let routes = state.routes.find(request.uri().path());
        let is_stream = request.uri().path().starts_with(streams::PREFIX);
        let refused = match pocketbase::speaks(state.modules, request.uri().path()) {
            true => pocketbase::refused,
            false => ApiError::into_response,
        };
        let client = client::client(self.connection.peer(), request.headers(), &state.trusted_proxies);
        let id = headers::request_id(request.headers());
        let span = tracing::debug_span!("request", http.request_id = id.to_str().unwrap_or_default());
        let handled = self.handle(request, routes, client).instrument(span);
        let mut response = handled.await.unwrap_or_else(refused);
        headers::write(response.headers_mut(), id, client.by_tls);
        if is_stream {
            headers::same_origin(response.headers_mut());
        }
        let route = routes.map_or(UNMATCHED, PathRoutes::path);
        let elapsed = started.elapsed();
        count(&state.metrics, route, response.status());
        state.metrics.request_seconds.with_label_values(&[route]).observe(elapsed.as_secs_f64());
        log(&method, route, response.status(), elapsed);
        if let Some(logged) = logged {
            logged.end(&state, &response, client, elapsed);
        }
        response
    }

    /// Checks access and quota, and calls the handler. It finds the [`Principal`](crate::auth::Principal), the
    /// [`ClientAddress`] and the [`ConnectionHandle`] with the request.
    async fn handle(
        mut self,
        mut request: Request<Incoming>,
        routes: Option<&PathRoutes>,
        client: ClientAddress,
    ) -> Result<Response, ApiError> {
        let declared = routes.map(|routes| (routes, routes.access(request.method())));
        // Without a route nothing is called, but a token has to be valid everywhere.
        let access = declared.and_then(|(_, access)| access).unwrap_or(Access::Optional);
        let Admission { principal, ticket, quota } = match access {
            Access::Events => Admission::BY_HANDLER,
            access => authorize::admit(&self.state, access, &request, client).await?,
        };
        let mut response = match declared {
            // In its own form.
            Some((_, None)) if pocketbase::speaks(self.state.modules, request.uri().path()) => {
                return Err(ApiError::method_not_allowed());
            }
            None if pocketbase::speaks(self.state.modules, request.uri().path()) => {
                return Err(ApiError::unknown_path());
            }
            Some((routes, None)) => {
                let mut response = ApiError::method_not_allowed().into_response();
                response.headers_mut().insert(ALLOW, routes.allowed());
                return Ok(response);
            }
            Some((routes, Some(_))) => {
                query::check(request.uri().query())?;
                let extensions = request.extensions_mut();
                extensions.insert(principal);
                extensions.insert(client);
                if let Some(ticket) = ticket {
                    extensions.insert(ticket);
                }
                extensions.insert(self.connection);
                if pocketbase::speaks(self.state.modules, request.uri().path()) {
                    let (head, body) = request.into_parts();
                    if let Some(refused) = pocketbase::refuse(&self.state, &head, routes.path(), client).await
                    {
                        return Ok(refused);
                    }
                    request = Request::from_parts(head, body);
                }
                let Ok(response): Result<Response, Infallible> = self.router.call(request).await;
                response
            }
            None => ApiError::unknown_path().into_response(),
        };
        if let Some(quota) = quota.filter(|_| response.status() != StatusCode::TOO_MANY_REQUESTS) {
            quota.write(response.headers_mut());
        }
        Ok(response)
    }
}

/// Whether a request may wait for long for something to happen.
fn waits(uri: &Uri) -> bool {
    uri.path().starts_with(streams::PREFIX) && uri.query().is_some_and(|query| query.contains("long-poll"))
}

/// The client of a request that may wait for long: handlers run to their end though it has gone.
#[derive(Debug, Clone)]
pub(in crate::http) struct ClientGone(CancellationToken);

impl ClientGone {
    /// Resolves when the client has gone. Cancel-safe.
    pub(in crate::http) async fn gone(&self) {
        self.0.cancelled().await;
    }
}

/// Runs a handler to its end, though its client may have gone: a handler that is dropped within a statement costs its
/// connection to the database. It runs in the connection's task as long as that lives, which is cheaper than a task of its own.
async fn to_its_end(handler: impl Future<Output = Response> + Send + 'static) -> Response {
    let handler = AssertUnwindSafe(handler).catch_unwind();
    let mut handler = Unfinished(Some(Box::pin(handler)));
    match poll_fn(|cx| handler.poll(cx)).await {
        Ok(response) => response,
        Err(_panic) => {
            tracing::error!("a request was not answered: its handler panicked");
            ApiError::internal().into_response()
        }
    }
}

/// A handler that goes on in a task of its own once this is dropped.
struct Unfinished<F: Future + Send + 'static>(Option<Pin<Box<F>>>)
where
    F::Output: Send;

impl<F: Future + Send + 'static> Unfinished<F>
where
    F::Output: Send,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(handler) = &mut self.0 else { return Poll::Pending };
        let polled = handler.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<F: Future + Send + 'static> Drop for Unfinished<F>
where
    F::Output: Send,
{
    fn drop(&mut self) {
        if let (Some(handler), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(handler);
        }
    }
}

/// Counts a request.
pub(in crate::http) fn count(metrics: &Metrics, route: &str, status: StatusCode) {
    metrics.requests.with_label_values(&[route, status.as_str()]).inc();
}

fn log(method: &Method, route: &str, status: StatusCode, elapsed: Duration) {
    tracing::debug!(
        http.method = method.as_str(),
        http.route = route,
        http.status = status.as_u16(),
        elapsed_us = elapsed.as_micros() as u64,
        "request"
    );
}
