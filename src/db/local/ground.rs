//! What is settled before anything is started: the folder and its lock, the account, the data's version, the programs.

use std::fs;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::binaries::{self, Binaries, Search};
use super::error::LocalError;
use super::lock::DataDirLock;
use super::password::{self, Password};
use super::{cluster, fetch};

/// What is settled before anything is started.
pub(super) struct Ground {
    pub(super) data_dir: PathBuf,
    pub(super) account: Account,
    pub(super) password: Password,
    /// The major version of the data, if there is any.
    major: Option<u32>,
    binaries: Search,
    pub(super) lock: DataDirLock,
}

impl Ground {
    /// Takes the folder and looks around in it. Waits for processes: not for the runtime's threads.
    pub(super) fn prepare(data_dir: &Path, pg_bin: Option<&Path>) -> Result<Self, LocalError> {
        fs::create_dir_all(data_dir).map_err(LocalError::io("create", data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(LocalError::io("find", data_dir))?;
        let lock = DataDirLock::take(&data_dir)?;
        let cluster = cluster::path(&data_dir);
        let account = Account::of_cluster(&cluster)?;
        let major = cluster::major(&cluster)?;
        cluster::remove_unfinished(&data_dir);
        let binaries = match pg_bin {
            Some(dir) => {
                let found = binaries::at(dir, &account)?;
                if let Some(needed) = major.filter(|major| *major != found.version.major) {
                    return Err(LocalError::OtherMajor {
                        cluster,
                        needed,
                        found: binaries::describe(&[found]),
                    });
                }
                Search::Found(found)
            }
            None => binaries::find(&account, major, &fetch::folders(&data_dir, &account)),
        };
        let password = match (Password::read(&data_dir)?, major) {
            (Some(password), _) => password,
            (None, None) => Password::read_or_create(&data_dir)?,
            (None, Some(_)) => return Err(LocalError::NoPassword { path: password::path(&data_dir) }),
        };
        Ok(Self { data_dir, account, password, major, binaries, lock })
    }

    /// The programs that were found, else downloaded ones.
    pub(super) async fn binaries_or_fetch(&self) -> Result<Binaries, LocalError> {
        let unfit = match &self.binaries {
            Search::Found(binaries) => return Ok(binaries.clone()),
            Search::Unfit(unfit) => unfit,
        };
        let major = self.major.unwrap_or(fetch::DEFAULT_MAJOR);
        let folders = fetch::folders(&self.data_dir, &self.account);
        let into = folders.first().unwrap_or(&self.data_dir);
        match (fetch::fetch(major, into, &self.account).await, self.major) {
            (Ok(binaries), _) => Ok(binaries),
            (Err(source), None) => Err(LocalError::NoBinaries { source }),
            (Err(error), Some(needed)) => {
                tracing::debug!(%error, "could not download the version that the data needs");
                let cluster = cluster::path(&self.data_dir);
                Err(LocalError::OtherMajor { cluster, needed, found: binaries::describe(unfit) })
            }
        }
    }
}
