//! What the writer asks of the part that runs statements of users within its transactions.

use std::fmt::Debug;

use futures_util::future::BoxFuture;

use crate::db::DbError;

/// The part that runs statements of users in triggers on `requests`.
pub trait BatchHook: Debug + Send + Sync {
    /// Whether there may be any. What they can set for the session is set again after a COPY then.
    fn runs_statements(&self) -> bool;

    /// Postgres cancelled a COPY, or the COPY did not end in time. Returns whether one of these statements was the reason, and is out of
    /// the way now: the same batch can be tried again.
    fn cancelled<'a>(&'a self, error: &'a DbError) -> BoxFuture<'a, bool>;
}
