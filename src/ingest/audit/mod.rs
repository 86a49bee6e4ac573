//! Checks and figures: whether each accepted event is where its receipt says.
//!
//! | module | |
//! |---|---|
//! | [`verify`] | recounts everything, for `tidegate verify` |
//! | [`reconcile`] | what became of a producer's events |
//! | [`snapshot`] | the figures of health and metrics |

pub mod reconcile;
pub mod snapshot;
pub mod verify;
