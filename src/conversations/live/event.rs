//! The events of a live subscription.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::cursor::LiveCursor;
use crate::conversations::chat::Extra;
use crate::conversations::model::{Message, Metadata, Role};
use crate::paging::SortKey;
use crate::realtime::{Action, Change};
use crate::time::Micros;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A message.
    Message,
    /// A chunk was appended to a message.
    Append,
    /// The conversation was changed.
    Update,
    /// The conversation was deleted; this is the last event.
    Delete,
    /// The subscriber's cursor is too old, or of another database: all messages follow again.
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

/// An event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its kind.
    pub kind: EventKind,
    /// JSON.
    pub data: Bytes,
    /// The subscriber's cursor behind it.
    pub cursor: Option<LiveCursor>,
}

/// A change of a conversation, parsed and encoded once for all subscribers.
#[derive(Debug)]
pub(super) enum ConversationChange {
    /// A message was added.
    Created { key: SortKey, data: Bytes },
    /// A chunk was appended to a message.
    Appended { key: SortKey, data: Bytes },
    /// Messages were imported: those with ids from `first` to `last`.
    Imported { first: Uuid, last: Uuid },
    /// The conversation was changed.
    Updated { data: Bytes },
    /// The conversation was deleted.
    Deleted { data: Bytes },
    /// A change without an event.
    Silent,
}

/// A change that cannot be sent: it was not written by this program, or its event cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Its record is no message's id.
    #[error("the change's record is no id")]
    Record(#[from] uuid::Error),
    /// Its role is none of a message.
    #[error("the change's role is none of a message")]
    Role,
    /// Its data, or the event, is not valid JSON.
    #[error("the change's JSON")]
    Json(#[from] serde_json::Error),
}

/// A message as an event, be it from a page or from the feed.
pub(super) fn message(message: &Message) -> Result<Bytes, EventError> {
    Ok(serde_json::to_vec(message)?.into())
}

impl ConversationChange {
    /// The change of a conversation: parsed for its first subscriber, shared with all others.
    pub(super) fn of(conversation: Uuid, change: &Change) -> Result<Arc<Self>, EventError> {
        change.parsed(|| Self::parse(conversation, change))
    }

    fn parse(conversation: Uuid, change: &Change) -> Result<Self, EventError> {
        let id = Uuid::try_parse(&change.record)?;
        let key = SortKey { at: Micros(change.created_us), id };
        Ok(match (change.action, id == conversation) {
            (Action::Create, false) => Self::Created { key, data: created(conversation, key, change)? },
            (Action::Append, _) => Self::Appended { key, data: appended(change)? },
            (Action::Import, _) => {
                let Range { first, last } = serde_json::from_str(&change.data)?;
                Self::Imported { first, last }
            }
            (Action::Update, true) => Self::Updated { data: updated(change)? },
            (Action::Delete, true) => Self::Deleted { data: deleted(conversation) },
            (Action::Create, true) | (Action::Update | Action::Delete, false) => Self::Silent,
            // Of other topics.
            (Action::Publish | Action::Truncate | Action::Many, _) => Self::Silent,
        })
    }
}

/// What a change of a conversation left, as JSON: a message, what was appended to one, the conversation, or the range of an import.
///
/// # Errors
///
/// [`EventError`].
pub fn change_json(conversation: Uuid, change: &Change) -> Result<String, EventError> {
    let parsed = ConversationChange::of(conversation, change)?;
    Ok(match &*parsed {
        ConversationChange::Created { data, .. }
        | ConversationChange::Appended { data, .. }
        | ConversationChange::Updated { data }
        | ConversationChange::Deleted { data } => String::from_utf8_lossy(data).into_owned(),
        ConversationChange::Imported { .. } | ConversationChange::Silent => change.data.clone(),
    })
}

/// The ids of imported messages.
#[derive(Deserialize)]
struct Range {
    first: Uuid,
    last: Uuid,
}

fn created(conversation: Uuid, key: SortKey, change: &Change) -> Result<Bytes, EventError> {
    #[derive(Deserialize)]
    struct Data {
        role: String,
        content: String,
        extra: Option<Box<RawValue>>,
        token_count: Option<i32>,
        metadata: Box<RawValue>,
        done: bool,
    }
    let data: Data = serde_json::from_str(&change.data)?;
    message(&Message {
        id: key.id,
        conversation_id: conversation,
        role: Role::parse(&data.role).ok_or(EventError::Role)?,
        content: data.content,
        extra: data.extra.map(Extra::new),
        timestamp: key.at,
        token_count: data.token_count,
        metadata: Metadata::new(data.metadata),
        done: data.done,
    })
}

fn appended(change: &Change) -> Result<Bytes, EventError> {
    #[derive(Deserialize)]
    struct Data {
        at: i32,
        content: String,
        done: bool,
    }
    #[derive(Serialize)]
    struct AppendResponse<'a> {
        id: &'a str,
        at: i32,
        content: &'a str,
        done: bool,
    }
    let Data { at, content, done } = serde_json::from_str(&change.data)?;
    let response = AppendResponse { id: &change.record, at, content: &content, done };
    Ok(serde_json::to_vec(&response)?.into())
}

fn updated(change: &Change) -> Result<Bytes, EventError> {
    #[derive(Deserialize)]
    struct Data {
        title: String,
        metadata: Box<RawValue>,
    }
    #[derive(Serialize)]
    struct UpdateResponse<'a> {
        id: &'a str,
        title: &'a str,
        created_at: Micros,
        updated_at: Micros,
        metadata: &'a RawValue,
    }
    let data: Data = serde_json::from_str(&change.data)?;
    let response = UpdateResponse {
        id: &change.record,
        title: &data.title,
        created_at: Micros(change.created_us),
        updated_at: Micros(change.updated_us),
        metadata: &data.metadata,
    };
    Ok(serde_json::to_vec(&response)?.into())
}

fn deleted(conversation: Uuid) -> Bytes {
    format!("{{\"id\":\"{conversation}\"}}").into()
}
