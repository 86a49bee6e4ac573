//! Why the service does not run, or does not end well.

use std::path::PathBuf;

use crate::auth::SecretError;
use crate::config::ConfigError;
use crate::db::local::LocalError;
use crate::db::{self, MigrationError};
use crate::ingest::journal::disk::DiskError;
use crate::ingest::{CheckpointError, Drained};

/// Why the service did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `DATA_DIR` cannot be written to.
    #[error("DATA_DIR {} cannot be used: it has to be a folder that this user may write to", .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system reports.
        source: std::io::Error,
    },
    /// There is no secret to sign tokens with.
    #[error("JWT_SECRET cannot be had")]
    Secret(#[from] SecretError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// `HOST:PORT`.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The private Postgres did not start or stop.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Database(#[from] MigrationError),
    /// The journal cannot be used.
    #[error("the journal cannot be used")]
    Journal(#[from] DiskError),
    /// The journal and the database do not go together.
    #[error(transparent)]
    Fence(#[from] CheckpointError),
    /// The system refuses what the service needs.
    #[error("cannot start")]
    System(#[from] std::io::Error),
    /// Metrics cannot be set up.
    #[error("cannot set up metrics")]
    Metrics(#[from] prometheus::Error),
    /// A part ended that should run for as long as the service does.
    #[error("a writer or a request thread ended unexpectedly; the cause is above")]
    PartEnded,
    /// The drain's end left events behind.
    #[error("{} accepted events and {} dead letters could not be stored in time and are lost", .0.events_left, .0.dead_letters_left)]
    LeftBehind(Drained),
    /// A signal came while the service was starting.
    #[error("stopped while starting")]
    Interrupted,
}

impl AppError {
    /// The error with its sources in one line.
    pub fn with_sources(&self) -> String {
        db::chain(self)
    }
}
