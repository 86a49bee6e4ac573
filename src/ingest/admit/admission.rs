//! Admission of events: the handle of request handlers.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::rates::Rates;
use crate::ingest::AckLevel;
use crate::ingest::checkpoint::backlog::Backlog;
use crate::ingest::checkpoint::ledger::Ledger;
use crate::ingest::dead_letters::DeadLetters;
use crate::ingest::event::id::{self, IdMint, Tag};
use crate::ingest::event::json::{self, JsonKind, JsonLimits};
use crate::ingest::event::keys::Key;
use crate::ingest::event::row::{self, Content, Row};
use crate::ingest::queue::Queue;
use crate::ingest::queue::commit_waiter::{CommitWaiter, DeadEvent, Duplicates, NotJournaled};
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::refusal::{Refusal, Refused};
use crate::ingest::queue::{self, QueuedBatch, RowChunk};
use crate::ingest::status::WriterStatus;
use crate::ingest::write::lanes::LaneSlot;
use crate::observe::Metrics;

/// An event to be admitted.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// 1–128 visible ASCII characters; `None`: derived from the key, or else from the id.
    pub trace_id: Option<&'a [u8]>,
    /// The body.
    pub content: Content<'a>,
    /// The media type that the client declared.
    pub content_type: Option<&'a str>,
    /// The time of receipt, in microseconds of Unix time.
    pub received_at_us: i64,
    /// The hash of its idempotency key.
    pub key: Option<Key>,
}

/// The acknowledgement that a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct AckRequest {
    /// The level to wait for.
    pub level: AckLevel,
    /// The longest wait for [`AckLevel::Committed`]. After it, the level reached so far is returned.
    pub timeout: Duration,
}

/// The ids of accepted events: consecutive from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The first event's id.
    pub first: Uuid,
    /// The number of events.
    pub events: u64,
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.events {
            1 => write!(f, "{}", self.first),
            events => write!(f, "{}/{events}", self.first),
        }
    }
}

/// Events that were accepted.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The level that they have reached.
    pub level: AckLevel,
    /// Their ids; `None`: not assigned yet.
    pub receipt: Option<Receipt>,
    /// The trace id of an event that was sent without one.
    pub trace_id: Option<Uuid>,
    /// Events that became dead letters in the meantime: their number, and the first of them.
    pub dead: (u64, Vec<DeadEvent>),
    /// Events that were skipped because of their keys; known once all are settled.
    pub duplicates: Duplicates,
}

impl Accepted {
    fn new(level: AckLevel, receipt: Option<Receipt>) -> Self {
        Self { level, receipt, trace_id: None, dead: (0, Vec::new()), duplicates: Duplicates::default() }
    }
}

/// The handle to the pipeline; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ingest {
    pub(in crate::ingest) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(in crate::ingest) struct Shared {
    pub queue: Arc<Queue>,
    /// `None` with DURABILITY=memory.
    pub journal: Option<Journaled>,
    pub dead_letters: DeadLetters,
    pub ids: IdMint,
    pub metrics: Arc<Metrics>,
    pub rates: Arc<Rates>,
    pub json_limits: JsonLimits,
    pub writer_status: Arc<WriterStatus>,
    pub dead_letter_writer_status: Arc<WriterStatus>,
    /// What the writer's lanes are doing.
    pub lanes: Arc<[Arc<LaneSlot>]>,
}

#[derive(Debug)]
pub(in crate::ingest) struct Journaled {
    pub backlog: Arc<Backlog>,
    pub ledger: Arc<Ledger>,
    pub checkpoint_status: Arc<WriterStatus>,
}

/// The placeholder for a trace id that is written when the id is assigned.
const BLANK_TRACE_ID: &[u8] = &[b'0'; uuid::fmt::Hyphenated::LENGTH];

impl Ingest {
    /// The default level.
    pub fn level(&self) -> AckLevel {
        if self.shared.journal.is_some() { AckLevel::Journaled } else { AckLevel::Queued }
    }

    /// Whether this node offers a level. Without a journal there is none between the queue and Postgres.
    pub fn can_ack(&self, level: AckLevel) -> bool {
        level != AckLevel::Journaled || self.shared.journal.is_some()
    }

    /// Whether Postgres can keep a body as `jsonb`; otherwise it is kept byte for byte.
    pub fn classify(&self, body: &[u8]) -> JsonKind {
        json::classify_event(body, self.shared.json_limits)
    }

    /// A new, unique id.
    pub fn fresh_id(&self, now_us: i64) -> Uuid {
        self.shared.ids.reserve(1, now_us).take()
    }

    /// Admits one event.
    ///
    /// # Errors
    ///
    /// [`Refused`]. The event is kept as a dead letter, if their queue has capacity.
    pub async fn admit(&self, event: &Event<'_>, request: AckRequest) -> Result<Accepted, Refused> {
        let shared = &self.shared;
        let journaled = shared.journal.is_some();
        // Overwritten by the group commit, which assigns the ids of a journal's events.
        let id = match journaled {
            true => id::lower_bound((event.received_at_us / 1000) as u64),
            false => self.fresh_id(event.received_at_us),
        };
        let default_trace_id = match (event.trace_id, event.key) {
            (Some(_), _) => None,
            // A retry gets the same trace id.
            (None, Some(key)) => Some(Uuid::from_bytes(key)),
            (None, None) if journaled && request.level == AckLevel::Queued => {
                Some(self.fresh_id(event.received_at_us))
            }
            (None, None) if journaled => None,
            (None, None) => Some(id),
        };
        let trace_from_id = event.trace_id.is_none() && default_trace_id.is_none();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let trace_id = match (event.trace_id, default_trace_id) {
            (Some(trace_id), _) => trace_id,
            (None, Some(default)) => default.hyphenated().encode_lower(&mut text).as_bytes(),
            (None, None) => BLANK_TRACE_ID,
        };
        let (content, content_type) = (event.content, event.content_type);
        let row = Row { id, trace_id, content, content_type, received_at_us: event.received_at_us };
        let mut encoded = Vec::with_capacity(row.encoded_len());
        row.encode(&mut encoded);

        let size = Size { events: 1, bytes: encoded.len() as u64 };
        let reserved = match (self.journal_accepts(), shared.queue.try_reserve(size)) {
            (Err(refusal), _) => Err(Refused::Journal(refusal)),
            (Ok(()), Ok(reservation)) => Ok(reservation),
            (Ok(()), Err(_full)) => shared.queue.reserve(size).await.map_err(|_full| self.overloaded()),
        };
        let mut reservation = match reserved {
            Ok(reservation) => reservation,
            Err(refused) => {
                self.count_refused(refused, 1);
                if journaled {
                    // The journal assigns it no id, but dead_letters needs one.
                    let (tag, sequence) = shared.ids.reserve_range(1);
                    row::stamp(&mut encoded, tag, sequence, trace_from_id);
                }
                if let Some(tuple) = row::tuples(&encoded).next() {
                    shared.dead_letters.add_overload(tuple, refused.message());
                }
                return Err(refused);
            }
        };
        let keys = event.key.map(|key| (0, key)).into_iter().collect();
        let waiter = self.waiter(1, request, keys, trace_from_id);
        reservation.push(QueuedBatch::one(RowChunk { rows: encoded.into(), events: 1 }, waiter.clone()));
        let accepted = self.wait(waiter, Receipt { first: id, events: 1 }, request).await?;
        let trace_id = match trace_from_id {
            true => accepted.receipt.map(|receipt| receipt.first),
            false => default_trace_id,
        };
        Ok(Accepted { trace_id, ..accepted })
    }

    /// A waiter, if the request waits or the events have keys.
    fn waiter(
        &self,
        events: u64,
        request: AckRequest,
        keys: Box<[(u32, Key)]>,
        trace_from_id: bool,
    ) -> Option<Arc<CommitWaiter>> {
        let waits = match self.shared.journal {
            Some(_) => request.level > AckLevel::Queued,
            None => request.level == AckLevel::Committed,
        };
        (waits || !keys.is_empty()).then(|| CommitWaiter::new(events, request.level, keys, trace_from_id))
    }

    /// Waits for the requested level.
    async fn wait(
        &self,
        waiter: Option<Arc<CommitWaiter>>,
        receipt: Receipt,
        request: AckRequest,
    ) -> Result<Accepted, Refused> {
        let mut accepted = Accepted::new(AckLevel::Queued, Some(receipt));
        if self.shared.journal.is_none() {
            self.shared.metrics.accepted.inc_by(receipt.events);
        } else {
            accepted.receipt = None;
        }
        let Some(waiter) = waiter.filter(|_| request.level > AckLevel::Queued) else { return Ok(accepted) };
        if self.shared.journal.is_some() {
            let first = waiter.journaled().await.map_err(|refused| {
                let refused = match refused {
                    NotJournaled::Refused(refusal) => Refused::Journal(refusal),
                    NotJournaled::OutcomeUnknown => Refused::OutcomeUnknown,
                };
                self.count_refused(refused, receipt.events);
                refused
            })?;
            accepted = Accepted::new(AckLevel::Journaled, Some(Receipt { first, ..receipt }));
        }
        if request.level == AckLevel::Committed {
            let _waiter = self.shared.journal.as_ref().zip(accepted.receipt).map(|(journal, receipt)| {
                ForgetWaiter { backlog: &journal.backlog, first: receipt.first, waiter: &waiter }
            });
            if let Ok(dead) = tokio::time::timeout(request.timeout, waiter.settled()).await {
                accepted.level = if dead.0 == 0 { AckLevel::Committed } else { accepted.level };
                accepted.dead = dead;
                accepted.duplicates = waiter.take_duplicates();
            }
        }
        Ok(accepted)
    }

    /// Whether an empty queue could hold these chunks.
    pub fn can_hold(&self, chunks: &[RowChunk]) -> bool {
        queue::total(chunks).fits(self.shared.queue.limits().capacity)
    }

    /// Admits all events of a batch, or none, and assigns their ids. `keys` are by index in the batch.
    ///
    /// # Errors
    ///
    /// [`Refused`]; the events are counted and not kept.
    pub async fn admit_batch(
        &self,
        mut chunks: Vec<RowChunk>,
        keys: Box<[(u32, Key)]>,
        now_us: i64,
        request: AckRequest,
    ) -> Result<Accepted, Refused> {
        let size = queue::total(&chunks);
        if size.events == 0 {
            return Ok(Accepted::new(request.level, None));
        }
        let reserved = match self.journal_accepts() {
            Err(refusal) => Err(Refused::Journal(refusal)),
            Ok(()) => self.shared.queue.reserve(size).await.map_err(|_full| self.overloaded()),
        };
        let mut reservation = reserved.inspect_err(|refused| self.count_refused(*refused, size.events))?;
        let waiter = self.waiter(size.events, request, keys, false);
        let mut receipt = Receipt { first: Uuid::nil(), events: size.events };
        if self.shared.journal.is_some() {
            reservation.push(QueuedBatch::many(chunks, waiter.clone()));
        } else {
            let (tag, mut next) = self.shared.ids.reserve_range(size.events);
            receipt.first = id::event_id((now_us / 1000) as u64, tag, next);
            for chunk in &mut chunks {
                row::stamp(&mut chunk.rows, tag, next, false);
                next += u64::from(chunk.events);
            }
            if waiter.is_some() {
                reservation.push(QueuedBatch::many(chunks, waiter.clone()));
            } else {
                // Chunk by chunk, so that a COPY may take some of them.
                for chunk in chunks {
                    reservation.push(QueuedBatch::one(chunk, None));
                }
            }
        }
        self.wait(waiter, receipt, request).await
    }

    pub(in crate::ingest) fn journal_accepts(&self) -> Result<(), Refusal> {
        match &self.shared.journal {
            Some(journal) => journal.backlog.reader().accepting().map_err(Refusal::from),
            None => Ok(()),
        }
    }

    fn count_refused(&self, refused: Refused, events: u64) {
        self.shared.metrics.refused.with_label_values(&[refused.reason()]).inc_by(events);
    }

    fn overloaded(&self) -> Refused {
        Refused::Overloaded { retry_after: self.shared.rates.retry_after(self.shared.queue.held().events) }
    }

    /// Whether an event would be admitted at once.
    pub fn has_capacity(&self) -> bool {
        let queue = &self.shared.queue;
        let next = queue.held() + Size { events: 1, bytes: 1 };
        self.journal_accepts().is_ok() && !queue.is_closed() && next.fits(queue.limits().capacity)
    }

    /// Whether the journal holds the event and it is not settled.
    pub fn is_pending(&self, tag: Tag, sequence: u64) -> bool {
        self.shared.journal.as_ref().is_some_and(|journal| journal.backlog.is_pending(tag, sequence))
    }

    /// Events per second.
    pub fn rates(&self) -> &Rates {
        &self.shared.rates
    }
}

/// A request that waits for its commit. If it is dropped before, because of a timeout or a disconnect, its waiter is removed
/// from the backlog.
struct ForgetWaiter<'a> {
    backlog: &'a Backlog,
    first: Uuid,
    waiter: &'a CommitWaiter,
}

impl Drop for ForgetWaiter<'_> {
    fn drop(&mut self) {
        if !self.waiter.is_settled() {
            self.backlog.forget_waiter(self.first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::journal::disk::{self, DiskSettings, OpenedJournal};
    use crate::ingest::queue::commit_waiter::Outcome;
    use crate::waking::WakeBatch;

    #[test]
    fn a_request_that_ends_before_its_commit_leaves_no_waiter_in_the_backlog() {
        let dir = std::env::temp_dir().join(format!("tidegate-waiter-{}", Uuid::new_v4()));
        let (segment_bytes, max_bytes) = (1 << 20, 1 << 30);
        let settings = DiskSettings {
            dir: dir.clone(),
            columns: "",
            segment_bytes,
            max_bytes,
            keep_bytes: 0,
            min_free: 0,
        };
        let OpenedJournal { writer, reader, .. } = disk::open(settings).unwrap();
        let (backlog, journal) = (Backlog::new(reader), writer.journal());
        let first = id::event_id(0, Tag::of_journal(journal.0), 0);
        for settles in [false, true] {
            let waiter = CommitWaiter::new(2, AckLevel::Committed, Box::default(), false);
            backlog.wait_for_commit(journal, 0..2, &waiter);
            assert_eq!(Arc::strong_count(&waiter), 2);
            if settles {
                waiter.settle(0, 2, Outcome::Stored, &mut WakeBatch::default());
            }
            drop(ForgetWaiter { backlog: &backlog, first, waiter: &waiter });
            // The backlog removes settled ones itself.
            assert_eq!(Arc::strong_count(&waiter), if settles { 2 } else { 1 });
        }
        drop((backlog, writer));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
