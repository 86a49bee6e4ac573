//! What a follower of a conversation is told.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::super::chat::Extra;
use super::super::model::{Message, Metadata, Micros, Role};
use super::super::place::Place;
use super::token::Token;
use crate::realtime::Change;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A message is there.
    Message,
    /// Text was added to a message.
    Append,
    /// The conversation was changed.
    Update,
    /// The conversation was deleted; nothing follows.
    Delete,
    /// What the follower has seen is too long ago, or of another database: all messages follow again.
    Reset,
}

impl EventKind {
    /// The event's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Append => "append",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Reset => "reset",
        }
    }
}

/// Something that a follower is told.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// JSON.
    pub data: Bytes,
    /// Where the follower is after it.
    pub token: Option<Token>,
}

/// A message as the feed has it.
#[derive(Deserialize)]
struct Created {
    role: String,
    content: String,
    extra: Option<Box<RawValue>>,
    token_count: Option<i32>,
    metadata: Box<RawValue>,
    done: bool,
}

/// What was added to a message, as the feed has it.
#[derive(Deserialize)]
struct Added {
    at: i32,
    content: String,
    done: bool,
}

#[derive(Serialize)]
struct Appended<'a> {
    id: &'a str,
    at: i32,
    content: &'a str,
    done: bool,
}

/// What an import says of the messages that it added.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Imported {
    /// The lowest of their ids.
    pub(super) first: Uuid,
    /// The highest.
    pub(super) last: Uuid,
}

/// Why a change cannot be sent: it was not written by this program, or its event cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Its record is no message's id.
    #[error("the change's record is no id")]
    Record(#[from] uuid::Error),
    /// Its role is none.
    #[error("the change's role is none of a message")]
    Role,
    /// Its data, or the event, is not the JSON that it should be.
    #[error("the change's JSON")]
    Json(#[from] serde_json::Error),
}

/// The place of the message that a change is about.
pub(super) fn place(change: &Change) -> Result<Place, EventError> {
    Ok(Place { at: Micros(change.created_us), id: Uuid::try_parse(&change.record)? })
}

/// A message as its subscribers get it, be it from a page or from the feed.
pub(super) fn message(message: &Message) -> Result<Bytes, EventError> {
    Ok(serde_json::to_vec(message)?.into())
}

/// A message that was added.
pub(super) fn created(conversation: Uuid, change: &Change) -> Result<Bytes, EventError> {
    change.encoded(|| {
        let created: Created = serde_json::from_str(&change.data)?;
        let place = place(change)?;
        message(&Message {
            id: place.id,
            conversation_id: conversation,
            role: Role::parse(&created.role).ok_or(EventError::Role)?,
            content: created.content,
            extra: created.extra.map(Extra::new),
            timestamp: place.at,
            token_count: created.token_count,
            metadata: Metadata::new(created.metadata),
            done: created.done,
        })
    })
}

/// A piece that was added.
pub(super) fn appended(change: &Change) -> Result<Bytes, EventError> {
    change.encoded(|| {
        let Added { at, content, done } = serde_json::from_str(&change.data)?;
        let piece = Appended { id: &change.record, at, content: &content, done };
        Ok(serde_json::to_vec(&piece)?.into())
    })
}

/// The conversation as it is now.
pub(super) fn updated(change: &Change) -> Result<Bytes, EventError> {
    #[derive(Deserialize)]
    struct Data {
        title: String,
        metadata: Box<RawValue>,
    }
    #[derive(Serialize)]
    struct Updated<'a> {
        id: &'a str,
        title: &'a str,
        created_at: Micros,
        updated_at: Micros,
        metadata: &'a RawValue,
    }
    change.encoded(|| {
        let data: Data = serde_json::from_str(&change.data)?;
        let updated = Updated {
            id: &change.record,
            title: &data.title,
            created_at: Micros(change.created_us),
            updated_at: Micros(change.updated_us),
            metadata: &data.metadata,
        };
        Ok(serde_json::to_vec(&updated)?.into())
    })
}

/// The conversation is gone.
pub(super) fn deleted(conversation: Uuid) -> Bytes {
    format!("{{\"id\":\"{conversation}\"}}").into()
}
