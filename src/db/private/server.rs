//! The cluster's server: started, found and stopped with `pg_ctl`.
//!
//! `pg_ctl` puts the postmaster in a session of its own: Ctrl-C in the terminal reaches the service only, which must drain
//! before its database stops. Every wait here is bounded.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use postgresql_commands::pg_ctl::{Mode, PgCtlBuilder, ShutdownMode};
use postgresql_commands::{CommandBuilder, CommandExecutor};

use super::account::Account;
use super::binaries::Binaries;
use super::child_path::ChildPath;
use super::cluster;
use super::error::{PrivateError, printed};
use super::lock::FORK_LIMIT;
use super::postmaster::{self, Liveness, PidFile, Status, invalidate};
use super::socket;

const LOG: &str = "postgres.log";
const LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;
const TAIL_BYTES: u64 = 4 * 1024;
const TAIL_LINES: usize = 12;

/// Recovery replays up to `max_wal_size` of log.
const START_TIMEOUT: Duration = Duration::from_secs(300);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// An immediate stop writes nothing; the postmaster kills backends that linger for 5 s.
const STOP_NOW_TIMEOUT: Duration = Duration::from_secs(8);
/// The time for which the backends of a killed postmaster may hold its shared memory.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(20);
const PORT_ATTEMPTS: u32 = 5;
const POLL: Duration = Duration::from_millis(50);

/// The server of one cluster.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) cluster: PathBuf,
    pub(super) binaries: Binaries,
    pub(super) account: Account,
    mark: String,
}

impl Server {
    pub(super) fn new(cluster: PathBuf, binaries: Binaries, account: Account) -> Result<Self, PrivateError> {
        let mark = postmaster::mark(&cluster)?;
        Ok(Self { cluster, binaries, account, mark })
    }

    /// The postmaster that an earlier service left running, once it is ready; `None`: there is none any more.
    pub(super) fn find_running(&self) -> Result<Option<PidFile>, PrivateError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let Some(file) = PidFile::read(&self.cluster)? else { return Ok(None) };
            match file.liveness(&self.mark) {
                Liveness::Gone => return Ok(None),
                Liveness::Replaced => {
                    tracing::warn!(
                        postgres.pid = file.pid,
                        "postmaster.pid names another process; it is stale"
                    );
                    return Ok(None);
                }
                Liveness::Alive => {}
            }
            match file.status {
                Status::Ready => return Ok(Some(file)),
                Status::Stopping => {
                    self.stop(file.pid)?;
                    return Ok(None);
                }
                Status::Other if Instant::now() >= deadline => {
                    self.stop(file.pid)?;
                    return Ok(None);
                }
                Status::Other => sleep(POLL),
            }
        }
    }

    /// Starts the server and returns when it accepts connections.
    pub(super) fn start(&self) -> Result<PidFile, PrivateError> {
        // Another process has the pid now, or the killed postmaster is not reaped yet.
        if PidFile::read(&self.cluster)?.is_some_and(|file| file.liveness(&self.mark) != Liveness::Alive) {
            invalidate(&self.cluster, &self.account)?;
        }
        self.rotate_log();
        let socket_folder = socket::folder_for(&self.cluster, &self.mark, &self.account)?;
        socket::clear(&socket_folder);
        let orphans_deadline = Instant::now() + ORPHANS_TIMEOUT;
        // URLs name the last port. A child of this process that is not in its `exec` yet has copies of sockets: their port is free in a moment.
        let mut port = cluster::last_port(&self.cluster).filter(|port| is_free_soon(*port));
        let mut port_attempts = 0;
        loop {
            let chosen = match port {
                Some(port) => port,
                None => free_port().map_err(PrivateError::io("find a free port for", &self.cluster))?,
            };
            cluster::write_settings(&self.cluster, &self.account, chosen, &socket_folder)?;
            let log_start = fs::symlink_metadata(self.cluster.join(LOG)).map_or(0, |log| log.len());
            let Err(printed) = self.pg_ctl_start()? else {
                return PidFile::read(&self.cluster)?.ok_or_else(|| self.start_error(log_start, ""));
            };
            let error = self.start_error(log_start, &printed);
            let PrivateError::Start { tail, .. } = &error else { return Err(error) };
            if tail.contains("shared memory block") && Instant::now() < orphans_deadline {
                sleep(Duration::from_millis(500));
            } else if tail.contains("TCP/IP sockets") && port_attempts < PORT_ATTEMPTS {
                port_attempts += 1;
                port = port.filter(|port| port_attempts == 1 && is_free_soon(*port));
            } else {
                return Err(error);
            }
        }
    }

    /// Stops the server: by `fast`, which ends sessions and checkpoints; then by `immediate`, which leaves recovery to the next
    /// start; then by force. None of them loses a committed row.
    pub(super) fn stop(&self, pid: i32) -> Result<(), PrivateError> {
        let mut output = String::new();
        for (mode, limit) in [(ShutdownMode::Fast, STOP_TIMEOUT), (ShutdownMode::Immediate, STOP_NOW_TIMEOUT)]
        {
            if !self.lives(pid)? {
                return Ok(());
            }
            match self.pg_ctl(Mode::Stop, |ctl| ctl.shutdown_mode(mode.clone()).timeout(limit.as_secs()))? {
                Ok(()) => return Ok(()),
                Err(printed) => {
                    tracing::warn!(postgres.pid = pid, %mode, "Postgres did not stop in time");
                    output = printed;
                }
            }
        }
        if self.lives(pid)? {
            postmaster::signal(pid, Signal::SIGKILL);
        }
        let deadline = Instant::now() + STOP_NOW_TIMEOUT;
        while self.lives(pid)? {
            if Instant::now() >= deadline {
                return Err(PrivateError::Stop { pid, output });
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// Stops the server without waiting.
    pub(super) fn stop_now(&self, pid: i32) {
        if self.lives(pid).unwrap_or(false) {
            postmaster::signal(pid, Signal::SIGQUIT);
        }
    }

    /// Whether this postmaster still serves the cluster.
    fn lives(&self, pid: i32) -> Result<bool, PrivateError> {
        let file = PidFile::read(&self.cluster)?;
        Ok(file.is_some_and(|file| file.pid == pid && file.liveness(&self.mark) == Liveness::Alive))
    }

    fn pg_ctl_start(&self) -> Result<Result<(), String>, PrivateError> {
        // The mark is on the command line for `PidFile::liveness`; everything else is in files.
        let mark = format!("-c cluster_name={}", self.mark);
        let seconds = START_TIMEOUT.as_secs();
        let path = ChildPath::to(&self.cluster, &self.account)?;
        let log = path.path().join(LOG);
        self.pg_ctl(Mode::Start, |ctl| ctl.log(log).options(&[&mark]).timeout(seconds))
    }

    /// Runs `pg_ctl` and waits; the inner error is its output.
    fn pg_ctl(
        &self,
        mode: Mode,
        with: impl FnOnce(PgCtlBuilder) -> PgCtlBuilder,
    ) -> Result<Result<(), String>, PrivateError> {
        let path = ChildPath::to(&self.cluster, &self.account)?;
        let builder =
            PgCtlBuilder::new().program_dir(&self.binaries.dir).mode(mode).pgdata(path.path()).wait();
        let mut command = with(builder).build();
        self.account.adopt(&mut command);
        Ok(command.execute().map(drop).map_err(|error| printed(&error)))
    }

    fn start_error(&self, log_start: u64, printed: &str) -> PrivateError {
        let tail = tail(&self.cluster, log_start).unwrap_or_default();
        let tail = if tail.trim().is_empty() { printed.to_owned() } else { tail };
        PrivateError::Start { log: self.cluster.join(LOG), tail }
    }

    /// Keeps one older log; a failure does not stop the start.
    fn rotate_log(&self) {
        let log = self.cluster.join(LOG);
        if log.symlink_metadata().is_ok_and(|log| log.len() > LOG_MAX_BYTES) {
            let _ = fs::rename(&log, self.cluster.join(format!("{LOG}.1")));
        }
    }
}

/// The last lines of the log after its first `from` bytes.
fn tail(cluster: &Path, from: u64) -> std::io::Result<String> {
    let mut log = postmaster::open_inside(cluster, LOG)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

/// Whether a port is free, or becomes free within [`FORK_LIMIT`].
fn is_free_soon(port: u16) -> bool {
    let deadline = Instant::now() + FORK_LIMIT;
    loop {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(FORK_LIMIT / 50);
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
