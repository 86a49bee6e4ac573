//! `POST /api/v1/events/batch`: many events, as NDJSON or as a JSON array.
//!
//! The body is decompressed, split, classified and encoded while it arrives. The memory of a batch is one incomplete event,
//! the encoded tuples, and up to [`INLINE_BYTES`] of the body once it is that long, all within the share of bodies in `MEMORY_BUDGET`. At the end
//! the batch is admitted as a whole, or rejected as a whole. Events that are not JSON are skipped and listed in the answer;
//! the other events are not affected.
//!
//! An event's index is the number of its line, or its position in the array, from 0. Blank lines are skipped but counted, so
//! that an index is a line number of the client's file.

mod keys;
mod split;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;

use self::keys::KeySource;
use self::split::{BatchItem, Splitter};
use super::events::builder::{BatchBuilder, BatchResponse};
use super::events::{ack, content_type, trace_id};
use super::intake::cloudevents;
use super::wire::body::{LimitedBody, MemoryPermit};
use super::wire::encoding::{Decoded, Encoding};
use super::wire::error::ApiError;
use super::wire::json::{self, StartCheck, offload};
use super::{AckedResponse, Services};
use crate::ingest::id::unix_now_us;
use crate::offload::INLINE_BYTES;

/// Admits the batch, and answers with the events that were skipped.
#[utoipa::path(
    post,
    path = "/api/v1/events/batch",
    tag = "events",
    summary = "Takes many events, as NDJSON or a JSON array",
    params(
        ("ack" = Option<String>, Query, description = "What the answer waits for: queued, journaled or committed"),
        ("key" = Option<String>, Query, description = "A write-only key (tg_w_…), for pages of its origins"),
        ("id_field" = Option<String>, Query, description = "The member of each event that is its key"),
        ("x-trace-id" = Option<String>, Header, description = "1 to 128 visible ASCII characters"),
        ("idempotency-key" = Option<String>, Header, description = "Of two batches with one key the first is stored"),
    ),
    request_body(content((String = "application/x-ndjson"), (Vec<serde_json::Value> = "application/json")), description = "Events; application/cloudevents-batch+json is an array of CloudEvents"),
    responses(
        (status = 201, description = "Stored, with ack=committed", body = BatchResponse, headers(("x-duplicate" = Option<String>, description = "true: all of them were stored before, under the same keys"))),
        (status = 202, description = "Taken; x-ack says what that is worth", body = BatchResponse),
        (status = 503, description = "The queue or the journal is full"),
    )
)]
pub(super) async fn post(
    services: &Services,
    head: &Parts,
    body: &mut LimitedBody,
    format: BatchFormat,
) -> Result<AckedResponse, ApiError> {
    let trace_id = trace_id(&head.headers)?;
    let requested = ack::requested(services, head)?;
    let key_source = KeySource::of(head, trace_id.is_some(), format)?;
    let encoding = Encoding::of(&head.headers)?;
    let max_event_bytes = services.limits.event_bytes;
    let splitter = match format {
        BatchFormat::Events => Splitter::for_media_type(&head.headers, max_event_bytes)?,
        BatchFormat::CloudEvents => Splitter::json(max_event_bytes),
    };
    let received_at_us = unix_now_us();
    let trace_id = match trace_id {
        Some(trace_id) => trace_id,
        None => {
            let id = key_source.batch_id().unwrap_or_else(|| services.ingest.fresh_id(received_at_us));
            HeaderValue::from_str(&id.to_string()).map_err(|_| ApiError::internal())?
        }
    };
    let builder = BatchBuilder::new(
        services,
        &trace_id,
        key_source.trace_from_key,
        format.content_type(&head.headers),
        received_at_us,
    );
    let batch = Batch { builder, key_source };
    let mut decoded = Decoded::new(body, encoding, &services.bodies).await?;
    let Batch { builder, .. } = batch.read(&mut decoded, splitter).await?;
    let admitted = builder.admit(requested.request).await?;
    Ok((admitted.answer(requested, trace_id)?, admitted.accepted.level))
}

/// A batch as it is read.
struct Batch {
    builder: BatchBuilder,
    key_source: KeySource,
}

impl Batch {
    /// Reads the whole body. Its first [`INLINE_BYTES`] are handled as they arrive; a longer body goes on in pieces of that
    /// size off this thread, which serves other connections meanwhile.
    async fn read(mut self, body: &mut Decoded<'_>, mut splitter: Splitter) -> Result<Self, ApiError> {
        let mut start = StartCheck::default();
        let mut inline_bytes = 0;
        let mut gathered = Gathered::new(self.builder.memory());
        while let Some(piece) = body.next().await? {
            start.look(&piece)?;
            if inline_bytes + piece.len() <= INLINE_BYTES {
                inline_bytes += piece.len();
                splitter.split(&piece, |item| self.add(item))?;
                continue;
            }
            inline_bytes = INLINE_BYTES;
            gathered.push(piece)?;
            if gathered.bytes >= INLINE_BYTES {
                let pieces = std::mem::replace(&mut gathered, Gathered::new(self.builder.memory()));
                (self, splitter) = offload(move || pieces.split(self, splitter)).await??;
            }
        }
        match gathered.bytes {
            0 => self.finish(splitter),
            _ => {
                let last = move || {
                    let (batch, splitter) = gathered.split(self, splitter)?;
                    batch.finish(splitter)
                };
                offload(last).await?
            }
        }
    }

    fn finish(mut self, splitter: Splitter) -> Result<Self, ApiError> {
        splitter.finish(|item| self.add(item))?;
        Ok(self)
    }

    fn add(&mut self, item: BatchItem<'_>) -> Result<(), ApiError> {
        let Self { builder, key_source } = self;
        match item {
            BatchItem::Blank => {
                builder.skip();
                Ok(())
            }
            BatchItem::TooLong => builder.reject_too_large(),
            BatchItem::Event(event) => builder.add(event, |index| key_source.key(event, index)),
        }
    }
}

/// Pieces of a body on their way to another thread.
struct Gathered {
    pieces: Vec<Bytes>,
    bytes: usize,
    memory: MemoryPermit,
}

impl Gathered {
    fn new(batch: &MemoryPermit) -> Self {
        Self { pieces: Vec::new(), bytes: 0, memory: MemoryPermit::new(batch.budget()) }
    }

    fn push(&mut self, piece: Bytes) -> Result<(), ApiError> {
        self.memory.grow(piece.len())?;
        self.bytes += piece.len();
        self.pieces.push(piece);
        Ok(())
    }

    /// Adds the events that end in these pieces to `batch`.
    fn split(self, mut batch: Batch, mut splitter: Splitter) -> Result<(Batch, Splitter), ApiError> {
        for piece in &self.pieces {
            splitter.split(piece, |item| batch.add(item))?;
        }
        Ok((batch, splitter))
    }
}

/// The form of a batch's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchFormat {
    /// Events of any JSON.
    Events,
    /// An array of CloudEvents.
    CloudEvents,
}

impl BatchFormat {
    /// The media type of each event.
    fn content_type(self, headers: &HeaderMap) -> Option<&'static str> {
        match self {
            Self::Events => content_type(headers).map(|_| "application/json"),
            Self::CloudEvents => Some(cloudevents::MEDIA_TYPE),
        }
    }
}

impl Splitter {
    /// What splits a body of the declared media type.
    fn for_media_type(headers: &HeaderMap, max_event_bytes: usize) -> Result<Self, ApiError> {
        match json::media_type(headers)?.as_str() {
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            // What a beacon of text has.
            | "text/plain" => Ok(Self::lines(max_event_bytes)),
            "application/json" => Ok(Self::json(max_event_bytes)),
            _ => Err(json::unsupported(
                "a batch is application/x-ndjson or text/plain (an event a line), or application/json (an array, or an event a line)",
            )),
        }
    }
}
