//! Messages on their way in.

use uuid::Uuid;

use super::chat::Said;
use super::model::{Message, Metadata, Micros, Role};

/// A message that is to be added.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub said: Said,
    /// Tokens, as the client counted them.
    pub token_count: Option<i32>,
    /// What its owner keeps with it.
    pub metadata: Metadata,
    /// Whether it is whole; otherwise text is added to it until it is.
    pub done: bool,
}

/// By what a request is known again when it is repeated (`Idempotency-Key`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What the client chose.
    pub text: String,
    /// SHA-256 of what was sent with it.
    pub hash: Vec<u8>,
}

/// What became of messages that were to be added.
#[derive(Debug)]
pub struct Added {
    /// The messages as they were added.
    pub messages: Vec<Message>,
    /// Whether that was done by an earlier request with the same key.
    pub is_repeated: bool,
}

/// Messages of one request with the ids that they were given: from `first` on, a microsecond apart.
pub(super) fn added(conversation: Uuid, new: Vec<NewMessage>, ids: &[Uuid], first: Micros) -> Vec<Message> {
    let numbered = (0..).zip(ids).zip(new);
    let message = |((place, id), new): ((i64, &Uuid), NewMessage)| Message {
        id: *id,
        conversation_id: conversation,
        role: new.role,
        content: new.said.content,
        extra: new.said.extra,
        timestamp: Micros(first.0.saturating_add(place)),
        token_count: new.token_count,
        metadata: new.metadata,
        done: new.done,
    };
    numbered.map(message).collect()
}
