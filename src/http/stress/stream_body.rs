//! A stream of messages as the body of an answer.
//!
//! hyper asks for more when the socket has taken what there was. Each time, all messages that are due and fit go out as
//! one chunk; if none is due, the body sleeps until one is, but no shorter than a tick, so that many streams cost a
//! wake-up and a write a tick and not a message. Nothing is held for a client that reads slowly: what it is owed is a
//! number, and when that comes to more than `SSE_BUFFER_BYTES`, the client is cut off. If the service itself was late,
//! nobody is: the stream catches up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::stream_plan::StreamPlan;
use crate::http::server::ConnectionHandle;
use crate::http::wire::sse;
use crate::observe::Metrics;

/// The least time between two chunks; no message is later than this, unless its client is.
const TICK: Duration = Duration::from_millis(20);
/// A chunk is sent when it has come to this.
const CHUNK_BYTES: usize = 64 * 1024;

/// What a stream needs beside its plan.
pub(super) struct StreamParts {
    pub(super) connection: ConnectionHandle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) draining: WaitForCancellationFutureOwned,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) heartbeat: Duration,
    pub(super) buffer_bytes: u64,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    /// Its last message was sent.
    Complete,
    /// Its client went away, or its connection broke.
    ClientGone,
    /// Its client was owed more than `SSE_BUFFER_BYTES`.
    SlowReader,
    /// The service stops.
    Draining,
}

impl Close {
    fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::SlowReader => "slow_reader",
            Self::Draining => "draining",
        }
    }
}

/// The stream. It gives its place back when it is dropped.
pub(super) struct StreamBody {
    plan: StreamPlan,
    connection: ConnectionHandle,
    metrics: Arc<Metrics>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
    heartbeat: Duration,
    buffer_bytes: u64,
    started: Instant,
    last_chunk: Instant,
    sent: u64,
    sent_bytes: u64,
    /// More was due than fitted into the last chunk.
    is_behind: bool,
    sleep: Pin<Box<Sleep>>,
    out: BytesMut,
    json: BytesMut,
    close: Option<Close>,
}

impl StreamBody {
    pub(super) fn new(plan: StreamPlan, parts: StreamParts) -> Self {
        let now = Instant::now();
        parts.metrics.gauges.sse_streams.inc();
        Self {
            plan,
            connection: parts.connection,
            metrics: parts.metrics,
            draining: Box::pin(parts.draining),
            _permit: parts.permit,
            heartbeat: parts.heartbeat,
            buffer_bytes: parts.buffer_bytes,
            started: now,
            last_chunk: now,
            sent: 0,
            sent_bytes: 0,
            is_behind: false,
            sleep: Box::pin(tokio::time::sleep_until(now)),
            out: BytesMut::new(),
            json: BytesMut::new(),
            close: None,
        }
    }

    fn owed(&self, now: Instant) -> u64 {
        self.plan.owed(self.plan.pace.due(now - self.started), self.sent)
    }

    /// What the client is owed, going by the messages so far.
    fn owed_bytes(&self, now: Instant) -> u64 {
        self.owed(now).saturating_mul(self.bytes_per_message())
    }

    fn bytes_per_message(&self) -> u64 {
        self.sent_bytes / self.sent.max(1)
    }

    fn end(&mut self, close: Close) {
        self.close = Some(close);
    }

    /// All that is due, or as much as fits into a chunk.
    fn chunk(&mut self, mut owed: u64, now: Instant) -> Bytes {
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        let before = self.sent;
        while owed > 0 && self.out.len() < CHUNK_BYTES {
            self.plan.write(&mut self.out, &mut self.json, self.sent, time_ms);
            self.sent += 1;
            owed -= 1;
        }
        self.metrics.sse_messages.inc_by(self.sent - before);
        self.sent_bytes += self.out.len() as u64;
        self.last_chunk = now;
        self.is_behind = owed > 0;
        if !self.is_behind {
            self.connection.forget_blocked();
        }
        // While the client takes nothing, this is not polled; its connection is then ended by the watch.
        let patience = self.plan.pace.time_for(self.buffer_bytes, self.bytes_per_message());
        let due = self.started.checked_add(self.plan.pace.due_at(self.sent));
        if let Some(deadline) = due.and_then(|due| due.max(now).checked_add(patience)) {
            self.connection.read_by(deadline.into_std());
        }
        self.out.split().freeze()
    }

    /// Before this, what is due waits for more.
    fn next_chunk(&self) -> Instant {
        if self.sent == 0 || self.is_behind { self.last_chunk } else { self.last_chunk + TICK }
    }

    /// When there is something to send again, if nothing is owed now.
    fn next_look(&self) -> Instant {
        let silence = self.last_chunk + self.heartbeat;
        let due = self.started.checked_add(self.plan.pace.due_at(self.sent)).unwrap_or(silence);
        due.max(self.last_chunk + TICK).min(silence)
    }
}

impl hyper::body::Body for StreamBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            if self.close.is_some() {
                return Poll::Ready(None);
            }
            if self.draining.as_mut().poll(cx).is_ready() {
                self.end(Close::Draining);
                continue;
            }
            let now = Instant::now();
            let owed = self.owed(now);
            if owed > 0 && now >= self.next_chunk() {
                if self.connection.was_blocked() && self.owed_bytes(now) > self.buffer_bytes {
                    self.end(Close::SlowReader);
                    self.connection.reset();
                    return Poll::Ready(Some(Err(std::io::ErrorKind::TimedOut.into())));
                }
                return Poll::Ready(Some(Ok(Frame::data(self.chunk(owed, now)))));
            }
            if self.plan.is_complete(self.sent) {
                self.end(Close::Complete);
                continue;
            }
            if now >= self.last_chunk + self.heartbeat {
                self.last_chunk = now;
                sse::write_comment(&mut self.out);
                return Poll::Ready(Some(Ok(Frame::data(self.out.split().freeze()))));
            }
            let at = self.next_look();
            self.sleep.as_mut().reset(at);
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let close = self.close.unwrap_or_else(|| {
            // The connection was ended: by the watch, as the client took nothing, or by the client.
            let is_slow =
                self.connection.was_blocked() && self.owed_bytes(Instant::now()) > self.buffer_bytes;
            if is_slow { Close::SlowReader } else { Close::ClientGone }
        });
        self.metrics.sse_closed.with_label_values(&[close.name()]).inc();
        self.metrics.gauges.sse_streams.dec();
    }
}
