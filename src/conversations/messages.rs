//! Messages that are to be added.

use uuid::Uuid;

use super::chat::MessageContent;
use super::model::{Message, Metadata, Role};
use crate::time::Micros;

/// A message that is to be added.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its author.
    pub role: Role,
    /// Its content.
    pub content: MessageContent,
    /// Tokens, as the client counted them.
    pub token_count: Option<i32>,
    /// Metadata of its owner.
    pub metadata: Metadata,
    /// Whether it is complete; otherwise chunks are appended to it.
    pub done: bool,
}

/// The `Idempotency-Key` of a request, by which a repetition is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The client's text.
    pub text: String,
    /// SHA-256 of the body.
    pub hash: Vec<u8>,
}

/// The outcome of adding messages.
#[derive(Debug)]
pub struct Added {
    /// The messages as they are stored.
    pub messages: Vec<Message>,
    /// Whether an earlier request with the same key added them.
    pub is_repeated: bool,
}

/// The messages of one request as they are stored: with these ids, and times from `first` on, a microsecond apart.
pub(super) fn stored(conversation: Uuid, new: Vec<NewMessage>, ids: &[Uuid], first: Micros) -> Vec<Message> {
    let numbered = (0..).zip(ids).zip(new);
    let message = |((nth, id), new): ((i64, &Uuid), NewMessage)| Message {
        id: *id,
        conversation_id: conversation,
        role: new.role,
        content: new.content.text,
        extra: new.content.extra,
        timestamp: Micros(first.0.saturating_add(nth)),
        token_count: new.token_count,
        metadata: new.metadata,
        done: new.done,
    };
    numbered.map(message).collect()
}
