//! Copies of damaged bytes, for a later analysis or recovery.

use std::io;
use std::path::{Path, PathBuf};

use super::Quarantined;
use super::damage::Cause;
use super::files::{Access, File, Files, READ_PAUSES, read_patiently, read_up_to, write_all};
use super::format::{PAGE, SegmentId};
use super::losses::{Loss, LossState};
use super::segments::{JournalReader, QUARANTINE, Segment};

const COPY: usize = 1 << 20;

/// Counts the copies.
pub(super) fn count(files: &dyn Files, dir: &Path) -> Quarantined {
    let dir = dir.join(QUARANTINE);
    let mut sum = Quarantined::default();
    for name in files.list(&dir).unwrap_or_default() {
        // A figure only: unreadable copies are not counted.
        if let Ok(bytes) = files.open(&dir.join(name), Access::Read).and_then(|file| file.length()) {
            sum.blocks += 1;
            sum.bytes += bytes;
        }
    }
    sum
}

/// A copy of damaged bytes.
#[derive(Debug)]
pub(super) struct QuarantineCopy {
    pub(super) path: PathBuf,
    /// Number of copied bytes; `None`: the copy existed.
    pub(super) bytes: Option<u64>,
    /// Some bytes were unreadable, and are zeros in the copy.
    pub(super) unreadable: bool,
}

/// Copies the bytes of `file` from `offset` up to `next`, once.
pub(super) fn copy(
    files: &dyn Files,
    dir: &Path,
    id: SegmentId,
    file: &dyn File,
    (offset, next): (u64, u64),
) -> io::Result<QuarantineCopy> {
    let dir = dir.join(QUARANTINE);
    files.create_dir(&dir)?;
    let name = format!("{}-{:08}-{offset}.bin", id.journal, id.number);
    let path = dir.join(&name);
    if files.list(&dir)?.contains(&name) {
        return Ok(QuarantineCopy { path, bytes: None, unreadable: false });
    }
    // Renamed when complete, so that the name implies a complete copy.
    let unfinished = dir.join(format!("{name}.new"));
    let copy = files.create(&unfinished)?;
    let mut bytes = vec![0; COPY];
    let (mut done, mut unreadable) = (0, false);
    while offset + done < next {
        let wanted = bytes.len().min((next - offset - done) as usize);
        let (read, bad) = read_pages(file, &mut bytes[..wanted], offset + done);
        unreadable |= bad;
        if read == 0 {
            break;
        }
        write_all(&*copy, &bytes[..read], done)?;
        done += read as u64;
    }
    copy.fdatasync()?;
    files.rename(&unfinished, &path)?;
    files.sync_dir(&dir)?;
    Ok(QuarantineCopy { path, bytes: Some(done), unreadable })
}

/// Reads pages, with zeros for the unreadable ones. Returns the number of bytes, and whether any page was unreadable.
fn read_pages(file: &dyn File, bytes: &mut [u8], offset: u64) -> (usize, bool) {
    if let Ok(read) = read_patiently(file, bytes, offset, &mut READ_PAUSES.into_iter()) {
        return (read, false);
    }
    let pages = bytes.chunks_mut(PAGE as usize).enumerate();
    let read = pages.fold(0, |done, (index, page)| {
        let read = read_up_to(file, page, offset + index as u64 * PAGE).unwrap_or_else(|_| {
            page.fill(0);
            page.len()
        });
        done + read
    });
    (read, true)
}

impl JournalReader {
    /// Copies damaged bytes of a segment. Without a copy (on a full disk, for example) reading continues, and the bytes stay
    /// as long as their segment. A segment with unreadable bytes is kept as a whole: a later try may succeed.
    pub(super) fn quarantine(
        &self,
        id: SegmentId,
        file: &dyn File,
        offset: u64,
        next: u64,
    ) -> Option<PathBuf> {
        if !self.is_owner() {
            return None;
        }
        let copied = copy(&*self.files, &self.settings.dir, id, file, (offset, next));
        let mut state = self.state.lock();
        if copied.as_ref().map_or(true, |copied| copied.unreadable) {
            let segments = state.journals.iter_mut().flat_map(|journal| &mut journal.segments);
            for segment in segments.filter(|segment| segment.id == id) {
                segment.unreadable = true;
            }
        }
        let copied = copied.ok()?;
        if let Some(bytes) = copied.bytes {
            state.quarantined.blocks += 1;
            state.quarantined.bytes += bytes;
        }
        Some(copied.path)
    }

    /// Keeps the segments with unreadable bytes that earlier processes found.
    pub(super) fn keep_unreadable(&self, losses: &[(Loss, LossState)]) {
        let is_unreadable = |segment: &Segment| {
            losses.iter().any(|(loss, state)| {
                let is_of = loss.journal == segment.id.journal.0 && loss.number == segment.id.number;
                is_of && loss.cause == Cause::Unreadable && *state != LossState::Recovered
            })
        };
        let mut state = self.state.lock();
        let segments = state.journals.iter_mut().flat_map(|journal| &mut journal.segments);
        for segment in segments {
            segment.unreadable |= is_unreadable(segment);
        }
    }
}
