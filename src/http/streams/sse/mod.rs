//! `live=sse`: a stream as server-sent events.
//!
//! Each event `data` is followed by an event `control` with the offset behind it. An idle stream repeats the last one as a sign of life. After about a
//! minute the connection ends, and the client continues on another one: by that caches can serve many clients with one connection.
//!
//! ```text
//! watch ─▶ Follower ─┬─ SharedEvents: another one has formatted this slice ─┬─▶ EventStream ─▶ connection
//!                    └─ store ─▶ slice ─▶ Form ─────────────────────────────┘
//! ```

mod connection;
mod follower;
mod form;
mod shared_events;

use std::sync::Arc;

use axum::response::Response;
use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use tokio::time::Instant;

use super::StreamsApi;
use super::headers::STREAM_SSE_DATA_ENCODING;
use super::refusal::Refusal;
use crate::auth::Scope;
use crate::http::AppState;
use crate::http::edge::authorize::{Proof, Requirement, StreamAccess};
use crate::http::event_stream::{Close, EventSource, EventStream};
use crate::http::server::ConnectionHandle;
use crate::http::wire::sse;
use crate::streams::{ReadFrom, StreamPath};
pub(super) use connection::LiveConnection;
pub(super) use follower::Follower;
use form::Form;
pub(super) use shared_events::SharedEvents;

/// Opens the stream of events. Its first read is verified, and comes before the head, so that errors have a status.
pub(super) async fn open(
    state: Arc<AppState>,
    api: &StreamsApi,
    path: StreamPath,
    from: ReadFrom,
    cursor: Option<String>,
    connection: ConnectionHandle,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let live = LiveConnection::new(&state, api)?;
    let follower = Follower::open(api, path, from, cursor, false).await?;
    let form = follower.form;
    let requirements = vec![requirement(&follower.path)];
    let stream = EventStream {
        connection,
        heartbeat: api.streams.settings.heartbeat,
        access: Some(StreamAccess { proof: Proof::Headers(headers), requirements }),
        retry_ms: None,
        state: Arc::clone(&state),
    };
    let mut response = stream.respond(Source { follower, live });
    if form == Form::Base64 {
        response.headers_mut().insert(&STREAM_SSE_DATA_ENCODING, HeaderValue::from_static("base64"));
    }
    Ok(response)
}

/// The permission that readers of a stream have to keep.
pub(super) fn requirement(path: &StreamPath) -> Requirement {
    Requirement::Stream(Scope::StreamsRead, path.as_str().into())
}

/// The events of a stream.
struct Source {
    follower: Follower,
    live: LiveConnection,
}

impl EventSource for Source {
    async fn ready(&mut self) {
        if self.follower.is_complete {
            return;
        }
        tokio::select! {
            () = self.follower.ready() => {}
            () = tokio::time::sleep_until(self.live.ends_at) => {}
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if self.follower.is_complete {
            return Err(Close::Ended("complete"));
        }
        if self.follower.has_begun() && Instant::now() >= self.live.ends_at {
            return Err(Close::Ended("rotated"));
        }
        self.follower.write(out).await
    }

    fn heartbeat(&mut self, out: &mut BytesMut) {
        self.follower.write_heartbeat(out);
        if out.is_empty() {
            sse::write_comment(out);
        }
    }

    async fn hold(&self, chunk: Bytes) -> Bytes {
        self.live.hold(chunk).await
    }

    fn closed(&mut self, close: Close) {
        self.live.closed(close);
    }
}
