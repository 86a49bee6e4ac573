//! Refusals and failures of operations on subscriptions.

use std::sync::Arc;

use super::super::StreamError;
use crate::db::DbError;

/// An operation on a subscription that was refused or failed. A refusal acknowledges nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubscriptionError {
    /// A member of the request.
    #[error("{message}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// Its valid values.
        message: String,
    },
    /// The webhook's URL.
    #[error("webhook.url {0}")]
    WebhookUrl(String),
    /// The token is missing or was made by no server of this database.
    #[error("the token is missing or not valid")]
    TokenInvalid,
    /// The token is older than its wake may last.
    #[error("the token has expired")]
    TokenExpired,
    /// There is no such subscription.
    #[error("there is no such subscription")]
    NotFound,
    /// One of another configuration has the id.
    #[error("a subscription with another configuration has this id")]
    Exists,
    /// The wake is over: done, released, expired, replaced, or its subscription was deleted.
    #[error("the wake is over")]
    Fenced,
    /// A worker holds the lease.
    #[error("a worker holds the lease")]
    AlreadyClaimed {
        /// Its name.
        holder: String,
        /// The generation of its wake.
        generation: u64,
    },
    /// No stream has grown beyond its acknowledged offset.
    #[error("no stream has unacknowledged data")]
    NoPendingWork,
    /// An acknowledged offset.
    #[error("{0}")]
    InvalidOffset(&'static str),
    /// There are as many as the service keeps.
    #[error("there are too many subscriptions; delete some first")]
    TooMany,
    /// The store of streams.
    #[error("streams")]
    Streams(#[from] StreamError),
    /// The database.
    #[error("the database")]
    Database(#[source] Arc<DbError>),
    /// No secret could be made.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl SubscriptionError {
    /// The error of a member's value; `takes` is a phrase such as "takes a number from 1 to 5".
    pub fn invalid(field: &'static str, takes: &str) -> Self {
        Self::Invalid { field, message: format!("{field} {takes}") }
    }
}

impl From<DbError> for SubscriptionError {
    fn from(error: DbError) -> Self {
        Self::Database(Arc::new(error))
    }
}
