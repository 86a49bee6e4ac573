//! The segments on disk: what they hold, how much there is, and when they go.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rangemap::RangeSet;

use super::files::{File, Files, Lock};
use super::segment::Segment;
use super::{JournalId, JournalSettings, Refusal};

const SPARE: &str = "spare";
const ZEROS: usize = 1024 * 1024;
/// How long nothing is taken after the file system was full.
const NO_SPACE_PAUSE: Duration = Duration::from_millis(500);

/// The journal's files, shared by those who write, read and trim them.
#[derive(Debug)]
pub struct Store {
    pub(super) files: Arc<dyn Files>,
    pub(super) settings: JournalSettings,
    pub(super) state: Mutex<State>,
    /// Held for as long as the files are in use.
    pub(super) lock: Option<Box<dyn Lock>>,
    pub(super) current: Option<JournalId>,
    poisoned: AtomicBool,
    no_space_until: Mutex<Option<Instant>>,
    pub(super) no_space: AtomicBool,
    free_bytes: AtomicU64,
    pending_bytes: AtomicU64,
    pub(super) quarantined: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Oldest journal first, and in order within each.
    pub(super) segments: Vec<Segment>,
    /// Where reading goes on: the sequence, and the segment's number and offset that it stands at.
    pub(super) positions: Vec<(JournalId, u64, u32, u64)>,
    spare_is_made: bool,
}

/// What the store holds of one journal.
#[derive(Debug, Clone)]
pub struct Held {
    /// The journal.
    pub journal: JournalId,
    /// The first sequence.
    pub first: u64,
    /// The sequence after the last that was synced.
    pub end: u64,
    /// Whether this process writes it.
    pub current: bool,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of events that Postgres does not have for good, by segment.
    pub pending_bytes: u64,
    /// Bytes of segments that are kept after that.
    pub kept_bytes: u64,
    /// Segments.
    pub segments: usize,
    /// Free bytes of the file system, as of the last look.
    pub free_bytes: u64,
    /// Bytes of damaged blocks.
    pub quarantined_bytes: u64,
}

/// What a segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// Being written.
    Open,
    /// Written, and not all of it in Postgres for good.
    Sealed,
    /// In Postgres for good, and kept for a while.
    Kept,
    /// It should be there, and is not.
    Missing,
}

impl SegmentState {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Sealed => "sealed",
            Self::Kept => "kept",
            Self::Missing => "missing",
        }
    }
}

/// One segment.
#[derive(Debug, Clone)]
pub struct SegmentInfo {
    /// Its file.
    pub path: PathBuf,
    /// Its journal.
    pub journal: JournalId,
    /// Its number in the journal, from 0.
    pub number: u32,
    /// Its first sequence.
    pub first: u64,
    /// The sequence after its last.
    pub end: u64,
    /// Bytes written.
    pub used_bytes: u64,
    /// What it is for.
    pub state: SegmentState,
}

impl Store {
    pub(super) fn new(
        files: Arc<dyn Files>,
        settings: JournalSettings,
        segments: Vec<Segment>,
        lock: Option<Box<dyn Lock>>,
        current: Option<JournalId>,
    ) -> Self {
        let store = Self {
            files,
            settings,
            state: Mutex::new(State { segments, ..State::default() }),
            lock,
            current,
            poisoned: AtomicBool::new(false),
            no_space_until: Mutex::new(None),
            no_space: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
            pending_bytes: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
        };
        store.count_pending(&store.state());
        store.look_at_space();
        store
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The journals on disk, oldest first.
    pub fn journals(&self) -> Vec<Held> {
        let mut journals: Vec<Held> = Vec::new();
        for segment in &self.state().segments {
            let journal = segment.salt.journal;
            match journals.last_mut().filter(|held| held.journal == journal) {
                Some(held) => held.end = segment.end,
                None => journals.push(Held {
                    journal,
                    first: segment.first,
                    end: segment.end,
                    current: self.current == Some(journal),
                }),
            }
        }
        journals
    }

    /// How much there is.
    pub fn usage(&self) -> Usage {
        let state = self.state();
        let kept = state.segments.iter().filter(|segment| segment.kept);
        Usage {
            pending_bytes: self.pending_bytes.load(Ordering::Relaxed),
            kept_bytes: kept.map(|segment| segment.bytes).sum(),
            segments: state.segments.len(),
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            quarantined_bytes: self.quarantined.load(Ordering::Relaxed),
        }
    }

    /// All segments, in order.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.state();
        let info = |segment: &Segment| SegmentInfo {
            path: segment.path.clone(),
            journal: segment.salt.journal,
            number: segment.salt.number,
            first: segment.first,
            end: segment.end,
            used_bytes: segment.used,
            state: match segment {
                Segment { file: None, .. } => SegmentState::Missing,
                Segment { kept: true, .. } => SegmentState::Kept,
                segment if self.is_open(&state, segment) => SegmentState::Open,
                _ => SegmentState::Sealed,
            },
        };
        state.segments.iter().map(info).collect()
    }

    fn is_open(&self, state: &State, segment: &Segment) -> bool {
        self.current == Some(segment.salt.journal)
            && state.segments.last().is_some_and(|last| last.salt == segment.salt)
    }

    /// Whether something would be taken now. Cheap: asked for each event.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn accepting(&self) -> Result<(), Refusal> {
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(Refusal::Poisoned);
        }
        if self.pending_bytes.load(Ordering::Relaxed) >= self.settings.max_bytes {
            return Err(Refusal::Full);
        }
        if self.free_bytes.load(Ordering::Relaxed) < self.settings.min_free {
            return Err(Refusal::MinFree);
        }
        if self.no_space.load(Ordering::Relaxed) {
            let mut until = self.no_space_until.lock().unwrap_or_else(PoisonError::into_inner);
            if until.is_some_and(|until| Instant::now() < until) {
                return Err(Refusal::NoSpace);
            }
            // Somebody may try again.
            *until = None;
            self.no_space.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Relaxed);
    }

    pub(super) fn ran_out_of_space(&self) {
        *self.no_space_until.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + NO_SPACE_PAUSE);
        self.no_space.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.pending_bytes.load(Ordering::Relaxed) + bytes <= self.settings.max_bytes
    }

    /// The open segment is synced up to here.
    pub(super) fn synced(&self, end: u64, used: u64) {
        let mut state = self.state();
        if let Some(open) = state.segments.last_mut() {
            open.end = end;
            open.used = used;
        }
        self.count_pending(&state);
    }

    pub(super) fn opened(&self, segment: Segment) {
        self.state().segments.push(segment);
    }

    fn count_pending(&self, state: &State) {
        let pending = state.segments.iter().filter(|segment| !segment.kept);
        // A segment without events holds nothing up.
        let bytes = pending.filter(|segment| segment.end > segment.first).map(|segment| segment.used).sum();
        self.pending_bytes.store(bytes, Ordering::Relaxed);
    }

    fn look_at_space(&self) {
        if let Ok(free) = self.files.free_bytes(&self.settings.dir) {
            self.free_bytes.store(free, Ordering::Relaxed);
        }
    }

    /// Postgres has `covered` of a journal for good: segments that are in it as a whole are kept for a while, then used
    /// again.
    ///
    /// # Errors
    ///
    /// If files cannot be renamed or removed.
    pub fn trim(&self, journal: JournalId, covered: &RangeSet<u64>) -> io::Result<()> {
        {
            let mut state = self.state();
            let open = self.current.and_then(|_| state.segments.last().map(|segment| segment.salt));
            for segment in state.segments.iter_mut().filter(|segment| segment.salt.journal == journal) {
                let all = segment.first..segment.end;
                let is_covered =
                    all.is_empty() || covered.get(&all.start).is_some_and(|range| range.end >= all.end);
                segment.kept = is_covered && Some(segment.salt) != open;
            }
            self.count_pending(&state);
        }
        self.give_up_kept()?;
        self.look_at_space();
        Ok(())
    }

    /// Gives up kept segments, the oldest first, as far as there are too many of them or space is short.
    pub(super) fn give_up_kept(&self) -> io::Result<()> {
        loop {
            let oldest = {
                let mut state = self.state();
                let kept: u64 =
                    state.segments.iter().filter(|segment| segment.kept).map(|segment| segment.bytes).sum();
                let free = self.free_bytes.load(Ordering::Relaxed);
                let short = free < self.settings.min_free.saturating_add(self.settings.segment_bytes);
                if kept == 0 || (kept <= self.settings.keep_bytes && !short) {
                    return Ok(());
                }
                let Some(oldest) = state.segments.iter().position(|segment| segment.kept) else {
                    return Ok(());
                };
                // A journal is given up from its beginning on.
                state.segments.remove(oldest)
            };
            if oldest.file.is_none() {
                continue;
            }
            let spare = self.settings.dir.join(SPARE);
            let has_spare = self.files.list(&self.settings.dir)?.contains(&spare);
            if has_spare || oldest.bytes != self.settings.segment_bytes {
                self.files.remove(&oldest.path)?;
            } else {
                self.files.rename(&oldest.path, &spare)?;
            }
            self.files.sync_dir(&self.settings.dir)?;
            self.look_at_space();
        }
    }

    /// A file of a segment's size whose blocks are allocated, under its last name: `path`.
    pub(super) fn take_spare(&self, path: &std::path::Path) -> io::Result<Arc<dyn File>> {
        let spare = self.settings.dir.join(SPARE);
        if !self.files.list(&self.settings.dir)?.contains(&spare) {
            self.make_spare()?;
        }
        let file = self.files.open(&spare, false)?;
        if file.length()? != self.settings.segment_bytes {
            self.files.remove(&spare)?;
            self.make_spare()?;
            return self.take_spare(path);
        }
        self.files.rename(&spare, path)?;
        Ok(file)
    }

    fn make_spare(&self) -> io::Result<()> {
        let unfinished = self.settings.dir.join("spare.new");
        let file = self.files.create(&unfinished)?;
        let zeros = vec![0; ZEROS];
        let mut at = 0;
        while at < self.settings.segment_bytes {
            let length = (self.settings.segment_bytes - at).min(ZEROS as u64);
            file.write_at(zeros.get(..length as usize).unwrap_or_default(), at)?;
            at += length;
        }
        file.sync()?;
        self.files.rename(&unfinished, &self.settings.dir.join(SPARE))
    }

    /// Makes the next segment's file while there is time, on a thread of its own.
    pub(super) fn make_spare_ahead(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state().spare_is_made, true) {
            return;
        }
        let store = Arc::clone(self);
        let made = std::thread::Builder::new().name("journal-spare".into()).spawn(move || {
            let spare = store.settings.dir.join(SPARE);
            let has_spare = store.files.list(&store.settings.dir).is_ok_and(|files| files.contains(&spare));
            if !has_spare && let Err(error) = store.make_spare() {
                tracing::debug!(error = error.to_string(), "no spare segment could be made");
            }
            store.state().spare_is_made = false;
        });
        if made.is_err() {
            self.state().spare_is_made = false;
        }
    }
}
