//! The HTTP face: every route on one page, and the state that handlers share.
//!
//! ```text
//! server: accept ─▶ connection (limits of number and time) ─▶ edge: framing ─▶ faults (if on) ─▶ CORS
//!     ─▶ access and quota of the route ─┬─▶ events, batch       the hot path, without a router
//!                                       └─▶ router ─▶ handler   everything else, in a task of its own
//!     ─▶ headers ─▶ metrics ─▶ log
//! ```
//!
//! Each route is declared with the access that it requires ([`Access`]); a handler without a declaration cannot be reached.

#![allow(unused_qualifications, reason = "utoipa's macros write out the paths of what they are given")]

mod accounts;
mod batch;
mod conversations;
mod edge;
mod event_stream;
mod events;
mod faults;
mod files;
mod imports;
mod intake;
mod openapi;
mod ops;
mod pocketbase;
mod realtime;
mod records;
mod server;
mod streams;
mod stress;
mod turns;
mod web;
mod wire;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use ipnet::IpNet;
use prometheus::{Histogram, IntCounter};

pub use server::{BoundServer, OPERATOR_CONNECTIONS, RunningServer};

use crate::auth::{Accounts, Scope, Verifier};
use crate::config::{Config, Module, Modules, Protocols, ServerConfig};
use crate::conversations::Conversations;
use crate::db::Database;
use crate::files::Files;
use crate::imports::Imports;
use crate::ingest::{AckLevel, Ingest};
use crate::lifecycle::Lifecycle;
use crate::observe::Metrics;
use crate::outbound::mail::Mailer;
use crate::outbound::oidc::ProviderClient;
use crate::realtime::Realtime;
use crate::records::Records;
use crate::records::typed::TypedRecords;
use crate::records::typed::logs::RequestLogs;
use crate::routes::Routes as UserRoutes;
use crate::supervisor::Supervisor;
use edge::origin::OwnOrigin;
use edge::pipeline;
use edge::quota::RateBudgets;
pub use edge::routes::{Access, Route};
use edge::routes::{RouteTable, Routes};
use faults::Faults;
pub use pocketbase::RecordPasswords;
use server::ConnectionHandle;
pub use streams::StreamsApi;
use stress::StressApi;
pub use stress::StressServices;
pub use wire::body::MemoryBudget;
use wire::error::ApiError;

static X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
static X_ACK: HeaderName = HeaderName::from_static("x-ack");
static X_RECEIPT: HeaderName = HeaderName::from_static("x-receipt");

const EVENTS: &str = "/api/v1/events";
const BATCH: &str = "/api/v1/events/batch";
/// The access that both of them require.
const EVENTS_NEED: Access = Access::Scope(Scope::EventsWrite);

/// Whether a path is a route of events, whose URLs may contain a write-only key.
fn is_event_route(path: &str) -> bool {
    matches!(path, EVENTS | BATCH)
}

/// Declares the modules beside events, each with its service and its routes. A module that is off has neither: its service is `None`,
/// and its paths are unknown.
macro_rules! modules {
    ($($(#[$doc:meta])* $name:ident: $Service:ty, $module:ident, $routes:expr;)*) => {
        /// The services of the modules that are on, beside events.
        #[derive(Debug)]
        pub struct ModuleServices {
            $(
                $(#[$doc])*
                pub $name: Option<$Service>,
            )*
        }

        impl Services {
            /// The client of providers of identities.
            fn providers(&self) -> Result<&ProviderClient, ApiError> {
                self.providers.as_ref().ok_or_else(ApiError::unknown_path)
            }

            /// The sender of mails.
            fn mailer(&self) -> Result<&Mailer, ApiError> {
                self.mailer.as_ref().ok_or_else(ApiError::unknown_path)
            }

            /// The feed of changes.
            fn realtime(&self) -> Result<&Realtime, ApiError> {
                self.realtime.as_ref().ok_or_else(ApiError::unknown_path)
            }

            $(
                $(#[$doc])*
                fn $name(&self) -> Result<&$Service, ApiError> {
                    self.modules.$name.as_ref().ok_or_else(ApiError::unknown_path)
                }
            )*
        }

        /// Adds the routes of the modules that are on.
        fn add_modules(modules: Modules, mut routes: Routes) -> Routes {
            $(
                if modules.has(Module::$module) {
                    routes = routes.merge($routes);
                }
            )*
            if modules.has_feed() {
                routes = routes.merge(realtime::routes());
            }
            if modules.has(Module::Streams) {
                routes = routes.merge(streams::routes());
            }
            if modules.has(Module::Web) {
                routes = routes.merge(web::routes(modules));
            }
            routes
        }
    };
}

modules! {
    /// Records.
    records: Records, Records, records::routes();
    /// Conversations.
    conversations: Conversations, Conversations, conversations::routes();
    /// Files.
    files: Files, Files, files::routes();
    /// Imports of the lines of files.
    imports: Imports, Imports, imports::routes();
    /// Typed collections.
    typed: TypedRecords, PocketBase, pocketbase::routes();
    /// The log of requests to typed collections.
    request_logs: RequestLogs, PocketBase, pocketbase::log_routes();
    /// The stress API.
    stress: StressServices, Stress, stress::routes();
}

/// Every route of a service with these modules and protocols, with or without faults.
fn all_routes(modules: Modules, protocols: Protocols, faults: bool) -> Routes {
    let mut routes = Routes::new(openapi::base(), EVENTS_NEED)
        .merge(intake::routes(protocols))
        .merge(accounts::routes())
        .merge(ops::routes(modules))
        .merge(openapi::routes());
    routes = add_modules(modules, routes);
    if faults {
        routes = routes.merge(faults::routes());
    }
    routes
}

/// Every route that a service can have.
pub fn routes() -> Vec<Route> {
    all_routes(Modules::all(), Protocols::all(), true).into_parts().2
}

/// Serves `state` on a bound address, to at most `max_connections` at once, until it is stopped.
///
/// # Errors
///
/// If threads cannot be started.
pub fn serve(
    server: BoundServer,
    config: &ServerConfig,
    max_connections: usize,
    state: &Arc<AppState>,
) -> io::Result<RunningServer> {
    let worker = {
        let state = Arc::clone(state);
        // A router for each thread, so that threads do not contend for its counters.
        move || {
            let (router, _) =
                openapi::served(all_routes(state.modules, state.protocols, state.faults.is_some()));
            Frontend { router: router.with_state(Arc::clone(&state)), state: Arc::clone(&state) }
        }
    };
    server.serve(config, max_connections, &state.metrics, worker)
}

/// Answers the requests of one thread's connections.
#[derive(Clone)]
struct Frontend {
    state: Arc<AppState>,
    router: Router,
}

impl server::Handler for Frontend {
    async fn answer(&self, request: Request<Incoming>, connection: &ConnectionHandle) -> Response {
        pipeline::answer(&self.state, &self.router, request, connection).await
    }

    async fn answer_operator(&self, request: Request<Incoming>, connection: &ConnectionHandle) -> Response {
        if ops::is_operators(request.uri().path()) {
            return self.answer(request, connection).await;
        }
        let message = "too many connections; try again later";
        let refusal = ApiError::unavailable("overloaded", message, Duration::from_secs(1));
        let mut response = refusal.into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
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
    /// The modules that are on.
    modules: Modules,
    /// The protocols of other SDKs that are on.
    protocols: Protocols,
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
    /// What the stress API has from the start; `None`: it is off.
    stress: Option<StressApi>,
    /// The web page; `None`: it is off.
    web: Option<web::Web>,
    routes: RouteTable,
    /// Set once the database is ready.
    services: OnceLock<Services>,
    /// Set before the service accepts anything; without it streams are off. A store in memory needs no other service.
    streams: OnceLock<StreamsApi>,
    hot: [HotRoute; 2],
    /// The snapshots of the topic `stats`.
    stats: ops::Stats,
    started: Instant,
}

/// What handlers need once the database is ready.
#[derive(Debug)]
pub struct Services {
    /// Admission of events.
    pub ingest: Ingest,
    /// Routes into tables of users.
    pub routes: UserRoutes,
    /// The operators' quota of the pool.
    pub database: Database,
    /// The memory of request bodies.
    pub bodies: Arc<MemoryBudget>,
    /// Limits of requests.
    pub limits: RequestLimits,
    /// The feed of changes; `None`: no module that is on has changes.
    pub realtime: Option<Realtime>,
    /// Sends mails; `None`: no module that is on sends any.
    pub mailer: Option<Mailer>,
    /// Asks providers of identities; `None`: no module that is on has any.
    pub providers: Option<ProviderClient>,
    /// Users, sessions and keys.
    pub accounts: Accounts,
    /// Modules.
    pub modules: ModuleServices,
}

/// Limits of requests.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Bytes of one event.
    pub event_bytes: usize,
    /// Events of one batch.
    pub batch_events: u64,
    /// Time for a body.
    pub body_timeout: Duration,
    /// Time for which a client of a WebSocket may read nothing.
    pub idle_timeout: Duration,
}

/// A route that bypasses the router, with its metrics looked up once.
#[derive(Debug)]
struct HotRoute {
    route: &'static str,
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
            accepted: metrics.requests.with_label_values(&[route, "202"]),
            seconds: metrics.request_seconds.with_label_values(&[route]),
            ack_seconds: [AckLevel::Queued, AckLevel::Journaled, AckLevel::Committed]
                .map(|level| metrics.ack_seconds.with_label_values(&[level.name()])),
        });
        let (modules, protocols) = (config.modules(), config.protocols());
        let faults = Faults::new(&config.faults);
        let (_, _, routes) = all_routes(modules, protocols, faults.is_some()).into_parts();
        Arc::new(Self {
            lifecycle: lifecycle.clone(),
            metrics: Arc::clone(metrics),
            supervisor: supervisor.clone(),
            bodies: MemoryBudget::new(config.memory().bodies),
            limits: RequestLimits {
                event_bytes: config.ingest.max_event_bytes,
                batch_events: config.ingest.max_batch_events(),
                body_timeout: Duration::from_secs(config.server.body_timeout_s),
                idle_timeout: Duration::from_secs(config.server.idle_timeout_s),
            },
            modules,
            protocols,
            verifier: Arc::clone(verifier),
            own_origin: verifier
                .is_open()
                .then(|| OwnOrigin::new(config.server.host, &config.access.cors_origins())),
            cors_origins: config.access.cors_origins(),
            trusted_proxies: config.access.trusted_proxies(),
            budgets: RateBudgets::new(config),
            takes_registrations: config.takes_registrations(),
            faults,
            stress: modules.has(Module::Stress).then(|| StressApi::new(config)),
            web: web::Web::new(config),
            routes: RouteTable::new(routes),
            services: OnceLock::new(),
            streams: OnceLock::new(),
            hot,
            stats: ops::Stats::new(),
            started: Instant::now(),
        })
    }

    /// Starts to accept events, and all other requests.
    pub fn serve(&self, services: Services) {
        let _set_once = self.services.set(services);
        self.lifecycle.serve();
    }

    /// Starts to serve streams. [`Self::serve`] or [`Lifecycle::serve`] has to follow.
    pub fn serve_streams(&self, streams: StreamsApi) {
        let _set_once = self.streams.set(streams);
    }

    /// Starts the samples with which the web page's charts begin, if it is on.
    pub fn sample_figures(&self, ingest: &Ingest) {
        if let Some(web) = &self.web {
            web.history.start(ingest, &self.metrics, &self.supervisor);
        }
    }

    /// The web page.
    fn web(&self) -> Result<&web::Web, ApiError> {
        self.web.as_ref().ok_or_else(ApiError::unknown_path)
    }

    /// Streams; 503 before they are ready, and while the service shuts down.
    fn streams(&self) -> Result<&StreamsApi, ApiError> {
        match self.streams.get() {
            Some(streams) if self.lifecycle.is_serving() => Ok(streams),
            None if self.lifecycle.is_serving() => Err(ApiError::unknown_path()),
            // Not serving: its refusal says why.
            _ => match self.services() {
                Err(refusal) => Err(refusal),
                Ok(_) => Err(ApiError::unknown_path()),
            },
        }
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
}
