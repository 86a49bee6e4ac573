//! Where the cluster's unix socket lives.
//!
//! A socket's path has some 100 bytes (107 on Linux, 103 on macOS) and must be reachable for the cluster's account. The
//! cluster's own folder is best: its mode keeps everyone else out. Otherwise a folder under the temp dir, named after the
//! cluster so that each start finds the last one's, and taken only if it is a real folder of the account that nobody else
//! can write to: in `/tmp` anyone can put something in the way.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::account::Account;
use super::error::LocalError;

/// The longest folder: the limit of macOS, less its end and the longest socket name (`/.s.PGSQL.65535`).
const MAX_FOLDER_BYTES: usize = 103 - 15;
/// What the id of a cluster begins with.
const PREFIX: &str = "tidegate-";
const MODE: u32 = 0o700;

/// The folder for the socket of `cluster`, made if it must be.
pub(super) fn folder_for(cluster: &Path, id: &str, account: &Account) -> Result<PathBuf, LocalError> {
    if fits(cluster) && account.can_enter(cluster) {
        return Ok(cluster.to_path_buf());
    }
    let temp = [std::env::temp_dir(), PathBuf::from("/tmp")]
        .into_iter()
        .find(|dir| fits(&dir.join(format!("{id}-0"))) && account.can_enter(dir))
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    // A name that is taken by someone else is passed over; eight of them is not an accident.
    for attempt in 0..8 {
        let folder = temp.join(format!("{id}-{attempt}"));
        if take(&folder, account).map_err(LocalError::io("make the socket's folder", &folder))? {
            return Ok(folder);
        }
    }
    let folder = temp.join(id);
    Err(LocalError::io("make the socket's folder", &folder)(io::ErrorKind::AlreadyExists.into()))
}

/// Removes the sockets and their lock files that a killed postmaster left; the caller knows that it is gone. Postgres would
/// do so itself, were it not for a pid in them that is another process' now, or that nobody has reaped.
pub(super) fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(b".s.PGSQL.") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes a folder that [`folder_for`] made under the temp dir, once Postgres has removed its socket.
pub(super) fn release(folder: &Path) {
    if folder.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes())) {
        let _ = fs::remove_dir(folder);
    }
}

/// Whether `folder` is ours to use now.
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

/// Whether Postgres can be told of it: short, and free of what its list of folders would read as syntax.
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
