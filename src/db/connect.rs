//! Makes connections: one host of the URL after the other, each within its time.
//!
//! tokio-postgres' own time-out covers the TCP connection alone. A postmaster that is stopped still has its connections
//! accepted by the kernel, and then never answers: so TLS and log-in are within the same limit here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{ConnectionUrl, DbError, tls};

/// Beyond the time of all hosts, so that the last one's own error is heard.
const GRACE: Duration = Duration::from_millis(250);
/// A peer that went away without a word is noticed, however long a statement may take.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server, or the way to it, refuses one.
    #[error(transparent)]
    Refused(tokio_postgres::Error),
    /// No host answered in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

impl ConnectError {
    /// Whether waiting may mend it.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Refused(error) => is_passing(error),
            Self::TimedOut(_) => true,
        }
    }
}

/// Whether an error of the driver that has no SQLSTATE may be another one soon: the way to the server broke. What the
/// driver itself finds wrong (TLS that is not offered, a certificate, a password that is missing) stays.
pub(super) fn is_passing(error: &tokio_postgres::Error) -> bool {
    let is_tls = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    error.is_closed() || io_error(error).is_some_and(|error| !is_tls(error))
}

/// The system's error behind one of the driver's.
pub(super) fn io_error(error: &tokio_postgres::Error) -> Option<&io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether a look-up ended with the answer that there is no such name; one that failed for the time being is none.
pub(super) fn is_unknown_host(error: &io::Error) -> bool {
    // std has no kind for it.
    let text = error.to_string();
    text.starts_with("failed to lookup address information") && !text.contains("emporary")
}

/// Makes connections on the runtime that it was made on.
pub(super) struct Connector {
    hosts: Vec<Config>,
    shuffles: bool,
    tls: MakeRustlsConnect,
    runtime: Handle,
    target: Arc<str>,
    /// For each host.
    timeout: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Connector {
    /// For the hosts of `url`. Each may take up to `timeout`, unless the URL says otherwise.
    pub(super) fn new(url: &ConnectionUrl, timeout: Duration) -> Result<Self, DbError> {
        let timeout = url.hosts.first().and_then(Config::get_connect_timeout).copied().unwrap_or(timeout);
        let mut hosts = url.hosts.clone();
        for host in &mut hosts {
            host.connect_timeout(timeout);
            if host.get_tcp_user_timeout().is_none() {
                host.tcp_user_timeout(TCP_USER_TIMEOUT);
            }
        }
        let target = url.target().into();
        let (tls, runtime) = (tls::connector(&url.tls)?, Handle::current());
        Ok(Self { hosts, shuffles: url.shuffles, tls, runtime, target, timeout })
    }

    /// The longest that [`Self::connect`] is worth waiting for.
    pub(super) fn patience(&self) -> Duration {
        self.timeout * self.hosts.len() as u32 + GRACE
    }

    /// Any of the hosts' configurations, for a pool that wants one and does not use it.
    pub(super) fn any(&self) -> Config {
        self.hosts.first().cloned().unwrap_or_default()
    }

    /// Connects to the first host that takes the connection. Pending for ever where none answers in time: the caller has a limit,
    /// [`Self::patience`], and the driver's error none for this.
    pub(super) async fn connect(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let (mut hosts, tls, timeout) = (self.hosts.clone(), self.tls.clone(), self.timeout);
        if self.shuffles {
            fastrand::shuffle(&mut hosts);
        }
        // The socket too must be registered with the pool's runtime.
        let connecting = self.runtime.spawn(async move {
            let mut last = None;
            for host in hosts {
                match tokio::time::timeout(timeout, host.connect(tls.clone())).await {
                    Ok(Ok(connected)) => return Ok(connected),
                    Ok(Err(error)) => last = Some(error),
                    Err(_elapsed) => {}
                }
            }
            Err(last)
        });
        let (client, connection) = match connecting.await {
            Ok(Ok(connected)) => connected,
            Ok(Err(Some(error))) => return Err(error),
            Ok(Err(None)) | Err(_) => std::future::pending().await,
        };
        let task = self.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = super::chain(&error), "a connection to Postgres ended");
            }
        });
        Ok((client, task))
    }

    /// As [`Self::connect`], with its limit of time.
    pub(super) async fn connect_in_time(&self) -> Result<Client, DbError> {
        match tokio::time::timeout(self.patience(), self.connect()).await {
            Ok(Ok((client, _task))) => Ok(client),
            Ok(Err(error)) => Err(self.refused(error)),
            Err(_elapsed) => Err(self.timed_out()),
        }
    }

    pub(super) fn refused(&self, error: tokio_postgres::Error) -> DbError {
        DbError::Connect { target: Arc::clone(&self.target), source: ConnectError::Refused(error) }
    }

    pub(super) fn timed_out(&self) -> DbError {
        DbError::Connect { target: Arc::clone(&self.target), source: ConnectError::TimedOut(self.patience()) }
    }
}
