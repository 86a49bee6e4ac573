//! Imports: the lines of a file become events, conversations and messages, by `COPY`.
//!
//! ```text
//! file ─▶ lines ─▶ parse ─▶ Part (tuples) ─▶ lanes ──COPY──▶ requests, messages
//!         one thread                           └ with the part's row, in one transaction
//! ```
//!
//! A file is its own journal: it is on disk before its import begins, and its lines are numbered. It is cut into parts at
//! the same places each time, and a part's row is committed with its lines; so an import that is taken up again after a
//! crash stores no line twice, and needs neither the queue nor the journal of events.
//!
//! A line that cannot be stored is left out and noted with its reason. Only the file itself can make an import fail.

mod content;
mod error;
mod landing;
mod lane;
mod lines;
mod message;
mod model;
mod parse;
mod part;
mod queue;
mod run;
mod service;
pub mod store;
mod turns;

pub use error::ImportsError;
pub use model::{Allowed, Kind, Limits, Mapping, Plan, Progress, State};
pub use service::{Imports, ImportsSettings, Place, stop_all_of};
