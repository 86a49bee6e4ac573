//! `GET /api/events/stream`: what changes, as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use tokio::time::Instant;

use super::Start;
use super::event;
use super::topic::Topics;
use crate::auth::Principal;
use crate::http::AppState;
use crate::http::edge::authorize::{Proof, StreamAccess, TicketCaller};
use crate::http::event_stream::{self, CHUNK_BYTES, Close, EventSource, EventStream, RETRY_MS};
use crate::http::server::ConnectionHandle;
use crate::http::wire::error::ApiError;
use crate::http::wire::sse;
use crate::realtime::{Change, Next, Subscription};

/// The time for which changes are written without a pause for other tasks.
pub(super) const MAX_RUN: Duration = Duration::from_millis(2);

/// `GET /api/events/stream`.
#[utoipa::path(
    get,
    path = "/api/events/stream",
    tag = "realtime",
    summary = "What changes, as server-sent events",
    params(
        ("topics" = String, Query, description = "Up to 100, separated by commas: records/{collection}, records/{collection}/{id}, conversations/{id}, table/{schema.table}, topic/{name}, stats; each may have ?options= and encoded JSON: filter, fields, old, changed, leave", example = "records/items"),
        ("from" = Option<String>, Query, description = "A position: everything since, then live. Without one, from now on"),
        ("ticket" = Option<String>, Query, description = "A ticket (POST /api/events/ticket), instead of a token"),
        ("last-event-id" = Option<String>, Header, description = "The position of the last event; it goes before `from`"),
    ),
    responses(
        (status = 200, description = "Events: ready, change, reset, stats", content_type = "text/event-stream", body = String),
        (status = 404, description = "There is no such conversation of one's own, or no such watched table"),
    )
)]
pub(super) async fn stream(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(connection): Extension<ConnectionHandle>,
    ticket: Option<Extension<TicketCaller>>,
    headers: HeaderMap,
    RawQuery(parameters): RawQuery,
) -> Result<Response, ApiError> {
    let mut start = Start::of_query(parameters.as_deref().unwrap_or_default(), &headers)?;
    let realtime = state.services()?.realtime()?;
    let user = state.services()?.accounts.user_of(&principal).await?;
    start.topics.check(&state, &principal, user).await?;
    let subscription = match start.topics.has_feed() {
        true => realtime.join(start.topics.names(), user, start.from)?,
        // Neither waits for Postgres nor makes the feed poll.
        false => realtime.connect(user)?,
    };
    let stream = EventStream {
        state: Arc::clone(&state),
        connection,
        heartbeat: Duration::from_secs(realtime.limits().heartbeat_s),
        access: Some(StreamAccess {
            proof: Proof::new(ticket, headers),
            requirements: start.topics.requirements(),
        }),
        retry_ms: Some(RETRY_MS),
    };
    let topics = start.topics;
    Ok(stream.respond(ChangeSource {
        subscription,
        stats_at: topics.has_stats().then(Instant::now),
        topics,
        is_ready: false,
        unsent: None,
        is_behind: false,
        state,
    }))
}

/// Waits until a time; `None`: for ever.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The events of a subscription.
struct ChangeSource {
    subscription: Subscription,
    topics: Topics,
    is_ready: bool,
    /// A change that did not fit into the last chunk.
    unsent: Option<Arc<Change>>,
    /// Whether the last change was none of the client's, so that its position was not sent.
    is_behind: bool,
    /// When figures are sent next; `None`: they are none of the topics.
    stats_at: Option<Instant>,
    state: Arc<AppState>,
}

impl ChangeSource {
    fn write_position(&self, out: &mut BytesMut, event: &str) {
        let position = self.subscription.position().to_string();
        let fields = sse::Fields { id: Some(&position), event: Some(event), retry_ms: None };
        // A position has no character that JSON escapes.
        sse::write_event(out, fields, format!("{{\"position\":\"{position}\"}}").as_bytes());
    }

    fn write_ready(&self, out: &mut BytesMut) {
        if self.topics.has_feed() {
            self.write_position(out, "ready");
        } else {
            let fields = sse::Fields { event: Some("ready"), ..sse::Fields::default() };
            sse::write_event(out, fields, b"{\"position\":null}");
        }
    }

    /// Writes figures that are due. A client that does not take them misses those of meanwhile.
    fn write_stats(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if self.stats_at.is_some_and(|at| at <= Instant::now()) {
            let stats = &self.state.stats;
            self.stats_at = Some(stats.next_at());
            let json = stats.snapshot(&self.state).map_err(|error| stats_failed(&error))?;
            let fields = sse::Fields { event: Some("stats"), ..sse::Fields::default() };
            sse::write_event(out, fields, &json);
        }
        Ok(())
    }

    fn write_change(&mut self, out: &mut BytesMut, change: &Change) -> Result<(), Close> {
        let data = match self.topics.of(change) {
            Some(topic) => event::data(topic, change).map_err(|error| error.close(change))?,
            None => None,
        };
        self.is_behind = data.is_none();
        let Some(data) = data else { return Ok(()) };
        sse::write_event(
            out,
            sse::Fields { id: Some(change.id()), event: Some("change"), retry_ms: None },
            &data,
        );
        Ok(())
    }
}

/// The end of a stream whose figures cannot be encoded, which is logged.
pub(super) fn stats_failed(error: &serde_json::Error) -> Close {
    tracing::error!(error = error.to_string(), "figures cannot be sent; their subscribers are cut off");
    Close::Ended("failed")
}

impl EventSource for ChangeSource {
    async fn ready(&mut self) {
        if !self.is_ready {
            self.subscription.joined().await;
        } else if self.unsent.is_none() {
            tokio::select! {
                () = self.subscription.ready() => {}
                () = until(self.stats_at) => {}
            }
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if !std::mem::replace(&mut self.is_ready, true) {
            self.write_ready(out);
            return self.write_stats(out);
        }
        self.write_stats(out)?;
        if let Some(change) = self.unsent.take() {
            self.write_change(out, &change)?;
        }
        let mut begun = Instant::now();
        while out.len() < CHUNK_BYTES {
            // Filters take time, and other tasks wait.
            if begun.elapsed() > MAX_RUN {
                tokio::task::yield_now().await;
                begun = Instant::now();
            }
            match self.subscription.next().await? {
                Next::Change(change) if out.is_empty() || out.len() + change.bytes() <= CHUNK_BYTES => {
                    self.write_change(out, &change)?;
                }
                Next::Change(change) => {
                    self.unsent = Some(change);
                    break;
                }
                Next::Reset => self.write_position(out, "reset"),
                Next::Nothing | Next::Joined | Next::NotJoined => break,
            }
        }
        Ok(())
    }

    fn heartbeat(&mut self, out: &mut BytesMut) {
        // A position behind a change that was not sent would skip it.
        let position = if self.unsent.is_none() { self.subscription.moved_on() } else { None };
        match position {
            Some(position) => sse::write_id(out, &position.to_string()),
            None if self.is_behind => sse::write_id(out, &self.subscription.position().to_string()),
            None => sse::write_comment(out),
        }
        if self.unsent.is_none() {
            self.is_behind = false;
        }
    }

    fn sent(&mut self) {
        if self.unsent.is_none() {
            self.subscription.sent();
        }
    }

    fn cut(&mut self, out: &mut BytesMut, close: Close) {
        event_stream::write_cut(out, close);
    }

    async fn hold(&self, chunk: Bytes) -> Bytes {
        self.subscription.hold(chunk).await
    }

    async fn cut_off(&self) -> Close {
        tokio::select! {
            end = self.subscription.dropped() => end.into(),
            () = self.subscription.overstays() => Close::Slow,
        }
    }

    fn closed(&mut self, close: Close) {
        self.state.metrics.follows_closed.with_label_values(&[close.name()]).inc();
    }
}
