//! From the backlog to Postgres: batches, lanes, COPY, and the isolation of bad rows.
//!
//! ```text
//! queue or backlog ─▶ batcher ─▶ writer (lanes) ─▶ copy_writer ─▶ one transaction: claims, COPY, receipt
//!                                   └ a row is rejected: probe, then halves
//! ```
//!
//! | module | |
//! |---|---|
//! | [`batcher`] | when a COPY starts and what it takes |
//! | [`writer`] | the lanes; isolates bad rows |
//! | [`lanes`] | what each lane is doing |
//! | [`copy_writer`] | one batch, exactly once, with retries |
//! | [`copy`] | what one COPY takes, and its protocol |
//! | [`claims`] | idempotency keys |
//! | [`hook`] | statements of users within a batch's transaction |
//! | [`verdict`] | what an error of Postgres means for a batch and for a row |
//! | [`probe`] | finds bad rows without storing any |
//! | [`restore`] | stores events that were recovered from damaged files |

pub mod batcher;
pub mod claims;
pub mod copy;
pub mod copy_writer;
pub mod hook;
pub mod lanes;
pub mod probe;
pub mod restore;
pub mod verdict;
pub mod writer;
