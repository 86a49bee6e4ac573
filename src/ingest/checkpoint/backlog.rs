//! The sequences that the journal holds and Postgres does not have yet.
//!
//! Each journal on disk has two sets of sequences: those to be written, and those that are settled. The rest is in flight.
//! Synced events are added to the first set. A start, a restored database or a failover returns sequences to it, and the
//! next batches take them in order, oldest journal first. The sets hold ranges, so they stay small whatever the number of
//! events.
//!
//! The events themselves stay on disk (in the page cache, as a rule) until a batch reads them, so a backlog of gigabytes
//! takes no memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use rangemap::RangeSet;
use uuid::Uuid;

use crate::ingest::event::id::{self, Tag};
use crate::ingest::journal::{JournalError, JournalId, JournalRead, JournalReader, JournalRows};
use crate::ingest::queue::commit_waiter::{CommitWaiter, Outcome};
use crate::ingest::queue::occupancy::{Size, ThresholdNotify};
use crate::waking::WakeBatch;

/// The sequences of all journals on disk, by state.
#[derive(Debug)]
pub struct Backlog {
    reader: Arc<JournalReader>,
    state: Mutex<Vec<Sequences>>,
    synced: ThresholdNotify,
    closed: AtomicBool,
    /// The average bytes of a recently synced row.
    row_bytes: AtomicU64,
}

/// One journal's sequences.
#[derive(Debug)]
struct Sequences {
    journal: JournalId,
    first: u64,
    /// Exclusive: everything before it is synced.
    end: u64,
    to_write: RangeSet<u64>,
    settled: RangeSet<u64>,
    /// Whether Postgres knows the journal and its receipts were read.
    open: bool,
    /// Requests that wait for their commit: first sequence → end (exclusive) and waiter.
    waiters: BTreeMap<u64, (u64, Arc<CommitWaiter>)>,
}

/// A part of a journal on its way to Postgres.
#[derive(Debug)]
pub struct JournalBatch {
    /// The journal.
    pub journal: JournalId,
    /// Its rows, or the damage in their place.
    pub read: JournalRead,
}

impl JournalBatch {
    /// Its sequences.
    pub fn range(&self) -> Range<u64> {
        match &self.read {
            JournalRead::Rows(JournalRows { from, until, .. }) | JournalRead::Damaged { from, until, .. } => {
                *from..*until
            }
        }
    }
}

/// How much of one journal is in Postgres.
#[derive(Debug, Clone)]
pub struct JournalProgress {
    /// The journal.
    pub journal: JournalId,
    /// The sequences on disk.
    pub held: Range<u64>,
    /// The settled sequences, as far as this process knows.
    pub settled: RangeSet<u64>,
    /// Whether its receipts were read.
    pub open: bool,
}

impl Backlog {
    /// The backlog of the journals on disk. A journal's events are delivered once it is opened.
    pub fn new(reader: Arc<JournalReader>) -> Arc<Self> {
        let journals = reader.held().into_iter().map(|held| Sequences {
            journal: held.journal,
            first: held.first,
            end: held.end,
            to_write: RangeSet::new(),
            settled: RangeSet::new(),
            open: false,
            waiters: BTreeMap::new(),
        });
        Arc::new(Self {
            state: Mutex::new(journals.collect()),
            reader,
            synced: ThresholdNotify::default(),
            closed: AtomicBool::new(false),
            row_bytes: AtomicU64::new(300),
        })
    }

    fn state(&self) -> MutexGuard<'_, Vec<Sequences>> {
        self.state.lock()
    }

    /// The journals on disk.
    pub fn reader(&self) -> &Arc<JournalReader> {
        &self.reader
    }

    /// Registers a waiter for the commit of `range`. To be called before the events are synced.
    pub fn wait_for_commit(&self, journal: JournalId, range: Range<u64>, waiter: &Arc<CommitWaiter>) {
        let mut state = self.state();
        if let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal == journal) {
            sequences.waiters.insert(range.start, (range.end, Arc::clone(waiter)));
        }
    }

    /// Removes the waiter of the events that begin with this id.
    pub fn forget_waiter(&self, first: Uuid) {
        let tag = Tag::of_event(first);
        let mut state = self.state();
        if let Some(sequences) =
            state.iter_mut().find(|sequences| Tag::of_journal(sequences.journal.0) == tag)
        {
            sequences.waiters.remove(&id::sequence(first));
        }
    }

    /// The journal is synced up to `end` (exclusive), by `bytes` more than before.
    pub fn synced(&self, journal: JournalId, end: u64, bytes: u64) {
        let (before, after) = {
            let mut state = self.state();
            let before = events_to_write(&state);
            let mut added = 0;
            if let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal == journal)
                && end > sequences.end
            {
                added = end - sequences.end;
                let new = sequences.end..end;
                sequences.end = end;
                if sequences.open {
                    sequences.to_write.insert(new);
                }
            }
            if let Some(row_bytes) = bytes.checked_div(added) {
                self.row_bytes.store(row_bytes.max(1), Ordering::Relaxed);
            }
            (before, events_to_write(&state))
        };
        self.synced.raised(self.estimated_size(before), self.estimated_size(after));
    }

    fn estimated_size(&self, events: u64) -> Size {
        Size { events, bytes: events.saturating_mul(self.row_bytes.load(Ordering::Relaxed)) }
    }

    /// Events that wait for a batch. The bytes are an estimate.
    pub fn waiting(&self) -> Size {
        self.estimated_size(events_to_write(&self.state()))
    }

    /// Events on disk that are not known to be settled.
    pub fn pending(&self) -> u64 {
        self.state()
            .iter()
            .map(|sequences| sequences.end - sequences.first - length(&sequences.settled))
            .sum()
    }

    /// Bytes on disk of events that are not known to be settled. Events share a segment's bytes evenly.
    pub fn pending_bytes(&self) -> u64 {
        let ranges = self.reader.range_bytes();
        let state = self.state();
        let pending = |(journal, range, bytes): &(JournalId, Range<u64>, u64)| {
            let sequences = state.iter().find(|sequences| sequences.journal == *journal)?;
            let held = range.start.max(sequences.first)..range.end.min(sequences.end);
            if held.is_empty() {
                return None;
            }
            let events: u64 = sequences.settled.gaps(&held).map(|gap| gap.end - gap.start).sum();
            let share = u128::from(*bytes) * u128::from(events) / u128::from(range.end - range.start);
            Some(share as u64)
        };
        ranges.iter().filter_map(pending).sum()
    }

    /// Whether the journal with this tag holds the event and it is not settled.
    pub fn is_pending(&self, tag: Tag, sequence: u64) -> bool {
        self.state().iter().any(|sequences| {
            Tag::of_journal(sequences.journal.0) == tag
                && (sequences.first..sequences.end).contains(&sequence)
                && !sequences.settled.contains(&sequence)
        })
    }

    /// Waits until the waiting events reach `threshold` or the backlog is closed; false if `deadline` came first.
    pub(in crate::ingest) async fn wait_for(&self, threshold: Size, deadline: Option<Instant>) -> bool {
        self.synced.wait_for(threshold, deadline, || self.waiting(), || self.is_closed()).await
    }

    /// No event will be synced from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.synced.notify();
    }

    /// Whether no event will be synced any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Takes the next events, about `max_bytes`. The caller serializes calls.
    ///
    /// # Errors
    ///
    /// If the files cannot be read.
    pub async fn take(self: &Arc<Self>, max_bytes: u64) -> Result<Option<JournalBatch>, JournalError> {
        let next = self
            .state()
            .iter()
            .find_map(|sequences| Some((sequences.journal, sequences.to_write.first()?.clone())));
        let Some((journal, range)) = next else { return Ok(None) };
        let reader = Arc::clone(&self.reader);
        // A read from the disk itself must not hold up the other lanes.
        let reading = tokio::task::spawn_blocking(move || {
            reader.read(journal, range.start, range.end, max_bytes as usize)
        });
        // A panic is reported and retried like an error.
        let read =
            reading.await.unwrap_or_else(|panicked| Err(JournalError::Panicked(panicked.to_string())))?;
        let batch = JournalBatch { journal, read };
        if let Some(sequences) = self.state().iter_mut().find(|sequences| sequences.journal == journal) {
            sequences.to_write.remove(batch.range());
        }
        Ok(Some(batch))
    }

    /// The sequences `range` are settled, each with this outcome.
    pub fn settled(&self, journal: JournalId, range: Range<u64>, outcome: Outcome<'_>) {
        let mut wake_batch = WakeBatch::default();
        let mut state = self.state();
        let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal == journal) else { return };
        if range.is_empty() {
            return;
        }
        sequences.settled.insert(range.clone());
        let overlapping: Vec<u64> = sequences
            .waiters
            .range(..range.end)
            .filter(|(_, (end, _))| *end > range.start)
            .map(|(first, _)| *first)
            .collect();
        for first in overlapping {
            let Some((end, waiter)) = sequences.waiters.get(&first) else { continue };
            let (from, until) = (range.start.max(first), range.end.min(*end));
            waiter.settle(from - first, until - from, outcome, &mut wake_batch);
            if contains_range(&sequences.settled, first..*end) {
                sequences.waiters.remove(&first);
            }
        }
        // Tasks are woken without the lock.
        drop(state);
        drop(wake_batch);
    }

    /// The progress of each journal, oldest first.
    pub fn progress(&self) -> Vec<JournalProgress> {
        let progress = |sequences: &Sequences| JournalProgress {
            journal: sequences.journal,
            held: sequences.first..sequences.end,
            settled: sequences.settled.clone(),
            open: sequences.open,
        };
        self.state().iter().map(progress).collect()
    }

    /// Postgres knows the journal and has settled `covered` of it: the rest may be delivered.
    pub fn open(&self, journal: JournalId, covered: &RangeSet<u64>) {
        {
            let mut state = self.state();
            let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal == journal) else {
                return;
            };
            sequences.open = true;
            let held = sequences.first..sequences.end;
            if !held.is_empty() {
                sequences.settled = covered.intersection(&RangeSet::from([held.clone()])).collect();
                sequences.to_write = sequences.settled.gaps(&held).collect();
            }
        }
        self.synced.notify();
    }

    /// Postgres has lost the settled sequences `lost`: those that the journal still holds are delivered again.
    pub fn rewind(&self, journal: JournalId, lost: &RangeSet<u64>) -> Rewound {
        let mut rewound = Rewound::default();
        {
            let mut state = self.state();
            let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal == journal) else {
                return rewound;
            };
            for range in lost.iter() {
                let held = range.start.max(sequences.first)..range.end.min(sequences.end);
                if held.is_empty() {
                    rewound.gone += range.end - range.start;
                    continue;
                }
                rewound.gone += (range.end - range.start) - (held.end - held.start);
                rewound.replayed += held.end - held.start;
                sequences.settled.remove(held.clone());
                sequences.to_write.insert(held);
            }
        }
        self.synced.notify();
        rewound
    }

    /// Removes trimmed journals and trimmed sequences.
    pub fn refresh(&self) {
        let held = self.reader.held();
        let mut state = self.state();
        state.retain_mut(|sequences| {
            let Some(now) = held.iter().find(|held| held.journal == sequences.journal) else { return false };
            if now.first > sequences.first {
                sequences.settled.remove(sequences.first..now.first);
                sequences.first = now.first;
            }
            true
        });
    }
}

/// The result of [`Backlog::rewind`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewound {
    /// Events that are delivered again.
    pub replayed: u64,
    /// Events that the journal does not hold any more.
    pub gone: u64,
}

fn contains_range(set: &RangeSet<u64>, range: Range<u64>) -> bool {
    range.is_empty() || set.get(&range.start).is_some_and(|found| found.end >= range.end)
}

fn events_to_write(state: &[Sequences]) -> u64 {
    state.iter().map(|sequences| length(&sequences.to_write)).sum()
}

/// The number of sequences in a set.
pub fn length(set: &RangeSet<u64>) -> u64 {
    set.iter().map(|range| range.end - range.start).sum()
}
