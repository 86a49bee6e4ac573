//! The folder of the cluster's unix socket.
//!
//! A socket's path is limited to some 100 bytes (107 on Linux, 103 on macOS), and the cluster's account has to reach it. The
//! cluster's own folder is best: its mode keeps other users out. Otherwise it is a folder under the temporary directory, named
//! after the cluster so that each start finds the last one's. It is used only if it is a real folder of the account that no
//! other user can write to: in `/tmp` anyone can put something in the way.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::account::Account;
use super::error::PrivateError;

/// The longest folder: the limit of macOS, less its end and the longest socket name (`/.s.PGSQL.65535`).
const MAX_FOLDER_BYTES: usize = 103 - 15;
/// The prefix of a cluster's id.
const PREFIX: &str = "tidegate-";
const MODE: u32 = 0o700;

/// The folder for the socket of `cluster`, created if necessary.
pub(super) fn folder_for(cluster: &Path, id: &str, account: &Account) -> Result<PathBuf, PrivateError> {
    if fits(cluster) && account.can_enter(cluster) {
        return Ok(cluster.to_path_buf());
    }
    let temp = [std::env::temp_dir(), PathBuf::from("/tmp")]
        .into_iter()
        .find(|dir| fits(&dir.join(format!("{id}-0"))) && account.can_enter(dir))
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    // A name in use by another user is skipped; eight of them are no accident.
    for attempt in 0..8 {
        let folder = temp.join(format!("{id}-{attempt}"));
        if take(&folder, account).map_err(PrivateError::io("make the socket's folder", &folder))? {
            return Ok(folder);
        }
    }
    let folder = temp.join(id);
    Err(PrivateError::io("make the socket's folder", &folder)(io::ErrorKind::AlreadyExists.into()))
}

/// Removes the sockets and their lock files of a killed postmaster; the caller knows that it is gone. Postgres would remove
/// them itself, but for a pid in them that another process has now, or that is not reaped yet.
pub(super) fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(b".s.PGSQL.") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes a folder that [`folder_for`] created under the temporary directory, after Postgres has removed its socket.
pub(super) fn release(folder: &Path) {
    if folder.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes())) {
        let _ = fs::remove_dir(folder);
    }
}

/// Whether `folder` can be used.
fn take(folder: &Path, account: &Account) -> io::Result<bool> {
    match DirBuilder::new().mode(MODE).create(folder) {
        Ok(()) => {
            account.own(folder)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = folder.symlink_metadata()?;
            Ok(found.is_dir() && found.uid() == account.uid() && found.mode() & 0o077 == 0)
        }
        Err(error) => Err(error),
    }
}

/// Whether Postgres accepts the path: short, and without characters that have a meaning in its list of folders.
fn fits(folder: &Path) -> bool {
    let bytes = folder.as_os_str().as_bytes();
    bytes.len() <= MAX_FOLDER_BYTES
        && folder.is_absolute()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@=".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_too_long_or_that_postgres_would_misread_is_passed_over() {
        assert!(fits(Path::new("/var/lib/tidegate/postgres")));
        assert!(!fits(Path::new(&format!("/{}", "x".repeat(MAX_FOLDER_BYTES)))));
        assert!(!fits(Path::new("/srv/a, b/postgres")));
        assert!(!fits(Path::new("/srv/it's/postgres")));
        assert!(!fits(Path::new("data/postgres")));
    }
}
