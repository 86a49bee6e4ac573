//! Conversations, messages and their parts.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::chat::{self, Extra};
use crate::time::Micros;

/// The text of a JSON object that `jsonb` takes.
#[derive(Debug, Clone)]
pub struct Metadata(pub(super) Box<RawValue>);

impl Metadata {
    /// Metadata from a JSON object that `jsonb` takes.
    pub fn new(object: Box<RawValue>) -> Self {
        Self(object)
    }

    /// An object without members.
    pub fn empty() -> Self {
        Self(RawValue::from_string("{}".into()).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A conversation.
#[derive(Debug, Clone, Serialize)]
pub struct Conversation {
    /// Its id, a UUIDv7.
    pub id: Uuid,
    /// Its title.
    pub title: String,
    /// The time of its creation.
    pub created_at: Micros,
    /// The time of its last activity: a message was added or completed, or the conversation was changed.
    pub updated_at: Micros,
    /// Metadata of its owner.
    pub metadata: Metadata,
}

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The author of the instructions.
    System,
    /// `System`, as newer models call it.
    Developer,
    /// A person.
    User,
    /// A model.
    Assistant,
    /// A tool that the model called.
    Tool,
    /// `Tool`, as older models call it.
    Function,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool, Self::Function];
    /// The allowed values, for refusals.
    pub const TAKES: &str = "takes system, developer, user, assistant, tool or function";

    /// The role of this name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == word)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Function => "function",
        }
    }
}

/// A message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id, a UUIDv7.
    pub id: Uuid,
    /// Its conversation.
    pub conversation_id: Uuid,
    /// Its author.
    pub role: Role,
    /// Its text; of a message that is being written, the text so far.
    pub content: String,
    /// Content beside plain text.
    pub extra: Option<Extra>,
    /// The time at which it was added. Messages are ordered by it, then by their ids.
    pub timestamp: Micros,
    /// Tokens, as the client counted them.
    pub token_count: Option<i32>,
    /// Metadata of its owner.
    pub metadata: Metadata,
    /// Whether it is complete.
    pub done: bool,
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("conversation_id", &self.conversation_id)?;
        map.serialize_entry("role", &self.role)?;
        chat::write(&mut map, &self.content, self.extra.as_ref())?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("token_count", &self.token_count)?;
        map.serialize_entry("metadata", &self.metadata)?;
        map.serialize_entry("done", &self.done)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_read_by_its_name() {
        for word in ["system", "developer", "user", "assistant", "tool", "function"] {
            assert_eq!(Role::parse(word).unwrap().name(), word);
        }
        for word in ["", "User", "bot", "user "] {
            assert_eq!(Role::parse(word), None, "{word}");
        }
    }
}
