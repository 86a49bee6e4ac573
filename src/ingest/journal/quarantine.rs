//! Keeps the bytes of damaged blocks for whoever wants to look at them, before their segment is given up.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{Access, File, Files, READ_PAUSES, read_patiently, read_up_to, write_all};
use super::format::{PAGE, Place};
use super::losses::{Cause, Loss, LossState};
use super::store::{JournalReader, QUARANTINE, Quarantined, Segment, lock};

const COPY: usize = 1 << 20;

/// What the folder of damaged bytes holds.
pub(super) fn count(files: &dyn Files, dir: &Path) -> Quarantined {
    let dir = dir.join(QUARANTINE);
    let mut sum = Quarantined::default();
    for name in files.list(&dir).unwrap_or_default() {
        // Only for a figure: what cannot be opened is not counted.
        if let Ok(bytes) = files.open(&dir.join(name), Access::Read).and_then(|file| file.length()) {
            sum.blocks += 1;
            sum.bytes += bytes;
        }
    }
    sum
}

/// A copy of damaged bytes.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) path: PathBuf,
    /// How many bytes were copied; `None`: they were before.
    pub(super) bytes: Option<u64>,
    /// Some could not be read, and are zeros in the copy.
    pub(super) unread: bool,
}

/// Copies the bytes of `file` from `offset` up to `next` into the folder, once.
pub(super) fn copy(
    files: &dyn Files,
    dir: &Path,
    place: Place,
    file: &dyn File,
    (offset, next): (u64, u64),
) -> io::Result<Copied> {
    let dir = dir.join(QUARANTINE);
    files.create_dir(&dir)?;
    let name = format!("{}-{:08}-{offset}.bin", place.journal, place.number);
    let path = dir.join(&name);
    if files.list(&dir)?.contains(&name) {
        return Ok(Copied { path, bytes: None, unread: false });
    }
    // Written under another name first, so that the name stands for a whole copy.
    let unfinished = dir.join(format!("{name}.new"));
    let copy = files.create(&unfinished)?;
    let mut bytes = vec![0; COPY];
    let (mut done, mut unread) = (0, false);
    while offset + done < next {
        let wanted = bytes.len().min((next - offset - done) as usize);
        let (read, bad) = read_pages(file, &mut bytes[..wanted], offset + done);
        unread |= bad;
        if read == 0 {
            break;
        }
        write_all(&*copy, &bytes[..read], done)?;
        done += read as u64;
    }
    copy.fdatasync()?;
    files.rename(&unfinished, &path)?;
    files.sync_dir(&dir)?;
    Ok(Copied { path, bytes: Some(done), unread })
}

/// What can be read, and whether some could not: such a page is zeros.
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
    /// Copies damaged bytes of a segment. If they cannot be copied (a full disk, say) reading goes on all the same, and
    /// they stay where they are as long as their segment is held. Of bytes that could not be read the whole segment is
    /// kept: a later try may have them.
    pub(super) fn quarantine(
        &self,
        place: Place,
        file: &dyn File,
        offset: u64,
        next: u64,
    ) -> Option<PathBuf> {
        if self.read_only {
            return None;
        }
        let copied = copy(&*self.files, &self.settings.dir, place, file, (offset, next));
        let mut state = lock(&self.state);
        if copied.as_ref().map_or(true, |copied| copied.unread) {
            let segments = state.journals.iter_mut().flat_map(|journal| &mut journal.segments);
            for segment in segments.filter(|segment| segment.place == place) {
                segment.unread = true;
            }
        }
        let copied = copied.ok()?;
        if let Some(bytes) = copied.bytes {
            state.quarantined.blocks += 1;
            state.quarantined.bytes += bytes;
        }
        Some(copied.path)
    }

    /// Keeps segments that an earlier process could not read, as [`Self::quarantine`] does.
    pub(super) fn keep_unread(&self, losses: &[(Loss, LossState)]) {
        let unread = |segment: &Segment| {
            losses.iter().any(|(loss, state)| {
                let is_of = loss.journal == segment.place.journal.0 && loss.number == segment.place.number;
                is_of && loss.cause == Cause::Unreadable && *state != LossState::Recovered
            })
        };
        let mut state = lock(&self.state);
        let segments = state.journals.iter_mut().flat_map(|journal| &mut journal.segments);
        for segment in segments {
            segment.unread |= unread(segment);
        }
    }
}
