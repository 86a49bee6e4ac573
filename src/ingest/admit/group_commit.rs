//! The thread that owns the journal: it appends the waiting batches as one group, syncs once, and answers their requests.
//!
//! There is no timer. While one group is synced, the next one gathers, so groups grow with the load: a lone request waits
//! for one sync, and a thousand requests share one.
//!
//! Ids are assigned here, where the order of the journal is decided, so that a journal's sequences have no gaps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ingest::AckLevel;
use crate::ingest::checkpoint::backlog::Backlog;
use crate::ingest::event::id::Tag;
use crate::ingest::event::keys::Key;
use crate::ingest::event::row;
use crate::ingest::journal::{AppendError, JournalWriter, Records};
use crate::ingest::queue::QueuedBatch;
use crate::ingest::queue::commit_waiter::NotJournaled;
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::refusal::Refusal;
use crate::ingest::queue::{Queue, QueuedBatches, Taken};
use crate::observe::Metrics;
use crate::waking::WakeBatch;

/// The most bytes of a group; its last batch may exceed them.
const GROUP_BYTES: u64 = 4 * 1024 * 1024;
/// A journal without appends for this long gets a sync marker.
const IDLE: Duration = Duration::from_millis(500);

/// The owner of the journal's end.
#[derive(Debug)]
pub struct GroupCommit {
    /// The source of events.
    pub queue: Arc<Queue>,
    /// The journal.
    pub journal: JournalWriter,
    /// Receives the synced sequences.
    pub backlog: Arc<Backlog>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl GroupCommit {
    /// Runs until the queue is closed and empty. `check` is called before each group.
    pub fn run(mut self, check: &dyn Fn()) {
        let mut marked = true;
        loop {
            check();
            match self.queue.take_blocking(GROUP_BYTES, IDLE) {
                Taken::Batches(batches) if batches.size().events == 0 => {}
                Taken::Batches(batches) => {
                    self.commit(batches);
                    marked = false;
                }
                Taken::Nothing if !marked => {
                    self.mark();
                    marked = true;
                }
                Taken::Nothing => {}
                Taken::End => break,
            }
        }
        if !marked {
            self.mark();
        }
        self.backlog.close();
    }

    fn mark(&mut self) {
        // Without the sync marker, damage to the last block would look like a torn tail.
        if let Err(error) = self.journal.mark() {
            tracing::debug!(error = error.to_string(), "the journal's sync marker was not written");
        }
    }

    fn commit(&mut self, mut batches: QueuedBatches) {
        let batches = batches.batches_mut();
        if self.commit_group(batches) == Err(NotJournaled::Refused(Refusal::TooLarge)) && batches.len() > 1 {
            // One large batch must not fail the others.
            for single in batches.chunks_mut(1) {
                let _answered = self.commit_group(single);
            }
        }
    }

    /// Commits batches as one group, and answers their requests, unless they are only too large together.
    fn commit_group(&mut self, batches: &mut [QueuedBatch]) -> Result<(), NotJournaled> {
        let journal = self.journal.journal();
        let first = self.journal.next_sequence();
        stamp(batches, Tag::of_journal(journal.0), first);
        let size = batches.iter().fold(Size::default(), |sum, batch| sum + batch.size());
        let started = Instant::now();
        let committed = self.append(batches).and_then(|()| self.sync());
        match committed {
            Ok(()) => {
                self.metrics.group_committed(size.events, started.elapsed());
                self.register_waiters(batches, first);
                self.backlog.synced(journal, first + size.events, size.bytes);
                self.metrics.accepted.inc_by(size.events);
                self.answer(batches, None);
            }
            Err(NotJournaled::Refused(Refusal::TooLarge)) if batches.len() > 1 => {}
            Err(refused) => self.refuse(batches, refused),
        }
        committed
    }

    fn refuse(&self, batches: &[QueuedBatch], refused: NotJournaled) {
        // Waiting requests get an answer. Events of the others are only counted.
        let waits =
            |batch: &QueuedBatch| batch.waiter.as_ref().is_some_and(|waiter| waiter.level > AckLevel::Queued);
        let unanswered = batches.iter().filter(|batch| !waits(batch));
        let events: u64 = unanswered.map(|batch| batch.size().events).sum();
        if events > 0 {
            self.metrics.refused.with_label_values(&["journal"]).inc_by(events);
            tracing::warn!(events, refused = ?refused, "events with the level queued are lost: the journal accepted nothing");
        }
        self.answer(batches, Some(refused));
    }

    fn append(&mut self, batches: &[QueuedBatch]) -> Result<(), NotJournaled> {
        let mut records = Vec::with_capacity(batches.len());
        let keys = split_keys(batches);
        let chunks = batches.iter().flat_map(QueuedBatch::chunks);
        for (index, chunk) in chunks.enumerate().filter(|(_, chunk)| chunk.events > 0) {
            let keys = keys.get(index).map_or(&[][..], Vec::as_slice);
            records.push(Records { rows: &chunk.rows, events: chunk.events, keys });
        }
        self.journal.append(&records).map_err(|error| self.refused(&error))
    }

    fn sync(&mut self) -> Result<(), NotJournaled> {
        let started = Instant::now();
        let synced = self.journal.flush();
        self.metrics.journal_sync_seconds.observe(started.elapsed().as_secs_f64());
        synced.map_err(|error| match error {
            AppendError::Poisoned(_) => {
                tracing::error!(
                    error = error.to_string(),
                    "the journal could not be synced: nothing is accepted until a restart; events synced before are stored"
                );
                NotJournaled::OutcomeUnknown
            }
            AppendError::InDoubt(_) => {
                tracing::warn!(error = crate::db::chain(&error), "the outcome of a group is unknown");
                NotJournaled::OutcomeUnknown
            }
            // The group was cut back.
            error => self.refused(&error),
        })
    }

    fn refused(&self, error: &AppendError) -> NotJournaled {
        // The journal itself logs, once, that it accepts nothing.
        tracing::debug!(error = crate::db::chain(error), "a group was refused");
        NotJournaled::Refused(Refusal::from(error))
    }

    fn register_waiters(&self, batches: &[QueuedBatch], first: u64) {
        let mut next = first;
        for batch in batches {
            let start = next;
            next += batch.size().events;
            if let Some(waiter) = &batch.waiter
                && waiter.level == AckLevel::Committed
                // The request holds the other reference until its client disconnects.
                && Arc::strong_count(waiter) > 1
            {
                self.backlog.wait_for_commit(self.journal.journal(), start..next, waiter);
            }
        }
    }

    fn answer(&self, batches: &[QueuedBatch], refused: Option<NotJournaled>) {
        let mut wake_batch = WakeBatch::default();
        for batch in batches {
            let Some(waiter) = &batch.waiter else { continue };
            let id = batch.chunks().first().and_then(|chunk| row::first_id(&chunk.rows));
            let answer = match (refused, id) {
                (None, Some(id)) => Ok(id),
                (Some(refused), _) => Err(refused),
                (None, None) => Err(NotJournaled::OutcomeUnknown),
            };
            waiter.answer(answer, &mut wake_batch);
        }
    }
}

/// Assigns ids, from `sequence` on.
fn stamp(batches: &mut [QueuedBatch], tag: Tag, mut sequence: u64) {
    for batch in batches {
        let trace_from_id = batch.waiter.as_ref().is_some_and(|waiter| waiter.trace_from_id);
        for chunk in batch.chunks_mut() {
            row::stamp(&mut chunk.rows, tag, sequence, trace_from_id);
            sequence += u64::from(chunk.events);
        }
    }
}

/// The keys of each chunk, by index in the chunk; empty if no event has a key.
fn split_keys(batches: &[QueuedBatch]) -> Vec<Vec<(u32, Key)>> {
    let has_keys = |batch: &QueuedBatch| batch.waiter.as_ref().is_some_and(|waiter| !waiter.keys.is_empty());
    if !batches.iter().any(has_keys) {
        return Vec::new();
    }
    let mut keys_of_chunks = Vec::new();
    for batch in batches {
        // In the order of their indices, so that each chunk takes the next ones.
        let mut keys = batch.waiter.as_ref().map_or(&[][..], |waiter| &waiter.keys).iter().peekable();
        let mut first = 0;
        for chunk in batch.chunks() {
            let end = first + chunk.events;
            let own = std::iter::from_fn(|| keys.next_if(|(index, _)| *index < end));
            keys_of_chunks.push(own.map(|(index, key)| (index - first, *key)).collect());
            first = end;
        }
    }
    keys_of_chunks
}
