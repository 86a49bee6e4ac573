//! The password of the cluster's only role, in `DATA_DIR/postgres.password`.
//!
//! Made before the cluster, so that no cluster exists whose password was never written. Whoever may read the file may
//! connect; it belongs to the service's user alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::account::Account;
use super::error::LocalError;

/// The secret; never printed, not even by `Debug`.
pub(super) struct Password(String);

impl Password {
    /// Letters and digits only: it needs no escaping in a URL.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// What is on disk, or nothing.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, LocalError> {
        let path = path(data_dir);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(Self(text.trim().to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LocalError::io("read", &path)(error)),
        }
    }

    /// What is on disk, else a new one that is there for good when this returns.
    pub(super) fn read_or_create(data_dir: &Path) -> Result<Self, LocalError> {
        if let Some(password) = Self::read(data_dir)? {
            return Ok(password);
        }
        let password = Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()));
        let path = path(data_dir);
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            writeln!(file, "{}", password.0)?;
            file.sync_all()?;
            File::open(data_dir)?.sync_all()
        };
        write().map_err(LocalError::io("write", &path))?;
        Ok(password)
    }

    /// An open file with the password that `account` may read and that no longer has a name: initdb gets it as its
    /// standard input, so nothing is left to clean up and no folder needs to let the account in.
    pub(super) fn hand_to(&self, account: &Account, data_dir: &Path) -> Result<File, LocalError> {
        let path = data_dir.join(format!("postgres.password-{}", Uuid::new_v4().simple()));
        let write = || {
            let mut file =
                OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            fs::remove_file(&path)?;
            writeln!(file, "{}", self.0)?;
            file.rewind()?;
            account.own_file(&file)?;
            Ok(file)
        };
        write().map_err(LocalError::io("write", &path))
    }
}

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres.password")
}
