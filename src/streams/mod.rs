//! Durable Streams: append-only streams of bytes or JSON messages, with offsets (the protocol of `durable-streams/durable-streams`, draft 1.0).
//!
//! ```text
//! http/streams ─▶ StreamStore ─┬─ create ─▶ create::compare | plan | fork_end ─┐
//!                              ├─ append ─▶ append::decide ────────────────────┴─▶ durable ─▶ Watches, Listeners
//!                              └─ read, get ◀─ bytes in their stored form, verified or known
//! ```
//!
//! Decisions are pure functions, which each store calls under its lock on a stream. Offsets are byte positions of the stored form ([`body`]).

pub mod append;
pub mod body;
mod compaction;
mod content_type;
pub mod create;
mod cursor;
mod error;
mod lifetime;
mod listener;
pub mod memory;
mod offset;
mod path;
mod postgres;
mod registry;
mod settings;
mod stream_store;
pub mod subscriptions;
mod watch;

pub use append::{Append, AppendDecision, AppendState, Appended, Producer, ProducerState};
pub use body::{AppendBody, InvalidJson};
pub use compaction::COMPACT_AFTER;
pub use content_type::{ContentType, InvalidContentType, MAX_CONTENT_TYPE_BYTES};
pub use create::{CreateStream, Created, Fork, ForkOrigin, NewStream, RestOfAppend};
pub use cursor::CursorClock;
pub use error::StreamError;
pub use lifetime::{InvalidLifetime, Lifetime, MAX_TTL_S, Retention, whole_number};
pub use listener::{Listeners, StreamEvent, StreamEventKind, StreamListener};
pub use offset::{Offset, ReadFrom};
pub use path::{MAX_PATH_BYTES, PathError, RESERVED_SEGMENT, StreamPath};
pub use postgres::{PostgresStreams, PostgresStreamsParts, PostgresStreamsSettings};
pub use registry::registry;
pub use settings::{Streams, StreamsSettings};
pub use stream_store::{Freshness, ListedStream, Slice, StoreFuture, StreamHead, StreamId, StreamStore};
pub use watch::{StreamWatch, WatchEnded, Watches};
