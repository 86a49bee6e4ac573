//! The messages of a stream at a rate.
//!
//! All due messages that fit are written as one chunk; the source then waits for the next one, but no shorter than a tick, so that many streams
//! cost a wake-up and a write a tick and not a message. Nothing is held for a slow client but a few chunks: the messages that it is owed are a
//! number, and when their bytes exceed `SUBSCRIBER_BYTES`, the client is cut off. If the service itself was late, no client is: the stream
//! catches up.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::stream_plan::StreamPlan;
use crate::http::event_stream::{CHUNK_BYTES, Close, EventSource};
use crate::http::server::ConnectionHandle;
use crate::observe::Metrics;
use crate::time::Millis;

/// The least time between two chunks; no message is later than this, unless its client is.
const TICK: Duration = Duration::from_millis(20);

/// The messages of a plan. The permit is released when it is dropped.
pub(super) struct StreamSource {
    plan: StreamPlan,
    connection: ConnectionHandle,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
    buffer_bytes: u64,
    started: Instant,
    last_chunk: Instant,
    /// The time at which a client that has not taken the last chunk is owed too much.
    deadline: Option<Instant>,
    sent: u64,
    sent_bytes: u64,
    /// More messages were due than fitted into the last chunk.
    is_behind: bool,
    json: BytesMut,
}

impl StreamSource {
    pub(super) fn new(
        plan: StreamPlan,
        connection: ConnectionHandle,
        metrics: &Arc<Metrics>,
        permit: OwnedSemaphorePermit,
        buffer_bytes: u64,
    ) -> Self {
        let now = Instant::now();
        metrics.gauges.sse_streams.inc();
        Self {
            plan,
            connection,
            metrics: Arc::clone(metrics),
            _permit: permit,
            buffer_bytes,
            started: now,
            last_chunk: now,
            deadline: None,
            sent: 0,
            sent_bytes: 0,
            is_behind: false,
            json: BytesMut::new(),
        }
    }

    /// The messages that are due and not sent.
    fn owed(&self, now: Instant) -> u64 {
        self.plan.owed(self.plan.pace.due(now - self.started), self.sent)
    }

    fn bytes_per_message(&self) -> u64 {
        self.sent_bytes / self.sent.max(1)
    }

    /// Whether the client, and not the service, is so slow that it is owed too much.
    fn is_slow(&self, now: Instant) -> bool {
        let owed_bytes = self.owed(now).saturating_mul(self.bytes_per_message());
        self.connection.was_blocked() && owed_bytes > self.buffer_bytes
    }

    /// The time of the next message; `None`: beyond what a clock can hold.
    fn next_due(&self) -> Option<Instant> {
        self.started.checked_add(self.plan.pace.due_at(self.sent))
    }
}

impl EventSource for StreamSource {
    async fn ready(&mut self) {
        let is_at_once = self.sent == 0 || self.is_behind || self.plan.is_complete(self.sent);
        if !is_at_once {
            match self.next_due() {
                Some(due) => tokio::time::sleep_until(due.max(self.last_chunk + TICK)).await,
                None => std::future::pending().await,
            }
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if self.plan.is_complete(self.sent) {
            return Err(Close::Ended("complete"));
        }
        let now = Instant::now();
        if self.is_slow(now) {
            return Err(Close::Slow);
        }
        let time_ms = Millis::now().0.unsigned_abs();
        let (before, mut owed) = (self.sent, self.owed(now));
        while owed > 0 && out.len() < CHUNK_BYTES {
            self.plan.write(out, &mut self.json, self.sent, time_ms);
            self.sent += 1;
            owed -= 1;
        }
        self.metrics.sse_messages.inc_by(self.sent - before);
        self.sent_bytes += out.len() as u64;
        self.last_chunk = now;
        self.is_behind = owed > 0;
        if !self.is_behind {
            self.connection.forget_blocked();
        }
        let patience = self.plan.pace.time_for(self.buffer_bytes, self.bytes_per_message());
        self.deadline = self.next_due().and_then(|due| due.max(now).checked_add(patience));
        Ok(())
    }

    async fn cut_off(&self) -> Close {
        let Some(deadline) = self.deadline else { return std::future::pending().await };
        tokio::time::sleep_until(deadline).await;
        // A client that reads is given the time that the service was late by.
        while !self.connection.was_blocked() {
            tokio::time::sleep(TICK).await;
        }
        Close::Slow
    }

    fn closed(&mut self, close: Close) {
        // The connection of a slow client may break before the stream is cut off.
        let is_slow = close == Close::ClientGone && self.is_slow(Instant::now());
        let close = if is_slow { Close::Slow } else { close };
        self.metrics.sse_closed.with_label_values(&[close.name()]).inc();
    }
}

impl Drop for StreamSource {
    fn drop(&mut self) {
        self.metrics.gauges.sse_streams.dec();
    }
}
