//! A path to the cluster's folder for processes of another account.
//!
//! The cluster's account may not be able to enter `DATA_DIR`, for example a checkout in `/root`. On Linux, root then opens the
//! folder and leaves the descriptor open for the child, whose path to it is `/proc/self/fd/N`: it needs no right on the folders
//! above. The postmaster keeps the descriptor for life, so the path stays valid for reloads and its children.
//!
//! It also replaces paths that `pg_ctl` could not quote for its shell.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use super::account::Account;
use super::error::PrivateError;

/// A path to a folder, valid in child processes while this value lives.
#[derive(Debug)]
pub(super) struct ChildPath {
    path: PathBuf,
    _open: Option<File>,
}

impl ChildPath {
    pub(super) fn to(dir: &Path, account: &Account) -> Result<Self, PrivateError> {
        if !cfg!(target_os = "linux") || (is_plain(dir) && account.can_enter(dir)) {
            return Ok(Self { path: dir.to_path_buf(), _open: None });
        }
        let open = || {
            let folder = OpenOptions::new()
                .read(true)
                .custom_flags(OFlag::O_DIRECTORY.bits() | OFlag::O_NOFOLLOW.bits())
                .open(dir)?;
            // Other children of this process inherit it too; the folder's mode bits keep it closed.
            fcntl(&folder, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(folder)
        };
        let folder = open().map_err(PrivateError::io("open", dir))?;
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
