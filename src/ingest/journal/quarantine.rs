//! Keeps the bytes of damaged blocks for whoever wants to look at them, before their segment is given up.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{Access, File, Files, read_up_to, write_all};
use super::format::{PAGE, Place};
use super::store::{QUARANTINE, Quarantined, lock};
use super::{Store, store};

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

/// Copies the bytes of `file` from `offset` up to `next` into the folder, once; where they are then, and how many.
pub(super) fn copy(
    files: &dyn Files,
    dir: &Path,
    place: Place,
    file: &dyn File,
    (offset, next): (u64, u64),
) -> io::Result<(PathBuf, Option<u64>)> {
    let dir = dir.join(QUARANTINE);
    files.create_dir(&dir)?;
    let name = format!("{}-{:08}-{offset}.bin", place.journal, place.number);
    let path = dir.join(&name);
    if files.list(&dir)?.contains(&name) {
        return Ok((path, None));
    }
    // Written under another name first, so that the name stands for a whole copy.
    let unfinished = dir.join(format!("{name}.new"));
    let copy = files.create(&unfinished)?;
    let mut bytes = vec![0; COPY];
    let mut done = 0;
    while offset + done < next {
        let wanted = bytes.len().min((next - offset - done) as usize);
        let read = read_pages(file, &mut bytes[..wanted], offset + done);
        if read == 0 {
            break;
        }
        write_all(&*copy, &bytes[..read], done)?;
        done += read as u64;
    }
    copy.fdatasync()?;
    files.rename(&unfinished, &path)?;
    files.sync_dir(&dir)?;
    Ok((path, Some(done)))
}

/// What can be read; a page that cannot is zeros.
fn read_pages(file: &dyn File, bytes: &mut [u8], offset: u64) -> usize {
    if let Ok(read) = read_up_to(file, bytes, offset) {
        return read;
    }
    let pages = bytes.chunks_mut(PAGE as usize).enumerate();
    pages.fold(0, |done, (index, page)| {
        let read = read_up_to(file, page, offset + index as u64 * PAGE).unwrap_or_else(|_| {
            page.fill(0);
            page.len()
        });
        done + read
    })
}

impl Store {
    /// Where the damaged bytes are to be found. If they cannot be copied (a full disk, say) reading goes on all the same,
    /// and they stay where they are as long as their segment is held.
    pub(super) fn quarantine(&self, place: Place, file: &dyn File, offset: u64, next: u64) -> PathBuf {
        let in_place = self.path(store::segment_name(place));
        if self.read_only {
            return in_place;
        }
        match copy(&*self.files, &self.settings.dir, place, file, (offset, next)) {
            Ok((path, copied)) => {
                if let Some(bytes) = copied {
                    let quarantined = &mut lock(&self.state).quarantined;
                    quarantined.blocks += 1;
                    quarantined.bytes += bytes;
                }
                path
            }
            Err(_no_copy) => in_place,
        }
    }
}
