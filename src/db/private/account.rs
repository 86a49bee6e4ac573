//! The account that Postgres runs as.
//!
//! Postgres refuses root. An ordinary user runs its own cluster; root runs it as the cluster's owner, else as `postgres`, else
//! as `nobody`. That account owns the cluster's folder and nothing else, and may not even be able to enter `DATA_DIR`. `nobody`
//! is shared with other daemons, so root reads and writes files in the folder without following links.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, fchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use super::error::PrivateError;

/// The environment variables that a child inherits. The others may hold secrets, and `PG…` variables meant for a client would
/// change the server.
const KEPT_VARIABLES: [&str; 5] = ["PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];

/// The account that owns and runs the cluster.
#[derive(Debug, Clone)]
pub(super) struct Account {
    uid: Uid,
    gid: Gid,
    /// Whether children have to switch to it, which only root can do.
    switches: bool,
}

impl Account {
    /// The account for the cluster at `cluster`, which may not exist yet.
    pub(super) fn of_cluster(cluster: &Path) -> Result<Self, PrivateError> {
        let me = Uid::effective();
        match cluster.symlink_metadata() {
            Ok(_) if me.is_root() && is_empty_folder(cluster) => Self::of_new_cluster(me),
            Ok(found) => {
                let owner = Uid::from_raw(found.uid());
                if owner.is_root() && me.is_root() {
                    return Err(PrivateError::OwnedByRoot { path: cluster.to_path_buf() });
                }
                if !me.is_root() && owner != me {
                    return Err(other_owner(cluster, owner));
                }
                Ok(Self { uid: owner, gid: Gid::from_raw(found.gid()), switches: me.is_root() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::of_new_cluster(me),
            Err(error) => Err(PrivateError::io("look at", cluster)(error)),
        }
    }

    fn of_new_cluster(me: Uid) -> Result<Self, PrivateError> {
        if !me.is_root() {
            return Ok(Self { uid: me, gid: Gid::effective(), switches: false });
        }
        ["postgres", "nobody"]
            .into_iter()
            .filter_map(|name| User::from_name(name).ok().flatten())
            .find(|user| !user.uid.is_root())
            .map(|user| Self { uid: user.uid, gid: user.gid, switches: true })
            .ok_or(PrivateError::NoAccount)
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// Makes `command` run as this account, in a folder that any account may enter.
    ///
    /// `Command` also drops root's supplementary groups when it changes the user.
    pub(super) fn adopt(&self, command: &mut Command) {
        command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        for name in KEPT_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.switches {
            command.gid(self.gid.as_raw()).uid(self.uid.as_raw());
        }
    }

    /// Whether the account can enter `dir` by its path. Tested with a child process, as mode bits do not include access lists.
    pub(super) fn can_enter(&self, dir: &Path) -> bool {
        let mut probe = Command::new("/bin/sh");
        self.adopt(&mut probe);
        probe.args(["-c", ":"]).current_dir(dir).status().is_ok_and(|status| status.success())
    }

    /// Changes the owner of a path to the account. Only this service may have created the path.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        if self.switches { chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw())) } else { Ok(()) }
    }

    /// Changes the owner of an open file to the account.
    pub(super) fn own_file(&self, file: &File) -> io::Result<()> {
        if self.switches { fchown(file, Some(self.uid.as_raw()), Some(self.gid.as_raw())) } else { Ok(()) }
    }
}

fn is_empty_folder(path: &Path) -> bool {
    path.read_dir().is_ok_and(|mut entries| entries.next().is_none())
}

/// The error for a file or folder of another user.
pub(super) fn other_owner(path: &Path, owner: Uid) -> PrivateError {
    PrivateError::OtherOwner {
        path: path.to_path_buf(),
        owner: name_of(owner),
        me: name_of(Uid::effective()),
    }
}

fn name_of(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
