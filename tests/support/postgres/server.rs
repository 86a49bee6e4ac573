//! Whole servers for tests that break one, and their folders.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate::db::private::{PrivateCluster, running_url};
use uuid::Uuid;

use crate::support::service::eventually;

use super::guardian::{locked, root, watch};
use super::run::copy_pristine;

/// A server for one test, which may stop it, kill it or change its settings. It ends with its value.
pub(crate) struct PrivateServer {
    // Dropped before the folder, which can only be cleaned up when it is not locked.
    cluster: Option<PrivateCluster>,
    scratch: Scratch,
    url: String,
    pid: i32,
}

impl PrivateServer {
    /// Starts a server with further settings, such as `("wal_level", "logical")`. They take precedence over the service's own.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_as(settings, |_| {}).await
    }

    /// As [`Self::start`], after `prepare` has put files into the cluster's folder.
    pub(crate) async fn start_as(settings: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::with_cluster(settings).await;
        prepare(&scratch.path().join("postgres"));
        let cluster = PrivateCluster::start(scratch.path()).await.unwrap();
        let url = cluster.url().to_owned();
        let pid = postmaster_pid(scratch.path()).unwrap();
        Self { cluster: Some(cluster), scratch, url, pid }
    }

    /// The URL of the database `tidegate`, by the unix socket. It stays the same unless another process takes the port while
    /// the server is down.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The URL by TCP.
    pub(crate) fn tcp_url(&self) -> String {
        running_url(self.scratch.path()).unwrap()
    }

    /// The pid of the postmaster.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Ends the server like a crash: without a checkpoint. Returns when it is gone.
    pub(crate) async fn stop_immediate(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            cluster.stop_now();
            eventually("the server stops", async || {
                postmaster_pid(self.scratch.path()).is_none().then_some(())
            })
            .await;
        }
    }

    /// Starts the server again after [`Self::stop_immediate`], or after its postmaster was killed.
    pub(crate) async fn start_again(&mut self) {
        // The lock on the folder is released first.
        drop(self.cluster.take());
        let cluster = PrivateCluster::start(self.scratch.path()).await.unwrap();
        self.url = cluster.url().to_owned();
        self.pid = postmaster_pid(self.scratch.path()).unwrap();
        self.cluster = Some(cluster);
    }
}

/// A `DATA_DIR` for one test. Its server is stopped and the folder removed with its value.
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

    /// A folder with a cluster that was never started, which is quicker than creating one.
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

/// Ends the server of a folder, even one that a test has stopped by a signal.
pub(super) fn end_server(data_dir: &Path) {
    let Some(pid) = postmaster_pid(data_dir) else { return };
    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    let dir = data_dir.to_path_buf();
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match PrivateCluster::start(&dir).await {
                Ok(cluster) => drop(cluster.stop().await),
                // A server that cannot be stopped in order is killed; the pid file is from this run.
                Err(_) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
            }
        });
        std::io::Result::Ok(())
    });
    let _ = ended.join();
}
