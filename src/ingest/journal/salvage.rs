//! Reads what is good by now of the bytes of a loss: after a read error that passed, or from a segment that was found
//! again.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rangemap::RangeSet;

use super::JournalId;
use super::error::JournalError;
use super::files::{Access, File, FileId, Files};
use super::format::{BLOCK_HEADER, BlockHeader, FIRST_BLOCK, PAGE, Place, SegmentHeader};
use super::losses::Loss;
use super::read::{Chunk, tuples_bytes};
use super::scan::{SCAN_AHEAD, Window, block_at};
use super::store::{QUARANTINE, parse_segment_name};

/// Good blocks of a loss, one by one.
#[derive(Debug)]
pub struct Salvage {
    files: Arc<dyn Files>,
    place: Place,
    nonce: Option<u64>,
    /// Where the bytes may be. A loss may span several segments.
    sources: VecDeque<Source>,
    open: Option<Open>,
    wanted: RangeSet<u64>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    place: Place,
    /// The segment's offset at which the file begins.
    base: u64,
}

#[derive(Debug)]
struct Open {
    window: Window,
    place: Place,
    nonce: Option<u64>,
    at: u64,
    end: u64,
    path: PathBuf,
}

impl Salvage {
    /// Of a loss in the journal's folder `dir`; none of an unknown number of events.
    ///
    /// # Errors
    ///
    /// If the folders cannot be listed.
    pub fn of(files: Arc<dyn Files>, dir: &Path, loss: &Loss) -> Result<Self, JournalError> {
        let place = Place { journal: JournalId(loss.journal), number: loss.number };
        let mut wanted = RangeSet::new();
        if let Some(events) = loss.events.filter(|events| *events > 0) {
            wanted.insert(loss.first..loss.first.saturating_add(events));
        }
        for (first, end) in loss.recovered.iter().filter(|(first, end)| first < end) {
            wanted.remove(*first..*end);
        }
        let mut sources = Vec::new();
        for folder in [dir.to_owned(), dir.join(QUARANTINE)] {
            let names = match files.list(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                listed => listed.map_err(JournalError::io("list", &folder))?,
            };
            sources.extend(names.iter().filter_map(|name| {
                let (place, base) =
                    parse_segment_name(name).map(|place| (place, 0)).or_else(|| parse_copy(name))?;
                Some(Source { path: folder.join(name), place, base })
            }));
        }
        sources.retain(|source| source.place.journal == place.journal);
        // The segment of the loss first, as the others hardly ever have it.
        sources.sort_by_key(|source| (source.place.number.abs_diff(place.number), source.base));
        Ok(Self { files, place, nonce: loss.nonce, sources: sources.into(), open: None, wanted })
    }

    /// The next events that can be read and were not read before.
    ///
    /// # Errors
    ///
    /// If a file that is there cannot be read for another reason than its disk's.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, JournalError> {
        while !self.wanted.is_empty() {
            if self.open.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            if open.at >= open.end {
                self.open = None;
                continue;
            }
            let block = block_at(&mut open.window, open.place, open.nonce, open.at);
            let block = block.map_err(JournalError::io("read", &open.path))?;
            let Some(header) = block else {
                open.at += PAGE;
                open.window.tidy(open.at);
                continue;
            };
            // Taken from the first block, where it is not known otherwise.
            open.nonce = Some(header.nonce);
            let sequences = header.first..header.end().max(header.first + 1);
            let mut overlaps = self.wanted.overlapping(&sequences);
            let range = overlaps.find_map(|range| {
                let range = range.start.max(header.first)..range.end.min(header.end());
                (range.start < range.end).then_some(range)
            });
            let Some(range) = range else {
                open.at += header.padded();
                open.window.tidy(open.at);
                continue;
            };
            let bytes = open.window.get(open.at, header.length as usize);
            let chunk =
                chunk_of(&header, bytes.map_err(JournalError::io("read", &open.path))?, range.clone());
            self.wanted.remove(range);
            return Ok(Some(chunk));
        }
        Ok(None)
    }

    /// False if there is no further file.
    fn open_next(&mut self) -> Result<bool, JournalError> {
        while let Some(Source { path, place, base }) = self.sources.pop_front() {
            let file = match self.files.open(&path, Access::Read) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened.map_err(JournalError::io("open", &path))?,
            };
            file.forget_cached();
            let length = file.length().map_err(JournalError::io("read", &path))?;
            let mut nonce = self.nonce.filter(|_| place == self.place);
            if base == 0 {
                let mut window = Window::new(Arc::clone(&file), 0, PAGE as usize, PAGE);
                let page = window.get(0, PAGE as usize).map_err(JournalError::io("read", &path))?;
                match SegmentHeader::decode(page) {
                    // The file is another segment's by now.
                    Ok(header) if (header.journal, header.number) != (place.journal, place.number) => {
                        continue;
                    }
                    // It begins behind what is looked for.
                    Ok(header) if self.wanted.last().is_some_and(|range| range.end <= header.first) => {
                        continue;
                    }
                    Ok(header) => nonce = Some(header.nonce),
                    Err(_damaged) => {}
                }
            }
            let (at, end) = (base.max(FIRST_BLOCK), base.saturating_add(length));
            let file: Arc<dyn File> = Arc::new(Shifted { file, base });
            let window = Window::new(file, at, SCAN_AHEAD, end);
            self.open = Some(Open { window, place, nonce, at, end, path });
            return Ok(true);
        }
        Ok(false)
    }
}

/// The segment and the offset in the name of a copy.
fn parse_copy(name: &str) -> Option<(Place, u64)> {
    let (segment, offset) = name.strip_suffix(".bin")?.rsplit_once('-')?;
    Some((parse_segment_name(&format!("{segment}.seg"))?, offset.parse().ok()?))
}

fn chunk_of(header: &BlockHeader, bytes: &[u8], range: std::ops::Range<u64>) -> Chunk {
    let rows = BLOCK_HEADER..BLOCK_HEADER + header.rows as usize;
    let all = bytes.get(rows).unwrap_or_default();
    let skipped = tuples_bytes(all, range.start - header.first, header.events);
    let taken = tuples_bytes(all, range.end - header.first, header.events);
    let buffer = all.get(skipped..taken).unwrap_or_default().to_vec();
    Chunk {
        from: range.start,
        until: range.end,
        chunks: std::iter::once(0..buffer.len()).collect(),
        buffer,
        keys: header.keys(bytes).filter(|(sequence, _)| range.contains(sequence)).collect(),
    }
}

/// A part of a segment as if it were the segment.
#[derive(Debug)]
struct Shifted {
    file: Arc<dyn File>,
    base: u64,
}

impl File for Shifted {
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
