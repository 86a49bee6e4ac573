//! The lock on `DATA_DIR`: one service per folder.
//!
//! The lock is the kernel's (`flock`), so it ends with the process in any case; the file's text is only for the error message.
//! Rust opens files close-on-exec: Postgres, which outlives a killed service, does not inherit it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use super::account::other_owner;
use super::error::PrivateError;

const FILE: &str = "tidegate.lock";
/// The time for which a lock or a socket may outlive its process or its use: a child that was about to start has a copy until its `exec`.
pub(super) const FORK_LIMIT: Duration = Duration::from_secs(1);

/// The lock, held while this service uses the folder.
#[derive(Debug)]
pub(super) struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    pub(super) fn take(data_dir: &Path) -> Result<Self, PrivateError> {
        let path = data_dir.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| refused(data_dir, &path, error))?;
        let deadline = Instant::now() + FORK_LIMIT;
        let locked = loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(FORK_LIMIT / 50),
                locked => break locked,
            }
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Empty for the instant between the other's lock and its text.
                let _ = file.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
                return Err(PrivateError::InUse { pid, data_dir: data_dir.to_path_buf() });
            }
            Err(TryLockError::Error(error)) => return Err(PrivateError::io("lock", &path)(error)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(PrivateError::io("write", &path))?;
        Ok(Self { _file: file })
    }
}

/// The error of opening the file; it names a folder or lock file of another user.
fn refused(data_dir: &Path, path: &Path, error: io::Error) -> PrivateError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        for candidate in [path, data_dir] {
            if let Ok(found) = candidate.metadata()
                && found.uid() != Uid::effective().as_raw()
            {
                return other_owner(candidate, Uid::from_raw(found.uid()));
            }
        }
    }
    PrivateError::io("open", path)(error)
}
