//! What is on disk: journals, their segments, and how far they are synced. Shared by the appender and all readers.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::extent::Extents;
use super::files::{File, FileId, Files, Lock};
use super::format::Place;
use super::gate::Gate;
use super::losses::Book;
use super::{JournalId, JournalSettings, Refusal};

/// A segment ready for use, in place of the next one.
pub(super) const SPARE: &str = "spare";
/// A spare that is not filled yet.
pub(super) const NEW_SPARE: &str = "spare.new";
/// The file whose lock keeps other processes out.
pub(super) const LOCK: &str = "lock";
/// The folder of damaged bytes.
pub(super) const QUARANTINE: &str = "quarantine";
/// The folder of the records of losses.
pub(super) const LOSSES: &str = "losses";

/// The name of a segment's file.
pub(super) fn segment_name(place: Place) -> String {
    format!("{}-{:08}.seg", place.journal, place.number)
}

/// The journal and number in the name of a segment's file.
pub(super) fn parse_segment_name(name: &str) -> Option<Place> {
    let stem = name.strip_suffix(".seg")?;
    let (journal, number) = stem.rsplit_once('-')?;
    let place = Place { journal: JournalId(journal.parse().ok()?), number: number.parse().ok()? };
    // Only in the spelling that is written, so that no two names mean one segment.
    (segment_name(place) == name).then_some(place)
}

/// A mutex's content, whatever became of another thread that held it: every change under these is complete by itself.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// Appended to.
    Open,
    /// Complete, and not all of it is covered yet.
    Sealed,
    /// All of it is covered; kept for a rewind.
    Kept,
    /// Ready for use.
    Spare,
}

impl SegmentState {
    /// Its name in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Sealed => "sealed",
            Self::Kept => "kept",
            Self::Spare => "spare",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) place: Place,
    /// The file's length.
    pub(super) bytes: u64,
    pub(super) nonce: Option<u64>,
    pub(super) first: u64,
    /// One past the last sequence that is synced.
    pub(super) end: u64,
    /// Up to which offset all is synced.
    pub(super) used: u64,
    pub(super) state: SegmentState,
    /// Cloned along with the segment by whoever reads its file, which is not written again meanwhile.
    pub(super) pin: Arc<()>,
    /// The file, while it is appended to: reads of the newest events need no descriptor of their own, and none of its
    /// path.
    pub(super) file: Option<Arc<dyn File>>,
    /// It holds bytes that the disk could not read and no copy has: the file is kept for a later try.
    pub(super) unread: bool,
}

/// Where reading may go on without a walk from the segment's beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) chain: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Journal {
    pub(super) id: JournalId,
    pub(super) created_at_us: i64,
    pub(super) current: bool,
    pub(super) columns: Arc<str>,
    pub(super) segments: VecDeque<Segment>,
    pub(super) cursors: VecDeque<Cursor>,
}

impl Journal {
    pub(super) fn first(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.first)
    }

    pub(super) fn end(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.end)
    }

    pub(super) fn held(&self) -> Held {
        Held {
            journal: self.id,
            first: self.first(),
            end: self.end(),
            current: self.current,
            created_at_us: self.created_at_us,
            columns: Arc::clone(&self.columns),
            segments: self.segments.len(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Oldest first.
    pub(super) journals: Vec<Journal>,
    pub(super) quarantined: Quarantined,
    /// A sync of the folder failed: which names are on the disk is not known, and no segment is given up any more.
    pub(super) names_unknown: bool,
    /// A sync of the folder could not be done for want of resources: it comes before the next segment is given up.
    pub(super) names_unsynced: bool,
}

impl State {
    /// Bytes of the segments in (or not in) `Kept`.
    pub(super) fn bytes(&self, kept: bool) -> u64 {
        let segments = self.journals.iter().flat_map(|journal| &journal.segments);
        segments
            .filter(|segment| (segment.state == SegmentState::Kept) == kept)
            .map(|segment| segment.bytes)
            .sum()
    }
}

/// What was found damaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quarantined {
    /// Files in the folder of damaged bytes.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A journal on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The journal.
    pub journal: JournalId,
    /// The first sequence held, kept segments included.
    pub first: u64,
    /// One past the last sequence that is synced.
    pub end: u64,
    /// Whether this process appends to it.
    pub current: bool,
    /// When it was opened, in microseconds of Unix time; 0 if no header could be read.
    pub created_at_us: i64,
    /// The columns that its rows fill.
    pub columns: Arc<str>,
    /// How many segments it has.
    pub segments: usize,
}

/// Bytes on disk, by segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Of segments that are not covered yet, whole segments: what `max_bytes` bounds.
    pub uncovered_bytes: u64,
    /// Of segments that are kept for a rewind.
    pub kept_bytes: u64,
    /// How many segments there are, the spare one not among them.
    pub segments: usize,
    /// What the file system still takes, as of the last look.
    pub free_bytes: u64,
    /// What was found damaged.
    pub quarantined: Quarantined,
}

/// A segment, for a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its file.
    pub file: PathBuf,
    /// Its journal; none for the spare.
    pub journal: Option<JournalId>,
    /// Its number in the journal.
    pub number: u64,
    /// Its first sequence.
    pub first: u64,
    /// One past its last sequence that is synced.
    pub end: u64,
    /// The file's length.
    pub bytes: u64,
    /// Up to which offset it holds synced blocks.
    pub used: u64,
    /// Its state.
    pub state: SegmentState,
}

/// What wakes and ends the thread that prepares segments.
#[derive(Debug, Default)]
pub(super) struct Signal {
    pub(super) state: Mutex<Wanted>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) work: bool,
    pub(super) stop: bool,
}

/// The journals on disk; shared by all who read, trim or ask.
pub struct JournalReader {
    pub(super) files: Arc<dyn Files>,
    pub(super) settings: JournalSettings,
    /// Reads beside the process that owns the journal, and changes nothing.
    pub(super) read_only: bool,
    pub(super) gate: Gate,
    pub(super) state: Mutex<State>,
    /// The spare segment. Its mutex is held by whoever gives up or prepares segments, and always taken before `state`'s.
    pub(super) spare: Mutex<Option<Arc<dyn File>>>,
    /// Whether new segments are filled ahead of their use.
    pub(super) fills_spares: AtomicBool,
    pub(super) signal: Signal,
    pub(super) lock: Option<Lock>,
    /// Taken before `state`'s, never after it.
    pub(super) extents: Mutex<Extents>,
    pub(super) losses: Mutex<Book>,
    /// The folder that was opened.
    pub(super) home: Option<FileId>,
    /// What the log reported last.
    pub(super) reported: Mutex<Option<Refusal>>,
}

impl std::fmt::Debug for JournalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let owned = self.lock.is_some();
        f.debug_struct("JournalReader")
            .field("dir", &self.settings.dir)
            .field("owned", &owned)
            .finish_non_exhaustive()
    }
}

impl JournalReader {
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.settings.dir.join(name)
    }

    /// What is on disk, the oldest journal first; kept segments included.
    pub fn journals(&self) -> Vec<Held> {
        lock(&self.state).journals.iter().map(Journal::held).collect()
    }

    /// One past the last synced sequence of a journal.
    pub fn synced(&self, journal: JournalId) -> Option<u64> {
        lock(&self.state).journals.iter().find(|held| held.id == journal).map(Journal::end)
    }

    /// Bytes on disk.
    pub fn usage(&self) -> Usage {
        let state = lock(&self.state);
        Usage {
            uncovered_bytes: state.bytes(false),
            kept_bytes: state.bytes(true),
            segments: state.journals.iter().map(|journal| journal.segments.len()).sum(),
            free_bytes: self.gate.free(),
            quarantined: state.quarantined,
        }
    }

    /// All segments, the oldest first, the spare one last.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let spare = lock(&self.spare).is_some();
        let state = lock(&self.state);
        let segments = state.journals.iter().flat_map(|journal| &journal.segments);
        let mut infos: Vec<SegmentInfo> = segments
            .map(|segment| SegmentInfo {
                file: self.path(segment_name(segment.place)),
                journal: Some(segment.place.journal),
                number: segment.place.number,
                first: segment.first,
                end: segment.end,
                bytes: segment.bytes,
                used: segment.used,
                state: segment.state,
            })
            .collect();
        if spare {
            let bytes = self.settings.segment_bytes;
            let (file, state) = (self.path(SPARE), SegmentState::Spare);
            infos.push(SegmentInfo {
                file,
                journal: None,
                number: 0,
                first: 0,
                end: 0,
                bytes,
                used: 0,
                state,
            });
        }
        infos
    }

    /// Each segment's journal, sequences, and bytes of blocks.
    pub fn chunks(&self) -> Vec<(JournalId, Range<u64>, u64)> {
        let state = lock(&self.state);
        let segments = state.journals.iter().flat_map(|journal| &journal.segments);
        let chunk = |segment: &Segment| {
            let blocks = segment.used.saturating_sub(super::format::FIRST_BLOCK);
            (segment.place.journal, segment.first..segment.end, blocks.min(segment.bytes))
        };
        segments.map(chunk).collect()
    }

    /// Whether the journal takes events. Cheap enough to be asked at each request.
    pub fn accepting(&self) -> Result<(), Refusal> {
        self.gate.accepting()
    }

    /// Why the journal failed, if it did.
    pub fn poisoned(&self) -> Option<&str> {
        self.gate.poisoned()
    }

    /// The current journal's last segment is synced up to here.
    pub(super) fn advance(&self, end: u64, used: u64) {
        let mut state = lock(&self.state);
        let current = state.journals.iter_mut().find(|journal| journal.current);
        if let Some(segment) = current.and_then(|journal| journal.segments.back_mut()) {
            segment.end = end;
            segment.used = used;
        }
    }

    /// The current journal goes on in this segment; the one before is complete.
    pub(super) fn push(&self, segment: Segment) {
        let mut state = lock(&self.state);
        if let Some(journal) = state.journals.iter_mut().find(|journal| journal.current) {
            if let Some(before) = journal.segments.back_mut().filter(|last| last.state == SegmentState::Open)
            {
                before.state = SegmentState::Sealed;
                before.file = None;
            }
            journal.segments.push_back(segment);
        }
    }
}
