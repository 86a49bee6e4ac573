//! Connection attempts: the hosts of the URL in order, each with a time limit.
//!
//! tokio-postgres' own limit covers the TCP connection alone. The kernel accepts connections for a stopped postmaster, which
//! then never answers; so TLS and log-in are within the same limit here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{ConnectionUrl, tls};

/// Time beyond that of all hosts, so that the last host's own error is reported.
const GRACE: Duration = Duration::from_millis(250);
/// Detects a peer that vanished, however long a statement may take.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The reason for a failed connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server, or the network, rejected it.
    #[error(transparent)]
    Refused(tokio_postgres::Error),
    /// No host answered in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

/// No connection.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No host accepted one.
    #[error("cannot connect to {target}")]
    Connect {
        /// Hosts, ports and database.
        target: Arc<str>,
        /// The cause.
        source: ConnectError,
    },
    /// The certificates for TLS cannot be read.
    #[error("TLS: {0}")]
    Tls(String),
}

impl ConnectError {
    /// Whether a retry may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused(error) => is_passing(error),
            Self::TimedOut(_) => true,
        }
    }
}

/// Whether an error of the driver without an SQLSTATE may pass: the network failed. Errors that the driver itself finds (no
/// TLS, a certificate, a missing password) are permanent.
pub fn is_passing(error: &tokio_postgres::Error) -> bool {
    let is_tls = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    error.is_closed() || io_error(error).is_some_and(|error| !is_tls(error))
}

/// The system's error behind one of the driver's.
pub fn io_error(error: &tokio_postgres::Error) -> Option<&io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether a look-up found that the name does not exist. A temporary failure of the look-up does not count.
pub fn is_unknown_host(error: &io::Error) -> bool {
    // std has no error kind for it.
    let text = error.to_string();
    text.starts_with("failed to lookup address information") && !text.contains("emporary")
}

/// A connection that was just made.
pub struct Connected {
    /// The connection's front.
    pub client: Client,
    /// The task that sends and receives.
    pub driver: JoinHandle<()>,
    /// Transactions are read-only by default in this session, for as long as it lasts. Postgres reports it since version 14.
    pub is_read_only: bool,
}

/// Makes connections on the runtime that it was created on.
pub struct Connector {
    hosts: Vec<Config>,
    shuffles: bool,
    tls: MakeRustlsConnect,
    runtime: Handle,
    target: Arc<str>,
    /// The limit for each host.
    timeout: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector for the hosts of `url`. Each may take up to `timeout`, unless the URL has a limit.
    ///
    /// # Errors
    ///
    /// [`Failure::Tls`] if the URL names certificates that cannot be read.
    pub fn new(url: &ConnectionUrl, timeout: Duration) -> Result<Self, Failure> {
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

    /// The time for each host.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The time that all hosts may take together.
    pub fn patience(&self) -> Duration {
        self.timeout * self.hosts.len() as u32 + GRACE
    }

    /// The runtime of the connections.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Connects to the first host that accepts. Pending for ever if none answers in time, as the driver has no error for that:
    /// the caller applies the limit of [`Self::patience`].
    ///
    /// # Errors
    ///
    /// That of the last host.
    pub async fn connect(&self) -> Result<Connected, tokio_postgres::Error> {
        let (mut hosts, tls, timeout) = (self.hosts.clone(), self.tls.clone(), self.timeout);
        if self.shuffles {
            fastrand::shuffle(&mut hosts);
        }
        // The socket must be registered with the pool's runtime.
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
        let is_read_only = connection.parameter("default_transaction_read_only") == Some("on");
        let driver = self.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = crate::chain(&error), "a connection to Postgres ended");
            }
        });
        Ok(Connected { client, driver, is_read_only })
    }

    /// As [`Self::connect`], within its time limit.
    ///
    /// # Errors
    ///
    /// [`Failure::Connect`].
    pub async fn connect_in_time(&self) -> Result<Client, Failure> {
        match tokio::time::timeout(self.patience(), self.connect()).await {
            Ok(Ok(connected)) => Ok(connected.client),
            Ok(Err(error)) => Err(self.refused(error)),
            Err(_elapsed) => Err(self.timed_out()),
        }
    }

    /// The failure for an error of [`Self::connect`].
    pub fn refused(&self, error: tokio_postgres::Error) -> Failure {
        Failure::Connect { target: Arc::clone(&self.target), source: ConnectError::Refused(error) }
    }

    /// The failure for an attempt beyond its time.
    pub fn timed_out(&self) -> Failure {
        Failure::Connect { target: Arc::clone(&self.target), source: ConnectError::TimedOut(self.patience()) }
    }
}
