//! Imports: the lines of a file become events, conversations and messages, by `COPY`.
//!
//! ```text
//! file ─▶ lines ─▶ parse ─▶ Part (tuples) ─▶ lanes ──COPY──▶ requests, messages
//!         one thread                           └ with the part's row, in one transaction
//! ```
//!
//! A file is its own journal: it is on disk before its import begins, and its lines are numbered. It is split into parts at the
//! same places each time, and a part's row is committed with its lines. An import that is resumed after a crash therefore stores
//! no line twice, and needs neither the queue nor the journal of events.
//!
//! A line that cannot be stored is rejected, and recorded with the reason. Only the file itself can make an import fail.

mod content;
mod error;
mod lane;
mod message;
mod model;
mod parse;
mod part;
mod queue;
mod run;
mod service;
pub mod store;
mod stored_parts;
mod write;

/// The reason why lines that are conversations or messages are rejected where that module is off.
pub const CONVERSATIONS_OFF: &str = "conversations are off (MODULES)";

pub use error::ImportsError;
pub use model::{Allowed, Kind, Limits, Mapping, Plan, Progress, State};
pub use service::{Imports, ImportsSettings, QueuePermit, stop_all_of};
