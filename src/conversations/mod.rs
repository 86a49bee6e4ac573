//! Conversations and their messages, each owned by a user.
//!
//! ```text
//! Conversations ─┬─ create ───────────┬─▶ batch ─▶ one transaction for all waiting requests ─▶ conversations, messages, changes
//!                ├─ messages ─┬─ add ─┤
//!                │            ├─ append ┘
//!                │            └─ page ──▶ in order, from either side of a cursor
//!                ├─ change, delete ─────▶ conversations + changes
//!                └─ list ───────────────▶ newest activity first, by a cursor or an offset
//! ```
//!
//! A conversation of another owner is not found.

mod chat;
mod chunk;
mod list;
mod live;
mod messages;
mod model;
mod reading;
mod removal;
mod search;
mod service;
mod store;
mod writing;

use std::sync::Arc;

pub use chat::{CHAT_MEMBERS, Extra, InvalidContent, MessageContent, read as read_content};
pub use chunk::MessageChunk;
pub use list::{ListQuery, MessageQuery, parse_live};
pub use live::{Event, EventError, EventKind, Live, LiveCursor, LiveEnd, TOPICS, change_json, topic};
pub use messages::{Added, IdempotencyKey, NewMessage};
pub use model::{Conversation, Message, Metadata, Role};
pub use removal::{Removed, delete_all_of};
pub use service::{Conversations, ConversationsParts, ConversationsSettings, NewConversation, Patch};

use crate::db::{DbError, Overloaded};
use crate::paging::InvalidParameter;
use crate::realtime::SubscribeError;

/// An operation on conversations that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConversationsError {
    /// There is none, or it has another owner: a client cannot tell these apart.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The client sent an invalid value.
    #[error("{message}")]
    Invalid {
        /// The parameter or member.
        field: String,
        /// The reason.
        message: String,
    },
    /// The `Idempotency-Key` was used with another body.
    #[error("the Idempotency-Key was used for another body")]
    KeyReused,
    /// The chunk does not begin where its message ends.
    #[error("the message has {length} characters so far, and the chunk does not begin there")]
    OffsetMismatch {
        /// The length of the message, in characters.
        length: i32,
    },
    /// The message is complete.
    #[error("the message is not being written, and has {length} characters")]
    Done {
        /// The length of the message, in characters.
        length: i32,
    },
    /// The message would exceed `MAX_MESSAGE_BYTES`.
    #[error("a message takes up to {0} bytes (MAX_MESSAGE_BYTES)")]
    TooLarge(usize),
    /// There is no live subscription to the conversation now.
    #[error("{0}")]
    Subscribe(#[from] SubscribeError),
    /// Too many requests wait.
    #[error("too many requests wait; try again later")]
    Overloaded,
    /// The database returned an error, or no answer.
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

impl From<InvalidParameter> for ConversationsError {
    fn from(InvalidParameter { field, message }: InvalidParameter) -> Self {
        Self::Invalid { field, message }
    }
}

impl ConversationsError {
    /// A refusal of a parameter or member.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        InvalidParameter::new(field, message).into()
    }
}
