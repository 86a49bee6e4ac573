//! `GET /v1/stream/__ds/mux`: many streams over one connection (an extension).
//!
//! Each event `data` has the id `path@offset`, with which the stream continues: it is the value of `stream` in the next request. Events `control` name
//! their stream as a member. One comes first of all for each stream; `ended` in one is the reason for which a stream ended that was not closed.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::future::select_all;
use hyper::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::refusal::Refusal;
use super::sse::{Follower, LiveConnection, requirement};
use super::target;
use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::authorize::{Proof, Requirement, StreamAccess};
use crate::http::event_stream::{CHUNK_BYTES, Close, EventSource, EventStream};
use crate::http::server::ConnectionHandle;
use crate::http::wire::error::ApiError;
use crate::http::wire::{query, sse};
use crate::streams::{ReadFrom, StreamError, StreamPath};

/// The most streams of a connection.
const MAX_STREAMS: usize = 100;

/// `GET /v1/stream/__ds/mux`.
#[utoipa::path(
    get,
    path = "/v1/stream/__ds/mux",
    tag = "streams",
    summary = "Many streams, as server-sent events of one connection",
    params(("stream" = Vec<String>, Query, description = "path@offset of a stream, repeated, up to 100 times")),
    responses(
        (status = 200, description = "Events: data, control", content_type = "text/event-stream", body = String),
        (status = 404, description = "There is no such stream"),
        (status = 410, description = "A stream was deleted, or is not kept from its offset on"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(connection): Extension<ConnectionHandle>,
    headers: HeaderMap,
    RawQuery(parameters): RawQuery,
) -> Result<Response, Refusal> {
    let api = state.streams()?;
    let named = match streams(parameters.as_deref().unwrap_or_default()) {
        Ok(named) => named,
        // A caller without any permission learns nothing else.
        Err(malformed) => {
            Requirement::Stream(Scope::StreamsRead, "".into()).check(&state, &principal)?;
            return Err(malformed.into());
        }
    };
    for (path, _) in &named {
        target::check(&state, &principal, Scope::StreamsRead, path)?;
    }
    let live = LiveConnection::new(&state, api)?;
    let mut followers = Vec::with_capacity(named.len());
    for (path, from) in named {
        let opened = Follower::open(api, path.clone(), from, None, true).await;
        followers.push(opened.map_err(|error| refuse(error, &path))?);
    }
    let requirements = followers.iter().map(|follower| requirement(&follower.path)).collect();
    let stream = EventStream {
        connection,
        heartbeat: api.streams.settings.heartbeat,
        access: Some(StreamAccess { proof: Proof::Headers(headers), requirements }),
        retry_ms: None,
        state: Arc::clone(&state),
    };
    Ok(stream.respond(MuxSource { followers, next: 0, live }))
}

/// The refusal of one of several streams.
fn refuse(error: StreamError, path: &StreamPath) -> Refusal {
    match error {
        StreamError::NotFound => {
            let message = format!("there is no stream {path}");
            ApiError::new(StatusCode::NOT_FOUND, "not_found", message).field("stream").into()
        }
        StreamError::Offset => {
            ApiError::invalid(format!("the offset is no position of {path}")).field("stream").into()
        }
        error => error.into(),
    }
}

/// The streams of a query, each cut at its last `@`.
fn streams(text: &str) -> Result<Vec<(StreamPath, ReadFrom)>, ApiError> {
    let refuse = |message: String| ApiError::invalid(message).field("stream");
    let mut named: Vec<(StreamPath, ReadFrom)> = Vec::new();
    for (name, value) in query::pairs(text).filter(|(name, _)| name == "stream") {
        let takes = || refuse(format!("{name} takes path@offset, with an offset of an answer, -1 or now"));
        let (path, from) = value.rsplit_once('@').ok_or_else(takes)?;
        let from = ReadFrom::parse(from).ok_or_else(takes)?;
        let path = StreamPath::new(path).map_err(|error| refuse(error.to_string()))?;
        if named.iter().any(|(known, _)| *known == path) {
            return Err(refuse(format!("{path} is named twice")));
        }
        named.push((path, from));
        if named.len() > MAX_STREAMS {
            return Err(refuse(format!("a connection takes at most {MAX_STREAMS} streams")));
        }
    }
    match named.is_empty() {
        true => Err(refuse(format!("stream takes path@offset, up to {MAX_STREAMS} times"))),
        false => Ok(named),
    }
}

/// The events of several streams.
struct MuxSource {
    followers: Vec<Follower>,
    /// The stream that is written next, so that none has to wait for ever.
    next: usize,
    live: LiveConnection,
}

impl MuxSource {
    fn is_complete(&self) -> bool {
        self.followers.iter().all(|follower| follower.is_complete)
    }
}

impl EventSource for MuxSource {
    async fn ready(&mut self) {
        if self.is_complete() || self.followers.iter().any(|follower| follower.is_due) {
            return;
        }
        let ready = select_all(self.followers.iter_mut().map(|follower| Box::pin(follower.ready())));
        let due = tokio::select! {
            ((), at, _) = ready => Some(at),
            () = tokio::time::sleep_until(self.live.ends_at) => None,
        };
        if let Some(follower) = due.and_then(|at| self.followers.get_mut(at)) {
            follower.is_due = true;
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if self.is_complete() {
            return Err(Close::Ended("complete"));
        }
        if Instant::now() >= self.live.ends_at {
            return Err(Close::Ended("rotated"));
        }
        for _ in 0..self.followers.len() {
            self.next = (self.next + 1) % self.followers.len();
            let Some(follower) = self.followers.get_mut(self.next).filter(|follower| follower.is_due) else {
                continue;
            };
            match follower.write(out).await {
                Ok(()) => {}
                Err(close @ Close::Ended("deleted" | "behind")) => follower.write_end(out, close),
                Err(close) => return Err(close),
            }
            if out.len() >= CHUNK_BYTES {
                break;
            }
        }
        Ok(())
    }

    fn heartbeat(&mut self, out: &mut BytesMut) {
        sse::write_comment(out);
    }

    async fn hold(&self, chunk: Bytes) -> Bytes {
        self.live.hold(chunk).await
    }

    fn closed(&mut self, close: Close) {
        self.live.closed(close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Offset;

    #[test]
    fn each_value_is_cut_at_its_last_at() {
        let of = |text: &str| {
            let named = streams(text).map_err(drop)?;
            Ok(named.into_iter().map(|(path, from)| (path.to_string(), from)).collect::<Vec<_>>())
        };
        assert_eq!(
            of("stream=a/b@-1&x=1&stream=c%40d@now&stream=e@f@0000000000000000_0000000000000007"),
            Ok(vec![
                ("a/b".into(), ReadFrom::Start),
                ("c@d".into(), ReadFrom::Now),
                ("e@f".into(), ReadFrom::At(Offset(7))),
            ])
        );
        for bad in [
            "",
            "stream=",
            "stream=a",
            "stream=a@",
            "stream=@-1",
            "stream=__ds/x@-1",
            "stream=a@-1&stream=a@now",
        ] {
            assert_eq!(of(bad), Err(()), "{bad}");
        }
        let many: Vec<String> = (0..101).map(|n| format!("stream=s{n}@-1")).collect();
        assert!(of(&many[..100].join("&")).is_ok() && of(&many.join("&")).is_err());
    }
}
