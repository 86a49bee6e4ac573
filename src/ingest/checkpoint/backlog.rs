//! What the journal holds and Postgres does not have yet: the writer's side of the journal.
//!
//! For each journal on disk there are three sets of sequences: those to do, those settled, and what is left of the journal,
//! which is on its way. Everything works on these sets. What is synced is added to those to do. A start, a restored
//! database or a failover just gives sequences back to them; the next batches pick them up, in order, oldest journal
//! first. Sets of ranges stay small, whatever the number of events.
//!
//! The events themselves stay on disk (in the page cache, as a rule) until a batch reads them, so a backlog of gigabytes
//! takes no memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rangemap::RangeSet;
use uuid::Uuid;

use crate::ingest::event::id::{self, Tag};
use crate::ingest::journal::{Chunk, JournalError, JournalId, JournalReader, Piece};
use crate::ingest::queue::commit_waiter::{CommitWaiter, Outcome, WakeBatch};
use crate::ingest::queue::occupancy::Size;
use crate::ingest::queue::occupancy::ThresholdNotify;

/// The sequences of all journals on disk, by what is known of them.
#[derive(Debug)]
pub struct Backlog {
    store: Arc<JournalReader>,
    state: Mutex<Vec<Sequences>>,
    bell: ThresholdNotify,
    closed: AtomicBool,
    /// Bytes of a row, on average, of what was synced lately.
    row_bytes: AtomicU64,
}

/// One journal's sequences.
#[derive(Debug)]
struct Sequences {
    journal: JournalId,
    first: u64,
    /// Exclusive: everything before it is synced.
    end: u64,
    todo: RangeSet<u64>,
    settled: RangeSet<u64>,
    /// Whether Postgres knows the journal, and what it has of it was read.
    open: bool,
    /// Requests that wait for their events to be settled, by their first sequence.
    waiting: BTreeMap<u64, (u64, Arc<CommitWaiter>)>,
}

/// A part of a journal on its way to Postgres.
#[derive(Debug)]
pub struct Portion {
    /// The journal.
    pub journal: JournalId,
    /// Its rows, or the damage that was found in their place.
    pub piece: Piece,
}

impl Portion {
    /// The sequences it stands for.
    pub fn range(&self) -> Range<u64> {
        match &self.piece {
            Piece::Rows(Chunk { from, until, .. }) | Piece::Damaged { from, until, .. } => *from..*until,
        }
    }
}

/// What is known of one journal.
#[derive(Debug, Clone)]
pub struct Known {
    /// The journal.
    pub journal: JournalId,
    /// The sequences on disk.
    pub held: Range<u64>,
    /// Those that Postgres has, as far as this process knows.
    pub settled: RangeSet<u64>,
    /// Whether its receipts were read.
    pub open: bool,
}

impl Backlog {
    /// The backlog of what `store` holds; nothing is handed out of a journal before it is opened.
    pub fn new(store: Arc<JournalReader>) -> Arc<Self> {
        let journals = store.journals().into_iter().map(|held| Sequences {
            journal: held.journal,
            first: held.first,
            end: held.end,
            todo: RangeSet::new(),
            settled: RangeSet::new(),
            open: false,
            waiting: BTreeMap::new(),
        });
        Arc::new(Self {
            state: Mutex::new(journals.collect()),
            store,
            bell: ThresholdNotify::default(),
            closed: AtomicBool::new(false),
            row_bytes: AtomicU64::new(300),
        })
    }

    fn state(&self) -> MutexGuard<'_, Vec<Sequences>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The journal's files.
    pub fn store(&self) -> &Arc<JournalReader> {
        &self.store
    }

    /// A request waits for the events `range` of a journal to be settled. To be called before they are synced.
    pub fn wait_for_commit(&self, journal: JournalId, range: Range<u64>, waiter: &Arc<CommitWaiter>) {
        let mut state = self.state();
        if let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal == journal) {
            sequences.waiting.insert(range.start, (range.end, Arc::clone(waiter)));
        }
    }

    /// Nobody waits any more for the events that begin with this id.
    pub fn forget_waiting(&self, first: Uuid) {
        let tag = Tag::of_event(first);
        let mut state = self.state();
        if let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal.tag() == tag) {
            sequences.waiting.remove(&id::sequence(first));
        }
    }

    /// The journal is synced up to `end` (exclusive), by `bytes` more than before.
    pub fn synced(&self, journal: JournalId, end: u64, bytes: u64) {
        let (before, after) = {
            let mut state = self.state();
            let before = to_do(&state);
            let mut more = 0;
            if let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal == journal)
                && end > sequences.end
            {
                more = end - sequences.end;
                let new = sequences.end..end;
                sequences.end = end;
                if sequences.open {
                    sequences.todo.insert(new);
                }
            }
            if let Some(row_bytes) = bytes.checked_div(more) {
                self.row_bytes.store(row_bytes.max(1), Ordering::Relaxed);
            }
            (before, to_do(&state))
        };
        self.bell.rose(self.load(before), self.load(after));
    }

    fn load(&self, events: u64) -> Size {
        Size { events, bytes: events.saturating_mul(self.row_bytes.load(Ordering::Relaxed)) }
    }

    /// What waits to be handed out. Its bytes are an estimate.
    pub fn waiting(&self) -> Size {
        self.load(to_do(&self.state()))
    }

    /// Events on disk that are not known to be settled.
    pub fn pending(&self) -> u64 {
        self.state()
            .iter()
            .map(|sequences| sequences.end - sequences.first - length(&sequences.settled))
            .sum()
    }

    /// Bytes on disk of events that are not known to be settled. A segment's bytes are shared out evenly among its events.
    pub fn pending_bytes(&self) -> u64 {
        let chunks = self.store.chunks();
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
        chunks.iter().filter_map(pending).sum()
    }

    /// Whether the journal with this tag holds the event and it is not settled.
    pub fn is_pending(&self, tag: Tag, sequence: u64) -> bool {
        self.state().iter().any(|sequences| {
            sequences.journal.tag() == tag
                && (sequences.first..sequences.end).contains(&sequence)
                && !sequences.settled.contains(&sequence)
        })
    }

    /// Waits until what waits reaches `mark` or nothing more comes; false if `deadline` came first.
    pub(in crate::ingest) async fn wait_for(&self, mark: Size, deadline: Option<Instant>) -> bool {
        self.bell.wait_for(mark, deadline, || self.waiting(), || self.is_closed()).await
    }

    /// Nothing more will be synced.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Whether nothing more will be synced.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Takes the next part, of about `max_bytes`. One at a time: the caller sees to that.
    ///
    /// # Errors
    ///
    /// If the files cannot be read.
    pub async fn take(self: &Arc<Self>, max_bytes: u64) -> Result<Option<Portion>, JournalError> {
        let next = self
            .state()
            .iter()
            .find_map(|sequences| Some((sequences.journal, sequences.todo.first()?.clone())));
        let Some((journal, range)) = next else { return Ok(None) };
        let store = Arc::clone(&self.store);
        // A backlog may have to come from the disk, which must not hold up the other lanes.
        let reading = tokio::task::spawn_blocking(move || {
            store.read(journal, range.start, range.end, max_bytes as usize)
        });
        // A read that panicked is reported and tried again like one that failed.
        let piece =
            reading.await.unwrap_or_else(|panicked| Err(JournalError::Panicked(panicked.to_string())))?;
        let portion = Portion { journal, piece };
        if let Some(sequences) = self.state().iter_mut().find(|sequences| sequences.journal == journal) {
            sequences.todo.remove(portion.range());
        }
        Ok(Some(portion))
    }

    /// Postgres has settled the sequences `range`, of which each had this outcome.
    pub fn settled(&self, journal: JournalId, range: Range<u64>, outcome: Outcome<'_>) {
        let mut wakeups = WakeBatch::default();
        let mut state = self.state();
        let Some(sequences) = state.iter_mut().find(|sequences| sequences.journal == journal) else { return };
        if range.is_empty() {
            return;
        }
        sequences.settled.insert(range.clone());
        // Those that begin before the range's end; whoever ends before its start is gone already, or still waits.
        let concerned: Vec<u64> = sequences
            .waiting
            .range(..range.end)
            .filter(|(_, (end, _))| *end > range.start)
            .map(|(first, _)| *first)
            .collect();
        for first in concerned {
            let Some((end, waiter)) = sequences.waiting.get(&first) else { continue };
            let (from, until) = (range.start.max(first), range.end.min(*end));
            waiter.settle(from - first, until - from, outcome, &mut wakeups);
            if (first..*end).all_in(&sequences.settled) {
                sequences.waiting.remove(&first);
            }
        }
        drop(state);
        drop(wakeups);
    }

    /// What is known of each journal, oldest first.
    pub fn known(&self) -> Vec<Known> {
        let known = |sequences: &Sequences| Known {
            journal: sequences.journal,
            held: sequences.first..sequences.end,
            settled: sequences.settled.clone(),
            open: sequences.open,
        };
        self.state().iter().map(known).collect()
    }

    /// Postgres knows the journal and has settled `covered` of it: the rest may be handed out.
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
                sequences.todo = sequences.settled.gaps(&held).collect();
            }
        }
        self.bell.ring();
    }

    /// Of what was settled, Postgres does not have `lost` any more: it is handed out again, as far as it is held.
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
                sequences.todo.insert(held);
            }
        }
        self.bell.ring();
        rewound
    }

    /// Forgets the journals that are not on disk any more, and what was trimmed away of the others.
    pub fn refresh(&self) {
        let held = self.store.journals();
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

/// What a rewind did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewound {
    /// Events that are handed out again.
    pub replayed: u64,
    /// Events that the journal does not hold any more.
    pub gone: u64,
}

trait AllIn {
    fn all_in(&self, set: &RangeSet<u64>) -> bool;
}

impl AllIn for Range<u64> {
    fn all_in(&self, set: &RangeSet<u64>) -> bool {
        self.is_empty() || set.get(&self.start).is_some_and(|range| range.end >= self.end)
    }
}

fn to_do(state: &[Sequences]) -> u64 {
    state.iter().map(|sequences| length(&sequences.todo)).sum()
}

/// How many sequences a set holds.
pub fn length(set: &RangeSet<u64>) -> u64 {
    set.iter().map(|range| range.end - range.start).sum()
}
