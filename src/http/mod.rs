//! The HTTP face: every route, and the order of what each request passes (`edge::pipeline`).
//!
//! ```text
//! accept ─▶ connection (limits of time and number) ─▶ faults ─▶ dispatch ─▶ events, batch      (straight: the hot path)
//!                                                     (if on)      └─────▶ router ─▶ track ─▶ authorize ─▶ everything else
//! ```
//!
//! What each route needs is in [`permissions`]; a route that is not listed there cannot be reached.

#![allow(unused_qualifications, reason = "utoipa's macros write out the paths of what they are given")]

mod accounts;
mod batch;
mod conversations;
mod edge;
mod events;
mod faults;
mod files;
mod imports;
mod openapi;
mod ops;
mod records;
mod server;
mod stress;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware;
use axum::response::Response;
use hyper::header::HeaderName;
use hyper::{Method, StatusCode};
use ipnet::IpNet;
use prometheus::{Histogram, IntCounter};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use server::{BoundServer, OPERATOR_CONNECTIONS, RunningServer};

use crate::auth::{Accounts, Scope, Verifier};
use crate::config::Config;
use crate::conversations::Conversations;
use crate::db::{Database, FailingStatements};
use crate::files::Files;
use crate::imports::Imports;
use crate::ingest::{AckLevel, Ingest};
use crate::lifecycle::Lifecycle;
use crate::observe::Metrics;
use crate::records::Records;
use crate::records::large::LargePayloads;
use crate::supervisor::Supervisor;
use edge::authorize as auth;
use edge::origin::OwnOrigin;
pub use edge::permissions;
use edge::permissions::Needs;
use edge::pipeline::track;
use edge::quota::RateBudgets;
use faults::Faults;
use stress::StressApi;
pub use wire::body::MemoryBudget;
use wire::error::ApiError;
use wire::{body, error, json, pages, path, query, sse};

/// The name of [`ConnectionHandle`](server::ConnectionHandle) in modules that were not renamed yet.
mod connection {
    pub(in crate::http) use super::server::ConnectionHandle as Line;
}

static X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
static X_ACK: HeaderName = HeaderName::from_static("x-ack");
static X_RECEIPT: HeaderName = HeaderName::from_static("x-receipt");

const EVENTS: &str = "/api/v1/events";
const BATCH: &str = "/api/v1/events/batch";

/// Whether a path is a route of events, whose URLs may contain a write-only key.
fn is_event_route(path: &str) -> bool {
    matches!(path, EVENTS | BATCH)
}

/// Every route.
fn router(state: &Arc<AppState>) -> Router {
    let mut routes = OpenApiRouter::with_openapi(openapi::base())
        // These two are dispatched before the router, which only has to know their paths.
        .routes(routes!(events::described))
        .routes(routes!(batch::described))
        .merge(accounts::router())
        .merge(conversations::router())
        .merge(files::routes())
        .merge(imports::router())
        .merge(ops::router());
    if state.stress.is_some() {
        routes = routes.merge(records::router()).merge(stress::routes());
    }
    if state.faults.is_some() {
        routes = routes.merge(faults::routes());
    }
    openapi::served(routes)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(state), auth::authorize))
        .layer(middleware::from_fn_with_state(Arc::clone(state), track))
        .with_state(Arc::clone(state))
}

/// What all handlers share from the start.
#[derive(Debug)]
pub struct AppState {
    /// Whether the service is starting, serving or stopping.
    pub lifecycle: Lifecycle,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The background tasks.
    pub supervisor: Supervisor,
    /// The memory of request bodies.
    pub bodies: Arc<MemoryBudget>,
    /// Limits of requests.
    pub limits: RequestLimits,
    /// Checks bearer tokens.
    pub verifier: Arc<Verifier>,
    /// The callers of an open service; `None`: a token is required, and any host name is accepted.
    own_origin: Option<OwnOrigin>,
    /// Origins whose pages may call.
    cors_origins: Vec<String>,
    trusted_proxies: Vec<IpNet>,
    budgets: RateBudgets,
    takes_registrations: bool,
    /// `None`: faults are off, at no cost to any request.
    faults: Option<Faults>,
    /// `None`: the stress API is off.
    stress: Option<StressApi>,
    /// Set once the database is ready.
    services: OnceLock<Services>,
    hot: [HotRoute; 2],
    started: Instant,
}

/// What handlers need once the database is ready.
#[derive(Debug)]
pub struct Services {
    /// Admission of events.
    pub ingest: Ingest,
    /// The operators' quota of the pool.
    pub database: Database,
    /// The memory of request bodies.
    pub bodies: Arc<MemoryBudget>,
    /// Limits of requests.
    pub limits: RequestLimits,
    /// Records.
    pub records: Records,
    /// Large payloads of the stress API.
    pub large_payloads: LargePayloads,
    /// Failures on demand of the stress API.
    pub failing: FailingStatements,
    /// Users, sessions and keys.
    pub accounts: Accounts,
    /// Conversations.
    pub conversations: Conversations,
    /// Files.
    pub files: Files,
    /// Imports of the lines of files.
    pub imports: Imports,
}

/// Limits of requests.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Bytes of one event.
    pub event_bytes: usize,
    /// Bytes of one batch.
    pub batch_bytes: usize,
    /// Events of one batch.
    pub batch_events: u64,
    /// Time for a body.
    pub body_timeout: Duration,
    /// The maximum wait for the commit of a request's events.
    pub ack_timeout: Duration,
    /// Levels of JSON up to which it becomes jsonb.
    pub max_json_depth: usize,
}

/// A route that bypasses the router, with its metrics looked up once.
#[derive(Debug)]
struct HotRoute {
    route: &'static str,
    needs: Needs,
    /// Answers of status 202, by far the most frequent.
    accepted: IntCounter,
    seconds: Histogram,
    /// By level, in the order of [`AckLevel`].
    ack_seconds: [Histogram; 3],
}

/// An answer, and the level that it acknowledges.
type AckedResponse = (Response, AckLevel);

impl AppState {
    /// The state of a service that answers 503 until [`AppState::serve`] is called.
    pub fn new(
        config: &Config,
        metrics: &Arc<Metrics>,
        lifecycle: &Lifecycle,
        verifier: &Arc<Verifier>,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        let hot = [EVENTS, BATCH].map(|route| HotRoute {
            route,
            // A route that is not listed admits nobody but administrators.
            needs: permissions::needs(&Method::POST, route).unwrap_or(Needs::Scope(Scope::Admin)),
            accepted: metrics.requests.with_label_values(&[route, "202"]),
            seconds: metrics.request_seconds.with_label_values(&[route]),
            ack_seconds: [AckLevel::Queued, AckLevel::Journaled, AckLevel::Committed]
                .map(|level| metrics.ack_seconds.with_label_values(&[level.name()])),
        });
        Arc::new(Self {
            lifecycle: lifecycle.clone(),
            metrics: Arc::clone(metrics),
            supervisor: supervisor.clone(),
            bodies: MemoryBudget::new(config.server.max_body_memory),
            limits: RequestLimits {
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
            budgets: RateBudgets::new(config),
            takes_registrations: config.takes_registrations(),
            faults: Faults::new(&config.stress),
            stress: StressApi::new(config),
            services: OnceLock::new(),
            hot,
            started: Instant::now(),
        })
    }

    /// Starts to accept events, and all other requests.
    pub fn serve(&self, services: Services) {
        let _set_once = self.services.set(services);
        self.lifecycle.serve();
    }

    /// The services; 503 before they are ready, and while the service shuts down.
    fn services(&self) -> Result<&Services, ApiError> {
        match self.services.get() {
            Some(services) if !self.lifecycle.is_draining() => Ok(services),
            Some(_) => Err(ApiError::unavailable(
                "shutting_down",
                "the service is shutting down",
                Duration::from_secs(5),
            )),
            None => Err(ApiError::unavailable("starting", "the service is starting", Duration::from_secs(1))),
        }
    }

    /// The former name of [`Self::services`].
    fn core(&self) -> Result<&Services, ApiError> {
        self.services()
    }
}

async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}
