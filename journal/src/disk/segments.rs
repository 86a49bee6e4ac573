//! State of the folder, shared by the writer and all readers: journals, their segments, and the synced range of each.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Condvar, Mutex};

use super::extent::Extents;
use super::files::{File, FileId, Files, Lock};
use super::format::SegmentId;
use super::gate::Gate;
use super::losses::{LossIndex, LossRecords};
use super::registered::Registered;
use super::{DiskSettings, HeldJournal, JournalId, Quarantined, Refusal, Usage};

/// The next segment, ready for use.
pub(super) const SPARE: &str = "spare";
/// A spare segment that is not filled yet.
pub(super) const NEW_SPARE: &str = "spare.new";
/// The file whose lock excludes other processes.
pub(super) const LOCK: &str = "lock";
/// The folder of damaged bytes.
pub(super) const QUARANTINE: &str = "quarantine";
/// The folder of loss records.
pub(super) const LOSSES: &str = "losses";
/// The list of journals that the database knows.
pub(super) const REGISTERED: &str = "registered";
/// A list that is not complete yet.
pub(super) const NEW_REGISTERED: &str = "registered.new";

/// File name of a segment.
pub(super) fn segment_name(id: SegmentId) -> String {
    format!("{}-{:08}.seg", id.journal, id.number)
}

/// Parses the file name of a segment.
pub(super) fn parse_segment_name(name: &str) -> Option<SegmentId> {
    let stem = name.strip_suffix(".seg")?;
    let (journal, number) = stem.rsplit_once('-')?;
    let id = SegmentId { journal: JournalId(journal.parse().ok()?), number: number.parse().ok()? };
    // Other spellings are rejected, so that no two names denote one segment.
    (segment_name(id) == name).then_some(id)
}

/// State of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// The writer appends to it.
    Open,
    /// Complete; some of its events are not covered yet.
    Sealed,
    /// All of its events are covered; kept for a rewind.
    Kept,
    /// Ready for use.
    Spare,
}

impl SegmentState {
    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Sealed => "sealed",
            Self::Kept => "kept",
            Self::Spare => "spare",
        }
    }
}

/// A segment of a journal.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    /// Length of the file; 0 where the file is missing.
    pub(super) bytes: u64,
    pub(super) nonce: Option<u64>,
    pub(super) first: u64,
    /// One past the last synced sequence.
    pub(super) end: u64,
    /// Offset up to which everything is synced.
    pub(super) used: u64,
    pub(super) state: SegmentState,
    /// Cloned with the segment by each reader: a file with readers is not recycled.
    pub(super) pin: Arc<()>,
    /// The file of an open segment: reads of the newest events need neither a descriptor nor the path.
    pub(super) file: Option<Arc<dyn File>>,
    /// Some bytes were unreadable and have no copy: the file is kept for a later try.
    pub(super) unreadable: bool,
}

/// Position at which a read can resume without a scan from the segment's beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadCursor {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) chain: Option<u32>,
}

/// A journal and its segments, in order.
#[derive(Debug)]
pub(super) struct JournalSegments {
    pub(super) id: JournalId,
    pub(super) created_at_us: i64,
    pub(super) current: bool,
    pub(super) columns: Arc<str>,
    pub(super) segments: VecDeque<Segment>,
    pub(super) cursors: VecDeque<ReadCursor>,
}

impl JournalSegments {
    pub(super) fn first(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.first)
    }

    pub(super) fn end(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.end)
    }

    pub(super) fn held(&self) -> HeldJournal {
        HeldJournal {
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

/// The journals of the folder.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The oldest first.
    pub(super) journals: Vec<JournalSegments>,
    pub(super) quarantined: Quarantined,
    /// A sync of the folder failed: the durable names are unknown, and no segment is released any more.
    pub(super) names_in_doubt: bool,
    /// A sync of the folder failed for want of resources: it is repeated before the next release.
    pub(super) names_unsynced: bool,
}

impl State {
    /// Bytes of the segments that are (or are not) in state `Kept`.
    pub(super) fn bytes(&self, kept: bool) -> u64 {
        let segments = self.journals.iter().flat_map(|journal| &journal.segments);
        segments
            .filter(|segment| (segment.state == SegmentState::Kept) == kept)
            .map(|segment| segment.bytes)
            .sum()
    }
}

/// A segment, as listed by a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its file.
    pub file: PathBuf,
    /// Its journal; `None`: the spare segment.
    pub journal: Option<JournalId>,
    /// Its number within the journal.
    pub number: u64,
    /// Its first sequence.
    pub first: u64,
    /// One past its last synced sequence.
    pub end: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Offset up to which it holds synced blocks.
    pub used: u64,
    /// Its state.
    pub state: SegmentState,
}

/// Wakes and ends the maintenance.
#[derive(Debug, Default)]
pub(super) struct Signal {
    pub(super) state: Mutex<PendingWork>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct PendingWork {
    pub(super) work: bool,
    pub(super) stop: bool,
}

/// Reads, trims and reports the journals of a folder. Shared by all threads.
pub struct JournalReader {
    pub(super) files: Arc<dyn Files>,
    pub(super) settings: DiskSettings,
    pub(super) gate: Gate,
    pub(super) state: Mutex<State>,
    /// The spare segment. Locked while segments are released or prepared, and always before `state`.
    pub(super) spare: Mutex<Option<Arc<dyn File>>>,
    /// Whether new segments are filled before their use.
    pub(super) fills_spares: AtomicBool,
    pub(super) signal: Signal,
    /// `None`: opened for inspection, beside the owning process.
    pub(super) lock: Option<Lock>,
    /// Locked before `state`, never after it.
    pub(super) extents: Mutex<Extents>,
    pub(super) loss_records: LossRecords,
    pub(super) losses: Mutex<LossIndex>,
    /// Locked before `state`, never after it.
    pub(super) registered: Mutex<Registered>,
    /// Identity of the folder that was opened; `None`: not checked.
    pub(super) home: Option<FileId>,
    /// The refusal that was logged last.
    pub(super) reported: Mutex<Option<Refusal>>,
}

impl std::fmt::Debug for JournalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalReader")
            .field("dir", &self.settings.dir)
            .field("is_owner", &self.is_owner())
            .finish_non_exhaustive()
    }
}

impl JournalReader {
    /// A reader that owns nothing: without lock, spare segment and registered journals.
    pub(super) fn new(
        files: Arc<dyn Files>,
        settings: DiskSettings,
        state: State,
        loss_records: LossRecords,
    ) -> Self {
        Self {
            files,
            settings,
            gate: Gate::new(),
            state: Mutex::new(state),
            spare: Mutex::default(),
            fills_spares: AtomicBool::new(true),
            signal: Signal::default(),
            lock: None,
            extents: Mutex::default(),
            loss_records,
            losses: Mutex::default(),
            registered: Mutex::default(),
            home: None,
            reported: Mutex::default(),
        }
    }

    /// Whether this process owns the folder. An inspecting process changes nothing.
    pub(super) fn is_owner(&self) -> bool {
        self.lock.is_some()
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.settings.dir.join(name)
    }

    /// The journals, the oldest first; events kept for a rewind included.
    pub fn held(&self) -> Vec<HeldJournal> {
        self.state.lock().journals.iter().map(JournalSegments::held).collect()
    }

    /// One past the last flushed sequence of a journal.
    pub fn flushed(&self, journal: JournalId) -> Option<u64> {
        self.state.lock().journals.iter().find(|held| held.id == journal).map(JournalSegments::end)
    }

    /// Bytes in storage.
    pub fn usage(&self) -> Usage {
        let state = self.state.lock();
        Usage {
            uncovered_bytes: state.bytes(false),
            kept_bytes: state.bytes(true),
            segments: state.journals.iter().map(|journal| journal.segments.len()).sum(),
            free_bytes: self.gate.free(),
            quarantined: state.quarantined,
        }
    }

    /// All segments, the oldest first, the spare one last. For commands that know the files.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let spare = self.spare.lock().is_some();
        let state = self.state.lock();
        let segments = state.journals.iter().flat_map(|journal| &journal.segments);
        let mut infos: Vec<SegmentInfo> = segments
            .map(|segment| SegmentInfo {
                file: self.path(segment_name(segment.id)),
                journal: Some(segment.id.journal),
                number: segment.id.number,
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

    /// Sequence ranges and the bytes that each takes.
    pub fn range_bytes(&self) -> Vec<(JournalId, Range<u64>, u64)> {
        let state = self.state.lock();
        let segments = state.journals.iter().flat_map(|journal| &journal.segments);
        let range_bytes = |segment: &Segment| {
            let blocks = segment.used.saturating_sub(super::format::FIRST_BLOCK);
            (segment.id.journal, segment.first..segment.end, blocks.min(segment.bytes))
        };
        segments.map(range_bytes).collect()
    }

    /// Whether the journal accepts events. Cheap enough to be called for each request.
    pub fn accepting(&self) -> Result<(), Refusal> {
        self.gate.accepting()
    }

    /// The reason of the last refusal, until its cause has passed or an append succeeds: the journal may accept events that are sent now.
    pub fn refusal(&self) -> Option<Refusal> {
        self.gate.refusal_until_append()
    }

    /// Advances the synced end of the current journal's last segment.
    pub(super) fn advance(&self, end: u64, used: u64) {
        let mut state = self.state.lock();
        let current = state.journals.iter_mut().find(|journal| journal.current);
        if let Some(segment) = current.and_then(|journal| journal.segments.back_mut()) {
            segment.end = end;
            segment.used = used;
        }
    }

    /// Adds the next segment of the current journal, and seals the previous one.
    pub(super) fn push(&self, segment: Segment) {
        let mut state = self.state.lock();
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
