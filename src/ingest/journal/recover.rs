//! Finds out, at the start, what earlier processes left.
//!
//! Read whole are only the segments whose end nothing else tells: the last one of each journal, and those beside a
//! damaged header. Damage in the others shows when they are read.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::error::JournalError;
use super::files::{Access, File, Files, read_up_to, write_all};
use super::format::{
    BlockWriter, Content, FIRST_BLOCK, NoHeader, PAGE, Place, SegmentHeader, looks_like_block,
};
use super::quarantine;
use super::scan::{Found, SCAN_AHEAD, Walk, Window};
use super::store::{
    Held, Journal, LOCK, NEW_SPARE, QUARANTINE, SPARE, Segment, SegmentState, parse_segment_name,
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
    /// Where the damaged bytes are to be found.
    pub file: PathBuf,
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

impl Probe {
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
        let mut journals: BTreeMap<Uuid, Vec<Probe>> = BTreeMap::new();
        let mut names = self.files.list(self.dir).map_err(JournalError::io("list", self.dir))?;
        names.sort_unstable();
        for name in names {
            match parse_segment_name(&name) {
                Some(place) => {
                    if let Some(probe) = self.probe(place)? {
                        journals.entry(place.journal.0).or_default().push(probe);
                    }
                }
                None if [LOCK, SPARE, NEW_SPARE, QUARANTINE].contains(&name.as_str()) => {}
                None => self.found.strays.push(self.dir.join(name)),
            }
        }
        let mut held = Vec::new();
        for (journal, mut probes) in journals {
            probes.sort_by_key(|probe| probe.place.number);
            held.extend(self.journal(JournalId(journal), &probes)?);
        }
        held.sort_by_key(|journal: &Journal| (journal.created_at_us, journal.id.0));
        self.found.journals = held.iter().map(Journal::held).collect();
        Ok(held)
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
            None => Walk::whole(&file, place, None, 0)
                .and_then(|mut walk| walk.find())
                .map_err(JournalError::io("read", &path))?
                .map(|(offset, block)| (offset, block.first)),
        };
        if header.is_none() && block.is_none() {
            self.discard(place, &path, &*file, bytes)?;
            return Ok(None);
        }
        Ok(Some(Probe { place, path, file, bytes, header, block }))
    }

    /// Puts away a file in which nothing is left of a segment.
    fn discard(
        &mut self,
        place: Place,
        path: &Path,
        file: &dyn File,
        bytes: u64,
    ) -> Result<(), JournalError> {
        if !self.own {
            return Ok(());
        }
        if !is_zero(file, bytes).map_err(JournalError::io("read", path))? {
            // Who knows what it was: kept for whoever wants to look at it.
            let copied = quarantine::copy(self.files, self.dir, place, file, (0, bytes));
            let (kept, _bytes) = copied.map_err(JournalError::io("copy", path))?;
            self.found.strays.push(kept);
        }
        self.files.remove(path).map_err(JournalError::io("remove", path))
    }

    /// Settles the extents of a journal's segments; nothing, if it holds no event.
    fn journal(&mut self, id: JournalId, probes: &[Probe]) -> Result<Option<Journal>, JournalError> {
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
            let first = probe.first().or(before.map(|before| before.end));
            let first = first.or(probe.block.map(|(_, first)| first)).unwrap_or(0);
            let next_header = next.filter(|next| adjacent(probe.place.number, next.place.number));
            let next_header = next_header.and_then(|next| next.header.as_ref());
            let mut segment = Segment {
                place: probe.place,
                bytes: probe.bytes,
                nonce: probe.header.as_ref().map(|header| header.nonce),
                first,
                end: first,
                used: FIRST_BLOCK,
                state: SegmentState::Sealed,
                pin: Arc::default(),
            };
            match next_header {
                Some(header) if header.first >= first => {
                    (segment.end, segment.used) = (header.first, header.previous_synced.max(FIRST_BLOCK));
                }
                _ => {
                    let chain = self.scan(probe, &mut segment)?;
                    match next.map(Probe::first) {
                        None => self.cut(probe, &segment, chain)?,
                        // All of a segment was synced before the next one was begun: what is missing in between is lost.
                        Some(Some(next_first))
                            if next.is_some_and(|next| adjacent(probe.place.number, next.place.number)) =>
                        {
                            segment.end = segment.end.max(next_first);
                        }
                        Some(_) => {}
                    }
                }
            }
            segments.push_back(segment);
        }
        if segments.iter().all(|segment| segment.first == segment.end) {
            for probe in probes.iter().filter(|_| self.own) {
                self.files.remove(&probe.path).map_err(JournalError::io("remove", &probe.path))?;
            }
            return Ok(None);
        }
        let (current, cursors) = (false, VecDeque::new());
        let created_at_us = created_at_us.unwrap_or(0);
        Ok(Some(Journal { id, created_at_us, current, columns, segments, cursors }))
    }

    /// Walks a segment of which nothing is known to be synced but what its own blocks testify; the last block's checksum.
    fn scan(&mut self, probe: &Probe, segment: &mut Segment) -> Result<u32, JournalError> {
        let read = JournalError::io("read", &probe.path);
        let mut step = || -> std::io::Result<u32> {
            let mut walk = Walk::whole(&probe.file, probe.place, segment.nonce, segment.first)?;
            loop {
                match walk.next()? {
                    Found::Block { offset, .. } => walk.window().tidy(offset),
                    Found::Damage { from, until, offset, next } => {
                        self.damage(probe, (from, until), (offset, next))?;
                    }
                    Found::End { offset } => {
                        segment.used = offset;
                        segment.end = walk.at().sequence;
                        segment.nonce = walk.nonce();
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
        let mut file = probe.path.clone();
        if self.own
            && let Ok((copy, _bytes)) =
                quarantine::copy(self.files, self.dir, probe.place, &*probe.file, (offset, next))
        {
            file = copy;
        }
        self.found.damaged.push(Damage { journal: probe.place.journal, from, until, file });
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

fn is_zero(file: &dyn File, bytes: u64) -> std::io::Result<bool> {
    let mut page = vec![0; SCAN_AHEAD];
    let mut offset = 0;
    while offset < bytes {
        let read = read_up_to(file, &mut page, offset)?;
        if read == 0 || page[..read].iter().any(|byte| *byte != 0) {
            return Ok(read == 0);
        }
        offset += read as u64;
    }
    Ok(true)
}
