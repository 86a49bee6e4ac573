//! The HTTP face: every route and the order of what a request passes, on this page.
//!
//! ```text
//! accept ─▶ connection (limits of time and number) ─▶ faults ─▶ dispatch ─▶ events, batch      (straight: the hot path)
//!                                                     (if on)      └─────▶ router ─▶ track ─▶ authorize ─▶ everything else
//! ```
//!
//! What each route needs is in [`permissions`]; a route that is not listed there cannot be reached.

#![allow(unused_qualifications, reason = "utoipa's macros write out the paths of what they are given")]

mod accounts;
mod ack;
mod auth;
mod batch;
mod body;
mod client;
mod connection;
mod conversations;
mod cors;
mod dead_letters;
mod error;
mod events;
mod faults;
mod files;
mod headers;
mod imports;
mod json;
pub mod jwks;
mod limits;
mod openapi;
mod ops;
mod origin;
mod pages;
mod path;
pub mod permissions;
mod query;
mod reconcile;
mod server;
mod sse;
mod stress;
mod watch;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request as AxumRequest, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::{Method, Request, StatusCode};
use ipnet::IpNet;
use prometheus::{Histogram, IntCounter};
use tower_service::Service;
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use body::BodyMemory;
use body::{BodyLimits, LimitedBody};
pub use server::{BoundServer, RunningServer};

use crate::auth::{Accounts, Scope, Verifier};
use crate::config::Config;
use crate::conversations::Conversations;
use crate::db::Database;
use crate::files::Files;
use crate::imports::Imports;
use crate::ingest::{Ingest, Promise};
use crate::lifecycle::Lifecycle;
use crate::observe::Metrics;
use client::ClientAddress;
use connection::Line;
use error::ApiError;
use faults::Faults;
use limits::Budgets;
use origin::OwnOrigin;
use permissions::Needs;
pub use stress::StressParts;
use stress::{Stress, StressStores};

static X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
static X_ACK: HeaderName = HeaderName::from_static("x-ack");
static X_RECEIPT: HeaderName = HeaderName::from_static("x-receipt");

const EVENTS: &str = "/api/v1/events";
const BATCH: &str = "/api/v1/events/batch";

/// Every route.
fn router(face: &Arc<Face>) -> Router {
    let mut routes = OpenApiRouter::with_openapi(openapi::base())
        // These two are dispatched before the router, which only has to know their paths.
        .routes(routes!(events::described))
        .routes(routes!(batch::described))
        .merge(accounts::router())
        .merge(conversations::router())
        .merge(files::routes())
        .merge(imports::router())
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::get, dead_letters::discard))
        .routes(routes!(reconcile::post))
        .routes(routes!(ops::api_health))
        .routes(routes!(ops::alive))
        .routes(routes!(ops::ready))
        .routes(routes!(ops::metrics));
    if face.stress.is_some() {
        routes = routes.merge(stress::routes());
    }
    if face.faults.is_some() {
        routes = routes.merge(faults::routes());
    }
    openapi::served(routes)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(face), auth::authorize))
        .layer(middleware::from_fn_with_state(Arc::clone(face), track))
        .with_state(Arc::clone(face))
}

/// What all handlers share.
#[derive(Debug)]
pub struct Face {
    /// Whether the service is starting, serving or stopping.
    pub lifecycle: Lifecycle,
    /// The figures.
    pub metrics: Arc<Metrics>,
    /// Request bodies under way.
    pub bodies: Arc<BodyMemory>,
    /// Limits of requests.
    pub limits: Limits,
    /// Knows which tokens are good.
    pub verifier: Arc<Verifier>,
    /// Whom an open service serves; one that is not open answers to any name.
    own_origin: Option<OwnOrigin>,
    /// Origins whose pages may call.
    cors_origins: Vec<String>,
    trusted_proxies: Vec<IpNet>,
    budgets: Budgets,
    takes_registrations: bool,
    /// What is made to fail on purpose; none: nothing, and nothing stands in the way.
    faults: Option<Faults>,
    /// The stress API; none: it is not there.
    stress: Option<Stress>,
    /// Set once the database is ready.
    core: OnceLock<Core>,
    hot: [HotRoute; 2],
    started: Instant,
}

/// What handlers need beside the face, once the service has started.
#[derive(Debug)]
pub struct Core {
    ingest: Ingest,
    database: Database,
    bodies: Arc<BodyMemory>,
    limits: Limits,
    stress: StressStores,
    accounts: Accounts,
    conversations: Conversations,
    files: Files,
    imports: Imports,
    takes_registrations: bool,
}

/// What is there once the service has started.
#[derive(Debug)]
pub struct Parts {
    /// Where events go.
    pub ingest: Ingest,
    /// The operators' share of the pool.
    pub database: Database,
    /// The stress API's.
    pub stress: StressParts,
    /// Users, sessions and keys.
    pub accounts: Accounts,
    /// Conversations.
    pub conversations: Conversations,
    /// Files.
    pub files: Files,
    /// Lines of files that are stored.
    pub imports: Imports,
}

/// Limits of requests.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one event.
    pub event_bytes: usize,
    /// Bytes of one batch.
    pub batch_bytes: usize,
    /// Events of one batch.
    pub batch_events: u64,
    /// Time for a body.
    pub body_timeout: Duration,
    /// The longest that a request waits for its events to be committed.
    pub ack_timeout: Duration,
    /// Levels of JSON up to which it becomes jsonb.
    pub max_json_depth: usize,
}

/// The figures of a route that is dispatched directly, looked up once.
#[derive(Debug)]
struct HotRoute {
    route: &'static str,
    needs: Needs,
    /// Answers of status 202, by far the most frequent.
    accepted: IntCounter,
    seconds: Histogram,
    /// By promise, in the order of [`Promise`].
    ack_seconds: [Histogram; 3],
}

/// An answer, and what it promises.
type Answered = (Response, Promise);

impl Face {
    /// A face that answers 503 until [`Face::serve`] is called.
    pub fn new(
        config: &Config,
        metrics: &Arc<Metrics>,
        lifecycle: &Lifecycle,
        verifier: &Arc<Verifier>,
    ) -> Arc<Self> {
        let hot = [EVENTS, BATCH].map(|route| HotRoute {
            route,
            // Without an entry nobody would get in.
            needs: permissions::needs(&Method::POST, route).unwrap_or(Needs::Scope(Scope::Admin)),
            accepted: metrics.requests.with_label_values(&[route, "202"]),
            seconds: metrics.request_seconds.with_label_values(&[route]),
            ack_seconds: [Promise::Queued, Promise::Journaled, Promise::Committed]
                .map(|promise| metrics.ack_seconds.with_label_values(&[promise.name()])),
        });
        Arc::new(Self {
            lifecycle: lifecycle.clone(),
            metrics: Arc::clone(metrics),
            bodies: BodyMemory::new(config.server.max_body_memory),
            limits: Limits {
                event_bytes: config.ingest.max_event_bytes,
                batch_bytes: config.ingest.max_batch_bytes,
                batch_events: config.ingest.max_batch_events(),
                body_timeout: Duration::from_secs(config.server.body_timeout_s),
                ack_timeout: Duration::from_millis(config.ingest.ack_timeout_ms),
                max_json_depth: config.ingest.max_json_depth,
            },
            verifier: Arc::clone(verifier),
            own_origin: verifier
                .is_open()
                .then(|| OwnOrigin::new(config.server.host, &config.access.cors_origins())),
            cors_origins: config.access.cors_origins(),
            trusted_proxies: config.access.trusted_proxies(),
            budgets: Budgets::new(config),
            takes_registrations: config.takes_registrations(),
            faults: Faults::new(&config.stress),
            stress: Stress::new(config),
            core: OnceLock::new(),
            hot,
            started: Instant::now(),
        })
    }

    /// From now on events are accepted.
    pub fn serve(&self, parts: Parts) {
        let Parts { ingest, database, stress, accounts, conversations, files, imports } = parts;
        let core = Core {
            ingest,
            database,
            bodies: Arc::clone(&self.bodies),
            limits: self.limits,
            stress: StressStores::new(stress),
            accounts,
            conversations,
            files,
            imports,
            takes_registrations: self.takes_registrations,
        };
        let _set_once = self.core.set(core);
        self.lifecycle.serve();
    }

    fn core(&self) -> Result<&Core, ApiError> {
        match self.core.get() {
            Some(core) if !self.lifecycle.is_draining() => Ok(core),
            Some(_) => Err(ApiError::unavailable(
                "shutting_down",
                "the service is shutting down",
                Duration::from_secs(5),
            )),
            None => Err(ApiError::unavailable("starting", "the service is starting", Duration::from_secs(1))),
        }
    }
}

/// Answers one request that came by `line`.
async fn answer(face: &Arc<Face>, router: &mut Router, request: Request<Incoming>, line: &Line) -> Response {
    match &face.faults {
        None => dispatch(face, router, request, line).await,
        Some(faults) => Box::pin(faults::around(faults, face, router, request, line)).await,
    }
}

/// Answers one request, apart from faults. What web pages of other origins may do is said around all of it.
async fn dispatch(
    face: &Arc<Face>,
    router: &mut Router,
    request: Request<Incoming>,
    line: &Line,
) -> Response {
    if face.cors_origins.is_empty() {
        return routed(face, router, request, line).await;
    }
    let Some(origin) = cors::allowed(&face.cors_origins, request.headers()) else {
        return routed(face, router, request, line).await;
    };
    let mut response = match cors::preflight(request.method(), request.headers()) {
        Some(response) => response,
        None => routed(face, router, request, line).await,
    };
    cors::let_read(response.headers_mut(), origin);
    response
}

async fn routed(
    face: &Arc<Face>,
    router: &mut Router,
    mut request: Request<Incoming>,
    line: &Line,
) -> Response {
    let hot = match (request.uri().path(), request.method()) {
        (EVENTS, &Method::POST) => &face.hot[0],
        (BATCH, &Method::POST) => &face.hot[1],
        _ => {
            let client = client::client(line.peer(), request.headers(), &face.trusted_proxies);
            request.extensions_mut().insert(client);
            request.extensions_mut().insert(line.clone());
            return to_its_end(router.call(request)).await;
        }
    };
    let started = Instant::now();
    let (head, incoming) = request.into_parts();
    let (bytes, setting) = match hot.route {
        EVENTS => (face.limits.event_bytes, "MAX_EVENT_BYTES"),
        _ => (face.limits.batch_bytes, "MAX_BATCH_BYTES"),
    };
    let limits = BodyLimits { bytes, setting, deadline: started + face.limits.body_timeout };
    let mut body = LimitedBody::new(&head, incoming, limits);
    let admitted = auth::admit_events(face, hot.needs, &head.headers, line.peer()).await;
    let answer = match admitted.and_then(|quota| Ok((quota, face.core()?))) {
        Err(refusal) => Err(refusal),
        Ok((quota, core)) => {
            let answer = if hot.route == EVENTS {
                events::post(core, &head, &mut body).await
            } else {
                // On the heap, as every idle connection holds room for the largest future that it may run.
                Box::pin(batch::post(core, &head, &mut body)).await
            };
            answer.map(|answered| (answered, quota))
        }
    };
    let elapsed = started.elapsed();
    hot.seconds.observe(elapsed.as_secs_f64());
    let mut response = match answer {
        Ok(((mut response, promise), quota)) => {
            if let Some(quota) = quota {
                quota.write(response.headers_mut());
            }
            match response.status() {
                StatusCode::ACCEPTED => hot.accepted.inc(),
                status => count(&face.metrics, hot.route, status),
            }
            if let Some(seconds) = hot.ack_seconds.get(promise as usize) {
                seconds.observe(elapsed.as_secs_f64());
            }
            response
        }
        Err(refusal) => {
            body.discard().await;
            let response = refusal.into_response();
            count(&face.metrics, hot.route, response.status());
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
async fn track(State(face): State<Arc<Face>>, request: AxumRequest, next: Next) -> Response {
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
    count(&face.metrics, route, response.status());
    face.metrics.request_seconds.with_label_values(&[route]).observe(elapsed.as_secs_f64());
    log_request(&method, route, response.status(), elapsed);
    response
}

fn count(metrics: &Metrics, route: &str, status: StatusCode) {
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

async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}
