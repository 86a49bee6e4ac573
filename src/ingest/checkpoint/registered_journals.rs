//! The list of journals that were registered with the database: a small file beside them.
//!
//! A journal that the database does not know was either written while Postgres was away, or its database was replaced or
//! restored to an older point. The first is to be registered, the second to be refused; this list tells them apart. It also
//! records that the schema existed once, so that the service may start while Postgres is away.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

const FILE: &str = "registered";
const NEW_FILE: &str = "registered.new";
const SCHEMA: &str = "schema ";

/// The list of registered journals.
#[derive(Debug, Clone)]
pub struct RegisteredJournals {
    dir: PathBuf,
    journals: BTreeSet<Uuid>,
    schema: Option<usize>,
}

impl RegisteredJournals {
    /// Reads the list in `dir`; a missing file is an empty list.
    ///
    /// # Errors
    ///
    /// If the file exists and cannot be read.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(dir.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        Ok(Self {
            dir: dir.to_owned(),
            journals: text.lines().filter_map(|line| line.parse().ok()).collect(),
            schema: text.lines().find_map(|line| line.strip_prefix(SCHEMA)?.parse().ok()),
        })
    }

    /// Whether this path is one of the list's files.
    pub fn is_its(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name == FILE || name == NEW_FILE)
    }

    /// Whether this journal was registered with the database.
    pub fn contains(&self, journal: Uuid) -> bool {
        self.journals.contains(&journal)
    }

    /// Whether the database once had this version of the schema.
    pub fn has_schema(&self, version: usize) -> bool {
        self.schema == Some(version)
    }

    /// Records that this journal is registered with the database.
    ///
    /// # Errors
    ///
    /// If the list cannot be written.
    pub fn add(&mut self, journal: Uuid) -> io::Result<()> {
        if self.journals.insert(journal) { self.write() } else { Ok(()) }
    }

    /// Records the version of the database's schema.
    ///
    /// # Errors
    ///
    /// If the list cannot be written.
    pub fn set_schema(&mut self, version: usize) -> io::Result<()> {
        if self.schema.replace(version) == Some(version) { Ok(()) } else { self.write() }
    }

    /// Removes the journals that are not on disk any more.
    ///
    /// # Errors
    ///
    /// If the list cannot be written.
    pub fn retain(&mut self, held: impl Fn(Uuid) -> bool) -> io::Result<()> {
        let before = self.journals.len();
        self.journals.retain(|journal| held(*journal));
        if self.journals.len() < before { self.write() } else { Ok(()) }
    }

    /// Replaces the file atomically: a reader sees the old list or the new one.
    fn write(&self) -> io::Result<()> {
        let new = self.dir.join(NEW_FILE);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        if let Some(schema) = self.schema {
            writeln!(file, "{SCHEMA}{schema}")?;
        }
        for journal in &self.journals {
            writeln!(file, "{journal}")?;
        }
        file.sync_all()?;
        fs::rename(&new, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_back() {
        let dir = std::env::temp_dir().join(format!("tidegate-registered-{}", Uuid::new_v4()));
        fs::create_dir(&dir).unwrap();
        let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
        let mut list = RegisteredJournals::read(&dir).unwrap();
        list.add(one).unwrap();
        list.add(two).unwrap();
        list.set_schema(2).unwrap();
        list.retain(|journal| journal == two).unwrap();
        let list = RegisteredJournals::read(&dir).unwrap();
        assert_eq!((list.contains(one), list.contains(two)), (false, true));
        assert!(list.has_schema(2) && !list.has_schema(3));
        fs::remove_dir_all(&dir).unwrap();
    }
}
