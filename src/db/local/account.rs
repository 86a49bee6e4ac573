//! The user that Postgres runs as.
//!
//! Postgres refuses root. An ordinary user runs its own cluster; root runs it as whoever owns the cluster already, else as
//! `postgres`, else as `nobody`. That account then owns the cluster's folder and nothing else: it may not even be able to
//! enter `DATA_DIR`, and since `nobody` is shared with other daemons, whatever root reads or writes in the folder later is
//! opened without following links.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, fchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use super::cluster;
use super::error::LocalError;

/// What a child keeps of the environment. The rest stays with the service: it may hold secrets, and `PG…` variables meant
/// for a client would bend the server.
const KEPT_VARIABLES: [&str; 5] = ["PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];

/// The user that owns and runs the cluster.
#[derive(Debug, Clone)]
pub(super) struct Account {
    uid: Uid,
    gid: Gid,
    /// Whether children must change to it, which only root can and must.
    switches: bool,
}

impl Account {
    /// Who shall run the cluster at `cluster`, which may not exist yet.
    pub(super) fn of_cluster(cluster: &Path) -> Result<Self, LocalError> {
        let me = Uid::effective();
        match cluster.symlink_metadata() {
            Ok(_) if me.is_root() && cluster::is_empty(cluster).unwrap_or(false) => Self::of_new_cluster(me),
            Ok(found) => {
                let owner = Uid::from_raw(found.uid());
                if owner.is_root() && me.is_root() {
                    return Err(LocalError::OwnedByRoot { path: cluster.to_path_buf() });
                }
                if !me.is_root() && owner != me {
                    return Err(other_owner(cluster, owner));
                }
                Ok(Self { uid: owner, gid: Gid::from_raw(found.gid()), switches: me.is_root() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::of_new_cluster(me),
            Err(error) => Err(LocalError::io("look at", cluster)(error)),
        }
    }

    fn of_new_cluster(me: Uid) -> Result<Self, LocalError> {
        if !me.is_root() {
            return Ok(Self { uid: me, gid: Gid::effective(), switches: false });
        }
        ["postgres", "nobody"]
            .into_iter()
            .filter_map(|name| User::from_name(name).ok().flatten())
            .find(|user| !user.uid.is_root())
            .map(|user| Self { uid: user.uid, gid: user.gid, switches: true })
            .ok_or(LocalError::NoAccount)
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

    /// Whether the account can enter `dir` by its path. Tried with a child rather than worked out from mode bits, which
    /// know nothing of access lists.
    pub(super) fn can_enter(&self, dir: &Path) -> bool {
        let mut probe = Command::new("/bin/sh");
        self.adopt(&mut probe);
        probe.args(["-c", ":"]).current_dir(dir).status().is_ok_and(|status| status.success())
    }

    /// Hands the path over to the account; it must be one that only this service can have made.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        if self.switches { chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw())) } else { Ok(()) }
    }

    /// Hands an open file over to the account.
    pub(super) fn own_file(&self, file: &File) -> io::Result<()> {
        if self.switches { fchown(file, Some(self.uid.as_raw()), Some(self.gid.as_raw())) } else { Ok(()) }
    }
}

/// The refusal for something that another user's run left behind.
pub(super) fn other_owner(path: &Path, owner: Uid) -> LocalError {
    LocalError::OtherOwner { path: path.to_path_buf(), owner: name_of(owner), me: name_of(Uid::effective()) }
}

fn name_of(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
