//! The journals that the database knows, in a small file of the folder.
//!
//! A journal unknown to the database was either written while Postgres was away, or its database was replaced or restored
//! to an older point. The first is registered, the second is rejected; this list distinguishes them. The list also has the
//! schema that the database had once, so that a start needs no Postgres.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::path::Path;

use uuid::Uuid;

use super::files::{Access, Files, read_up_to, replace_file};
use super::segments::{JournalReader, REGISTERED};
use super::{DiskError, JournalId};

const SCHEMA: &str = "schema ";
/// Far more than a list has: a journal with its last event stored is removed from it.
const MOST_BYTES: u64 = 8 << 20;

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Registered {
    journals: BTreeSet<Uuid>,
    schema: Option<String>,
}

impl Registered {
    /// Reads the list in `dir`; a missing one is empty.
    pub(super) fn read(files: &dyn Files, dir: &Path) -> Result<Self, DiskError> {
        let path = dir.join(REGISTERED);
        let read = || -> io::Result<Self> {
            let file = match files.open(&path, Access::Read) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
                opened => opened?,
            };
            let mut bytes = vec![0; file.length()?.min(MOST_BYTES) as usize];
            let read = read_up_to(&*file, &mut bytes, 0)?;
            bytes.truncate(read);
            let text =
                String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            Ok(Self {
                journals: text.lines().filter_map(|line| line.parse().ok()).collect(),
                schema: text.lines().find_map(|line| line.strip_prefix(SCHEMA)).map(str::to_owned),
            })
        };
        read().map_err(DiskError::io("read", &path))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writes to a string never fail.
        if let Some(schema) = &self.schema {
            let _written = writeln!(text, "{SCHEMA}{schema}");
        }
        for journal in &self.journals {
            let _written = writeln!(text, "{journal}");
        }
        text
    }
}

impl JournalReader {
    /// Whether [`Self::register`] was called for this journal, by any process.
    pub fn is_registered(&self, journal: JournalId) -> bool {
        self.registered.lock().journals.contains(&journal.0)
    }

    /// Records that the database knows this journal, until it is trimmed as a whole.
    ///
    /// # Errors
    ///
    /// The record cannot be made durable; the journal is not registered then.
    pub fn register(&self, journal: JournalId) -> io::Result<()> {
        self.change_registered(|list| {
            list.journals.insert(journal.0);
        })
    }

    /// The schema of [`Self::set_schema`].
    pub fn schema(&self) -> Option<String> {
        self.registered.lock().schema.clone()
    }

    /// Records that the database has this schema: a line without a line end.
    ///
    /// # Errors
    ///
    /// The record cannot be made durable.
    pub fn set_schema(&self, schema: &str) -> io::Result<()> {
        self.change_registered(|list| list.schema = Some(schema.to_owned()))
    }

    /// Removes the journals that are no longer held.
    pub(super) fn shorten_registered(&self) {
        let held: BTreeSet<Uuid> = self.state.lock().journals.iter().map(|journal| journal.id.0).collect();
        if let Err(error) = self.change_registered(|list| list.journals.retain(|id| held.contains(id))) {
            tracing::debug!(error = error.to_string(), "the list of registered journals is not shortened");
        }
    }

    fn change_registered(&self, change: impl FnOnce(&mut Registered)) -> io::Result<()> {
        let mut registered = self.registered.lock();
        let mut changed = registered.clone();
        change(&mut changed);
        if changed != *registered {
            replace_file(&*self.files, &self.settings.dir, REGISTERED, changed.text().as_bytes())?;
            *registered = changed;
        }
        Ok(())
    }
}
