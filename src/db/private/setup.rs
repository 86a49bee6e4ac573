//! The preparation of a start: the folder and its lock, the account, the data's version, the programs.

use std::fs;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::binaries::{self, Binaries, Search};
use super::error::PrivateError;
use super::lock::DataDirLock;
use super::password::{self, Password};
use super::{cluster, download};

/// The result of the preparation.
pub(super) struct Setup {
    pub(super) data_dir: PathBuf,
    pub(super) account: Account,
    pub(super) password: Password,
    /// The major version of existing data.
    major: Option<u32>,
    binaries: Search,
    pub(super) lock: DataDirLock,
}

impl Setup {
    /// Locks the folder and examines it. Waits for processes, so it needs a blocking thread.
    pub(super) fn prepare(data_dir: &Path) -> Result<Self, PrivateError> {
        fs::create_dir_all(data_dir).map_err(PrivateError::io("create", data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(PrivateError::io("find", data_dir))?;
        let lock = DataDirLock::take(&data_dir)?;
        let cluster = cluster::path(&data_dir);
        let account = Account::of_cluster(&cluster)?;
        let major = cluster::major(&cluster)?;
        cluster::remove_unfinished(&data_dir);
        let binaries = binaries::find(&account, major, &download::folders(&data_dir, &account));
        let password = match (Password::read(&data_dir)?, major) {
            (Some(password), _) => password,
            (None, None) => Password::read_or_create(&data_dir)?,
            (None, Some(_)) => return Err(PrivateError::NoPassword { path: password::path(&data_dir) }),
        };
        Ok(Self { data_dir, account, password, major, binaries, lock })
    }

    /// The programs found, or downloaded ones.
    pub(super) async fn binaries_or_download(&self) -> Result<Binaries, PrivateError> {
        let unfit = match &self.binaries {
            Search::Found(binaries) => return Ok(binaries.clone()),
            Search::Unfit(unfit) => unfit,
        };
        let major = self.major.unwrap_or(download::DEFAULT_MAJOR);
        let folders = download::folders(&self.data_dir, &self.account);
        let into = folders.first().unwrap_or(&self.data_dir);
        match (download::download(major, into, &self.account).await, self.major) {
            (Ok(binaries), _) => Ok(binaries),
            (Err(source), None) => Err(PrivateError::NoBinaries { source }),
            (Err(error), Some(needed)) => {
                tracing::debug!(%error, "could not download the version that the data needs");
                let cluster = cluster::path(&self.data_dir);
                Err(PrivateError::OtherMajor { cluster, needed, found: binaries::describe(unfit) })
            }
        }
    }
}
