//! Errors of a run of the service.

use std::path::PathBuf;

use crate::auth::SecretError;
use crate::config::ConfigError;
use crate::db::private::PrivateError;
use crate::db::{self, MigrationError};
use crate::ingest::journal::disk::DiskError;
use crate::ingest::{CheckpointError, Drained};

/// The reason why the service did not run, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Invalid settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `DATA_DIR` is not writable.
    #[error("DATA_DIR {} cannot be used: it has to be a folder that this user may write to", .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is no secret to sign tokens with.
    #[error("JWT_SECRET cannot be read or created")]
    Secret(#[from] SecretError),
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// `HOST:PORT`.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The private Postgres did not start or stop.
    #[error(transparent)]
    Local(#[from] PrivateError),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Database(#[from] MigrationError),
    /// The journal cannot be used.
    #[error("the journal cannot be used")]
    Journal(#[from] DiskError),
    /// The journal and the database do not match.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The system lacks a resource.
    #[error("cannot start")]
    System(#[from] std::io::Error),
    /// Metrics cannot be set up.
    #[error("cannot set up metrics")]
    Metrics(#[from] prometheus::Error),
    /// A critical task ended early.
    #[error("a writer or a request thread ended unexpectedly; the cause is above")]
    PartEnded,
    /// The drain left events behind.
    #[error("{} accepted events and {} dead letters could not be stored in time and are lost", .0.events_left, .0.dead_letters_left)]
    LeftBehind(Drained),
    /// A signal stopped the start.
    #[error("stopped while starting")]
    Interrupted,
}

impl AppError {
    /// The error with its sources in one line.
    pub fn with_sources(&self) -> String {
        db::chain(self)
    }
}
