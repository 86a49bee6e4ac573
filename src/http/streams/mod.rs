//! Durable Streams: append-only streams with offsets, at `/v1/stream/{path}` (the protocol of `durable-streams/durable-streams`, draft 1.0).
//!
//! ```text
//! PUT ─▶ create    POST ─▶ append    DELETE ─▶ delete    HEAD ─▶ metadata
//! GET ─▶ read ─┬─ catch-up: one slice
//!              ├─ live=long-poll: the next slice, or 204 after a wait
//!              └─ live=sse: slices, each followed by a control event
//! ```
//!
//! Errors have the form of all others, and the headers that the protocol wants of them.

mod answer;
mod append;
mod compression;
mod create;
mod headers;
mod live;
mod metadata;
mod mux;
mod read;
mod refusal;
mod sse;
mod subscriptions;
mod target;

use std::sync::Arc;

use tokio::sync::Semaphore;
use utoipa_axum::routes;

use refusal::Refusal;

use super::edge::routes::{Access, Routes};
use super::wire::body::MemoryBudget;
use super::wire::error::ApiError;
use crate::auth::Scope;
use crate::streams::subscriptions::Subscriptions;
use crate::streams::{ListedStream, StreamPath, Streams};
use sse::SharedEvents;

/// The prefix of the paths of streams.
pub(super) const PREFIX: &str = "/v1/stream/";

/// Every route of this face.
pub(super) fn routes() -> Routes {
    Routes::default()
        .route(Access::Paths(Scope::StreamsCreate), routes!(create::put))
        .route(Access::Paths(Scope::StreamsWrite), routes!(append::post))
        .route(Access::Paths(Scope::StreamsDelete), routes!(metadata::delete))
        .route(Access::Paths(Scope::StreamsRead), routes!(read::get))
        .route(Access::Paths(Scope::StreamsRead), routes!(mux::get))
        .merge(subscriptions::routes())
}

/// Streams, and what their requests share.
#[derive(Debug)]
pub struct StreamsApi {
    streams: Streams,
    /// One permit for each live reader.
    readers: Arc<Semaphore>,
    /// Bytes of answers that clients have not read yet.
    answers: Arc<MemoryBudget>,
    /// Events that several subscribers of a stream get.
    events: SharedEvents,
    /// `None`: the service has none.
    subscriptions: Option<Subscriptions>,
}

impl StreamsApi {
    /// The face of these streams.
    pub fn new(streams: Streams) -> Self {
        let readers = Arc::new(Semaphore::new(streams.settings.max_readers));
        let answers = MemoryBudget::new(streams.settings.answers_bytes);
        Self { streams, readers, answers, events: SharedEvents::default(), subscriptions: None }
    }

    /// The same, with subscriptions to its streams.
    pub fn with_subscriptions(self, subscriptions: Subscriptions) -> Self {
        Self { subscriptions: Some(subscriptions), ..self }
    }

    /// Living streams whose paths begin with `prefix`, by path, behind `after`; at most `limit`.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&StreamPath>,
        limit: usize,
    ) -> Result<Vec<ListedStream>, ApiError> {
        let listed = self.streams.store.list(prefix, after, limit).await;
        listed.map_err(|error| Refusal::from(error).error)
    }

    /// Subscriptions to streams.
    fn subscriptions(&self) -> Result<&Subscriptions, ApiError> {
        self.subscriptions.as_ref().ok_or_else(ApiError::unknown_path)
    }
}
