//! `GET /ui/events`: the node's figures, once a second, as server-sent events. All viewers share a snapshot (`ops::Stats`). With `history=true`
//! an event `history` with the figures of the last minutes comes first.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use bytes::BytesMut;
use hyper::HeaderMap;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::auth::Scope;
use crate::http::AppState;
use crate::http::edge::authorize::StreamAccess;
use crate::http::event_stream::{Close, EventSource, EventStream, RETRY_MS};
use crate::http::server::ConnectionHandle;
use crate::http::wire::error::ApiError;
use crate::http::wire::sse;

/// The time after which the access is checked again.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The time in which a viewer has to take a snapshot.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FiguresQuery {
    /// The number of snapshots, at least 1; without it they do not end.
    count: Option<u64>,
    /// Whether the figures of the last minutes come first, which do not count.
    #[serde(default)]
    history: bool,
}

/// `GET /ui/events`.
pub(super) async fn stream(
    State(state): State<Arc<AppState>>,
    Extension(connection): Extension<ConnectionHandle>,
    query: Result<Query<FiguresQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let takes =
        || ApiError::invalid("count takes a whole number from 1, history true or false").field("count");
    let FiguresQuery { count, history } = query.map_err(|_| takes())?.0;
    if count == Some(0) {
        return Err(takes());
    }
    let viewers = Arc::clone(&state.web()?.viewers);
    let permit = viewers.try_acquire_owned().map_err(|_| {
        ApiError::unavailable("overloaded", "too many pages watch the figures", Duration::from_secs(5))
    })?;
    let stream = EventStream {
        state: Arc::clone(&state),
        connection,
        heartbeat: HEARTBEAT,
        access: Some(StreamAccess::of_scope(Scope::OpsRead, headers)),
        retry_ms: Some(RETRY_MS),
    };
    Ok(stream.respond(Figures { state, history, due: Instant::now(), left: count, _permit: permit }))
}

/// Figures that cannot be encoded, which is a defect.
fn failed(error: &serde_json::Error) -> Close {
    tracing::error!(error = error.to_string(), "figures cannot be sent; their viewers are cut off");
    Close::Ended("failed")
}

/// The snapshots for one viewer.
struct Figures {
    state: Arc<AppState>,
    /// Whether those of the last minutes are still to be sent.
    history: bool,
    due: Instant,
    /// Snapshots until the end; `None`: there is none.
    left: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl EventSource for Figures {
    async fn ready(&mut self) {
        tokio::time::sleep_until(self.due).await;
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if std::mem::take(&mut self.history)
            && let Some(web) = &self.state.web
        {
            let json = serde_json::to_vec(&web.history.response()).map_err(|error| failed(&error))?;
            sse::write_event(out, sse::Fields { event: Some("history"), ..sse::Fields::default() }, &json);
        }
        match &mut self.left {
            Some(0) => return Err(Close::Ended("complete")),
            Some(left) => *left -= 1,
            None => {}
        }
        let stats = &self.state.stats;
        self.due = if self.left == Some(0) { Instant::now() } else { stats.next_at() };
        let json = stats.snapshot(&self.state).map_err(|error| failed(&error))?;
        sse::write_event(out, sse::Fields { event: Some("stats"), ..sse::Fields::default() }, &json);
        Ok(())
    }

    async fn cut_off(&self) -> Close {
        tokio::time::sleep(PATIENCE).await;
        Close::Slow
    }

    fn closed(&mut self, close: Close) {
        self.state.metrics.follows_closed.with_label_values(&[close.name()]).inc();
    }
}
