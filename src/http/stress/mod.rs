//! The stress API, `/api/stress`: what authors of clients hammer.

mod message;
mod pace;
mod sse_stream;
mod stream_body;
mod stream_plan;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::sync::Semaphore;

use super::Face;
use crate::config::StressConfig;

/// What the stress API shares.
#[derive(Debug)]
pub(super) struct Stress {
    config: StressConfig,
    /// A permit a stream.
    streams: Arc<Semaphore>,
}

impl Stress {
    pub(super) fn new(config: &StressConfig) -> Self {
        Self { config: config.clone(), streams: Arc::new(Semaphore::new(config.max_sse_streams)) }
    }
}

/// The routes, which are there only if the stress API is served.
pub(super) fn routes() -> Router<Arc<Face>> {
    Router::new().route("/api/stress/sse-stream", get(sse_stream::get))
}
