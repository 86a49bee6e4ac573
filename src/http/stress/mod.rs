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

use tokio::sync::Semaphore;
use utoipa_axum::routes;

use super::edge::routes::{Needs, Routes};
use super::wire::body::MemoryBudget;
use crate::auth::Scope;
use crate::config::{Config, LargeConfig, StressConfig};
use config::StressSettings;

/// Memory of a large payload beside its bytes: a second copy without reserved members, and a decoder.
const LARGE_COPIES: u64 = 2;
const DECODER_BYTES: u64 = 32 << 20;

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
    config: StressConfig,
    /// One permit for each stream.
    permits: Arc<Semaphore>,
}

/// Limits of large payloads.
#[derive(Debug)]
struct LargeLimits {
    config: LargeConfig,
    /// A budget of their own, for all concurrent payloads.
    memory: Arc<MemoryBudget>,
    /// One permit for each payload.
    permits: Arc<Semaphore>,
}

impl StressApi {
    /// `None` where the stress API is off.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let (stress, large) = (&config.stress, &config.large);
        let each = large.max_large_payload_bytes as u64 * LARGE_COPIES + DECODER_BYTES;
        config.serves_stress().then(|| Self {
            settings: StressSettings::new(config),
            streams: Streams {
                config: stress.clone(),
                permits: Arc::new(Semaphore::new(stress.max_sse_streams)),
            },
            large: LargeLimits {
                config: large.clone(),
                memory: MemoryBudget::new(each * large.max_large_in_flight as u64),
                permits: Arc::new(Semaphore::new(large.max_large_in_flight)),
            },
        })
    }
}

/// Every route of the test bench.
pub(super) fn routes() -> Routes {
    let needs = Needs::Scope(Scope::Stress);
    Routes::default()
        .route(needs, routes!(large::create))
        .route(needs, routes!(large::get))
        .route(needs, routes!(config::get))
        .route(Needs::Scope(Scope::Admin), routes!(config::post))
        .route(needs, routes!(sse_stream::get))
        .route(needs, routes!(errors::not_found))
        .route(needs, routes!(errors::unauthorized))
        .route(needs, routes!(errors::internal))
        .route(needs, routes!(errors::timeout))
}
