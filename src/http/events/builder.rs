//! The events of one request, as tuples for one admission.
//!
//! [`BatchBuilder`] takes them one by one: it classifies each, writes its tuple, and lists the events that it rejects. Its memory counts
//! against the share of bodies in `MEMORY_BUDGET`. At the end all are admitted, or none.

use axum::body::Body;
use axum::response::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::Services;
use super::super::openapi::bodies::RejectedResponse;
use super::super::wire::body::MemoryPermit;
use super::super::wire::error::ApiError;
use super::MAX_TRACE_ID;
use super::ack::{self, RequestedAck};
use crate::ingest::json::JsonKind;
use crate::ingest::keys::Key;
use crate::ingest::row::Row;
use crate::ingest::{Accepted, AckRequest, Ingest, NotStored, RowChunk, id};

/// The approximate size of a chunk of encoded tuples.
const CHUNK_BYTES: usize = 256 * 1024;

/// The outcome of a batch.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchAnswer)]
pub(in crate::http) struct BatchResponse<'a> {
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
pub(in crate::http) struct DeadLettered<'a> {
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
pub(in crate::http) struct RejectedEvent {
    index: u64,
    reason: RejectReason,
}

/// Why an event was skipped.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) enum RejectReason {
    /// Not JSON; the offset of the first byte that does not fit.
    NotJson(usize),
    /// Larger than `MAX_EVENT_BYTES`.
    TooLarge(usize),
    /// The trace id with its index is too long.
    TraceId,
    /// The member that `id_field` names is missing, or neither text nor a number.
    NoId,
    /// A member is missing or has a wrong value; what it takes.
    Invalid(&'static str),
}

impl Serialize for RejectedEvent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let (code, message) = self.reason.in_words();
        let mut rejected = serializer.serialize_struct("RejectedEvent", 3)?;
        rejected.serialize_field("index", &self.index)?;
        rejected.serialize_field("code", code)?;
        rejected.serialize_field("message", &message)?;
        rejected.end()
    }
}

impl RejectedEvent {
    /// Whether it was larger than `MAX_EVENT_BYTES`.
    pub(in crate::http) fn is_too_large(&self) -> bool {
        matches!(self.reason, RejectReason::TooLarge(_))
    }

    /// What is wrong with it.
    pub(in crate::http) fn message(&self) -> String {
        self.reason.in_words().1
    }
}

impl RejectReason {
    /// A code, and a sentence.
    fn in_words(self) -> (&'static str, String) {
        match self {
            RejectReason::Invalid(message) => ("invalid_event", message.to_owned()),
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
        }
    }
}

/// The events of a request as it is read.
pub(in crate::http) struct BatchBuilder {
    ingest: Ingest,
    max_event_bytes: usize,
    max_events: u64,
    content_type: Option<&'static str>,
    received_at_us: i64,
    /// The trace id of an event with a key is this key.
    trace_from_key: bool,
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

impl BatchBuilder {
    /// A batch without events. `trace_id` is that of the request.
    pub(in crate::http) fn new(
        services: &Services,
        trace_id: &HeaderValue,
        trace_from_key: bool,
        content_type: Option<&'static str>,
        received_at_us: i64,
    ) -> Self {
        let mut prefix = trace_id.as_bytes().to_vec();
        prefix.push(b'-');
        Self {
            ingest: services.ingest.clone(),
            max_event_bytes: services.limits.event_bytes,
            max_events: services.limits.batch_events,
            content_type,
            received_at_us,
            trace_from_key,
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

    /// The largest event (`MAX_EVENT_BYTES`).
    pub(in crate::http) fn max_event_bytes(&self) -> usize {
        self.max_event_bytes
    }

    /// The batch's permit of memory.
    pub(in crate::http) fn memory(&self) -> &MemoryPermit {
        &self.memory
    }

    /// Counts an index without an event.
    pub(in crate::http) fn skip(&mut self) {
        self.next_index += 1;
    }

    /// Rejects the next event.
    pub(in crate::http) fn reject(&mut self, reason: RejectReason) -> Result<(), ApiError> {
        let index = self.next_index;
        self.next_index += 1;
        self.note_rejected(index, reason)
    }

    /// Rejects the next event, as it is larger than `MAX_EVENT_BYTES`.
    pub(in crate::http) fn reject_too_large(&mut self) -> Result<(), ApiError> {
        self.reject(RejectReason::TooLarge(self.max_event_bytes))
    }

    /// Adds the next event, or rejects it. `key` finds its key, by its index.
    ///
    /// # Errors
    ///
    /// Those that end the whole batch: too many events, or no memory for it.
    pub(in crate::http) fn add(
        &mut self,
        event: &[u8],
        key: impl FnOnce(u64) -> Result<Option<Key>, RejectReason>,
    ) -> Result<(), ApiError> {
        let index = self.next_index;
        self.next_index += 1;
        self.trace_id.truncate(self.trace_prefix);
        self.trace_id.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
        if self.trace_id.len() > MAX_TRACE_ID {
            return self.note_rejected(index, RejectReason::TraceId);
        }
        let verdict = self.ingest.classify(event);
        if let JsonKind::NotJson(at) = verdict {
            return self.note_rejected(index, RejectReason::NotJson(at));
        }
        let key = match key(index) {
            Ok(key) => key,
            Err(reason) => return self.note_rejected(index, reason),
        };
        self.check_count()?;
        self.indexes.note(self.events, index);
        let mut key_text = [0; uuid::fmt::Hyphenated::LENGTH];
        let mut trace_id = &self.trace_id[..];
        if let Some(key) = key {
            self.memory.grow(size_of::<(u32, Key)>())?;
            self.keys.push((self.events as u32, key));
            if self.trace_from_key {
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

    fn note_rejected(&mut self, index: u64, reason: RejectReason) -> Result<(), ApiError> {
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

    /// Admits all events, or none.
    pub(in crate::http) async fn admit(mut self, request: AckRequest) -> Result<AdmittedBatch, ApiError> {
        self.close_chunk();
        let Self { ingest, chunks, keys, rejected, events, indexes, received_at_us, memory, .. } = self;
        if !ingest.can_hold(&chunks) {
            return Err(ApiError::too_large(
                "the batch is larger than the queue (MAX_QUEUE_SIZE, MAX_QUEUE_BYTES)",
            ));
        }
        let accepted = ingest.admit_batch(chunks, keys.into(), received_at_us, request).await?;
        drop(memory);
        Ok(AdmittedBatch { accepted, events, rejected, indexes })
    }
}

/// A batch whose events were admitted.
pub(in crate::http) struct AdmittedBatch {
    /// What was promised for the accepted events.
    pub(in crate::http) accepted: Accepted,
    /// The number of accepted events.
    pub(in crate::http) events: u64,
    /// The other events.
    pub(in crate::http) rejected: Vec<RejectedEvent>,
    indexes: Indexes,
}

impl AdmittedBatch {
    /// The answer of the batch route.
    pub(in crate::http) fn answer(
        &self,
        requested: RequestedAck,
        trace_id: HeaderValue,
    ) -> Result<Response, ApiError> {
        let accepted = &self.accepted;
        let index_of = |position: u64| self.indexes.index_of(position);
        let dead = accepted.dead.1.iter().map(|dead| DeadLettered::new(index_of(dead.index), &dead.cause));
        let dead_lettered = dead.collect();
        let mut duplicates: Vec<u64> =
            accepted.duplicates.indices.iter().map(|index| index_of(*index)).collect();
        duplicates.sort_unstable();
        let answer =
            BatchResponse { accepted: self.events, rejected: &self.rejected, dead_lettered, duplicates };
        let json = serde_json::to_vec(&answer).map_err(|_| ApiError::internal())?;
        let mut response = ack::answer(accepted, requested, trace_id, Body::from(json));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }
}
