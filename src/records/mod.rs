//! Records: JSON objects in collections.
//!
//! ```text
//! Records ─┬─ create ─▶ batch ─▶ one insert for all waiting requests ─▶ records_<n> + changes
//!          ├─ get ────▶ batch ─▶ one look-up for all waiting requests
//!          ├─ change, delete ──▶ lock the row, check its version, write ─▶ records_<n> + changes
//!          └─ list ────────────▶ filter, sort, cursor ─▶ one statement
//! ```
//!
//! Each collection has a table of its own. [`Records`] is the handle that the HTTP face holds.

mod collections;
mod cursor;
mod data;
mod expr;
mod expression;
mod filter;
pub mod large;
mod list;
mod merge;
mod model;
pub mod schema;
mod service;
mod sort;
mod store;
pub mod typed;

use std::sync::Arc;

pub use data::{Data, Draft};
use expr::typed::TimeFormat;
pub use expr::typed::{Catalog, ResolveError, Seen, TypedCollection, TypedExpression, TypedSort};
pub use expr::{
    AuthValues, Expression, ExpressionError, ExpressionMatcher, Made, RequestAuth, RequestValues, Subject,
    TooMuchWork,
};
pub use filter::Filter;
pub use list::{Fields, ListQuery};
pub use merge::merge;
pub use model::{ListedCollection, Name, Record, RecordId, Version};
pub use service::{Change, Precondition, Records, RecordsSettings};
pub use sort::Sort;

use crate::db::{DbError, Overloaded};
use crate::paging::InvalidParameter;

/// An operation on records that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// There is no such collection.
    #[error("there is no such collection")]
    UnknownCollection,
    /// The collection has accounts or hidden fields, and is served by its own face only.
    #[error("the collection has accounts or hidden fields: only /api/collections serves it")]
    PrivateCollection,
    /// `MAX_COLLECTIONS` is reached.
    #[error("there are {0} collections already")]
    TooManyCollections(i64),
    /// There is no such record.
    #[error("there is no such record")]
    NotFound,
    /// The id is taken.
    #[error("the id is taken")]
    Taken,
    /// The record has another version than the precondition.
    #[error("the record has changed")]
    Changed,
    /// The client sent an invalid value.
    #[error("{message}")]
    Invalid {
        /// The parameter or member.
        field: String,
        /// The reason.
        message: String,
    },
    /// The record would exceed `MAX_EVENT_BYTES`.
    #[error("the record is larger than {0} bytes (MAX_EVENT_BYTES)")]
    TooLarge(usize),
    /// Too many requests wait, or this one has waited too long.
    #[error("too many records wait; try again later")]
    Overloaded,
    /// The database returned an error, or no answer.
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

impl From<InvalidParameter> for RecordsError {
    fn from(InvalidParameter { field, message }: InvalidParameter) -> Self {
        Self::Invalid { field, message }
    }
}

impl RecordsError {
    /// A refusal of a parameter or member.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        InvalidParameter::new(field, message).into()
    }
}
