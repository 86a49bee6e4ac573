//! Errors of imports.

use crate::db::DbError;
use crate::files::FilesError;

/// The reason why an import cannot begin, or its progress cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportsError {
    /// An invalid parameter.
    #[error("{message}")]
    Invalid {
        /// The parameter.
        field: &'static str,
        /// The valid values.
        message: String,
    },
    /// The file was imported, or is being imported, with other parameters.
    #[error("the file was processed already; upload it again to process it again")]
    Processed,
    /// The file was not imported.
    #[error("the file was not processed")]
    NotProcessed,
    /// The file has no lines of JSON.
    #[error("the file holds no lines of JSON in UTF-8, as they are or as gzip or zstd: {0}")]
    NotLines(String),
    /// Too many imports wait.
    #[error("too many imports wait; try again later")]
    TooMany,
    /// Too many clients subscribe to imports.
    #[error("too many clients subscribe to imports (a fiftieth of MAX_SUBSCRIBERS); try again later")]
    TooManySubscribers,
    /// An error of the file.
    #[error(transparent)]
    File(#[from] FilesError),
    /// The database's error.
    #[error("the database")]
    Database(#[from] Box<DbError>),
}

impl ImportsError {
    pub(super) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    pub(super) fn not_lines(why: impl Into<String>) -> Self {
        Self::NotLines(why.into())
    }

    /// Whether a retry may succeed: the database is away, or all its connections are in use.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_away())
    }
}

impl From<DbError> for ImportsError {
    fn from(error: DbError) -> Self {
        match error.constraint() {
            // It was deleted since it was found.
            Some("imports_file_id_fkey") => Self::File(FilesError::NotFound),
            _ => Self::Database(Box::new(error)),
        }
    }
}
