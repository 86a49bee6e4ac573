//! The processes of a private Postgres, by its `postmaster.pid` and `/proc`.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::Error;

/// How a backend of the service calls itself, behind the cluster's name: the role and the database of a private cluster.
const BACKEND: &str = ": tidegate tidegate ";
/// How the service names the folder of a socket that cannot be in the cluster.
const SOCKET_FOLDER: &str = "tidegate-";

/// A running Postgres.
#[derive(Debug, Clone)]
pub(super) struct Postgres {
    pid: i32,
    program: PathBuf,
    arguments: Vec<String>,
    uid: u32,
    gid: u32,
    /// The folder of its socket, which may be beside the cluster.
    socket_folder: Option<PathBuf>,
}

/// Processes that stand still as long as this value lives.
pub(super) struct Stalled(Vec<i32>);

impl Drop for Stalled {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    }
}

impl Postgres {
    /// The one whose data are in this folder; `None`: it does not run.
    pub(super) fn of_cluster(cluster: &Path) -> Option<Self> {
        let file = std::fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
        let pid: i32 = file.lines().next()?.trim().parse().ok()?;
        let folder = format!("/proc/{pid}");
        let line = std::fs::read(format!("{folder}/cmdline")).ok()?;
        let arguments = line.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
        let arguments: Vec<String> =
            arguments.skip(1).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
        let owner = std::fs::metadata(&folder).ok()?;
        let program = std::fs::read_link(format!("{folder}/exe")).ok()?;
        // postmaster.pid: pid, data, start, port, folder of the socket.
        let socket_folder = file.lines().nth(4).map(PathBuf::from);
        Some(Self { pid, program, arguments, uid: owner.uid(), gid: owner.gid(), socket_folder })
    }

    /// Kills a backend, or another of its processes where nobody is connected.
    pub(super) fn crash(&self) -> Result<(), Error> {
        let children = self.children();
        let backend = children.iter().find(|pid| title(**pid).contains(BACKEND)).or(children.last());
        let victim = backend.ok_or_else(|| Error::Started("Postgres has no process to kill".to_owned()))?;
        signal(*victim, Signal::SIGKILL);
        Ok(())
    }

    /// Makes all its processes stand still.
    pub(super) fn stall(&self) -> Stalled {
        let mut pids = vec![self.pid];
        pids.extend(self.children());
        pids.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        Stalled(pids)
    }

    /// Asks it to end its sessions and stop.
    pub(super) fn stop(&self) {
        signal(self.pid, Signal::SIGINT);
    }

    /// Removes the folder of its socket after its end, if the service made one beside the cluster: a service removes that of the
    /// Postgres that it started, and not of one that this program did. Only an empty folder is removed.
    pub(super) fn release(&self) {
        let is_made = |folder: &&PathBuf| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SOCKET_FOLDER))
        };
        if let Some(folder) = self.socket_folder.as_ref().filter(is_made) {
            let _gone = std::fs::remove_dir(folder);
        }
    }

    /// Whether it runs.
    pub(super) fn is_running(&self) -> bool {
        !title(self.pid).is_empty()
    }

    /// Starts it as it was started before.
    pub(super) fn start(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().env("LC_ALL", "C").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        if nix::unistd::Uid::effective().is_root() {
            command.gid(self.gid).uid(self.uid);
        }
        command.spawn()
    }

    fn children(&self) -> Vec<i32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| parent(*pid) == Some(self.pid)).collect()
    }
}

/// The parent of a process (proc_pid_stat(5), the second field behind the name).
fn parent(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// The command line of a process; empty: it has ended.
fn title(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Sends a signal to a process that may have ended.
fn signal(pid: i32, signal: Signal) {
    let _ended = kill(Pid::from_raw(pid), signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_and_the_title_of_a_process_are_found() {
        let own = std::process::id() as i32;
        assert_eq!(parent(own), Some(nix::unistd::getppid().as_raw()));
        assert!(title(own).contains("loadtest"), "{}", title(own));
        assert_eq!((parent(i32::MAX), title(i32::MAX)), (None, String::new()));
        assert!(Postgres::of_cluster(Path::new("/nonexistent")).is_none());
    }

    #[test]
    fn what_stands_still_goes_on_afterwards() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let state = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().rsplit_once(") ").unwrap().1[..1]
                .to_owned()
        };
        signal(pid, Signal::SIGSTOP);
        while state() != "T" {
            std::thread::yield_now();
        }
        drop(Stalled(vec![pid]));
        while state() == "T" {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
