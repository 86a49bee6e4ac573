//! A service with a private Postgres, both in a folder of their own, which is removed with them.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::super::Error;
use super::processes::Postgres;
use crate::health::Health;
use crate::program::Program;

/// The time limit of a start: a first one creates a cluster.
const STARTED: Duration = Duration::from_secs(120);
/// The time limit of a stop, which stores what is pending.
const STOPPED: Duration = Duration::from_secs(60);
/// The interval of looks.
const LOOK: Duration = Duration::from_millis(50);
/// Variables that the service inherits. Its settings are those of this run alone.
const KEPT_VARIABLES: [&str; 6] = ["PATH", "HOME", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "RUST_BACKTRACE"];
/// Lines of the log that an error quotes.
const QUOTED: usize = 5;

/// The service. Dropped, it is killed, and so is its Postgres.
pub(super) struct Service {
    program: Program,
    port: u16,
    settings: Vec<(String, String)>,
    folder: PathBuf,
    keeps: bool,
    child: Option<Child>,
    /// Postgres, where it was started by this process.
    postgres: Option<std::process::Child>,
}

impl Service {
    /// Makes its folder. Postgres may run as another user, who has to reach it.
    pub(super) fn new(
        program: Program,
        port: u16,
        settings: Vec<(String, String)>,
        keeps: bool,
    ) -> Result<Self, Error> {
        let name = format!("loadtest-chaos-{}", uuid::Uuid::new_v4().simple());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        if keeps {
            eprintln!("the service's folder is {}", folder.display());
        }
        Ok(Self { program, port, settings, folder, keeps, child: None, postgres: None })
    }

    /// Starts the service, and waits until it takes events.
    pub(super) async fn start(&mut self, health: &Health) -> Result<(), Error> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(self.program.path());
        command.env_clear().current_dir(&self.folder);
        for name in KEPT_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .envs(self.settings.iter().cloned())
            .env("DATA_DIR", self.data_dir())
            .env("HOST", "127.0.0.1")
            .env("PORT", self.port.to_string())
            .env("FAULTS", "on")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for this process, which then stops it in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let deadline = Instant::now() + STARTED;
        while !matches!(health.pending().await, Ok(Some(_))) {
            if let Some(status) = child.try_wait()? {
                return Err(self.failed(&format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed("does not take events"));
            }
            sleep(LOOK).await;
        }
        self.child = Some(child);
        Ok(())
    }

    /// The URL of its database.
    pub(super) fn database_url(&self) -> Result<String, Error> {
        let mut command = std::process::Command::new(self.program.path());
        command
            .arg("url")
            .current_dir(&self.folder)
            .env_remove("DATABASE_URL")
            .env("DATA_DIR", self.data_dir());
        let output = command.output()?;
        if !output.status.success() {
            return Err(self.failed("has no database"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Kills it, without a chance to do anything.
    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Its Postgres.
    pub(super) fn postgres(&self) -> Result<Postgres, Error> {
        Postgres::of_cluster(&self.cluster()).ok_or_else(|| self.failed("has no running Postgres"))
    }

    /// Stops Postgres and starts it again.
    pub(super) async fn restart_postgres(&mut self) -> Result<(), Error> {
        let postgres = self.postgres()?;
        postgres.stop();
        self.postgres_stopped(&postgres).await?;
        let started = postgres.start()?;
        self.postgres = Some(started);
        Ok(())
    }

    /// Stops the service in order, and then Postgres, unless it stopped with it. Removes the folder.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        if let Some(mut child) = self.child.take() {
            if let Some(pid) = child.id() {
                terminate(pid);
            }
            match tokio::time::timeout(STOPPED, child.wait()).await {
                Ok(ended) => {
                    let status = ended?;
                    if !status.success() {
                        return Err(self.failed(&format!("stopped with {status}")));
                    }
                }
                Err(_) => return Err(self.failed("does not stop")),
            }
        }
        if let Some(postgres) = Postgres::of_cluster(&self.cluster()) {
            postgres.stop();
            self.postgres_stopped(&postgres).await?;
            postgres.release();
        }
        Ok(())
    }

    async fn postgres_stopped(&mut self, postgres: &Postgres) -> Result<(), Error> {
        let deadline = Instant::now() + STOPPED;
        while postgres.is_running() {
            // A child of this process has to be reaped before it is gone.
            if let Some(child) = &mut self.postgres {
                child.try_wait()?;
            }
            if Instant::now() > deadline {
                return Err(self.failed("has a Postgres that does not stop"));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn cluster(&self) -> PathBuf {
        self.data_dir().join("postgres")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("service.log")
    }

    /// An error with the end of the log.
    fn failed(&self, what: &str) -> Error {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(QUOTED)..).unwrap_or_default();
        Error::Started(format!("{what}; the end of its log:\n{}", last.join("\n")))
    }
}

fn terminate(pid: u32) {
    let _ended = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ended = child.start_kill();
        }
        if let Some(postgres) = Postgres::of_cluster(&self.cluster()) {
            postgres.stop();
            let deadline = Instant::now() + Duration::from_secs(10);
            while postgres.is_running() && Instant::now() < deadline {
                if let Some(child) = &mut self.postgres {
                    let _ended = child.try_wait();
                }
                std::thread::sleep(LOOK);
            }
            postgres.release();
        }
        if !self.keeps {
            let _gone = fs::remove_dir_all(&self.folder);
        }
    }
}
