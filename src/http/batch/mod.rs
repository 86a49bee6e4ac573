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

use axum::body::Body;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use self::keys::{KeySource, MissingKey};
use self::split::{BatchItem, Splitter};
use super::events::{MAX_TRACE_ID, ack, content_type, trace_id};
use super::openapi::bodies::RejectedResponse;
use super::wire::body::{LimitedBody, MemoryPermit};
use super::wire::encoding::{Decoded, Encoding};
use super::wire::error::ApiError;
use super::wire::json::{self, StartCheck, offload};
use super::{AckedResponse, Services};
use crate::ingest::id::{self, unix_now_us};
use crate::ingest::json::JsonKind;
use crate::ingest::keys::Key;
use crate::ingest::row::Row;
use crate::ingest::{Ingest, NotStored, RowChunk};
use crate::offload::INLINE_BYTES;

/// The approximate size of a chunk of encoded tuples.
const CHUNK_BYTES: usize = 256 * 1024;

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
    request_body(content((String = "application/x-ndjson"), (Vec<serde_json::Value> = "application/json"))),
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
) -> Result<AckedResponse, ApiError> {
    let trace_id = trace_id(&head.headers)?;
    let requested = ack::requested(services, head)?;
    let key_source = KeySource::of(head, trace_id.is_some())?;
    let encoding = Encoding::of(&head.headers)?;
    let splitter = Splitter::for_media_type(&head.headers, services.limits.event_bytes)?;
    let received_at_us = unix_now_us();
    let trace_id = match trace_id {
        Some(trace_id) => trace_id,
        None => {
            let id = key_source.batch_id().unwrap_or_else(|| services.ingest.fresh_id(received_at_us));
            HeaderValue::from_str(&id.to_string()).map_err(|_| ApiError::internal())?
        }
    };
    let batch = Batch::new(services, &trace_id, key_source, &head.headers, received_at_us);
    let mut decoded = Decoded::new(body, encoding, &services.bodies).await?;
    let Batch { chunks, keys, rejected, events, indexes, memory, .. } =
        batch.read(&mut decoded, splitter).await?;
    if !services.ingest.can_hold(&chunks) {
        return Err(ApiError::too_large(
            "the batch is larger than the queue (MAX_QUEUE_SIZE, MAX_QUEUE_BYTES)",
        ));
    }
    let accepted =
        services.ingest.admit_batch(chunks, keys.into(), received_at_us, requested.request).await?;
    drop(memory);
    let index_of = |position: u64| indexes.index_of(position);
    let dead = accepted.dead.1.iter().map(|dead| DeadLettered::new(index_of(dead.index), &dead.cause));
    let dead_lettered = dead.collect();
    let mut duplicates: Vec<u64> = accepted.duplicates.indices.iter().map(|index| index_of(*index)).collect();
    duplicates.sort_unstable();
    let answer = BatchResponse { accepted: events, rejected: &rejected, dead_lettered, duplicates };
    let json = serde_json::to_vec(&answer).map_err(|_| ApiError::internal())?;
    let mut response = ack::answer(&accepted, requested, trace_id, Body::from(json));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((response, accepted.level))
}

/// The outcome of a batch.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchAnswer)]
struct BatchResponse<'a> {
    /// The number of accepted events.
    accepted: u64,
    /// The other events.
    #[schema(value_type = Vec<RejectedResponse>)]
    rejected: &'a [RejectedEvent],
    /// With `ack=committed`: accepted events that did not become rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dead_lettered: Vec<DeadLettered<'a>>,
    /// With `ack=committed`: the indexes of accepted events whose keys were stored before; the first thousand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<u64>,
}

/// An accepted event of a batch that did not become a row.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetteredEvent)]
struct DeadLettered<'a> {
    index: u64,
    /// `rejected`, `dropped_by_trigger` or `quarantined`.
    reason: &'static str,
    /// Of a rejected event.
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<&'a str>,
}

impl<'a> DeadLettered<'a> {
    fn new(index: u64, cause: &'a NotStored) -> Self {
        let sqlstate = match cause {
            NotStored::Rejected { sqlstate } => Some(sqlstate.as_str()),
            NotStored::DroppedByTrigger | NotStored::Unreadable => None,
        };
        Self { index, reason: cause.name(), sqlstate }
    }
}

/// The indexes of the accepted events: their positions among these, shifted by the skipped events before them.
#[derive(Debug, Default)]
struct Indexes(Vec<(u64, u64)>);

impl Indexes {
    /// Records the index of the event at `position`.
    fn note(&mut self, position: u64, index: u64) {
        if self.0.last().map_or(0, |(position, index)| index - position) != index - position {
            self.0.push((position, index));
        }
    }

    fn index_of(&self, position: u64) -> u64 {
        let noted = self.0.partition_point(|(from, _)| *from <= position);
        let shift = noted.checked_sub(1).and_then(|noted| self.0.get(noted));
        shift.map_or(position, |(from, index)| index + (position - from))
    }
}

/// A skipped event.
#[derive(Debug, Clone, Copy)]
struct RejectedEvent {
    index: u64,
    reason: RejectReason,
}

#[derive(Debug, Clone, Copy)]
enum RejectReason {
    /// Not JSON; the offset of the first byte that does not fit.
    NotJson(usize),
    /// Larger than `MAX_EVENT_BYTES`.
    TooLarge(usize),
    /// The trace id with its index is too long.
    TraceId,
    /// The member that `id_field` names is missing, or neither text nor a number.
    NoId,
}

impl Serialize for RejectedEvent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let (code, message) = match self.reason {
            RejectReason::NotJson(at) => ("invalid_json", format!("not JSON from byte {at} on")),
            RejectReason::TooLarge(limit) => {
                ("too_large", format!("larger than {limit} bytes (MAX_EVENT_BYTES)"))
            }
            RejectReason::TraceId => {
                ("invalid_id", format!("its trace id is longer than {MAX_TRACE_ID} characters"))
            }
            RejectReason::NoId => {
                ("invalid_id", "the member that id_field names is missing, or no text or number".to_owned())
            }
        };
        let mut rejected = serializer.serialize_struct("RejectedEvent", 3)?;
        rejected.serialize_field("index", &self.index)?;
        rejected.serialize_field("code", code)?;
        rejected.serialize_field("message", &message)?;
        rejected.end()
    }
}

/// A batch as it grows.
struct Batch {
    ingest: Ingest,
    max_event_bytes: usize,
    max_events: u64,
    content_type: Option<&'static str>,
    received_at_us: i64,
    key_source: KeySource,
    /// The trace id and a hyphen; each event's index is written behind it.
    trace_id: Vec<u8>,
    trace_prefix: usize,
    next_index: u64,
    events: u64,
    indexes: Indexes,
    rejected: Vec<RejectedEvent>,
    keys: Vec<(u32, Key)>,
    chunks: Vec<RowChunk>,
    /// The incomplete chunk.
    rows: Vec<u8>,
    rows_events: u32,
    memory: MemoryPermit,
}

impl Batch {
    fn new(
        services: &Services,
        trace_id: &HeaderValue,
        key_source: KeySource,
        headers: &HeaderMap,
        received_at_us: i64,
    ) -> Self {
        let mut prefix = trace_id.as_bytes().to_vec();
        prefix.push(b'-');
        Self {
            ingest: services.ingest.clone(),
            max_event_bytes: services.limits.event_bytes,
            max_events: services.limits.batch_events,
            content_type: content_type(headers).map(|_| "application/json"),
            received_at_us,
            key_source,
            trace_prefix: prefix.len(),
            trace_id: prefix,
            next_index: 0,
            events: 0,
            indexes: Indexes::default(),
            rejected: Vec::new(),
            keys: Vec::new(),
            chunks: Vec::new(),
            rows: Vec::new(),
            rows_events: 0,
            memory: MemoryPermit::new(&services.bodies),
        }
    }

    /// Reads the whole body. Its first [`INLINE_BYTES`] are handled as they arrive; a longer body goes on in pieces of that
    /// size off this thread, which serves other connections meanwhile.
    async fn read(mut self, body: &mut Decoded<'_>, mut splitter: Splitter) -> Result<Self, ApiError> {
        let mut start = StartCheck::default();
        let mut inline_bytes = 0;
        let mut gathered = Gathered::new(&self.memory);
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
                let pieces = std::mem::replace(&mut gathered, Gathered::new(&self.memory));
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
        self.close_chunk();
        Ok(self)
    }

    fn add(&mut self, item: BatchItem<'_>) -> Result<(), ApiError> {
        let index = self.next_index;
        self.next_index += 1;
        let event = match item {
            BatchItem::Blank => return Ok(()),
            BatchItem::TooLong => return self.reject(index, RejectReason::TooLarge(self.max_event_bytes)),
            BatchItem::Event(event) => event,
        };
        self.trace_id.truncate(self.trace_prefix);
        self.trace_id.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
        if self.trace_id.len() > MAX_TRACE_ID {
            return self.reject(index, RejectReason::TraceId);
        }
        let verdict = self.ingest.classify(event);
        if let JsonKind::NotJson(at) = verdict {
            return self.reject(index, RejectReason::NotJson(at));
        }
        let key = match self.key_source.key(event, index) {
            Ok(key) => key,
            Err(MissingKey) => return self.reject(index, RejectReason::NoId),
        };
        self.check_count()?;
        self.indexes.note(self.events, index);
        let mut key_text = [0; uuid::fmt::Hyphenated::LENGTH];
        let mut trace_id = &self.trace_id[..];
        if let Some(key) = key {
            self.memory.grow(size_of::<(u32, Key)>())?;
            self.keys.push((self.events as u32, key));
            if self.key_source.trace_from_key {
                let text = Uuid::from_bytes(key).hyphenated();
                trace_id = text.encode_lower(&mut key_text).as_bytes();
            }
        }
        self.events += 1;
        self.rows_events += 1;
        let row = Row {
            // Admission fills in its journal and sequence.
            id: id::lower_bound((self.received_at_us / 1000) as u64),
            trace_id,
            content: crate::ingest::content(verdict, event),
            content_type: self.content_type,
            received_at_us: self.received_at_us,
        };
        self.memory.grow(row.encoded_len())?;
        row.encode(&mut self.rows);
        if self.rows.len() >= CHUNK_BYTES {
            self.close_chunk();
        }
        Ok(())
    }

    fn reject(&mut self, index: u64, reason: RejectReason) -> Result<(), ApiError> {
        self.check_count()?;
        self.memory.grow(size_of::<RejectedEvent>())?;
        self.rejected.push(RejectedEvent { index, reason });
        Ok(())
    }

    /// Rejects a batch with more events than `MAX_QUEUE_SIZE`, or 100,000.
    fn check_count(&self) -> Result<(), ApiError> {
        let max = self.max_events;
        if self.events + self.rejected.len() as u64 >= max {
            return Err(ApiError::too_large(format!(
                "the batch has more than {max} events (MAX_QUEUE_SIZE, at most 100000)"
            )));
        }
        Ok(())
    }

    fn close_chunk(&mut self) {
        if self.rows_events > 0 {
            let rows = std::mem::take(&mut self.rows).into_boxed_slice();
            self.chunks.push(RowChunk { rows, events: std::mem::take(&mut self.rows_events) });
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
