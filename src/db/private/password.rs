//! The password of the cluster's only role, in `DATA_DIR/postgres.password`.
//!
//! It is created before the cluster, so that no cluster exists without it. It belongs to the service's user alone: read access
//! to it is access to the database.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::account::Account;
use super::error::PrivateError;

/// The password; never printed, not even by `Debug`.
pub(super) struct Password(String);

impl Password {
    /// Letters and digits only: it needs no escaping in a URL.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The stored password; `None`: there is none.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, PrivateError> {
        let path = path(data_dir);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(Self(text.trim().to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PrivateError::io("read", &path)(error)),
        }
    }

    /// The stored password, or a new one, which is synced when this returns.
    pub(super) fn read_or_create(data_dir: &Path) -> Result<Self, PrivateError> {
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
        write().map_err(PrivateError::io("write", &path))?;
        Ok(password)
    }

    /// An open file with the password that `account` may read and that has no name any more. initdb reads it as its standard
    /// input, so nothing has to be removed and no folder has to be opened to the account.
    pub(super) fn open_for(&self, account: &Account, data_dir: &Path) -> Result<File, PrivateError> {
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
        write().map_err(PrivateError::io("write", &path))
    }
}

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres.password")
}
