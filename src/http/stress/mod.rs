//! `/api/stress`: what the authors of clients need to hammer a backend, and every failure on demand.

mod config;
mod errors;
mod large;
mod message;
mod pace;
mod sse_stream;
mod stream_body;
mod stream_plan;

use std::sync::Arc;

use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::wire::body::BodyMemory;
use crate::config::{Config, LargeConfig, StressConfig};
use crate::db::{Database, FailingStatements};
use crate::records::Records;
use crate::records::large::LargePayloads;
use config::StressSettings;

/// What the stress API is built from.
#[derive(Debug)]
pub struct StressParts {
    /// Records.
    pub records: Records,
    /// A share of the pool for large payloads.
    pub large: Database,
    /// A share that may be used up.
    pub errors: Database,
    /// Limits.
    pub config: LargeConfig,
}

/// What those of its handlers share that need the database.
#[derive(Debug)]
pub(super) struct StressStores {
    records: Records,
    large: LargePayloads,
    failing: FailingStatements,
    config: LargeConfig,
    /// Large payloads under way have a bound of their own: what is held of all of them.
    large_memory: Arc<BodyMemory>,
    in_flight: Arc<Semaphore>,
}

/// What a large payload may take beside its bytes: itself once more without reserved members, and a decoder.
const LARGE_COPIES: u64 = 2;
const DECODER_BYTES: u64 = 32 << 20;

impl StressStores {
    pub(super) fn new(parts: StressParts) -> Self {
        let StressParts { records, large, errors, config } = parts;
        let each = config.max_large_payload_bytes as u64 * LARGE_COPIES + DECODER_BYTES;
        Self {
            large: LargePayloads::new(&records, &large),
            failing: FailingStatements::new(&errors),
            large_memory: BodyMemory::new(each * config.max_large_in_flight as u64),
            in_flight: Arc::new(Semaphore::new(config.max_large_in_flight)),
            records,
            config,
        }
    }
}

/// What all of its handlers share.
#[derive(Debug)]
pub(super) struct Stress {
    settings: StressSettings,
    streams: Streams,
}

/// What the streams share.
#[derive(Debug)]
struct Streams {
    config: StressConfig,
    /// A permit a stream.
    permits: Arc<Semaphore>,
}

impl Stress {
    /// `None` where the stress API is not served.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let permits = Arc::new(Semaphore::new(config.stress.max_sse_streams));
        config.serves_stress().then(|| Self {
            settings: StressSettings::new(config),
            streams: Streams { config: config.stress.clone(), permits },
        })
    }
}

/// Every route below `/api/stress`.
pub(super) fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::default()
        .routes(routes!(large::create))
        .routes(routes!(large::get))
        .routes(routes!(config::get, config::post))
        .routes(routes!(sse_stream::get))
        .routes(routes!(errors::not_found))
        .routes(routes!(errors::unauthorized))
        .routes(routes!(errors::internal))
        .routes(routes!(errors::timeout))
}
