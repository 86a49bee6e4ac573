//! Reads the bytes of a loss again: after a transient read error, or from a segment that was put back.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rangemap::RangeSet;

use super::files::{Access, File, FileId, Files};
use super::format::{BLOCK_HEADER, BlockHeader, FIRST_BLOCK, PAGE, SegmentHeader, SegmentId};
use super::losses::{Loss, LossRecords};
use super::read::tuples_bytes;
use super::scan::{SCAN_AHEAD, Window, block_at};
use super::segments::{QUARANTINE, parse_segment_name};
use super::{DiskError, JournalId, JournalRows};

/// Iterates over the valid blocks of a loss.
#[derive(Debug)]
pub struct Salvage {
    files: Arc<dyn Files>,
    id: SegmentId,
    nonce: Option<u64>,
    /// Files that may hold the bytes. A loss may span several segments.
    files_left: VecDeque<SalvageFile>,
    open: Option<OpenFile>,
    missing: RangeSet<u64>,
}

#[derive(Debug)]
struct SalvageFile {
    path: PathBuf,
    id: SegmentId,
    /// Offset of the file within the segment.
    base: u64,
}

#[derive(Debug)]
struct OpenFile {
    window: Window,
    id: SegmentId,
    nonce: Option<u64>,
    at: u64,
    end: u64,
    path: PathBuf,
}

impl LossRecords {
    /// Reads the bytes of a loss again.
    ///
    /// # Errors
    ///
    /// The folders cannot be listed.
    pub fn salvage(&self, loss: &Loss) -> Result<Salvage, DiskError> {
        Salvage::of(Arc::clone(&self.files), &self.dir, loss)
    }
}

impl Salvage {
    /// A pass over the files in `dir`. Finds nothing for a loss of unknown size.
    fn of(files: Arc<dyn Files>, dir: &Path, loss: &Loss) -> Result<Self, DiskError> {
        let id = SegmentId { journal: JournalId(loss.journal), number: loss.number };
        let mut missing = RangeSet::new();
        if let Some(events) = loss.events.filter(|events| *events > 0) {
            missing.insert(loss.first..loss.first.saturating_add(events));
        }
        for (first, end) in loss.recovered.iter().filter(|(first, end)| first < end) {
            missing.remove(*first..*end);
        }
        let mut files_left = Vec::new();
        for folder in [dir.to_owned(), dir.join(QUARANTINE)] {
            let names = match files.list(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                listed => listed.map_err(DiskError::io("list", &folder))?,
            };
            files_left.extend(names.iter().filter_map(|name| {
                let (id, base) = parse_segment_name(name).map(|id| (id, 0)).or_else(|| parse_copy(name))?;
                Some(SalvageFile { path: folder.join(name), id, base })
            }));
        }
        files_left.retain(|source| source.id.journal == id.journal);
        // The segment of the loss first: the others hardly ever have the bytes.
        files_left.sort_by_key(|source| (source.id.number.abs_diff(id.number), source.base));
        Ok(Self { files, id, nonce: loss.nonce, files_left: files_left.into(), open: None, missing })
    }

    /// The next readable rows, each once.
    ///
    /// # Errors
    ///
    /// A file cannot be opened or read, for another reason than a bad sector.
    pub fn next_rows(&mut self) -> Result<Option<JournalRows>, DiskError> {
        while !self.missing.is_empty() {
            if self.open.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            if open.at >= open.end {
                self.open = None;
                continue;
            }
            let block = block_at(&mut open.window, open.id, open.nonce, open.at);
            let block = block.map_err(DiskError::io("read", &open.path))?;
            let Some(header) = block else {
                open.at += PAGE;
                open.window.compact(open.at);
                continue;
            };
            // From the first block, if it is not known otherwise.
            open.nonce = Some(header.nonce);
            let sequences = header.first..header.end().max(header.first + 1);
            let mut overlaps = self.missing.overlapping(&sequences);
            let range = overlaps.find_map(|range| {
                let range = range.start.max(header.first)..range.end.min(header.end());
                (range.start < range.end).then_some(range)
            });
            let Some(range) = range else {
                open.at += header.padded();
                open.window.compact(open.at);
                continue;
            };
            let bytes = open.window.get(open.at, header.length as usize);
            let rows = rows_of(&header, bytes.map_err(DiskError::io("read", &open.path))?, range.clone());
            self.missing.remove(range);
            return Ok(Some(rows));
        }
        Ok(None)
    }

    /// Opens the next file; false if there is none.
    fn open_next(&mut self) -> Result<bool, DiskError> {
        while let Some(SalvageFile { path, id, base }) = self.files_left.pop_front() {
            let file = match self.files.open(&path, Access::Read) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened.map_err(DiskError::io("open", &path))?,
            };
            file.forget_cached();
            let length = file.length().map_err(DiskError::io("read", &path))?;
            let mut nonce = self.nonce.filter(|_| id == self.id);
            if base == 0 {
                let mut window = Window::new(Arc::clone(&file), 0, PAGE as usize, PAGE);
                let page = window.get(0, PAGE as usize).map_err(DiskError::io("read", &path))?;
                match SegmentHeader::decode(page) {
                    // The file was recycled for another segment.
                    Ok(header) if (header.journal, header.number) != (id.journal, id.number) => {
                        continue;
                    }
                    // It begins after the missing events.
                    Ok(header) if self.missing.last().is_some_and(|range| range.end <= header.first) => {
                        continue;
                    }
                    Ok(header) => nonce = Some(header.nonce),
                    Err(_damaged) => {}
                }
            }
            let (at, end) = (base.max(FIRST_BLOCK), base.saturating_add(length));
            let file: Arc<dyn File> = Arc::new(OffsetFile { file, base });
            let window = Window::new(file, at, SCAN_AHEAD, end);
            self.open = Some(OpenFile { window, id, nonce, at, end, path });
            return Ok(true);
        }
        Ok(false)
    }
}

/// Parses the file name of a copy: the segment, and the offset within it.
fn parse_copy(name: &str) -> Option<(SegmentId, u64)> {
    let (segment, offset) = name.strip_suffix(".bin")?.rsplit_once('-')?;
    Some((parse_segment_name(&format!("{segment}.seg"))?, offset.parse().ok()?))
}

fn rows_of(header: &BlockHeader, bytes: &[u8], range: std::ops::Range<u64>) -> JournalRows {
    let rows = BLOCK_HEADER..BLOCK_HEADER + header.rows as usize;
    let all = bytes.get(rows).unwrap_or_default();
    let skipped = tuples_bytes(all, range.start - header.first, header.events);
    let taken = tuples_bytes(all, range.end - header.first, header.events);
    let buffer = all.get(skipped..taken).unwrap_or_default().to_vec();
    JournalRows {
        from: range.start,
        until: range.end,
        ranges: std::iter::once(0..buffer.len()).collect(),
        buffer,
        keys: header.keys(bytes).filter(|(sequence, _)| range.contains(sequence)).collect(),
    }
}

/// A copy of a segment's part, addressed by the segment's offsets.
#[derive(Debug)]
struct OffsetFile {
    file: Arc<dyn File>,
    base: u64,
}

impl File for OffsetFile {
    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.pread(bytes, offset.checked_sub(self.base).ok_or(ErrorKind::InvalidInput)?)
    }

    fn pwrite(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }

    fn reserve(&self, _bytes: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn fdatasync(&self) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.length()?.saturating_add(self.base))
    }

    fn identity(&self) -> io::Result<FileId> {
        self.file.identity()
    }

    fn forget_cached(&self) {
        self.file.forget_cached();
    }
}
