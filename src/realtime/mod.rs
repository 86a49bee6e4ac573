//! The feed of changes: one order of all changes, and live delivery to subscribers. It knows no domain.
//!
//! Each change leaves a row in the table `changes`, in the transaction that makes it; see [`change`] for the order that subscribers can rely
//! on.
//!
//! ```text
//! changes ──▶ feed (one task, in pages, while there are subscribers) ──▶ hub ──▶ subscribers, by topic, each with a bounded buffer
//!    └──────▶ retention (deletes old rows)
//! ```
//!
//! [`Hub`] is the handle: writers wake the feed by it, readers get a [`Subscriber`] from it. `app` starts the feed and the retention.

mod buffer;
pub mod change;
mod feed;
mod hub;
mod memory;
mod position;
mod retention;
pub mod store;

pub use buffer::Dropped;
pub use change::{Action, Change};
pub use feed::FeedReader;
pub use hub::{Hub, MAX_TOPICS, ReadPermit, ReadPermitRequest, SubscribeError, Subscriber};
pub use position::{Position, Snapshot};
pub use retention::ChangeRetention;
pub use store::PAGE_BYTES;
