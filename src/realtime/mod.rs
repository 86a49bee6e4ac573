//! What changed, in one order, for whoever follows.
//!
//! Each change of a record leaves a row in the table `changes`, in the transaction that makes it; see [`change`] for the
//! order that followers may rely on.
//!
//! ```text
//! changes ──▶ feed (one task, in lots, while somebody follows) ──▶ hub ──▶ followers, by topic, each with a bounded buffer
//! ```
//!
//! [`Hub`] is the handle: whoever writes wakes the feed by it, whoever follows gets a [`Subscriber`] from it.

mod budget;
mod buffer;
pub mod change;
mod feed;
mod hub;
mod position;
pub mod store;

pub use buffer::Dropped;
pub use change::{Action, Change};
pub use hub::{Hub, LOT_BYTES, Room, RoomRequest, SubscribeError, Subscriber};
pub use position::{Position, Snapshot};
