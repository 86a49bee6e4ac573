//! The way in: admission of events, and the group commit that acknowledges them.
//!
//! | module | |
//! |---|---|
//! | [`admission`] | [`Ingest`](admission::Ingest), the handle of request handlers |
//! | [`group_commit`] | the thread that owns the journal |
//! | [`rates`] | events a second, and `Retry-After` |

pub mod admission;
pub mod group_commit;
pub mod rates;
