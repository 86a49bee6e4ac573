//! How another account reaches the cluster's folder.
//!
//! `DATA_DIR` may lie where the cluster's account cannot go: a checkout in `/root`, say. On Linux root then opens the folder
//! itself and leaves the descriptor open for the child, whose path to it is `/proc/self/fd/N`: that needs no right on the
//! folders above. The postmaster keeps the descriptor for life, so the path stays good for its reloads and its children.
//!
//! The same way serves a path that `pg_ctl` could not hand to its shell in one piece.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use super::account::Account;
use super::error::LocalError;

/// A path to a folder that is good in children for as long as this lives.
#[derive(Debug)]
pub(super) struct Reach {
    path: PathBuf,
    _open: Option<File>,
}

impl Reach {
    pub(super) fn to(dir: &Path, account: &Account) -> Result<Self, LocalError> {
        if !cfg!(target_os = "linux") || (is_plain(dir) && account.can_enter(dir)) {
            return Ok(Self { path: dir.to_path_buf(), _open: None });
        }
        let open = || {
            let folder = OpenOptions::new()
                .read(true)
                .custom_flags(OFlag::O_DIRECTORY.bits() | OFlag::O_NOFOLLOW.bits())
                .open(dir)?;
            // Whatever else this process starts meanwhile inherits it too: a folder that its mode bits keep closed.
            fcntl(&folder, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(folder)
        };
        let folder = open().map_err(LocalError::io("open", dir))?;
        Ok(Self { path: PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())), _open: Some(folder) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether the path survives the double quotes in which `pg_ctl` puts it on a shell's command line.
fn is_plain(path: &Path) -> bool {
    !path.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b'"' | b'$' | b'`' | b'\\' | b'\n'))
}
