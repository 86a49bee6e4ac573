//! The creation and the deletion of streams.
//!
//! A stream that is deleted while forks of it live keeps its path and its bytes for them; the deletion of the last of them ends it too. Deletions
//! lock a stream, then its source. A fork locks its source so that it is not deleted meanwhile, which appends do not wait for.
//!
//! The bytes of deleted streams are removed later, by [`upkeep`](super::upkeep).

mod store;

pub(super) use store::{Deleted, ForkPoint, LifeStore};
