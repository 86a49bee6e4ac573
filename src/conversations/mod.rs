//! Conversations and their messages, each somebody's own.
//!
//! ```text
//! Conversations ─┬─ create ───────────┬─▶ group ─▶ one transaction for all that wait ─▶ conversations, messages, changes
//!                ├─ messages ─┬─ add ─┤
//!                │            ├─ append ┘
//!                │            └─ page ──▶ in order, from either side of a place
//!                ├─ change, delete ─────▶ conversations + changes
//!                └─ list ───────────────▶ newest activity first, by a cursor or an offset
//! ```
//!
//! Whose a conversation is decides what is there: one of another's is not found, whoever asks.

mod chat;
mod list;
mod live;
mod messages;
mod model;
mod pieces;
mod place;
mod reading;
mod removal;
mod search;
mod service;
mod store;
mod writing;

use std::sync::Arc;

pub use chat::{CHAT_MEMBERS, Extra, Said, Unspeakable, read as read_said};
pub use list::{ListQuery, MessageQuery, Page, parse_live};
pub use live::{Event, EventError, EventKind, Live, LiveEnd, Token};
pub use messages::{Added, Key, NewMessage};
pub use model::{Conversation, Message, Metadata, Micros, Role};
pub use pieces::Piece;
pub use place::Place;
pub use removal::{Removed, delete_all_of};
pub use service::{Conversations, ConversationsSettings, NewConversation, Patch};

use crate::db::{DbError, Overloaded};
use crate::realtime::SubscribeError;

/// Why a conversation or its messages were not read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConversationsError {
    /// There is none, or it is another's: which of them is not told.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Something that the client sent cannot be taken.
    #[error("{message}")]
    Invalid {
        /// The parameter or member at fault.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// The `Idempotency-Key` came before, with something else.
    #[error("the Idempotency-Key was used for another body")]
    KeyReused,
    /// The piece does not begin where its message ends.
    #[error("the message has {length} characters so far, and the piece does not begin there")]
    OffsetMismatch {
        /// Where it ends.
        length: i32,
    },
    /// Nothing more is added to the message.
    #[error("the message is not being written, and has {length} characters")]
    Done {
        /// Where it ends.
        length: i32,
    },
    /// The message would be larger than it may be.
    #[error("a message takes up to {0} bytes (MAX_MESSAGE_BYTES)")]
    TooLarge(usize),
    /// The conversation cannot be followed now.
    #[error("{0}")]
    Follow(#[from] SubscribeError),
    /// Too much waits already.
    #[error("too many requests wait; try again later")]
    Overloaded,
    /// The database said no.
    #[error("the database")]
    Database(#[from] Arc<DbError>),
}

impl From<DbError> for ConversationsError {
    fn from(error: DbError) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl From<Overloaded> for ConversationsError {
    fn from(_: Overloaded) -> Self {
        Self::Overloaded
    }
}

impl ConversationsError {
    /// A parameter or member that cannot be taken. Only the start of a long name is repeated.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.chars().take(100).collect(), message: message.into() }
    }
}
