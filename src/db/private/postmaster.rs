//! The running server, as described by `postmaster.pid`.
//!
//! Postgres writes the file at its start and removes it at its stop; after a crash it stays. Its lines: pid, data folder, start
//! time, port, socket folder, listen address, shared memory key, status.
//!
//! A pid alone proves nothing: after a reboot, or in a new container, another process may have it, and Postgres would then
//! refuse to start for ever. The service's postmaster therefore carries a mark on its command line, which any user may read;
//! `/proc/<pid>/cwd` needs a capability that containers lack.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::account::Account;
use super::error::PrivateError;

const FILE: &str = "postmaster.pid";

/// A pid that no system assigns: a file with it is certainly stale.
const UNUSED_PID: &str = "2147483646";

/// The content of `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    pub(super) port: Option<u16>,
    pub(super) socket_folder: Option<PathBuf>,
    pub(super) status: Status,
}

/// The status line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ready,
    Stopping,
    /// Starting, or not written yet.
    Other,
}

/// The state of a postmaster's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    Gone,
    /// Another process has its pid.
    Replaced,
    Alive,
}

impl PidFile {
    /// Reads the file; `None`: there is none, or Postgres has not finished writing it.
    pub(super) fn read(cluster: &Path) -> Result<Option<Self>, PrivateError> {
        match read_inside(cluster, FILE) {
            Ok(text) => Ok(parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PrivateError::io("read", &cluster.join(FILE))(error)),
        }
    }

    /// The state of the postmaster of the cluster with this mark.
    pub(super) fn liveness(&self, mark: &str) -> Liveness {
        let pid = Pid::from_raw(self.pid);
        if self.pid <= 0 || kill(pid, None) == Err(Errno::ESRCH) {
            return Liveness::Gone;
        }
        let marked = command_line(self.pid)
            .is_some_and(|line| line.windows(mark.len()).any(|at| at == mark.as_bytes()));
        if marked { Liveness::Alive } else { Liveness::Replaced }
    }
}

/// The mark of the cluster in this folder: the folder's identity, which survives a rename of `DATA_DIR`.
pub(super) fn mark(cluster: &Path) -> Result<String, PrivateError> {
    let found = cluster.metadata().map_err(PrivateError::io("look at", cluster))?;
    Ok(format!("tidegate-{:x}-{:x}", found.dev(), found.ino()))
}

/// Invalidates the file of a dead postmaster, whichever process has its pid now.
///
/// It is rewritten rather than removed: Postgres finds the dead pid, and still reads the rest of the file to find the shared
/// memory of backends that may have outlived their postmaster.
pub(super) fn invalidate(cluster: &Path, account: &Account) -> Result<(), PrivateError> {
    let rewrite = || {
        let text = read_inside(cluster, FILE)?;
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        replace_inside(cluster, FILE, &format!("{UNUSED_PID}\n{rest}"), account)
    };
    rewrite().map_err(PrivateError::io("correct", &cluster.join(FILE)))
}

/// Sends a signal to a postmaster that was seen alive.
pub(super) fn signal(pid: i32, signal: Signal) {
    if pid > 1 {
        // It may have ended since; then nothing is left to do.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Reads a file of the cluster without following links, which its account may have put there.
pub(super) fn read_inside(cluster: &Path, name: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_inside(cluster, name)?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn open_inside(cluster: &Path, name: &str) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(cluster.join(name))
}

/// Replaces a file of the cluster atomically; the account owns it.
pub(super) fn replace_inside(cluster: &Path, name: &str, text: &str, account: &Account) -> io::Result<()> {
    let next = cluster.join(format!("{name}.new"));
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    account.own_file(&file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, cluster.join(name))
}

fn parse(text: &str) -> Option<PidFile> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let port = lines.nth(2).and_then(|line| line.trim().parse().ok());
    let socket_folder = lines.next().map(str::trim).filter(|line| !line.is_empty()).map(PathBuf::from);
    let status = match lines.nth(2).map(str::trim) {
        Some("ready") => Status::Ready,
        Some("stopping") => Status::Stopping,
        _ => Status::Other,
    };
    Some(PidFile { pid, port, socket_folder, status })
}

/// The arguments of a process, which include the mark; empty for one that ended and was not yet reaped.
fn command_line(pid: i32) -> Option<Vec<u8>> {
    if cfg!(target_os = "linux") {
        return fs::read(format!("/proc/{pid}/cmdline")).ok();
    }
    let output = Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output().ok()?;
    Some(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_at_every_stage_of_its_writing() {
        let whole = "42\n/data\n1700000000\n5433\n/tmp/s\n127.0.0.1\n  123 45\nready   \n";
        let ready = PidFile {
            pid: 42,
            port: Some(5433),
            socket_folder: Some(PathBuf::from("/tmp/s")),
            status: Status::Ready,
        };
        assert_eq!(parse(whole), Some(ready));
        for end in 3..whole.len() {
            let part = parse(&whole[..end]).unwrap();
            assert_eq!(part.pid, 42);
        }
        assert_eq!(parse(""), None);
        assert_eq!(parse(&whole.replace("ready", "stopping")).unwrap().status, Status::Stopping);
    }
}
