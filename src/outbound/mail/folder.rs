//! Mails as files, where no server is set: a bounded number, the oldest ones are deleted.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::smtp::Failure;

/// Files that are kept.
const MAX_FILES: usize = 1_000;
/// Ends the name of each.
const EXTENSION: &str = ".eml";

/// A folder of mails; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct MailFolder {
    path: Arc<PathBuf>,
    /// Mails so far. A write at a time, so that names have an order.
    written: Arc<Mutex<u64>>,
}

impl MailFolder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), written: Arc::default() }
    }

    /// Writes a mail.
    pub(super) async fn write(&self, mail: Vec<u8>) -> Result<(), Failure> {
        let folder = self.clone();
        let written = tokio::task::spawn_blocking(move || folder.write_now(&mail)).await;
        let written = written.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        written
            .map_err(|error| Failure::lasting(format!("{} cannot be written: {error}", self.path.display())))
    }

    fn write_now(&self, mail: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        if *written == 0 {
            // The mails have tokens.
            DirBuilder::new().recursive(true).mode(0o700).create(&*self.path)?;
            tracing::warn!(
                folder = %self.path.display(),
                "no mail server is set (smtp in /api/settings): mails are written to files"
            );
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        *written += 1;
        let name = format!("{now:015}-{:06}{EXTENSION}", *written % 1_000_000);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path.join(name))?;
        file.write_all(mail)?;
        self.delete_oldest()
    }

    fn delete_oldest(&self) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(&*self.path)?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|name| name.to_str().is_some_and(|name| name.ends_with(EXTENSION)))
            .collect();
        let surplus = names.len().saturating_sub(MAX_FILES);
        if surplus > 0 {
            names.sort();
            for name in names.into_iter().take(surplus) {
                fs::remove_file(self.path.join(name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_mails_are_kept_and_other_files_too() {
        let path = std::env::temp_dir().join(format!("tidegate-mails-{}", uuid::Uuid::new_v4()));
        let folder = MailFolder::new(path.clone());
        for n in 0..MAX_FILES + 5 {
            folder.write_now(n.to_string().as_bytes()).unwrap();
            if n == 0 {
                fs::write(path.join("notes.txt"), "mine").unwrap();
            }
        }
        let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        assert_eq!(names.len(), MAX_FILES + 1);
        assert_eq!(fs::read_to_string(&names[0]).unwrap(), "5");
        fs::remove_dir_all(path).unwrap();
    }
}
