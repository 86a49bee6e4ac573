//! Recovery at the start: finds the journals of earlier processes, and erases torn tails.
//!
//! Only segments of unknown end are read as a whole: the last one of each journal, and those beside a damaged header. Damage
//! in the others is found by reads.
//!
//! The [`extent`] of a journal complements its segments: it decides whether a bad end of the last one is damage
//! or a torn tail, and which segments are missing.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::DiskError;
use super::damage::{Cause, Damage, DamagedBytes};
use super::extent::{self, Extent, extent_name, parse_extent_name};
use super::files::{Access, File, Files, write_all};
use super::format::{
    BlockContent, BlockWriter, FIRST_BLOCK, HeaderError, PAGE, SegmentHeader, SegmentId, looks_like_block,
};
use super::quarantine;
use super::scan::{BlockScanner, SCAN_AHEAD, ScanItem, Window};
use super::segments::{
    JournalSegments, LOCK, LOSSES, NEW_REGISTERED, NEW_SPARE, QUARANTINE, REGISTERED, SPARE, Segment,
    SegmentState, parse_segment_name, segment_name,
};
use super::{HeldJournal, JournalId};

/// Result of a recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The journals of earlier processes that hold events, the oldest first.
    pub journals: Vec<HeldJournal>,
    /// Synced events that can no longer be read, as far as known without reading everything.
    pub damaged: Vec<Damage>,
    /// Unreadable segments of unknown content, as empty ranges.
    pub unknown: Vec<Damage>,
    /// Segments with a damaged header and readable blocks.
    pub headless: Vec<PathBuf>,
    /// Erased torn tails.
    pub torn: Vec<TornTail>,
    /// Files that do not belong to a journal; left unchanged.
    pub strays: Vec<PathBuf>,
}

impl Recovered {
    /// Logs the result: one line per finding.
    pub fn log(&self) {
        let events: u64 = self.journals.iter().map(|held| held.end - held.first).sum();
        if events > 0 {
            let journals = self.journals.len();
            tracing::info!(
                journals,
                events,
                "the journal holds events of earlier runs; pending ones will be stored"
            );
        }
        for torn in &self.torn {
            let file = torn.file.display();
            tracing::warn!(%file, offset = torn.offset, "a write that was never acknowledged was erased");
        }
        for damage in &self.damaged {
            let (from, until, at) = (damage.from, damage.until, &damage.at);
            tracing::error!(
                journal = %damage.journal,
                from,
                until,
                segment = %at.segment.display(),
                offset = at.offset,
                bytes = at.bytes,
                cause = at.cause.describe(),
                "events of the journal cannot be read; those that Postgres does not have are lost"
            );
        }
        for segment in &self.headless {
            tracing::warn!(segment = %segment.display(), "the header of a segment cannot be read; its events can");
        }
        for stray in &self.strays {
            tracing::warn!(file = %stray.display(), "not a part of the journal; left unchanged");
        }
    }
}

/// Writes at the end of a segment that were never synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Offset from which it was erased.
    pub offset: u64,
}

/// Reads a folder. Changes it only if this process owns it.
pub(super) struct Recovery<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) dir: &'a Path,
    pub(super) own: bool,
    pub(super) found: Recovered,
}

/// A segment's file, before the segment's range is known.
struct SegmentFile {
    id: SegmentId,
    path: PathBuf,
    handle: Arc<dyn File>,
    bytes: u64,
    header: Option<SegmentHeader>,
    /// Offset and first sequence of the first valid block; only without a header.
    block: Option<(u64, u64)>,
}

/// The files of one journal.
#[derive(Default)]
struct JournalFiles {
    files: Vec<SegmentFile>,
    extent: Option<Extent>,
}

impl SegmentFile {
    fn is_unreadable(&self) -> bool {
        self.header.is_none() && self.block.is_none()
    }

    /// The first sequence, if the file itself determines it.
    fn first(&self) -> Option<u64> {
        match (&self.header, self.id.number, self.block) {
            (Some(header), ..) => Some(header.first),
            // A journal begins with 0.
            (None, 0, _) => Some(0),
            (None, _, Some((FIRST_BLOCK, first))) => Some(first),
            _ => None,
        }
    }
}

impl Recovery<'_> {
    /// Recovers all journals, the oldest first.
    pub(super) fn run(&mut self) -> Result<Vec<JournalSegments>, DiskError> {
        let mut journals: BTreeMap<Uuid, JournalFiles> = BTreeMap::new();
        let mut names = self.files.list(self.dir).map_err(DiskError::io("list", self.dir))?;
        names.sort_unstable();
        // Extents are read before segments, so that beside a running service the segments include what the extents name.
        for journal in names.iter().filter_map(|name| parse_extent_name(name)) {
            journals.entry(journal.0).or_default().extent = self.extent(journal);
        }
        if !self.own {
            // An extent may name a segment that was created since the first listing.
            names = self.files.list(self.dir).map_err(DiskError::io("list", self.dir))?;
            names.sort_unstable();
        }
        for name in names {
            match parse_segment_name(&name) {
                Some(id) => {
                    if let Some(file) = self.file(id)? {
                        journals.entry(id.journal.0).or_default().files.push(file);
                    }
                }
                None if parse_extent_name(&name).is_some() => {}
                None if [LOCK, SPARE, NEW_SPARE, QUARANTINE, LOSSES, REGISTERED, NEW_REGISTERED]
                    .contains(&name.as_str()) => {}
                None => self.found.strays.push(self.dir.join(name)),
            }
        }
        let mut held = Vec::new();
        for (journal, mut found) in journals {
            let id = JournalId(journal);
            found.files.sort_by_key(|file| file.id.number);
            if !self.own {
                self.exclude_released(id, &mut found);
            }
            held.extend(self.journal(id, &found.files, found.extent)?);
        }
        held.sort_by_key(|journal: &JournalSegments| (journal.created_at_us, journal.id.0));
        self.found.journals = held.iter().map(JournalSegments::held).collect();
        Ok(held)
    }

    fn extent(&self, journal: JournalId) -> Option<Extent> {
        extent::read(self.files, &self.dir.join(extent_name(journal)), journal)
    }

    /// Beside a running service: segments that it released meanwhile are not missing.
    fn exclude_released(&self, id: JournalId, found: &mut JournalFiles) {
        let Some(before) = found.extent else { return };
        // The extent is removed with its journal.
        let Some(now) = self.extent(id) else {
            found.extent = None;
            return;
        };
        found.extent =
            Some(Extent { first_number: now.first_number, first: now.first.min(before.end), ..before });
        found.files.retain(|file| file.id.number >= now.first_number);
    }

    /// Opens a segment's file and reads its header; `None`: not a segment.
    fn file(&mut self, id: SegmentId) -> Result<Option<SegmentFile>, DiskError> {
        let path = self.dir.join(segment_name(id));
        let access = if self.own { Access::Write } else { Access::Read };
        let file = match self.files.open(&path, access) {
            // Released meanwhile by the running service.
            Err(error) if !self.own && error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(DiskError::io("open", &path))?,
        };
        if self.own {
            // Blocks that count as durable must be on the disk, and be read from there.
            file.fdatasync().map_err(DiskError::io("sync", &path))?;
            file.forget_cached();
        }
        let bytes = file.length().map_err(DiskError::io("read", &path))?;
        let mut window = Window::new(Arc::clone(&file), 0, PAGE as usize, PAGE);
        let page = window.get(0, PAGE as usize).map_err(DiskError::io("read", &path))?;
        let header = match SegmentHeader::decode(page) {
            Ok(header) if (header.journal, header.number) == (id.journal, id.number) => Some(header),
            Ok(_other_segment) => {
                self.found.strays.push(path);
                return Ok(None);
            }
            Err(HeaderError::Newer(version)) => return Err(DiskError::Newer { file: path, version }),
            Err(HeaderError::Damaged) => None,
        };
        let block = match header {
            Some(_) => None,
            None => BlockScanner::whole(&file, id, None, 0, 0)
                .and_then(|mut scanner| scanner.find_block())
                .map_err(DiskError::io("read", &path))?
                .map(|(offset, block)| (offset, block.first)),
        };
        if header.is_none() && block.is_some() {
            self.found.headless.push(path.clone());
        }
        Ok(Some(SegmentFile { id, path, handle: file, bytes, header, block }))
    }

    /// Reports an unreadable segment of unknown content.
    fn unknown(&mut self, file: &SegmentFile, first: u64) -> Result<(), DiskError> {
        let copy = self.move_to_quarantine(file)?;
        let at = file.damaged((0, file.bytes), copy, Cause::Corrupt);
        self.found.unknown.push(Damage { journal: file.id.journal, from: first, until: first, at });
        Ok(())
    }

    /// Moves an unreadable segment to quarantine. Returns the path of the copy.
    fn move_to_quarantine(&self, file: &SegmentFile) -> Result<Option<PathBuf>, DiskError> {
        if !self.own {
            return Ok(None);
        }
        let mut copy = None;
        if file.bytes > 0 {
            let copied = quarantine::copy(self.files, self.dir, file.id, &*file.handle, (0, file.bytes));
            copy = Some(copied.map_err(DiskError::io("copy", &file.path))?.path);
        }
        self.files.remove(&file.path).map_err(DiskError::io("remove", &file.path))?;
        Ok(copy)
    }

    /// Determines the range of each segment of a journal; `None`: the journal holds no event.
    fn journal(
        &mut self,
        id: JournalId,
        files: &[SegmentFile],
        extent: Option<Extent>,
    ) -> Result<Option<JournalSegments>, DiskError> {
        let mut segments: VecDeque<Segment> = VecDeque::new();
        let created_at_us =
            files.iter().find_map(|file| file.header.as_ref().map(|header| header.created_at_us));
        let columns =
            files.iter().find_map(|file| file.header.as_ref().map(|header| header.columns.as_str()));
        let columns = Arc::from(columns.unwrap_or_default());
        for (index, file) in files.iter().enumerate() {
            let next = files.get(index + 1);
            let adjacent = |after: u64, number: u64| number.checked_sub(1) == Some(after);
            let before = segments.back().filter(|before| adjacent(before.id.number, file.id.number));
            let recorded = extent.filter(|extent| extent.first_number == file.id.number);
            let first =
                file.first().or(before.map(|before| before.end)).or(recorded.map(|extent| extent.first));
            let first = first.or(file.block.map(|(_, first)| first));
            let is_covered = extent
                .is_some_and(|extent| (extent.first_number..=extent.last_number).contains(&file.id.number));
            // A gap before an unreadable segment is as lost as the segment.
            let first = first.or(segments.back().map(|segment| segment.end).filter(|_| is_covered));
            let first = first.or(extent.filter(|_| is_covered).map(|extent| extent.first));
            let next_header = next.filter(|next| adjacent(file.id.number, next.id.number));
            let next_header = next_header.and_then(|next| next.header.as_ref());
            let mut segment = Segment {
                id: file.id,
                bytes: file.bytes,
                nonce: file.header.as_ref().map(|header| header.nonce),
                first: first.unwrap_or(0),
                end: first.unwrap_or(0),
                used: FIRST_BLOCK,
                state: SegmentState::Sealed,
                pin: Arc::default(),
                file: None,
                unreadable: false,
            };
            match next_header {
                Some(header) if first.is_some_and(|first| header.first >= first) => {
                    (segment.end, segment.used) = (header.first, header.previous_synced.max(FIRST_BLOCK));
                }
                _ => {
                    let recorded = extent.filter(|extent| extent.last_number == file.id.number);
                    let chain = self.scan(file, &mut segment, recorded)?;
                    match next.map(SegmentFile::first) {
                        // A segment with a successor was synced as a whole: a gap in between is a loss.
                        Some(Some(next_first))
                            if next.is_some_and(|next| adjacent(file.id.number, next.id.number)) =>
                        {
                            segment.end = segment.end.max(next_first);
                        }
                        None if !file.is_unreadable()
                            && extent.is_none_or(|extent| extent.last_number <= file.id.number) =>
                        {
                            self.erase_torn_tail(file, &segment, chain)?;
                        }
                        _ => {}
                    }
                }
            }
            if file.is_unreadable() {
                let is_recorded = extent.is_some_and(|extent| extent.last_number == file.id.number);
                match segment.end > segment.first {
                    true => self.damaged_segment(file, &segment),
                    // By the extent, nothing of it was synced.
                    false if is_recorded && first.is_some() => {}
                    // Its events count as missing before the next readable segment.
                    false if is_covered => {
                        self.move_to_quarantine(file)?;
                        continue;
                    }
                    false => {
                        self.unknown(file, segment.first)?;
                        continue;
                    }
                }
            }
            segments.push_back(segment);
        }
        if let Some(extent) = extent {
            add_missing(id, &mut segments, extent);
        }
        self.report_missing(&segments, files);
        if segments.iter().all(|segment| segment.first == segment.end) {
            self.remove_empty(id, files)?;
            return Ok(None);
        }
        let (current, cursors) = (false, VecDeque::new());
        let created_at_us = created_at_us.unwrap_or(0);
        Ok(Some(JournalSegments { id, created_at_us, current, columns, segments, cursors }))
    }

    /// Reports missing segments, and gaps between segments.
    fn report_missing(&mut self, segments: &VecDeque<Segment>, files: &[SegmentFile]) {
        let mut end = segments.front().map_or(0, |segment| segment.first);
        for segment in segments {
            let mut report = |number: u64, range: Range<u64>| {
                if range.start < range.end {
                    let id = SegmentId { number, ..segment.id };
                    let at = DamagedBytes::missing(self.dir.join(segment_name(id)), number);
                    let journal = segment.id.journal;
                    self.found.damaged.push(Damage { journal, from: range.start, until: range.end, at });
                }
            };
            report(segment.id.number.saturating_sub(1), end..segment.first);
            if !files.iter().any(|file| file.id.number == segment.id.number) {
                report(segment.id.number, segment.first..segment.end);
            }
            end = segment.end;
        }
    }

    /// Removes the files of a journal without events.
    fn remove_empty(&self, id: JournalId, files: &[SegmentFile]) -> Result<(), DiskError> {
        if !self.own {
            return Ok(());
        }
        let extent = self.dir.join(extent_name(id));
        let paths = std::iter::once(&extent).chain(files.iter().map(|file| &file.path));
        for path in paths {
            match self.files.remove(path) {
                // Moved before, or never created.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(DiskError::io("remove", path))?,
            }
        }
        Ok(())
    }

    fn damaged_segment(&mut self, file: &SegmentFile, segment: &Segment) {
        let bytes = (FIRST_BLOCK.min(file.bytes), file.bytes);
        let at = file.damaged(bytes, None, Cause::Corrupt);
        let (from, until) = (segment.first, segment.end);
        self.found.damaged.push(Damage { journal: file.id.journal, from, until, at });
    }

    /// Scans a segment to find its end, by its own blocks and its extent. Returns the last block's checksum.
    fn scan(
        &mut self,
        file: &SegmentFile,
        segment: &mut Segment,
        recorded: Option<Extent>,
    ) -> Result<u32, DiskError> {
        let read = DiskError::io("read", &file.path);
        let synced = recorded.map_or(0, |extent| extent.used);
        let mut step = || -> std::io::Result<u32> {
            let mut scanner =
                BlockScanner::whole(&file.handle, file.id, segment.nonce, segment.first, synced)?;
            let mut bad_end = None;
            loop {
                match scanner.next()? {
                    ScanItem::Block { offset, .. } => {
                        bad_end = None;
                        scanner.window().compact(offset);
                    }
                    ScanItem::Damage { from, until, offset, next } => {
                        bad_end = (from == until).then_some(offset);
                        self.damage(file, (from, until), (offset, next))?;
                    }
                    ScanItem::End { offset } => {
                        segment.used = offset.max(synced);
                        segment.end = scanner.at().sequence;
                        segment.nonce = scanner.nonce();
                        if let Some(recorded) = recorded.filter(|recorded| recorded.end > segment.end) {
                            if !file.is_unreadable() {
                                let lost = (segment.end, recorded.end);
                                let bad = bad_end.unwrap_or(offset.min(synced));
                                self.damage(file, lost, (bad, synced))?;
                            }
                            segment.end = recorded.end;
                        }
                        return Ok(scanner.at().chain.unwrap_or_default());
                    }
                }
            }
        };
        step().map_err(read)
    }

    fn damage(
        &mut self,
        file: &SegmentFile,
        (from, until): (u64, u64),
        (offset, next): (u64, u64),
    ) -> std::io::Result<()> {
        if from == until {
            return Ok(());
        }
        let mut copy = None;
        if self.own
            && let Ok(copied) = quarantine::copy(self.files, self.dir, file.id, &*file.handle, (offset, next))
        {
            copy = Some(copied.path);
        }
        let at = file.damaged((offset, next), copy, Cause::Corrupt);
        self.found.damaged.push(Damage { journal: file.id.journal, from, until, at });
        Ok(())
    }

    /// Erases the torn tail, so that no later recovery finds a block in it: zeroes each page that could begin one.
    ///
    /// The first page becomes a sync marker instead. An erased block may be the only one that records the sync of those before
    /// it; without the marker, later damage among them would count as a torn tail.
    fn erase_torn_tail(
        &mut self,
        file: &SegmentFile,
        segment: &Segment,
        chain: u32,
    ) -> Result<(), DiskError> {
        let io = |doing| DiskError::io(doing, &file.path);
        let from = segment.used;
        let mut window = Window::new(Arc::clone(&file.handle), from, SCAN_AHEAD, file.bytes);
        let mut remains = Vec::new();
        let mut offset = from;
        while offset < file.bytes {
            window.compact(offset);
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
            // Durable before the first block is erased.
            if let Some(marker) = marker(file, segment, chain) {
                write_all(&*file.handle, &marker, from).map_err(io("write"))?;
                file.handle.fdatasync().map_err(io("sync"))?;
                remains.retain(|(offset, _)| *offset != from);
            }
            for (offset, length) in remains {
                write_all(&*file.handle, &vec![0; length], offset).map_err(io("write"))?;
            }
            file.handle.fdatasync().map_err(io("sync"))?;
        }
        self.found.torn.push(TornTail { file: file.path.clone(), offset: from });
        Ok(())
    }
}

impl SegmentFile {
    fn damaged(&self, (offset, next): (u64, u64), copy: Option<PathBuf>, cause: Cause) -> DamagedBytes {
        let bytes = next.min(self.bytes).saturating_sub(offset);
        DamagedBytes { segment: self.path.clone(), number: self.id.number, offset, bytes, copy, cause }
    }
}

/// Adds the segments that the extent names and the folder lacks.
fn add_missing(id: JournalId, segments: &mut VecDeque<Segment>, extent: Extent) {
    let front = segments.front().map(|segment| (segment.id.number, segment.first));
    let back = segments.back().map(|segment| (segment.id.number, segment.end));
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

/// A missing segment.
fn missing(journal: JournalId, number: u64, range: Range<u64>) -> Segment {
    Segment {
        id: SegmentId { journal, number },
        bytes: 0,
        nonce: None,
        first: range.start,
        end: range.end,
        used: FIRST_BLOCK,
        state: SegmentState::Sealed,
        pin: Arc::default(),
        file: None,
        unreadable: false,
    }
}

/// A sync marker behind a segment's blocks, which were synced when its file was opened. `None`: the segment has no block, or
/// no room.
fn marker(file: &SegmentFile, segment: &Segment, chain: u32) -> Option<Vec<u8>> {
    let nonce = segment.nonce.filter(|_| segment.used > FIRST_BLOCK)?;
    if segment.used + PAGE > file.bytes {
        return None;
    }
    let mut writer =
        BlockWriter { id: file.id, nonce, synced_before: segment.used, chain, offset: segment.used };
    let mut page = Vec::with_capacity(PAGE as usize);
    writer.put(&mut page, segment.end, BlockContent::default(), |_| ());
    Some(page)
}
