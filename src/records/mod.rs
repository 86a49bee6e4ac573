//! Records: JSON objects in collections, one store for every face.
//!
//! ```text
//! Records ─┬─ create ─▶ group ─▶ one insert for all that wait ─▶ records_<n> + changes
//!          ├─ get ────▶ group ─▶ one look-up for all that wait
//!          ├─ change, delete ──▶ lock the row, check its version, write ─▶ records_<n> + changes
//!          └─ list ────────────▶ filter, sort, cursor ─▶ one statement
//! ```
//!
//! A collection's records are in a table of its own. [`Records`] is the handle that faces hold.

mod collections;
mod cursor;
mod data;
mod expression;
mod filter;
pub mod large;
mod list;
mod merge;
mod model;
mod service;
mod sort;
mod store;

use std::sync::Arc;

pub use cursor::Cursor;
pub use data::{Data, Draft};
pub use filter::Filter;
pub use list::{Fields, Page, Query};
pub use merge::merge;
pub use model::{Millis, Name, Record, RecordId, Version};
pub use service::{Change, Precondition, Records, RecordsSettings};
pub use sort::Sort;

use crate::db::{DbError, Overloaded};

/// Why a record was not read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// There is no such collection.
    #[error("there is no such collection")]
    UnknownCollection,
    /// There are as many collections as there may be.
    #[error("there are {0} collections already (MAX_COLLECTIONS)")]
    TooManyCollections(i64),
    /// There is no such record.
    #[error("there is no such record")]
    NotFound,
    /// The id is taken.
    #[error("the id is taken")]
    Taken,
    /// The record is at another version than the client thought.
    #[error("the record has changed")]
    Changed,
    /// Something that the client sent cannot be taken.
    #[error("{message}")]
    Invalid {
        /// The parameter or member at fault.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// The record would be larger than it may be.
    #[error("the record is larger than {0} bytes (MAX_RECORD_BYTES)")]
    TooLarge(usize),
    /// Too much waits already, or has waited too long.
    #[error("too many records wait; try again later")]
    Overloaded,
    /// The database said no.
    #[error("the database")]
    Database(#[from] Arc<DbError>),
}

impl From<DbError> for RecordsError {
    fn from(error: DbError) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl From<Overloaded> for RecordsError {
    fn from(_: Overloaded) -> Self {
        Self::Overloaded
    }
}

impl RecordsError {
    /// A parameter or member that cannot be taken. Only the start of a long name is repeated.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.chars().take(100).collect(), message: message.into() }
    }
}
