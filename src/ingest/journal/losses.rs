//! Acknowledged events that are lost, each loss a small file, until an operator has seen it.
//!
//! What Postgres has settled leaves the journal, damaged or not. The record of a loss stays: health, metrics and `verify`
//! report it over restarts, until `tidegate journal --acknowledge`. The state is the end of the file's name, so that the
//! service and a command beside it need no lock: a change is one rename.
//!
//! ```text
//! losses/<journal>-<first sequence>.lost           reported; `<journal>-segment-<number>` where the size is unknown
//!                                  .acknowledged   seen by an operator; the bytes may still be recovered
//!                                  .recovered      all of it was stored after all
//!        <journal>.acknowledged                    what another host, or a lost folder, left in the database's receipts
//! ```

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::JournalError;
use super::files::{Access, File, FileId, Files, read_up_to, write_all};
use super::recover::Damage;
use super::store::{JournalReader, LOSSES, lock};
use crate::ingest::id;

/// A record is far smaller, even with a range for each second block of a segment; other files of the folder are not read
/// into memory.
const MOST_BYTES: u64 = 8 << 20;

/// What is wrong with bytes of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// They are not what was written.
    Corrupt,
    /// The disk cannot read them.
    Unreadable,
    /// Their file is not there.
    Missing,
}

impl Cause {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Corrupt => "not what was written",
            Self::Unreadable => "unreadable on the disk",
            Self::Missing => "missing",
        }
    }
}

/// Whether anybody has to look at a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossState {
    /// Reported until it is acknowledged.
    Lost,
    /// Seen by an operator.
    Acknowledged,
    /// All of it was stored after all.
    Recovered,
}

impl LossState {
    const ALL: [Self; 3] = [Self::Lost, Self::Acknowledged, Self::Recovered];

    /// The end of the record's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Acknowledged => "acknowledged",
            Self::Recovered => "recovered",
        }
    }
}

/// Acknowledged events that the journal lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The journal.
    pub journal: Uuid,
    /// The first sequence; 0 where it is not known.
    pub first: u64,
    /// How many; `None`: the segment's content is unknown.
    pub events: Option<u64>,
    /// Sequences of them that were stored after all, first and one past the last; apart from each other, in order.
    pub recovered: Vec<(u64, u64)>,
    /// What is wrong with their bytes.
    pub cause: Cause,
    /// The segment that held them.
    pub segment: PathBuf,
    /// Its number in the journal.
    pub number: u64,
    /// Where in the segment the bytes begin.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Their copy, where there is one.
    pub copy: Option<PathBuf>,
    /// Repeated by each block of the segment, where it is known: an event that looks like a block does not have it.
    pub nonce: Option<u64>,
    /// When it was found, in microseconds of Unix time.
    pub found_at_us: i64,
}

impl Loss {
    /// Its name for an operator. A loss of unknown size has its segment's number instead of a sequence, as several may have
    /// the same one.
    pub fn id(&self) -> String {
        match self.events {
            Some(_) => format!("{}-{}", self.journal, self.first),
            None => format!("{}-segment-{}", self.journal, self.number),
        }
    }

    /// Adds sequences that were stored after all.
    pub fn add_recovered(&mut self, sequences: Range<u64>) {
        let before = self.recovered.iter().map(|(first, end)| *first..*end);
        let all = before.chain([sequences]).filter(|range| !range.is_empty());
        let all: RangeSet<u64> = all.collect();
        self.recovered = all.iter().map(|range| (range.start, range.end)).collect();
    }

    /// Events that are lost still; 1 where their number is not known.
    pub fn lost(&self) -> u64 {
        let recovered: u64 = self.recovered.iter().map(|(first, end)| end.saturating_sub(*first)).sum();
        self.events.map_or(1, |events| events.saturating_sub(recovered))
    }

    pub(super) fn of(damage: &Damage, nonce: Option<u64>) -> Self {
        let at = &damage.at;
        Self {
            journal: damage.journal.0,
            first: damage.from,
            events: Some(damage.until - damage.from).filter(|events| *events > 0),
            recovered: Vec::new(),
            cause: at.cause,
            segment: at.segment.clone(),
            number: at.number,
            offset: at.offset,
            bytes: at.bytes,
            copy: at.copy.clone(),
            nonce,
            found_at_us: id::unix_now_us(),
        }
    }
}

/// The name of a record in a state.
fn file_name(id: &str, state: LossState) -> String {
    format!("{id}.{}", state.name())
}

fn parse_name(name: &str) -> Option<(&str, LossState)> {
    LossState::ALL.into_iter().find_map(|state| {
        let id = name.strip_suffix(state.name())?.strip_suffix('.')?;
        Some((id, state))
    })
}

fn names(files: &dyn Files, dir: &Path) -> io::Result<Vec<String>> {
    match files.list(&dir.join(LOSSES)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map(|mut names| {
            names.sort_unstable();
            names
        }),
    }
}

/// The records in a journal's folder, by journal and sequence.
///
/// # Errors
///
/// If the folder or a record cannot be read.
pub fn list(files: &dyn Files, dir: &Path) -> Result<Vec<(Loss, LossState)>, JournalError> {
    let folder = dir.join(LOSSES);
    let names = names(files, dir).map_err(JournalError::io("list", &folder))?;
    let records = names.iter().filter_map(|name| Some((name, parse_name(name)?)));
    // One that another host left has no record of its own.
    let records = records.filter(|(_, (id, _))| id.parse::<Uuid>().is_err());
    let mut losses = Vec::new();
    for (name, (_, state)) in records {
        let path = folder.join(name);
        match read(files, &path) {
            Ok(loss) => losses.push((loss, state)),
            // Renamed meanwhile by another process.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(JournalError::io("read", &path)(error)),
        }
    }
    losses.sort_by_key(|(loss, _)| (loss.found_at_us, loss.first));
    Ok(losses)
}

/// Journals whose losses an operator acknowledged as a whole, without a record of any.
///
/// # Errors
///
/// If the folder cannot be read.
pub fn acknowledged_journals(files: &dyn Files, dir: &Path) -> Result<Vec<Uuid>, JournalError> {
    let names = names(files, dir).map_err(JournalError::io("list", &dir.join(LOSSES)))?;
    Ok(names.iter().filter_map(|name| parse_name(name)?.0.parse().ok()).collect())
}

fn read(files: &dyn Files, path: &Path) -> io::Result<Loss> {
    let file = files.open(path, Access::Read)?;
    let mut bytes = vec![0; file.length()?.min(MOST_BYTES) as usize];
    let read = read_up_to(&*file, &mut bytes, 0)?;
    serde_json::from_slice(bytes.get(..read).unwrap_or_default()).map_err(io::Error::from)
}

/// Writes a record, all at once.
fn write(files: &dyn Files, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = dir.join(LOSSES);
    files.create_dir(&folder)?;
    let unfinished = folder.join(format!("{name}.new"));
    let file: Arc<dyn File> = files.create(&unfinished)?;
    write_all(&*file, bytes, 0)?;
    file.fdatasync()?;
    files.rename(&unfinished, &folder.join(name))?;
    files.sync_dir(&folder)
}

/// Writes the record of a loss that was found; false if there is one already, in whatever state.
fn record(files: &dyn Files, dir: &Path, loss: &Loss) -> io::Result<bool> {
    let id = loss.id();
    let names = names(files, dir)?;
    if names.iter().any(|name| parse_name(name).is_some_and(|(known, _)| known == id)) {
        return Ok(false);
    }
    let bytes = serde_json::to_vec_pretty(loss).map_err(io::Error::from)?;
    write(files, dir, &file_name(&id, LossState::Lost), &bytes)?;
    Ok(true)
}

/// Writes what was recovered of a loss.
///
/// # Errors
///
/// If the record cannot be written.
pub fn update(files: &dyn Files, dir: &Path, loss: &Loss, state: LossState) -> Result<(), JournalError> {
    let folder = dir.join(LOSSES);
    let written = serde_json::to_vec_pretty(loss).map_err(io::Error::from).and_then(|bytes| {
        write(files, dir, &file_name(&loss.id(), state), &bytes)?;
        let done = loss.events.is_some() && loss.lost() == 0;
        if !done || state == LossState::Recovered {
            return Ok(());
        }
        match rename(files, &folder, &loss.id(), state, LossState::Recovered) {
            // Another process was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    });
    written.map_err(JournalError::io("write a record in", &folder))
}

fn rename(files: &dyn Files, folder: &Path, id: &str, from: LossState, to: LossState) -> io::Result<()> {
    files.rename(&folder.join(file_name(id, from)), &folder.join(file_name(id, to)))?;
    files.sync_dir(folder)
}

/// Acknowledges the loss with this id, or all of a journal's. A journal of which the folder has no record is acknowledged
/// as a whole. How many records changed; `None`: there is no such loss.
///
/// # Errors
///
/// If the folder cannot be read or changed.
pub fn acknowledge(files: &dyn Files, dir: &Path, wanted: &str) -> Result<Option<usize>, JournalError> {
    let folder = dir.join(LOSSES);
    let failed = JournalError::io("change a record in", &folder);
    let step = || -> io::Result<Option<usize>> {
        let names = names(files, dir)?;
        let journal: Option<Uuid> = wanted.parse().ok();
        let is_of = |id: &str| journal.is_some_and(|journal| id.starts_with(&format!("{journal}-")));
        let known = names.iter().filter_map(|name| parse_name(name));
        let known: Vec<_> = known.filter(|(id, _)| *id == wanted || is_of(id)).collect();
        match (journal, known.is_empty()) {
            (None, true) => return Ok(None),
            (Some(journal), true) => {
                write(files, dir, &file_name(&journal.to_string(), LossState::Acknowledged), b"{}")?;
                return Ok(Some(1));
            }
            _ => {}
        }
        let mut changed = 0;
        for (id, _) in known.into_iter().filter(|(_, state)| *state == LossState::Lost) {
            rename(files, &folder, id, LossState::Lost, LossState::Acknowledged)?;
            changed += 1;
        }
        Ok(Some(changed))
    };
    step().map_err(failed)
}

/// Losses that are reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Unacknowledged records.
    pub losses: u64,
    /// Their events; one for a loss of unknown size.
    pub events: u64,
}

/// What is known of the folder.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// With their inodes: a record that is written anew has another one.
    names: Vec<(String, Option<FileId>)>,
    lost: Lost,
    /// Losses whose record could not be written yet.
    unwritten: Vec<Loss>,
}

impl JournalReader {
    /// Losses that are reported until an operator acknowledges them.
    pub fn lost(&self) -> Lost {
        let book = lock(&self.losses);
        let unwritten = &book.unwritten;
        Lost {
            losses: book.lost.losses + unwritten.len() as u64,
            events: book.lost.events + unwritten.iter().map(Loss::lost).sum::<u64>(),
        }
    }

    /// Records a loss, and reports it once.
    pub(super) fn record_loss(&self, loss: Loss) {
        if self.read_only {
            return;
        }
        let written = record(&*self.files, &self.settings.dir, &loss);
        if matches!(written, Ok(false)) {
            return;
        }
        tracing::error!(
            loss = loss.id(),
            journal = %loss.journal,
            first = loss.first,
            events = loss.events,
            cause = loss.cause.describe(),
            segment = %loss.segment.display(),
            offset = loss.offset,
            bytes = loss.bytes,
            copy = loss.copy.as_ref().map(|path| path.display().to_string()),
            "acknowledged events are lost; health is degraded until `tidegate journal --acknowledge`"
        );
        if let Err(error) = written {
            tracing::error!(error = error.to_string(), "the loss cannot be recorded; trying again");
            let mut book = lock(&self.losses);
            if !book.unwritten.iter().any(|known| known.id() == loss.id()) {
                book.unwritten.push(loss);
            }
            return;
        }
        self.look_at_losses();
    }

    /// Reads the folder again if its names changed, and tries again to write what could not be written.
    pub(super) fn look_at_losses(&self) {
        let dir = &self.settings.dir;
        let mut book = lock(&self.losses);
        if !self.read_only {
            book.unwritten.retain(|loss| record(&*self.files, dir, loss).is_err());
        }
        // What cannot be read now is as it was.
        let Ok(names) = names(&*self.files, dir) else { return };
        let with_inode = |name: String| {
            let inode = self.files.identity(&dir.join(LOSSES).join(&name)).ok();
            (name, inode)
        };
        let names: Vec<_> = names.into_iter().map(with_inode).collect();
        if names == book.names {
            return;
        }
        let lost: Vec<u64> = match list(&*self.files, dir) {
            Ok(losses) => {
                let lost = losses.iter().filter(|(_, state)| *state == LossState::Lost);
                lost.map(|(loss, _)| loss.lost()).collect()
            }
            // One of them cannot be read: each counts as a loss of unknown size.
            Err(_) => {
                let states = names.iter().filter_map(|(name, _)| Some(parse_name(name)?.1));
                states.filter(|state| *state == LossState::Lost).map(|_| 1).collect()
            }
        };
        book.lost = Lost { losses: lost.len() as u64, events: lost.iter().sum() };
        book.names = names;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_small_however_many_blocks_are_recovered_and_unknown_segments_have_ids_of_their_own() {
        let mut loss = Loss {
            journal: Uuid::nil(),
            first: 0,
            events: Some(1_000_000),
            recovered: Vec::new(),
            cause: Cause::Unreadable,
            segment: PathBuf::new(),
            number: 0,
            offset: 0,
            bytes: 0,
            copy: None,
            nonce: None,
            found_at_us: 0,
        };
        for first in (0..1_000_000).step_by(100).filter(|first| *first != 500) {
            loss.add_recovered(first..first + 100);
        }
        assert_eq!((loss.recovered.as_slice(), loss.lost()), (&[(0, 500), (600, 1_000_000)][..], 100));
        let unknown = [1, 2].map(|number| Loss { events: None, number, ..loss.clone() }.id());
        assert_ne!(unknown[0], unknown[1]);
    }
}
