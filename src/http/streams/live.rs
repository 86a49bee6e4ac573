//! Long-polls: the next part of a stream, once there is one.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::StreamsApi;
use super::answer::{Answer, position, read_slice};
use super::headers::STREAM_CURSOR;
use super::refusal::Refusal;
use crate::http::AppState;
use crate::http::edge::pipeline::ClientGone;
use crate::http::wire::error::ApiError;
use crate::streams::{Freshness, Lifetime, ReadFrom, Slice, StreamError, StreamHead, StreamPath};
use crate::time::Micros;

impl StreamsApi {
    /// A place among the live readers.
    pub(super) fn reader(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.readers).try_acquire_owned().map_err(|_| {
            let message = "too many live readers (MAX_SUBSCRIBERS); try again later";
            ApiError::unavailable("overloaded", message, Duration::from_secs(1))
        })
    }

    /// The cursor of a live answer to a client with this one.
    pub(super) fn cursor(&self, client: Option<&str>) -> u64 {
        self.streams.settings.cursor.cursor(client, Micros::now(), fastrand::u64(..))
    }
}

/// The expiry of a stream with live readers; `None`: it does not expire while they read.
pub(super) fn end_of(stream: &StreamHead) -> Option<Instant> {
    match stream.lifetime {
        // A moment later, when the store knows it too.
        Some(Lifetime::ExpiresAt(_)) => stream.ends?.checked_add(Duration::from_millis(1)),
        _ => None,
    }
}

/// Resolves at a time, or never.
pub(super) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn gone(client: Option<&ClientGone>) {
    match client {
        Some(client) => client.gone().await,
        None => std::future::pending().await,
    }
}

/// A long-poll.
pub(super) struct LongPoll<'a> {
    pub(super) state: &'a AppState,
    pub(super) api: &'a StreamsApi,
    pub(super) path: &'a StreamPath,
    pub(super) from: ReadFrom,
    pub(super) cursor: Option<String>,
    pub(super) gone: Option<ClientGone>,
}

impl LongPoll<'_> {
    /// Waits for data, the end of the stream, or the time-out.
    pub(super) async fn answer(self, request: &HeaderMap) -> Result<Response, Refusal> {
        let (state, api, path, from) = (self.state, self.api, self.path, self.from);
        let _place = api.reader()?;
        let store = &api.streams.store;
        let deadline = Instant::now() + api.streams.settings.long_poll_timeout;
        // Before the read, so that no change falls in between.
        let mut watch = store.watch(path);
        let (mut slice, mut permit) = read_slice(api, path, from, Freshness::Verified).await?;
        store.renew(path, &slice.head);
        let (id, at) = (slice.head.id, slice.start);
        let mut is_over = false;
        loop {
            if slice.head.id != id {
                return Err(StreamError::NotFound.into());
            }
            if slice.next != at {
                let cursor = Some(api.cursor(self.cursor.as_deref()));
                let is_now = from == ReadFrom::Now;
                return Ok(Answer { api, slice, permit, is_now, cursor }.respond(request));
            }
            if slice.head.closed || is_over {
                return Ok(self.nothing(&slice));
            }
            // The time-out's answer has to be true when it is given.
            let freshness = tokio::select! {
                () = watch.changed() => Freshness::Known,
                () = until(end_of(&slice.head)) => Freshness::Verified,
                () = tokio::time::sleep_until(deadline) => {
                    is_over = true;
                    Freshness::Verified
                }
                () = state.lifecycle.draining() => return Ok(self.nothing(&slice)),
                () = gone(self.gone.as_ref()) => return Ok(self.nothing(&slice)),
            };
            drop(permit.take());
            (slice, permit) = read_slice(api, path, ReadFrom::At(at), freshness).await?;
        }
    }

    /// 204: there is nothing behind the client's offset.
    fn nothing(&self, slice: &Slice) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        position(headers, slice);
        if !slice.head.closed {
            headers.insert(&STREAM_CURSOR, HeaderValue::from(self.api.cursor(self.cursor.as_deref())));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
