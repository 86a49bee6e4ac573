//! Finds out, at the start, what earlier processes left.
//!
//! Read whole are only the segments whose end nothing else tells: the last one of each journal, and those beside a
//! damaged header. Damage in the others shows when they are read.
//!
//! The [note](super::extent) of a journal's extent records what was synced where the segments do not: whether the bad end of
//! the last one is damage or a torn tail, and which segments are not there.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::error::JournalError;
use super::extent::{self, Extent, extent_name, parse_extent_name};
use super::files::{Access, File, Files, write_all};
use super::format::{
    BlockWriter, Content, FIRST_BLOCK, NoHeader, PAGE, Place, SegmentHeader, looks_like_block,
};
use super::losses::Cause;
use super::quarantine;
use super::scan::{Found, SCAN_AHEAD, Walk, Window};
use super::store::{
    Held, Journal, LOCK, LOSSES, NEW_SPARE, QUARANTINE, SPARE, Segment, SegmentState, parse_segment_name,
    segment_name,
};
use super::{JournalId, row};

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The journals of earlier processes that hold events, the oldest first.
    pub journals: Vec<Held>,
    /// Synced events that cannot be read any more, as far as that is known without reading everything.
    pub damaged: Vec<Damage>,
    /// Unreadable segments of unknown content. They are empty ranges.
    pub unknown: Vec<Damage>,
    /// Segments whose header cannot be read, though their blocks can.
    pub headless: Vec<PathBuf>,
    /// Writes that no sync covered, and that are not whole; cut.
    pub torn: Vec<TornTail>,
    /// Files that are no part of the journal; left alone.
    pub strays: Vec<PathBuf>,
}

/// Synced events that cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The journal.
    pub journal: JournalId,
    /// The first that is missing.
    pub from: u64,
    /// One past the last that is missing.
    pub until: u64,
    /// Where their bytes are, or were.
    pub at: DamagedBytes,
}

/// Bytes of a segment that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedBytes {
    /// The segment.
    pub segment: PathBuf,
    /// Its number in the journal.
    pub number: u64,
    /// Where in the segment they begin.
    pub offset: u64,
    /// How many they are; 0 where the segment is not there, or ends before.
    pub bytes: u64,
    /// Their copy, where one was made.
    pub copy: Option<PathBuf>,
    /// What is wrong with them.
    pub cause: Cause,
}

impl DamagedBytes {
    /// Of a segment that is not there.
    pub(super) fn missing(segment: PathBuf, number: u64) -> Self {
        Self { segment, number, offset: 0, bytes: 0, copy: None, cause: Cause::Missing }
    }
}

/// The remains of writes that no sync covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// From where on it was cut.
    pub offset: u64,
}

/// Reads a folder; changes it only where `own` says that it belongs to this process.
pub(super) struct Recovery<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) dir: &'a Path,
    pub(super) own: bool,
    pub(super) found: Recovered,
}

/// A segment's file, before its extent is known.
struct Probe {
    place: Place,
    path: PathBuf,
    file: Arc<dyn File>,
    bytes: u64,
    header: Option<SegmentHeader>,
    /// The first valid block, looked for only where there is no header.
    block: Option<(u64, u64)>,
}

/// What the folder holds of one journal.
#[derive(Default)]
struct Parts {
    probes: Vec<Probe>,
    extent: Option<Extent>,
}

impl Probe {
    fn is_unreadable(&self) -> bool {
        self.header.is_none() && self.block.is_none()
    }

    /// The first sequence, as far as this file tells it.
    fn first(&self) -> Option<u64> {
        match (&self.header, self.place.number, self.block) {
            (Some(header), ..) => Some(header.first),
            // A journal begins with 0.
            (None, 0, _) => Some(0),
            (None, _, Some((FIRST_BLOCK, first))) => Some(first),
            _ => None,
        }
    }
}

impl Recovery<'_> {
    /// The journals in the folder, the oldest first.
    pub(super) fn run(&mut self) -> Result<Vec<Journal>, JournalError> {
        let mut journals: BTreeMap<Uuid, Parts> = BTreeMap::new();
        let mut names = self.files.list(self.dir).map_err(JournalError::io("list", self.dir))?;
        names.sort_unstable();
        // Before the segments: beside a running service, what a note names is in them, then.
        for journal in names.iter().filter_map(|name| parse_extent_name(name)) {
            journals.entry(journal.0).or_default().extent = self.extent(journal);
        }
        if !self.own {
            // A note may name a segment that was begun since.
            names = self.files.list(self.dir).map_err(JournalError::io("list", self.dir))?;
            names.sort_unstable();
        }
        for name in names {
            match parse_segment_name(&name) {
                Some(place) => {
                    if let Some(probe) = self.probe(place)? {
                        journals.entry(place.journal.0).or_default().probes.push(probe);
                    }
                }
                None if parse_extent_name(&name).is_some() => {}
                None if [LOCK, SPARE, NEW_SPARE, QUARANTINE, LOSSES].contains(&name.as_str()) => {}
                None => self.found.strays.push(self.dir.join(name)),
            }
        }
        let mut held = Vec::new();
        for (journal, mut parts) in journals {
            let id = JournalId(journal);
            parts.probes.sort_by_key(|probe| probe.place.number);
            if !self.own {
                self.forget_given_up(id, &mut parts);
            }
            held.extend(self.journal(id, &parts.probes, parts.extent)?);
        }
        held.sort_by_key(|journal: &Journal| (journal.created_at_us, journal.id.0));
        self.found.journals = held.iter().map(Journal::held).collect();
        Ok(held)
    }

    fn extent(&self, journal: JournalId) -> Option<Extent> {
        extent::read(self.files, &self.dir.join(extent_name(journal)), journal)
    }

    /// Beside a running service: what it gave up while this one looked is not missing.
    fn forget_given_up(&self, id: JournalId, parts: &mut Parts) {
        let Some(before) = parts.extent else { return };
        // A journal goes with its note.
        let Some(now) = self.extent(id) else {
            parts.extent = None;
            return;
        };
        parts.extent =
            Some(Extent { first_number: now.first_number, first: now.first.min(before.end), ..before });
        parts.probes.retain(|probe| probe.place.number >= now.first_number);
    }

    /// Opens a segment's file and reads its header; `None` if it is none.
    fn probe(&mut self, place: Place) -> Result<Option<Probe>, JournalError> {
        let path = self.dir.join(segment_name(place));
        let access = if self.own { Access::Write } else { Access::Read };
        let file = match self.files.open(&path, access) {
            // Given up meanwhile by the service beside which this one reads.
            Err(error) if !self.own && error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(JournalError::io("open", &path))?,
        };
        if self.own {
            // What is counted as kept has to be on the disk, and read from there.
            file.fdatasync().map_err(JournalError::io("sync", &path))?;
            file.forget_cached();
        }
        let bytes = file.length().map_err(JournalError::io("read", &path))?;
        let mut window = Window::new(Arc::clone(&file), 0, PAGE as usize, PAGE);
        let page = window.get(0, PAGE as usize).map_err(JournalError::io("read", &path))?;
        let header = match SegmentHeader::decode(page) {
            Ok(header) if (header.journal, header.number) == (place.journal, place.number) => Some(header),
            Ok(_other_segment) => {
                self.found.strays.push(path);
                return Ok(None);
            }
            Err(NoHeader::Newer(version)) => return Err(JournalError::Newer { file: path, version }),
            Err(NoHeader::Damaged) => None,
        };
        let block = match header {
            Some(_) => None,
            None => Walk::whole(&file, place, None, 0, 0)
                .and_then(|mut walk| walk.find())
                .map_err(JournalError::io("read", &path))?
                .map(|(offset, block)| (offset, block.first)),
        };
        if header.is_none() && block.is_some() {
            self.found.headless.push(path.clone());
        }
        Ok(Some(Probe { place, path, file, bytes, header, block }))
    }

    /// An unreadable segment of unknown content.
    fn unknown(&mut self, probe: &Probe, first: u64) -> Result<(), JournalError> {
        let copy = self.put_away(probe)?;
        let at = probe.damaged((0, probe.bytes), copy, Cause::Corrupt);
        self.found.unknown.push(Damage { journal: probe.place.journal, from: first, until: first, at });
        Ok(())
    }

    /// Moves the bytes of an unreadable segment out of the way; where they are then.
    fn put_away(&self, probe: &Probe) -> Result<Option<PathBuf>, JournalError> {
        if !self.own {
            return Ok(None);
        }
        let mut copy = None;
        if probe.bytes > 0 {
            let copied = quarantine::copy(self.files, self.dir, probe.place, &*probe.file, (0, probe.bytes));
            copy = Some(copied.map_err(JournalError::io("copy", &probe.path))?.path);
        }
        self.files.remove(&probe.path).map_err(JournalError::io("remove", &probe.path))?;
        Ok(copy)
    }

    /// Settles the extents of a journal's segments; nothing, if it holds no event.
    fn journal(
        &mut self,
        id: JournalId,
        probes: &[Probe],
        extent: Option<Extent>,
    ) -> Result<Option<Journal>, JournalError> {
        let mut segments: VecDeque<Segment> = VecDeque::new();
        let created_at_us =
            probes.iter().find_map(|probe| probe.header.as_ref().map(|header| header.created_at_us));
        let columns =
            probes.iter().find_map(|probe| probe.header.as_ref().map(|header| header.columns.as_str()));
        let columns = Arc::from(columns.unwrap_or(row::COLUMNS));
        for (index, probe) in probes.iter().enumerate() {
            let next = probes.get(index + 1);
            let adjacent = |after: u64, number: u64| number.checked_sub(1) == Some(after);
            let before = segments.back().filter(|before| adjacent(before.place.number, probe.place.number));
            let noted = extent.filter(|extent| extent.first_number == probe.place.number);
            let first =
                probe.first().or(before.map(|before| before.end)).or(noted.map(|extent| extent.first));
            let first = first.or(probe.block.map(|(_, first)| first));
            let is_covered = extent.is_some_and(|extent| {
                (extent.first_number..=extent.last_number).contains(&probe.place.number)
            });
            // What lies before an unreadable segment is as lost as what it held.
            let first = first.or(segments.back().map(|segment| segment.end).filter(|_| is_covered));
            let first = first.or(extent.filter(|_| is_covered).map(|extent| extent.first));
            let next_header = next.filter(|next| adjacent(probe.place.number, next.place.number));
            let next_header = next_header.and_then(|next| next.header.as_ref());
            let mut segment = Segment {
                place: probe.place,
                bytes: probe.bytes,
                nonce: probe.header.as_ref().map(|header| header.nonce),
                first: first.unwrap_or(0),
                end: first.unwrap_or(0),
                used: FIRST_BLOCK,
                state: SegmentState::Sealed,
                pin: Arc::default(),
                file: None,
                unread: false,
            };
            match next_header {
                Some(header) if first.is_some_and(|first| header.first >= first) => {
                    (segment.end, segment.used) = (header.first, header.previous_synced.max(FIRST_BLOCK));
                }
                _ => {
                    let noted = extent.filter(|extent| extent.last_number == probe.place.number);
                    let chain = self.scan(probe, &mut segment, noted)?;
                    match next.map(Probe::first) {
                        // All of a segment was synced before the next one was begun: what is missing in between is lost.
                        Some(Some(next_first))
                            if next.is_some_and(|next| adjacent(probe.place.number, next.place.number)) =>
                        {
                            segment.end = segment.end.max(next_first);
                        }
                        None if !probe.is_unreadable()
                            && extent.is_none_or(|extent| extent.last_number <= probe.place.number) =>
                        {
                            self.cut(probe, &segment, chain)?;
                        }
                        _ => {}
                    }
                }
            }
            if probe.is_unreadable() {
                let is_noted = extent.is_some_and(|extent| extent.last_number == probe.place.number);
                match segment.end > segment.first {
                    true => self.damaged_segment(probe, &segment),
                    // By the note nothing of it was synced.
                    false if is_noted && first.is_some() => {}
                    // What it held counts to the next segment that can be placed.
                    false if is_covered => {
                        self.put_away(probe)?;
                        continue;
                    }
                    false => {
                        self.unknown(probe, segment.first)?;
                        continue;
                    }
                }
            }
            segments.push_back(segment);
        }
        if let Some(extent) = extent {
            add_missing(id, &mut segments, extent);
        }
        self.report_missing(&segments, probes);
        if segments.iter().all(|segment| segment.first == segment.end) {
            self.remove_empty(id, probes)?;
            return Ok(None);
        }
        let (current, cursors) = (false, VecDeque::new());
        let created_at_us = created_at_us.unwrap_or(0);
        Ok(Some(Journal { id, created_at_us, current, columns, segments, cursors }))
    }

    /// Reports what lies between the segments, and those that are not there.
    fn report_missing(&mut self, segments: &VecDeque<Segment>, probes: &[Probe]) {
        let mut end = segments.front().map_or(0, |segment| segment.first);
        for segment in segments {
            let mut report = |number: u64, range: Range<u64>| {
                if range.start < range.end {
                    let place = Place { number, ..segment.place };
                    let at = DamagedBytes::missing(self.dir.join(segment_name(place)), number);
                    let journal = segment.place.journal;
                    self.found.damaged.push(Damage { journal, from: range.start, until: range.end, at });
                }
            };
            report(segment.place.number.saturating_sub(1), end..segment.first);
            if !probes.iter().any(|probe| probe.place.number == segment.place.number) {
                report(segment.place.number, segment.first..segment.end);
            }
            end = segment.end;
        }
    }

    /// Removes the files of a journal without events.
    fn remove_empty(&self, id: JournalId, probes: &[Probe]) -> Result<(), JournalError> {
        if !self.own {
            return Ok(());
        }
        let note = self.dir.join(extent_name(id));
        let paths = std::iter::once(&note).chain(probes.iter().map(|probe| &probe.path));
        for path in paths {
            match self.files.remove(path) {
                // Put away before, or never there.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(JournalError::io("remove", path))?,
            }
        }
        Ok(())
    }

    fn damaged_segment(&mut self, probe: &Probe, segment: &Segment) {
        let bytes = (FIRST_BLOCK.min(probe.bytes), probe.bytes);
        let at = probe.damaged(bytes, None, Cause::Corrupt);
        let (from, until) = (segment.first, segment.end);
        self.found.damaged.push(Damage { journal: probe.place.journal, from, until, at });
    }

    /// Walks a segment of which nothing is known to be synced but what its own blocks testify, and what the note says of
    /// it; the last block's checksum.
    fn scan(
        &mut self,
        probe: &Probe,
        segment: &mut Segment,
        noted: Option<Extent>,
    ) -> Result<u32, JournalError> {
        let read = JournalError::io("read", &probe.path);
        let synced = noted.map_or(0, |extent| extent.used);
        let mut step = || -> std::io::Result<u32> {
            let mut walk = Walk::whole(&probe.file, probe.place, segment.nonce, segment.first, synced)?;
            let mut bad_end = None;
            loop {
                match walk.next()? {
                    Found::Block { offset, .. } => {
                        bad_end = None;
                        walk.window().tidy(offset);
                    }
                    Found::Damage { from, until, offset, next } => {
                        bad_end = (from == until).then_some(offset);
                        self.damage(probe, (from, until), (offset, next))?;
                    }
                    Found::End { offset } => {
                        segment.used = offset.max(synced);
                        segment.end = walk.at().sequence;
                        segment.nonce = walk.nonce();
                        if let Some(noted) = noted.filter(|noted| noted.end > segment.end) {
                            if !probe.is_unreadable() {
                                let lost = (segment.end, noted.end);
                                let bad = bad_end.unwrap_or(offset.min(synced));
                                self.damage(probe, lost, (bad, synced))?;
                            }
                            segment.end = noted.end;
                        }
                        return Ok(walk.at().chain.unwrap_or_default());
                    }
                }
            }
        };
        step().map_err(read)
    }

    fn damage(
        &mut self,
        probe: &Probe,
        (from, until): (u64, u64),
        (offset, next): (u64, u64),
    ) -> std::io::Result<()> {
        if from == until {
            return Ok(());
        }
        let mut copy = None;
        if self.own
            && let Ok(copied) =
                quarantine::copy(self.files, self.dir, probe.place, &*probe.file, (offset, next))
        {
            copy = Some(copied.path);
        }
        let at = probe.damaged((offset, next), copy, Cause::Corrupt);
        self.found.damaged.push(Damage { journal: probe.place.journal, from, until, at });
        Ok(())
    }

    /// Makes sure that what is not counted now is never counted: a page that could begin a block is zeroed.
    ///
    /// The first of them becomes a marker instead. A block that goes may be the only one that testifies to the sync of
    /// those before it, and without that a damaged one among them would be taken for a torn one at the next start.
    fn cut(&mut self, probe: &Probe, segment: &Segment, chain: u32) -> Result<(), JournalError> {
        let io = |doing| JournalError::io(doing, &probe.path);
        let from = segment.used;
        let mut window = Window::new(Arc::clone(&probe.file), from, SCAN_AHEAD, probe.bytes);
        let mut remains = Vec::new();
        let mut offset = from;
        while offset < probe.bytes {
            window.tidy(offset);
            let page = window.get(offset, PAGE as usize).map_err(io("read"))?;
            let may_begin = offset == from || looks_like_block(page);
            if may_begin && page.iter().any(|byte| *byte != 0) {
                remains.push((offset, page.len()));
            }
            offset += PAGE;
        }
        if remains.is_empty() {
            return Ok(());
        }
        if self.own {
            // On the disk before any testimony goes.
            if let Some(marker) = marker(probe, segment, chain) {
                write_all(&*probe.file, &marker, from).map_err(io("write"))?;
                probe.file.fdatasync().map_err(io("sync"))?;
                remains.retain(|(offset, _)| *offset != from);
            }
            for (offset, length) in remains {
                write_all(&*probe.file, &vec![0; length], offset).map_err(io("write"))?;
            }
            probe.file.fdatasync().map_err(io("sync"))?;
        }
        self.found.torn.push(TornTail { file: probe.path.clone(), offset: from });
        Ok(())
    }
}

impl Probe {
    fn damaged(&self, (offset, next): (u64, u64), copy: Option<PathBuf>, cause: Cause) -> DamagedBytes {
        let bytes = next.min(self.bytes).saturating_sub(offset);
        DamagedBytes { segment: self.path.clone(), number: self.place.number, offset, bytes, copy, cause }
    }
}

/// Adds what the note names and the folder does not have.
fn add_missing(id: JournalId, segments: &mut VecDeque<Segment>, extent: Extent) {
    let front = segments.front().map(|segment| (segment.place.number, segment.first));
    let back = segments.back().map(|segment| (segment.place.number, segment.end));
    if let Some((number, first)) = front.filter(|(_, first)| extent.first < *first)
        && extent.first_number < number
    {
        segments.push_front(missing(id, extent.first_number, extent.first..first));
    }
    match back {
        Some((number, end)) if extent.last_number > number && extent.end > end => {
            segments.push_back(missing(id, number + 1, end..extent.end));
        }
        None if extent.end > extent.first => {
            segments.push_back(missing(id, extent.first_number, extent.first..extent.end));
        }
        _ => {}
    }
}

/// A segment that is not there.
fn missing(journal: JournalId, number: u64, range: Range<u64>) -> Segment {
    Segment {
        place: Place { journal, number },
        bytes: 0,
        nonce: None,
        first: range.start,
        end: range.end,
        used: FIRST_BLOCK,
        state: SegmentState::Sealed,
        pin: Arc::default(),
        file: None,
        unread: false,
    }
}

/// A block without events behind those of a segment, all of which were synced when it was probed. None where the segment
/// has no block, or no room.
fn marker(probe: &Probe, segment: &Segment, chain: u32) -> Option<Vec<u8>> {
    let nonce = segment.nonce.filter(|_| segment.used > FIRST_BLOCK)?;
    if segment.used + PAGE > probe.bytes {
        return None;
    }
    let mut writer =
        BlockWriter { place: probe.place, nonce, synced_before: segment.used, chain, offset: segment.used };
    let mut page = Vec::with_capacity(PAGE as usize);
    writer.put(&mut page, segment.end, Content::default(), |_| ());
    Some(page)
}
