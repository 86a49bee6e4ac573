//! The private Postgres of a first run: a whole cluster under `DATA_DIR`, for a service that was given no `DATABASE_URL`.
//!
//! What lies in `DATA_DIR`:
//!
//! ```text
//! tidegate.lock        held by the service that uses the folder; its text is that service's pid
//! postgres.password    the password of the role `tidegate`, for the service's user only
//! postgres/            the cluster, of the account that runs it; its log is postgres.log in it
//! postgres.new-…/      a cluster that initdb is still making
//! postgres-bin/        programs that were downloaded, a folder a version
//! ```
//!
//! Rules, in the order in which a start meets them:
//!
//! 1. One service a `DATA_DIR`: the second is refused, with the first one's pid.
//! 2. Postgres never runs as root. Root runs it as the cluster's owner, else as `postgres`, else as `nobody`.
//! 3. Data is opened only by the major version that wrote it. Without data the newest version found is taken; where there
//!    is none it is downloaded.
//! 4. A cluster is whole or it is not there: initdb works beside it and a rename puts it in place.
//! 5. A postmaster that outlived its service is adopted if it lets us in, and stopped otherwise. Dropping a [`LocalCluster`]
//!    leaves Postgres running, as a killed service would; only [`LocalCluster::stop`] and [`LocalCluster::stop_now`] end it.
//! 6. Every connection needs the password, on the socket as on the loopback port. No other address is listened on.
//!
//! Windows is not served: accounts, sockets and signals here are Unix'.

mod account;
mod binaries;
mod cluster;
mod error;
mod fetch;
mod ground;
mod lock;
mod password;
mod postmaster;
mod reach;
mod server;
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

pub use self::error::{FetchError, LocalError};

use self::cluster::ROLE;
use self::ground::Ground;
use self::lock::DataDirLock;
use self::password::Password;
use self::postmaster::{Life, PidFile, Status};
use self::server::Server;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A private Postgres that runs and takes connections, and the lock on its `DATA_DIR`.
pub struct LocalCluster {
    server: Arc<Server>,
    pid: i32,
    url: String,
    socket_folder: Option<PathBuf>,
    _lock: DataDirLock,
}

impl LocalCluster {
    /// Finds or fetches the programs, makes the cluster once, starts it or adopts the one that runs, and sees to its
    /// database. `pg_bin` is the user's `PG_BIN`: the only folder that is then looked in.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from running, in words for the user; the lock is released again.
    pub async fn start(data_dir: &Path, pg_bin: Option<&Path>) -> Result<Self, LocalError> {
        let (given, pg_bin) = (data_dir.to_path_buf(), pg_bin.map(Path::to_path_buf));
        let ground = blocking(move || Ground::prepare(&given, pg_bin.as_deref())).await?;
        let binaries = ground.binaries_or_fetch().await?;

        let Ground { data_dir, account, password, lock, .. } = ground;
        let (server, password, found) = blocking(move || {
            let cluster = cluster::path(&data_dir);
            if cluster::major(&cluster)?.is_none() {
                tracing::info!(path = %cluster.display(), postgres.bin = %binaries.dir.display(), "making a private Postgres");
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

    /// What the service connects with: by the unix socket, with the password in it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops Postgres cleanly and then releases `DATA_DIR`. It is no error if it had ended already.
    ///
    /// # Errors
    ///
    /// Postgres withstood even force.
    pub async fn stop(self) -> Result<(), LocalError> {
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

    /// A handle that can end Postgres at once while the cluster itself is being stopped.
    #[must_use]
    pub fn emergency_stop(&self) -> EmergencyStop {
        EmergencyStop { server: Arc::clone(&self.server), pid: self.pid }
    }

    /// Makes Postgres end at once, without waiting for it: its next start recovers.
    pub fn stop_now(&self) {
        self.emergency_stop().stop_now();
    }

    /// Connects, makes the database if it is not there, and returns how to connect again.
    async fn open(
        server: &Server,
        password: &Password,
        running: PidFile,
    ) -> Result<(String, Option<PathBuf>), LocalError> {
        let PidFile { port, socket_folder, .. } = running;
        let host = match &socket_folder {
            Some(folder) => percent_encode(folder.as_os_str().as_bytes(), NON_ALPHANUMERIC).to_string(),
            None => Ipv4Addr::LOCALHOST.to_string(),
        };
        let port = port.ok_or_else(|| LocalError::NotRunning { data_dir: server.cluster.clone() })?;
        let url = |database| url(password, &host, port, database);
        match connect(&url(ROLE)).await {
            Ok(_) => {}
            Err(LocalError::Connect { source }) if source.code() == Some(&SqlState::UNDEFINED_DATABASE) => {
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
impl fmt::Debug for LocalCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, pid, socket_folder, .. } = self;
        f.debug_struct("LocalCluster")
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
    /// Makes Postgres end at once, without waiting for it: its next start recovers.
    pub fn stop_now(&self) {
        self.server.stop_now(self.pid);
    }
}

/// What `tidegate url` prints: the URL by TCP, good for any client on this machine that may read `DATA_DIR`.
///
/// # Errors
///
/// The cluster is not running, or belongs to a user whose files this one may not read.
pub fn running_url(data_dir: &Path) -> Result<String, LocalError> {
    let not_running = || LocalError::NotRunning { data_dir: data_dir.to_path_buf() };
    let cluster = cluster::path(data_dir);
    let Some(file) = PidFile::read(&cluster)? else { return Err(not_running()) };
    let port = file.port.ok_or_else(not_running)?;
    let alive = file.status == Status::Ready && file.life(&postmaster::mark(&cluster)?) == Life::Alive;
    let address = (Ipv4Addr::LOCALHOST, port).into();
    if !alive || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        return Err(not_running());
    }
    let password =
        Password::read(data_dir)?.ok_or_else(|| LocalError::NoPassword { path: password::path(data_dir) })?;
    Ok(url(&password, "127.0.0.1", port, ROLE))
}

fn url(password: &Password, host: &str, port: u16, database: &str) -> String {
    format!("postgres://{ROLE}:{}@{host}:{port}/{database}", password.as_str())
}

/// A connection, however long recovery still refuses one, within the limit.
async fn connect(url: &str) -> Result<Client, LocalError> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match within(left, tokio_postgres::connect(url, NoTls)).await {
            Ok((client, connection)) => {
                // Ends when the client is dropped; an error of it shows in the client's next call.
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(LocalError::Connect { source }) if source.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, LocalError> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(|source| LocalError::Connect { source }),
        Err(_) => Err(LocalError::NoAnswer { seconds: ANSWER_TIMEOUT.as_secs() }),
    }
}

/// Runs work that waits for processes and disks beside the runtime. If the caller gives up, the work still ends in its own
/// time; whatever it started is found by the next start.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocalError> + Send + 'static,
) -> Result<T, LocalError> {
    tokio::task::spawn_blocking(work).await.map_err(|source| LocalError::Interrupted { source })?
}
