//! The private Postgres of a first run: a cluster under `DATA_DIR`, for a service without `DATABASE_URL`.
//!
//! Files in `DATA_DIR`:
//!
//! ```text
//! tidegate.lock        lock of the service that uses the folder, with its pid
//! postgres.password    password of the role `tidegate`, readable by the service's user only
//! postgres/            cluster, owned by the account that runs it, with postgres.log
//! postgres.new-…/      cluster that initdb is creating
//! postgres-bin/        downloaded programs, a folder per version
//! ```
//!
//! Rules, in the order of a start:
//!
//! 1. One service per `DATA_DIR`: a second one is rejected, with the first one's pid.
//! 2. Postgres never runs as root. Root runs it as the cluster's owner, else as `postgres`, else as `nobody`.
//! 3. Only the major version that wrote the data opens it. A new cluster gets the newest version found; if there is none, one is
//!    downloaded.
//! 4. A cluster is complete or absent: initdb works beside it, and a rename puts it in place.
//! 5. A postmaster that outlived its service is adopted if it accepts a connection, else stopped. Dropping a [`PrivateCluster`]
//!    leaves Postgres running, as a killed service would; only [`PrivateCluster::stop`] and [`PrivateCluster::stop_now`] end it.
//! 6. Every connection needs the password, on the socket and on the loopback port. No other address is listened on.
//!
//! Unix only: it needs Unix accounts, sockets and signals.

mod account;
mod binaries;
mod child_path;
mod cluster;
mod download;
mod error;
mod lock;
mod password;
mod postmaster;
mod server;
mod setup;
mod socket;

use std::fmt;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

pub use self::error::{DownloadError, PrivateError};

use self::cluster::ROLE;
use self::lock::DataDirLock;
use self::password::Password;
use self::postmaster::{Liveness, PidFile, Status};
use self::server::Server;
use self::setup::Setup;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A private Postgres that runs and takes connections, and the lock on its `DATA_DIR`.
pub struct PrivateCluster {
    server: Arc<Server>,
    pid: i32,
    url: String,
    socket_folder: Option<PathBuf>,
    _lock: DataDirLock,
}

impl PrivateCluster {
    /// Finds or downloads the programs, creates the cluster once, starts it or adopts the running one, and creates its
    /// database.
    ///
    /// # Errors
    ///
    /// [`PrivateError`]; the lock is released again.
    pub async fn start(data_dir: &Path) -> Result<Self, PrivateError> {
        let given = data_dir.to_path_buf();
        let setup = blocking(move || Setup::prepare(&given)).await?;
        let binaries = setup.binaries_or_download().await?;

        let Setup { data_dir, account, password, lock, .. } = setup;
        let (server, password, found) = blocking(move || {
            let cluster = cluster::path(&data_dir);
            if cluster::major(&cluster)?.is_none() {
                tracing::info!(path = %cluster.display(), postgres.bin = %binaries.dir.display(), "creating a private Postgres");
                cluster::create(&data_dir, &binaries, &account, &password)?;
            }
            let server = Arc::new(Server::new(cluster, binaries, account)?);
            let found = server.find_running()?;
            Ok((server, password, found))
        })
        .await?;

        if let Some(running) = found {
            match Self::open(&server, &password, running.clone()).await {
                Ok((url, socket_folder)) => {
                    tracing::info!(
                        postgres.pid = running.pid,
                        "adopted the private Postgres that was still running"
                    );
                    return Ok(Self { server, pid: running.pid, url, socket_folder, _lock: lock });
                }
                Err(error) => {
                    tracing::warn!(postgres.pid = running.pid, %error, "the private Postgres that was still running does not answer; restarting it");
                    let stopping = Arc::clone(&server);
                    blocking(move || stopping.stop(running.pid)).await?;
                }
            }
        }

        let starting = Arc::clone(&server);
        let started = blocking(move || starting.start()).await?;
        let pid = started.pid;
        let (url, socket_folder) = Self::open(&server, &password, started).await?;
        tracing::info!(postgres.pid = pid, path = %server.cluster.display(), "started the private Postgres");
        Ok(Self { server, pid, url, socket_folder, _lock: lock })
    }

    /// The URL for the service: by the unix socket, with the password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops Postgres cleanly and then releases `DATA_DIR`. No error if it had ended already.
    ///
    /// # Errors
    ///
    /// Postgres did not even end by force.
    pub async fn stop(self) -> Result<(), PrivateError> {
        let Self { server, pid, socket_folder, _lock: lock, .. } = self;
        blocking(move || {
            server.stop(pid)?;
            if let Some(folder) = socket_folder {
                socket::release(&folder);
            }
            drop(lock);
            Ok(())
        })
        .await
    }

    /// A handle that ends Postgres at once, even while the cluster is being stopped.
    #[must_use]
    pub fn emergency_stop(&self) -> EmergencyStop {
        EmergencyStop { server: Arc::clone(&self.server), pid: self.pid }
    }

    /// Ends Postgres at once, without waiting: its next start recovers.
    pub fn stop_now(&self) {
        self.emergency_stop().stop_now();
    }

    /// Connects, creates the database if it is missing, and returns the URL and the socket's folder.
    async fn open(
        server: &Server,
        password: &Password,
        running: PidFile,
    ) -> Result<(String, Option<PathBuf>), PrivateError> {
        let PidFile { port, socket_folder, .. } = running;
        let host = match &socket_folder {
            Some(folder) => percent_encode(folder.as_os_str().as_bytes(), NON_ALPHANUMERIC).to_string(),
            None => Ipv4Addr::LOCALHOST.to_string(),
        };
        let port = port.ok_or_else(|| PrivateError::NotRunning { data_dir: server.cluster.clone() })?;
        let url = |database| url(password, &host, port, database);
        match connect(&url(ROLE)).await {
            Ok(_) => {}
            Err(PrivateError::Connect { source }) if source.code() == Some(&SqlState::UNDEFINED_DATABASE) => {
                let client = connect(&url("postgres")).await?;
                let create = client.batch_execute("create database tidegate");
                within(ANSWER_TIMEOUT, create).await?;
            }
            Err(error) => return Err(error),
        }
        Ok((url(ROLE), socket_folder))
    }
}

/// Without the URL, which holds the password.
impl fmt::Debug for PrivateCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, pid, socket_folder, .. } = self;
        f.debug_struct("PrivateCluster")
            .field("server", server)
            .field("pid", pid)
            .field("socket_folder", socket_folder)
            .finish_non_exhaustive()
    }
}

/// Ends a private Postgres at once, if it still runs.
#[derive(Debug, Clone)]
pub struct EmergencyStop {
    server: Arc<Server>,
    pid: i32,
}

impl EmergencyStop {
    /// Ends Postgres at once, without waiting: its next start recovers.
    pub fn stop_now(&self) {
        self.server.stop_now(self.pid);
    }
}

/// The URL that `tidegate url` prints: by TCP, for any client on this machine that may read `DATA_DIR`.
///
/// # Errors
///
/// The cluster is not running, or its files belong to another user and are not readable.
pub fn running_url(data_dir: &Path) -> Result<String, PrivateError> {
    let not_running = || PrivateError::NotRunning { data_dir: data_dir.to_path_buf() };
    let cluster = cluster::path(data_dir);
    let Some(file) = PidFile::read(&cluster)? else { return Err(not_running()) };
    let port = file.port.ok_or_else(not_running)?;
    let alive =
        file.status == Status::Ready && file.liveness(&postmaster::mark(&cluster)?) == Liveness::Alive;
    let address = (Ipv4Addr::LOCALHOST, port).into();
    if !alive || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        return Err(not_running());
    }
    let password = Password::read(data_dir)?
        .ok_or_else(|| PrivateError::NoPassword { path: password::path(data_dir) })?;
    Ok(url(&password, "127.0.0.1", port, ROLE))
}

fn url(password: &Password, host: &str, port: u16, database: &str) -> String {
    format!("postgres://{ROLE}:{}@{host}:{port}/{database}", password.as_str())
}

/// Connects; retries within the time limit while recovery rejects connections.
async fn connect(url: &str) -> Result<Client, PrivateError> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match within(left, tokio_postgres::connect(url, NoTls)).await {
            Ok((client, connection)) => {
                // Ends when the client is dropped; its errors appear in the client's next call.
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(PrivateError::Connect { source }) if source.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PrivateError> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(|source| PrivateError::Connect { source }),
        Err(_) => Err(PrivateError::NoAnswer { seconds: ANSWER_TIMEOUT.as_secs() }),
    }
}

/// Runs blocking work on a thread of its own. If the caller is dropped, the work still ends; the next start finds a server that
/// it started.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PrivateError> + Send + 'static,
) -> Result<T, PrivateError> {
    tokio::task::spawn_blocking(work).await.map_err(|source| PrivateError::Interrupted { source })?
}
