//! `/api/stress`: the test bench for authors of clients. It serves load of any size and rate, and every failure on demand.

mod config;
mod errors;
mod large;
mod message;
mod pace;
mod sse_stream;
mod stream_plan;
mod stream_source;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use utoipa_axum::routes;

use super::edge::routes::{Access, Routes};
use super::wire::body::MemoryBudget;
use crate::auth::Scope;
use crate::config::{Config, limits};
use crate::db::FailingStatements;
use crate::records::large::LargePayloads;
use config::StressSettings;

/// What the stress API needs of the database.
#[derive(Debug)]
pub struct StressServices {
    /// Large payloads.
    pub large_payloads: LargePayloads,
    /// Failures on demand.
    pub failing: FailingStatements,
}

/// What the handlers of the stress API share.
#[derive(Debug)]
pub(super) struct StressApi {
    settings: StressSettings,
    streams: Streams,
    large: LargeLimits,
}

/// Limits of event streams.
#[derive(Debug)]
struct Streams {
    heartbeat: Duration,
    buffer_bytes: u64,
    /// One permit for each stream.
    permits: Arc<Semaphore>,
}

/// Limits of large payloads.
#[derive(Debug)]
struct LargeLimits {
    /// A budget of their own, for all concurrent payloads.
    memory: Arc<MemoryBudget>,
    /// One permit for each payload.
    permits: Arc<Semaphore>,
}

impl StressApi {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            settings: StressSettings::new(config),
            streams: Streams {
                heartbeat: Duration::from_secs(config.subscribers.sse_heartbeat_s),
                buffer_bytes: config.subscribers.subscriber_bytes as u64,
                permits: Arc::new(Semaphore::new(config.max_stress_streams())),
            },
            large: LargeLimits {
                memory: MemoryBudget::new(config.memory().large_payloads),
                permits: Arc::new(Semaphore::new(limits::MAX_LARGE_IN_FLIGHT)),
            },
        }
    }
}

/// Every route of the test bench.
pub(super) fn routes() -> Routes {
    let access = Access::Scope(Scope::Stress);
    Routes::default()
        .route(access, routes!(large::create))
        .route(access, routes!(large::get))
        .route(access, routes!(config::get))
        .route(Access::Scope(Scope::Admin), routes!(config::post))
        .route(access, routes!(sse_stream::get))
        .route(access, routes!(errors::not_found))
        .route(access, routes!(errors::unauthorized))
        .route(access, routes!(errors::internal))
        .route(access, routes!(errors::timeout))
}
