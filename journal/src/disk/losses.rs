//! Records of lost acknowledged events, one small file per loss.
//!
//! Damaged segments are trimmed like others; the record of the loss stays. Health, metrics and `verify` report it across
//! restarts, until `tidegate journal --acknowledge`. The state is the extension of the file's name, so the service and a
//! command beside it need no lock: a change is one rename.
//!
//! ```text
//! losses/<journal>-<first sequence>.lost           reported; `<journal>-segment-<number>` where the size is unknown
//!                                  .acknowledged   seen by an operator; the bytes may still be recovered
//!                                  .recovered      all of its events were stored
//!        <journal>.acknowledged                    a loss of another host or folder, known from the database's receipts
//! ```

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::damage::{Cause, Damage};
use super::files::{Access, FileId, Files, RealFiles, read_up_to, replace_file};
use super::segments::{JournalReader, LOSSES};
use super::{DiskError, Lost, unix_now_us};

/// Most bytes of a record that are read. A record is far smaller, even with a range for every second block of a segment.
const MOST_BYTES: u64 = 8 << 20;

/// State of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossState {
    /// Reported, until an operator acknowledges it.
    Lost,
    /// Acknowledged by an operator.
    Acknowledged,
    /// All of its events were stored.
    Recovered,
}

impl LossState {
    const ALL: [Self; 3] = [Self::Lost, Self::Acknowledged, Self::Recovered];

    /// The extension of the record's file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Acknowledged => "acknowledged",
            Self::Recovered => "recovered",
        }
    }
}

/// Acknowledged events that the journal lost: consecutive sequences with one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The journal.
    pub journal: Uuid,
    /// The first sequence; 0 if unknown.
    pub first: u64,
    /// Number of events; `None`: the segment's content is unknown.
    pub events: Option<u64>,
    /// Ranges that were stored since (first, one past the last), disjoint and in order.
    pub recovered: Vec<(u64, u64)>,
    /// Why their bytes cannot be used.
    pub cause: Cause,
    /// The segment that held them.
    pub segment: PathBuf,
    /// Its number within the journal.
    pub number: u64,
    /// Offset of the bytes in the segment.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// Copy of the bytes, if one was made.
    pub copy: Option<PathBuf>,
    /// The segment's nonce, if known. An event that imitates a block does not have it.
    pub nonce: Option<u64>,
    /// When the loss was found, in microseconds of Unix time.
    pub found_at_us: i64,
}

impl Loss {
    /// Name of the loss in commands. A loss of unknown size has its segment's number in place of a sequence, which several
    /// losses could share.
    pub fn id(&self) -> String {
        match self.events {
            Some(_) => format!("{}-{}", self.journal, self.first),
            None => format!("{}-segment-{}", self.journal, self.number),
        }
    }

    /// Adds sequences that were stored.
    pub fn add_recovered(&mut self, sequences: Range<u64>) {
        let before = self.recovered.iter().map(|(first, end)| *first..*end);
        let all = before.chain([sequences]).filter(|range| !range.is_empty());
        let all: RangeSet<u64> = all.collect();
        self.recovered = all.iter().map(|range| (range.start, range.end)).collect();
    }

    /// Number of events still lost; 1 if unknown.
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
            found_at_us: unix_now_us(),
        }
    }
}

/// File name of a record.
fn file_name(id: &str, state: LossState) -> String {
    format!("{id}.{}", state.name())
}

fn parse_name(name: &str) -> Option<(&str, LossState)> {
    LossState::ALL.into_iter().find_map(|state| {
        let id = name.strip_suffix(state.name())?.strip_suffix('.')?;
        Some((id, state))
    })
}

/// The records of a journal folder. Needs no open journal.
#[derive(Debug, Clone)]
pub struct LossRecords {
    pub(super) files: Arc<dyn Files>,
    /// The folder of the journal.
    pub(super) dir: PathBuf,
}

impl LossRecords {
    /// The records in a journal's folder.
    pub fn in_folder(dir: &Path) -> Self {
        Self::new(Arc::new(RealFiles::default()), dir)
    }

    pub(super) fn new(files: Arc<dyn Files>, dir: &Path) -> Self {
        Self { files, dir: dir.to_owned() }
    }

    fn folder(&self) -> PathBuf {
        self.dir.join(LOSSES)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        match self.files.list(&self.folder()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map(|mut names| {
                names.sort_unstable();
                names
            }),
        }
    }

    /// All records, in the order in which the losses were found.
    ///
    /// # Errors
    ///
    /// The folder or a record cannot be read.
    pub fn list(&self) -> Result<Vec<(Loss, LossState)>, DiskError> {
        let folder = self.folder();
        let names = self.names().map_err(DiskError::io("list", &folder))?;
        let records = names.iter().filter_map(|name| Some((name, parse_name(name)?)));
        // A journal acknowledged as a whole has no record.
        let records = records.filter(|(_, (id, _))| id.parse::<Uuid>().is_err());
        let mut losses = Vec::new();
        for (name, (_, state)) in records {
            let path = folder.join(name);
            match self.read(&path) {
                Ok(loss) => losses.push((loss, state)),
                // Renamed meanwhile by another process.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(DiskError::io("read", &path)(error)),
            }
        }
        losses.sort_by_key(|(loss, _)| (loss.found_at_us, loss.first));
        Ok(losses)
    }

    /// Journals without a record that an operator acknowledged as a whole.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn acknowledged_journals(&self) -> Result<Vec<Uuid>, DiskError> {
        let names = self.names().map_err(DiskError::io("list", &self.folder()))?;
        Ok(names.iter().filter_map(|name| parse_name(name)?.0.parse().ok()).collect())
    }

    fn read(&self, path: &Path) -> io::Result<Loss> {
        let file = self.files.open(path, Access::Read)?;
        let mut bytes = vec![0; file.length()?.min(MOST_BYTES) as usize];
        let read = read_up_to(&*file, &mut bytes, 0)?;
        serde_json::from_slice(bytes.get(..read).unwrap_or_default()).map_err(io::Error::from)
    }

    fn write(&self, id: &str, state: LossState, bytes: &[u8]) -> io::Result<()> {
        let folder = self.folder();
        self.files.create_dir(&folder)?;
        replace_file(&*self.files, &folder, &file_name(id, state), bytes)
    }

    /// Writes the record of a new loss; false if one exists, in any state.
    fn record(&self, loss: &Loss) -> io::Result<bool> {
        let id = loss.id();
        let names = self.names()?;
        if names.iter().any(|name| parse_name(name).is_some_and(|(known, _)| known == id)) {
            return Ok(false);
        }
        let bytes = serde_json::to_vec_pretty(loss).map_err(io::Error::from)?;
        self.write(&id, LossState::Lost, &bytes)?;
        Ok(true)
    }

    /// Writes the recovered ranges of a loss.
    ///
    /// # Errors
    ///
    /// The record cannot be written.
    pub fn update(&self, loss: &Loss, state: LossState) -> Result<(), DiskError> {
        let written = serde_json::to_vec_pretty(loss).map_err(io::Error::from).and_then(|bytes| {
            self.write(&loss.id(), state, &bytes)?;
            let done = loss.events.is_some() && loss.lost() == 0;
            if !done || state == LossState::Recovered {
                return Ok(());
            }
            match self.rename(&loss.id(), state, LossState::Recovered) {
                // Another process was faster.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                renamed => renamed,
            }
        });
        written.map_err(DiskError::io("write a record in", &self.folder()))
    }

    fn rename(&self, id: &str, from: LossState, to: LossState) -> io::Result<()> {
        let folder = self.folder();
        self.files.rename(&folder.join(file_name(id, from)), &folder.join(file_name(id, to)))?;
        self.files.sync_dir(&folder)
    }

    /// Acknowledges the loss with this id, or all losses of the journal with this id. A journal without a record is
    /// acknowledged as a whole. Returns the number of changed records; `None`: no such loss exists.
    ///
    /// # Errors
    ///
    /// The folder cannot be read or changed.
    pub fn acknowledge(&self, id: &str) -> Result<Option<usize>, DiskError> {
        let step = || -> io::Result<Option<usize>> {
            let names = self.names()?;
            let journal: Option<Uuid> = id.parse().ok();
            let is_of =
                |known: &str| journal.is_some_and(|journal| known.starts_with(&format!("{journal}-")));
            let known = names.iter().filter_map(|name| parse_name(name));
            let known: Vec<_> = known.filter(|(known, _)| *known == id || is_of(known)).collect();
            match (journal, known.is_empty()) {
                (None, true) => return Ok(None),
                (Some(journal), true) => {
                    self.write(&journal.to_string(), LossState::Acknowledged, b"{}")?;
                    return Ok(Some(1));
                }
                _ => {}
            }
            let mut changed = 0;
            for (id, _) in known.into_iter().filter(|(_, state)| *state == LossState::Lost) {
                self.rename(id, LossState::Lost, LossState::Acknowledged)?;
                changed += 1;
            }
            Ok(Some(changed))
        };
        step().map_err(DiskError::io("change a record in", &self.folder()))
    }
}

/// State of the records, as last read.
#[derive(Debug, Default)]
pub(super) struct LossIndex {
    /// With their inodes: a replaced record has another one.
    names: Vec<(String, Option<FileId>)>,
    lost: Lost,
    /// Losses whose record could not be written yet.
    unwritten: Vec<Loss>,
}

impl JournalReader {
    /// Losses that no operator has acknowledged.
    pub fn lost(&self) -> Lost {
        let index = self.losses.lock();
        let unwritten = &index.unwritten;
        Lost {
            losses: index.lost.losses + unwritten.len() as u64,
            events: index.lost.events + unwritten.iter().map(Loss::lost).sum::<u64>(),
        }
    }

    /// Records and logs a loss, once.
    pub(super) fn record_loss(&self, loss: Loss) {
        if !self.is_owner() {
            return;
        }
        let written = self.loss_records.record(&loss);
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
            tracing::error!(error = error.to_string(), "the loss cannot be recorded; retrying");
            let mut index = self.losses.lock();
            if !index.unwritten.iter().any(|known| known.id() == loss.id()) {
                index.unwritten.push(loss);
            }
            return;
        }
        self.refresh_losses();
    }

    /// Retries unwritten records, and reads the folder again if its names changed.
    pub(super) fn refresh_losses(&self) {
        let records = &self.loss_records;
        let mut index = self.losses.lock();
        if self.is_owner() {
            index.unwritten.retain(|loss| records.record(loss).is_err());
        }
        // While the folder is unreadable, the last state stays.
        let Ok(names) = records.names() else { return };
        let with_inode = |name: String| {
            let inode = self.files.identity(&records.folder().join(&name)).ok();
            (name, inode)
        };
        let names: Vec<_> = names.into_iter().map(with_inode).collect();
        if names == index.names {
            return;
        }
        let lost: Vec<u64> = match records.list() {
            Ok(losses) => {
                let lost = losses.iter().filter(|(_, state)| *state == LossState::Lost);
                lost.map(|(loss, _)| loss.lost()).collect()
            }
            // With an unreadable record, each counts as a loss of unknown size.
            Err(_) => {
                let states = names.iter().filter_map(|(name, _)| Some(parse_name(name)?.1));
                states.filter(|state| *state == LossState::Lost).map(|_| 1).collect()
            }
        };
        index.lost = Lost { losses: lost.len() as u64, events: lost.iter().sum() };
        index.names = names;
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
