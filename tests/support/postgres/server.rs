//! Whole servers for the tests that break one, and the folders that they run in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate::db::local::{LocalCluster, running_url};
use uuid::Uuid;

use super::guardian::{locked, root, watch};
use super::run::copy_pristine;

/// A whole server for one test, which may stop it, kill it or change its settings. It ends with its value.
pub(crate) struct PrivateServer {
    // Dropped before the folder, which can only be cleaned up when it is not locked.
    cluster: Option<LocalCluster>,
    scratch: Scratch,
    url: String,
    pid: i32,
}

impl PrivateServer {
    /// Starts a server with further settings, such as `("wal_level", "logical")`. They win over the service's own.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_as(settings, |_| {}).await
    }

    /// As [`Self::start`], after `prepare` has put files into the cluster's folder.
    pub(crate) async fn start_as(settings: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::with_cluster(settings).await;
        prepare(&scratch.path().join("postgres"));
        let cluster = LocalCluster::start(scratch.path(), None).await.unwrap();
        let url = cluster.url().to_owned();
        let pid = postmaster_pid(scratch.path()).unwrap();
        Self { cluster: Some(cluster), scratch, url, pid }
    }

    /// How to reach the database `tidegate`, by the unix socket. It stays the same unless another process takes the port while
    /// the server is down.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How to reach it by TCP.
    pub(crate) fn tcp_url(&self) -> String {
        running_url(self.scratch.path()).unwrap()
    }

    /// The postmaster.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Ends the server as a crash would: no checkpoint, no goodbye to its clients. Returns when it is gone.
    pub(crate) async fn stop_immediate(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            cluster.stop_now();
            let deadline = Instant::now() + Duration::from_secs(10);
            while postmaster_pid(self.scratch.path()).is_some() {
                assert!(Instant::now() < deadline, "the server did not stop");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Starts the server again after [`Self::stop_immediate`], or after its postmaster was killed.
    pub(crate) async fn start_again(&mut self) {
        // The lock on the folder goes first.
        drop(self.cluster.take());
        let cluster = LocalCluster::start(self.scratch.path(), None).await.unwrap();
        self.url = cluster.url().to_owned();
        self.pid = postmaster_pid(self.scratch.path()).unwrap();
        self.cluster = Some(cluster);
    }
}

/// A `DATA_DIR` for one test. Whatever server runs in it is ended with the value, and the folder removed.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        watch();
        // Short, so that the socket fits in the cluster's folder: a checkout's own path may be long.
        let path = root().join("scratch").join(&Uuid::new_v4().simple().to_string()[..12]);
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    /// A folder with a cluster in it that was never started, which is quicker than making one.
    pub(crate) async fn with_cluster(settings: &[(&str, &str)]) -> Self {
        let scratch = Self::new();
        let _making = locked("start.lock");
        copy_pristine(&scratch.path, settings).await;
        scratch
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        end_server(&self.path);
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The first line of `postmaster.pid`.
pub(crate) fn postmaster_pid(data_dir: &Path) -> Option<i32> {
    fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// Ends whatever server runs in a folder, even one that a test has halted.
pub(super) fn end_server(data_dir: &Path) {
    let Some(pid) = postmaster_pid(data_dir) else { return };
    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    let dir = data_dir.to_path_buf();
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match LocalCluster::start(&dir, None).await {
                Ok(cluster) => drop(cluster.stop().await),
                // What cannot be stopped in order is killed outright; the pid file is of this run's making.
                Err(_) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
            }
        });
        std::io::Result::Ok(())
    });
    let _ = ended.join();
}
