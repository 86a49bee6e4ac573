//! Why an import cannot be begun or told of.

use crate::db::DbError;
use crate::files::FilesError;

/// Why an import cannot be begun or told of.
#[derive(Debug, thiserror::Error)]
pub enum ImportsError {
    /// A parameter is not what it takes.
    #[error("{message}")]
    Invalid {
        /// The parameter.
        field: &'static str,
        /// What it takes.
        message: String,
    },
    /// The file was imported, or is being imported, as something else.
    #[error("the file was processed already; upload it again to process it again")]
    Processed,
    /// The file was not imported.
    #[error("the file was not processed")]
    NotProcessed,
    /// The file does not hold lines of JSON.
    #[error("the file holds no lines of JSON in UTF-8, as they are or as gzip or zstd: {0}")]
    NotLines(String),
    /// Too many imports wait.
    #[error("as many files wait as may (MAX_IMPORTS); try again later")]
    TooMany,
    /// Too many follow imports.
    #[error("as many follow imports as may (MAX_IMPORT_FOLLOWERS); try again later")]
    TooManyFollow,
    /// The file.
    #[error(transparent)]
    File(#[from] FilesError),
    /// The database.
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

    /// Whether it may be another answer soon: the database is away, or all its connections are in use.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_away())
    }
}

impl From<DbError> for ImportsError {
    fn from(error: DbError) -> Self {
        match error.constraint() {
            // It was deleted since it was looked up.
            Some("imports_file_id_fkey") => Self::File(FilesError::NotFound),
            _ => Self::Database(Box::new(error)),
        }
    }
}
