//! The thread that owns the journal: writes what waits in one piece, syncs it once, and answers all who wait for it.
//!
//! There is no timer. While one group is being synced the next one gathers, so groups grow with the load: a lone request
//! waits for one sync, and a thousand share it.
//!
//! Ids are given out here, where the order of the journal is decided, so that the sequences of a journal have no gaps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ingest::AckLevel;
use crate::ingest::checkpoint::backlog::Backlog;
use crate::ingest::event::id::Tag;
use crate::ingest::event::keys::Key;
use crate::ingest::event::row;
use crate::ingest::journal::{AppendError, JournalWriter, Records};
use crate::ingest::queue::QueuedBatch;
use crate::ingest::queue::commit_waiter::{NotJournaled, WakeBatch};
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::refusal::Refusal;
use crate::ingest::queue::{Batch, Queue, Taken};
use crate::observe::Metrics;

/// The most bytes that a group gathers; the last queued may pass it.
const GROUP_BYTES: u64 = 4 * 1024 * 1024;
/// A journal that nothing was appended to for this long gets a mark that what it holds was synced.
const IDLE: Duration = Duration::from_millis(500);

/// The owner of the journal.
#[derive(Debug)]
pub struct GroupCommit {
    /// Where events come from.
    pub queue: Arc<Queue>,
    /// The journal.
    pub appender: JournalWriter,
    /// What was synced is handed on to it.
    pub backlog: Arc<Backlog>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl GroupCommit {
    /// Runs until the queue is closed and empty. `check` is called before each group.
    pub fn run(mut self, check: &dyn Fn()) {
        let mut sealed = true;
        loop {
            check();
            match self.queue.take_blocking(GROUP_BYTES, IDLE) {
                Taken::Batch(batch) if batch.load().events == 0 => {}
                Taken::Batch(batch) => {
                    self.commit(batch);
                    sealed = false;
                }
                Taken::Nothing if !sealed => {
                    self.seal();
                    sealed = true;
                }
                Taken::Nothing => {}
                Taken::End => break,
            }
        }
        if !sealed {
            self.seal();
        }
        self.backlog.close();
    }

    fn seal(&mut self) {
        // Only a testimony: without it a damaged last block would be taken for a torn one.
        if let Err(error) = self.appender.seal() {
            tracing::debug!(error = error.to_string(), "the journal's end is not marked");
        }
    }

    fn commit(&mut self, mut batch: Batch) {
        let batches = batch.batches_mut();
        if self.commit_group(batches) == Err(NotJournaled::Refused(Refusal::TooLarge)) && batches.len() > 1 {
            // One large batch must not take the others down with it.
            for queued in batches.chunks_mut(1) {
                let _told = self.commit_group(queued);
            }
        }
    }

    /// Commits batches together. If they are refused they have been told so, but for being too large together.
    fn commit_group(&mut self, batches: &mut [QueuedBatch]) -> Result<(), NotJournaled> {
        let journal = self.appender.journal();
        let first = self.appender.next_sequence();
        stamp(batches, journal.tag(), first);
        let load = batches.iter().fold(Size::default(), |sum, queued| sum + queued.load());
        let started = Instant::now();
        let done = self.append(batches).and_then(|()| self.sync());
        match done {
            Ok(()) => {
                self.metrics.group_committed(load.events, started.elapsed());
                self.register_waiting(batches, first);
                self.backlog.synced(journal, first + load.events, load.bytes);
                self.metrics.accepted.inc_by(load.events);
                self.answer(batches, None);
            }
            Err(NotJournaled::Refused(Refusal::TooLarge)) if batches.len() > 1 => {}
            Err(refused) => self.refuse(batches, refused),
        }
        done
    }

    fn refuse(&self, batches: &[QueuedBatch], refused: NotJournaled) {
        // Those who wait are told; of the others there is this count.
        let waits = |queued: &QueuedBatch| {
            queued.waiter.as_ref().is_some_and(|waiter| waiter.wants > AckLevel::Queued)
        };
        let unheard = batches.iter().filter(|queued| !waits(queued));
        let events: u64 = unheard.map(|queued| queued.load().events).sum();
        if events > 0 {
            self.metrics.refused.with_label_values(&["journal"]).inc_by(events);
            tracing::warn!(events, refused = ?refused, "events that were only queued are lost: the journal took nothing");
        }
        self.answer(batches, Some(refused));
    }

    fn append(&mut self, batches: &[QueuedBatch]) -> Result<(), NotJournaled> {
        let mut records = Vec::with_capacity(batches.len());
        let keys = split_keys(batches);
        let chunks = batches.iter().flat_map(|queued| queued.chunks());
        for (index, chunk) in chunks.enumerate().filter(|(_, chunk)| chunk.events > 0) {
            let keys = keys.get(index).map_or(&[][..], Vec::as_slice);
            records.push(Records { rows: &chunk.rows, events: chunk.events, keys });
        }
        self.appender.append(&records).map_err(|error| self.refused(&error))
    }

    fn sync(&mut self) -> Result<(), NotJournaled> {
        let started = Instant::now();
        let synced = self.appender.sync();
        self.metrics.journal_sync_seconds.observe(started.elapsed().as_secs_f64());
        synced.map_err(|error| match error {
            AppendError::Poisoned(_) => {
                tracing::error!(
                    error = error.to_string(),
                    "the journal could not be synced: nothing more is accepted until a restart; what was synced before is stored"
                );
                NotJournaled::OutcomeUnknown
            }
            AppendError::InDoubt(_) => {
                tracing::warn!(error = crate::db::chain(&error), "a group is in doubt");
                NotJournaled::OutcomeUnknown
            }
            // Taken back, for good.
            error => self.refused(&error),
        })
    }

    fn refused(&self, error: &AppendError) -> NotJournaled {
        // Changes of what the journal takes are logged by the journal, once each.
        tracing::debug!(error = crate::db::chain(error), "a group is refused");
        NotJournaled::Refused(Refusal::from(error))
    }

    fn register_waiting(&self, batches: &[QueuedBatch], first: u64) {
        let mut next = first;
        for queued in batches {
            let start = next;
            next += queued.load().events;
            if let Some(waiter) = &queued.waiter
                && waiter.wants == AckLevel::Committed
                // Its request holds another; without one its client has left.
                && Arc::strong_count(waiter) > 1
            {
                self.backlog.wait_for_commit(self.appender.journal(), start..next, waiter);
            }
        }
    }

    fn answer(&self, batches: &[QueuedBatch], refused: Option<NotJournaled>) {
        let mut wakeups = WakeBatch::default();
        for queued in batches {
            let Some(waiter) = &queued.waiter else { continue };
            let id = queued.chunks().first().and_then(|chunk| row::first_id(&chunk.rows));
            let answer = match (refused, id) {
                (None, Some(id)) => Ok(id),
                (Some(refused), _) => Err(refused),
                (None, None) => Err(NotJournaled::OutcomeUnknown),
            };
            waiter.answer(answer, &mut wakeups);
        }
    }
}

/// Fills in the ids, from `sequence` on.
fn stamp(batches: &mut [QueuedBatch], tag: Tag, mut sequence: u64) {
    for queued in batches {
        let trace_from_id = queued.waiter.as_ref().is_some_and(|waiter| waiter.trace_from_id);
        for chunk in queued.chunks_mut() {
            row::stamp(&mut chunk.rows, tag, sequence, trace_from_id);
            sequence += u64::from(chunk.events);
        }
    }
}

/// The keys of each chunk, by the place in the chunk; nothing where no event has one.
fn split_keys(batches: &[QueuedBatch]) -> Vec<Vec<(u32, Key)>> {
    let keys_of = |queued: &QueuedBatch| queued.waiter.as_ref().is_some_and(|waiter| !waiter.keys.is_empty());
    if !batches.iter().any(keys_of) {
        return Vec::new();
    }
    let mut of_stretches = Vec::new();
    for queued in batches {
        // In order of their places, so each chunk takes the next of them.
        let mut keys = queued.waiter.as_ref().map_or(&[][..], |waiter| &waiter.keys).iter().peekable();
        let mut first = 0;
        for chunk in queued.chunks() {
            let end = first + chunk.events;
            let own = std::iter::from_fn(|| keys.next_if(|(index, _)| *index < end));
            of_stretches.push(own.map(|(index, key)| (index - first, *key)).collect());
            first = end;
        }
    }
    of_stretches
}
