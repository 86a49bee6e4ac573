//! `POST /api/v1/events/batch`: many events, as NDJSON or as a JSON array.
//!
//! The body is decompressed, split, classified and encoded as it streams in; what is held of it is one unfinished
//! event and the encoded tuples, all counted against `MAX_BODY_MEMORY`. At the end the batch is admitted whole, or
//! refused whole. An event that is not JSON is left out and named in the answer; its neighbours are not touched.
//!
//! An event's index is its line's number, or its place in the array, from 0. Blank lines are passed over and counted,
//! so that an index is a line number of the client's file.

mod naming;
mod split;

use axum::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use serde::Serialize;
use uuid::Uuid;

use self::naming::{Naming, NoKey};
use self::split::{Piece, Splitter};
use super::events::{MAX_TRACE_ID, ack, content_type, trace_id};
use super::openapi::bodies::BatchShape;
use super::wire::body::{BodyShare, LimitedBody};
pub(super) use super::wire::encoding as decode;
use super::wire::encoding::{Decoded, Encoding};
use super::wire::error::ApiError;
use super::wire::json::{self, StartCheck};
use super::{Answered, Services, not_found};
use crate::ingest::NotStored;
use crate::ingest::RowChunk;
use crate::ingest::id::{self, unix_now_us};
use crate::ingest::json::Verdict;
use crate::ingest::keys::Key;
use crate::ingest::row::Row;

/// Encoded tuples are gathered in chunks of about this size.
const STRETCH_BYTES: usize = 256 * 1024;
/// A long batch lets other connections have a turn each time it has worked through this many bytes.
const TURN_BYTES: usize = 256 * 1024;

/// How it is described; it is answered by [`post`], before the router.
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
        (status = 201, description = "Stored, with ack=committed", body = BatchShape, headers(("x-duplicate" = Option<String>, description = "true: all of them were stored before, under the same keys"))),
        (status = 202, description = "Taken; x-ack says what that is worth", body = BatchShape),
        (status = 503, description = "The queue or the journal is full"),
    )
)]
pub(in crate::http) async fn described() -> ApiError {
    not_found().await
}

/// Takes the batch, and answers with what was left out of it.
pub(super) async fn post(
    core: &Services,
    head: &Parts,
    body: &mut LimitedBody,
) -> Result<Answered, ApiError> {
    let trace_id = trace_id(&head.headers)?;
    let asked = ack::asked(core, head)?;
    let naming = Naming::of(head, trace_id.is_some())?;
    let encoding = Encoding::of(&head.headers)?;
    let splitter = Splitter::for_media_type(&head.headers, core.limits.event_bytes)?;
    let received_at_us = unix_now_us();
    let trace_id = match trace_id {
        Some(trace_id) => trace_id,
        None => {
            let id = naming.batch_id().unwrap_or_else(|| core.ingest.fresh_id(received_at_us));
            HeaderValue::from_str(&id.to_string()).map_err(|_| ApiError::internal())?
        }
    };
    let mut batch = Batch::new(core, &trace_id, naming, &head.headers, received_at_us);
    batch.read(&mut Decoded::new(body, encoding, &core.bodies).await?, splitter).await?;
    let Batch { chunks, keys, rejected, events, indexes, share, .. } = batch.finished();
    if !core.ingest.can_hold(&chunks) {
        return Err(ApiError::too_large(
            "the batch is larger than the queue (MAX_QUEUE_SIZE, MAX_QUEUE_BYTES)",
        ));
    }
    let accepted = core.ingest.admit_batch(chunks, keys.into(), received_at_us, asked.wish).await?;
    drop(share);
    let index_of = |place: u64| indexes.index_of(place);
    let dead = accepted.dead.1.iter().map(|dead| Dead::new(index_of(dead.index), &dead.cause)).collect();
    let mut duplicates: Vec<u64> = accepted.duplicates.places.iter().map(|place| index_of(*place)).collect();
    duplicates.sort_unstable();
    let answer = Answer { accepted: events, rejected: &rejected, dead_lettered: dead, duplicates };
    let json = serde_json::to_vec(&answer).map_err(|_| ApiError::internal())?;
    let mut response = ack::answer(&accepted, asked, trace_id, Body::from(json));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((response, accepted.level))
}

#[derive(Serialize)]
struct Answer<'a> {
    accepted: u64,
    rejected: &'a [Rejected],
    /// With `ack=committed`: accepted events that did not become rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dead_lettered: Vec<Dead<'a>>,
    /// With `ack=committed`: the indexes of accepted events that were stored before, under the same keys; the first thousand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<u64>,
}

#[derive(Serialize)]
struct Dead<'a> {
    index: u64,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<&'a str>,
}

impl<'a> Dead<'a> {
    fn new(index: u64, cause: &'a NotStored) -> Self {
        let sqlstate = match cause {
            NotStored::Rejected { sqlstate } => Some(sqlstate.as_str()),
            NotStored::DroppedByTrigger | NotStored::Unreadable => None,
        };
        Self { index, reason: cause.name(), sqlstate }
    }
}

/// Which index the events have that were accepted: their place, moved by all that was left out before it.
#[derive(Debug, Default)]
struct Indexes(Vec<(u64, u64)>);

impl Indexes {
    /// The event at `place` has this index.
    fn note(&mut self, place: u64, index: u64) {
        if self.0.last().map_or(0, |(place, index)| index - place) != index - place {
            self.0.push((place, index));
        }
    }

    fn index_of(&self, place: u64) -> u64 {
        let noted = self.0.partition_point(|(from, _)| *from <= place);
        let moved = noted.checked_sub(1).and_then(|noted| self.0.get(noted));
        moved.map_or(place, |(from, index)| index + (place - from))
    }
}

/// An event that was left out.
#[derive(Debug, Clone, Copy)]
struct Rejected {
    index: u64,
    why: Why,
}

#[derive(Debug, Clone, Copy)]
enum Why {
    /// Not JSON, from this byte of the event on.
    NotJson(usize),
    /// Larger than `MAX_EVENT_BYTES`.
    TooLarge(usize),
    /// The trace id with its index is too long.
    TraceId,
    /// It has no member that `id_field` names, or one that is neither text nor a number.
    NoId,
}

impl Serialize for Rejected {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let (code, message) = match self.why {
            Why::NotJson(at) => ("invalid_json", format!("not JSON from byte {at} on")),
            Why::TooLarge(limit) => ("too_large", format!("larger than {limit} bytes (MAX_EVENT_BYTES)")),
            Why::TraceId => ("invalid_id", format!("its trace id is longer than {MAX_TRACE_ID} characters")),
            Why::NoId => ("invalid_id", "it has no text or number where id_field points".to_owned()),
        };
        let mut rejected = serializer.serialize_struct("Rejected", 3)?;
        rejected.serialize_field("index", &self.index)?;
        rejected.serialize_field("code", code)?;
        rejected.serialize_field("message", &message)?;
        rejected.end()
    }
}

/// A batch as it grows.
struct Batch<'a> {
    core: &'a Services,
    content_type: Option<String>,
    received_at_us: i64,
    naming: Naming<'a>,
    /// `T-`, behind which each event's index is written.
    trace_id: Vec<u8>,
    trace_prefix: usize,
    next_index: u64,
    events: u64,
    indexes: Indexes,
    rejected: Vec<Rejected>,
    keys: Vec<(u32, Key)>,
    chunks: Vec<RowChunk>,
    /// The chunk being filled.
    rows: Vec<u8>,
    rows_events: u32,
    share: BodyShare,
}

impl<'a> Batch<'a> {
    fn new(
        core: &'a Services,
        trace_id: &HeaderValue,
        naming: Naming<'a>,
        headers: &HeaderMap,
        received_at_us: i64,
    ) -> Self {
        let mut prefix = trace_id.as_bytes().to_vec();
        prefix.push(b'-');
        Self {
            core,
            content_type: content_type(headers).map(|_| "application/json".to_owned()),
            received_at_us,
            naming,
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
            share: BodyShare::new(&core.bodies),
        }
    }

    async fn read(&mut self, body: &mut Decoded<'_>, mut splitter: Splitter) -> Result<(), ApiError> {
        let mut worked = 0;
        let mut start = StartCheck::default();
        while let Some(piece) = body.next().await? {
            worked += piece.len();
            start.look(&piece)?;
            splitter.split(&piece, |piece| self.add(piece))?;
            if worked >= TURN_BYTES {
                worked = 0;
                tokio::task::yield_now().await;
            }
        }
        splitter.finish(|piece| self.add(piece))
    }

    fn add(&mut self, piece: Piece<'_>) -> Result<(), ApiError> {
        let index = self.next_index;
        self.next_index += 1;
        let event = match piece {
            Piece::Blank => return Ok(()),
            Piece::TooLong => return self.reject(index, Why::TooLarge(self.core.limits.event_bytes)),
            Piece::Event(event) => event,
        };
        self.trace_id.truncate(self.trace_prefix);
        self.trace_id.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
        if self.trace_id.len() > MAX_TRACE_ID {
            return self.reject(index, Why::TraceId);
        }
        let verdict = self.core.ingest.classify(event);
        if let Verdict::NotJson(at) = verdict {
            return self.reject(index, Why::NotJson(at));
        }
        let key = match self.naming.key(event, index) {
            Ok(key) => key,
            Err(NoKey) => return self.reject(index, Why::NoId),
        };
        self.count_one()?;
        self.indexes.note(self.events, index);
        let mut key_text = [0; uuid::fmt::Hyphenated::LENGTH];
        let mut trace_id = &self.trace_id[..];
        if let Some(key) = key {
            self.share.grow(size_of::<(u32, Key)>())?;
            self.keys.push((self.events as u32, key));
            if self.naming.trace_from_key {
                let text = Uuid::from_bytes(key).hyphenated();
                trace_id = text.encode_lower(&mut key_text).as_bytes();
            }
        }
        self.events += 1;
        self.rows_events += 1;
        let row = Row {
            // Its journal and sequence are filled in where the batch is admitted.
            id: id::lower_bound((self.received_at_us / 1000) as u64),
            trace_id,
            content: crate::ingest::content(verdict, event),
            content_type: self.content_type.as_deref(),
            received_at_us: self.received_at_us,
        };
        self.share.grow(row.encoded_len())?;
        row.encode(&mut self.rows);
        if self.rows.len() >= STRETCH_BYTES {
            self.close_stretch();
        }
        Ok(())
    }

    fn reject(&mut self, index: u64, why: Why) -> Result<(), ApiError> {
        self.count_one()?;
        self.share.grow(size_of::<Rejected>())?;
        self.rejected.push(Rejected { index, why });
        Ok(())
    }

    /// Refuses the event after the last that a batch may hold.
    fn count_one(&self) -> Result<(), ApiError> {
        let most = self.core.limits.batch_events;
        if self.events + self.rejected.len() as u64 >= most {
            return Err(ApiError::too_large(format!(
                "the batch has more than {most} events (MAX_BATCH_EVENTS)"
            )));
        }
        Ok(())
    }

    fn close_stretch(&mut self) {
        if self.rows_events > 0 {
            let rows = std::mem::take(&mut self.rows).into_boxed_slice();
            self.chunks.push(RowChunk { rows, events: std::mem::take(&mut self.rows_events) });
        }
    }

    fn finished(mut self) -> Self {
        self.close_stretch();
        self
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
