//! `GET /api/conversations/{id}/messages?live=sse`: messages, then changes, as server-sent events.
//!
//! A slow client holds a few chunks, its buffer in the hub, and a page that was read from the database. All count in `SUBSCRIBERS_BYTES` until the
//! socket has taken them: the slowest clients are cut off before it is used up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use uuid::Uuid;

use crate::auth::{Principal, Scope};
use crate::conversations::{Event, EventKind, Live, LiveCursor, LiveEnd, parse_live};
use crate::http::edge::authorize::StreamAccess;
use crate::http::event_stream::{
    self, CHUNK_BYTES, Close, EventSource, EventStream, LAST_EVENT_ID, RETRY_MS,
};
use crate::http::server::ConnectionHandle;
use crate::http::wire::error::ApiError;
use crate::http::wire::sse;
use crate::http::{AppState, Services};
use crate::observe::Metrics;

/// A request for a live subscription.
pub(super) struct LiveRequest {
    pub(super) conversation: Uuid,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) connection: ConnectionHandle,
    pub(super) principal: Principal,
}

pub(super) async fn get(
    state: &Arc<AppState>,
    services: &Services,
    request: LiveRequest,
) -> Result<Response, ApiError> {
    let start = parse_live(&request.parameters)?;
    let cursor = match request.headers.get(LAST_EVENT_ID) {
        None => None,
        Some(value) => {
            let cursor = value.to_str().ok().and_then(LiveCursor::parse);
            let refuse = || ApiError::invalid("last-event-id takes the id of an event of this stream");
            Some(cursor.ok_or_else(|| refuse().field(LAST_EVENT_ID))?)
        }
    };
    let owner = services.accounts.user_of(&request.principal).await?;
    let live = services.conversations()?.subscribe(owner, request.conversation, start, cursor).await?;
    let stream = EventStream {
        state: Arc::clone(state),
        connection: request.connection,
        heartbeat: Duration::from_secs(services.conversations()?.realtime().heartbeat_s),
        access: Some(StreamAccess::of_scope(Scope::ConversationsRead, request.headers)),
        retry_ms: Some(RETRY_MS),
    };
    let metrics = Arc::clone(&state.metrics);
    Ok(stream.respond(LiveSource { live, unsent: VecDeque::new(), metrics }))
}

/// The events of a live subscription.
struct LiveSource {
    live: Live,
    /// Events that did not fit into the last chunk.
    unsent: VecDeque<Event>,
    metrics: Arc<Metrics>,
}

impl From<LiveEnd> for Close {
    fn from(end: LiveEnd) -> Self {
        match end {
            LiveEnd::Deleted => Self::Ended("deleted"),
            LiveEnd::Subscription(end) => end.into(),
            LiveEnd::Event(error) => {
                let error = crate::db::chain(&error);
                tracing::error!(
                    error,
                    "a change of a conversation cannot be sent; its subscribers are cut off"
                );
                Self::Ended("failed")
            }
        }
    }
}

impl EventSource for LiveSource {
    async fn ready(&mut self) {
        if self.unsent.is_empty() {
            self.live.ready().await;
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if self.unsent.is_empty() {
            self.unsent = self.live.next().await?.into();
        }
        while out.len() < CHUNK_BYTES
            && let Some(event) = self.unsent.pop_front()
        {
            let id = event.cursor.map(|cursor| cursor.to_string());
            // An event without a name is a message.
            let name = (event.kind != EventKind::Message).then_some(event.kind.name());
            let fields = sse::Fields { id: id.as_deref(), event: name, retry_ms: None };
            sse::write_event(out, fields, &event.data);
        }
        Ok(())
    }

    fn heartbeat(&mut self, out: &mut BytesMut) {
        // A cursor behind events that were not sent would skip them.
        let cursor = if self.unsent.is_empty() { self.live.moved_on() } else { None };
        match cursor {
            Some(cursor) => sse::write_id(out, &cursor.to_string()),
            None => sse::write_comment(out),
        }
    }

    fn sent(&mut self) {
        if self.unsent.is_empty() {
            self.live.sent();
        }
    }

    fn cut(&mut self, out: &mut BytesMut, close: Close) {
        event_stream::write_cut(out, close);
    }

    async fn hold(&self, chunk: Bytes) -> Bytes {
        self.live.hold(chunk).await
    }

    async fn cut_off(&self) -> Close {
        tokio::select! {
            end = self.live.dropped() => end.into(),
            () = self.live.overstays() => Close::Slow,
        }
    }

    fn closed(&mut self, close: Close) {
        self.metrics.follows_closed.with_label_values(&[close.name()]).inc();
    }
}
