//! The parameters of an import, and its progress.

use serde::Serialize;
use uuid::Uuid;

use super::ImportsError;

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A row of `requests`.
    Event,
    /// A conversation.
    Conversation,
    /// A message of a conversation.
    Message,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Event, Self::Conversation, Self::Message];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Conversation => "conversation",
            Self::Message => "message",
        }
    }

    /// The kind of a name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == word)
    }
}

/// A set of permitted kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed([bool; 3]);

impl Allowed {
    /// The kinds that `may` permits.
    pub fn which(may: impl Fn(Kind) -> bool) -> Self {
        Self(Kind::ALL.map(may))
    }

    /// Whether a kind is in the set.
    pub fn has(self, kind: Kind) -> bool {
        self.0.get(kind as usize).copied().unwrap_or(false)
    }

    /// The names.
    pub fn names(self) -> Vec<&'static str> {
        Kind::ALL.into_iter().filter(|kind| self.has(*kind)).map(Kind::name).collect()
    }
}

/// A property of a line, held by the member that a [`Mapping`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The kind of the line.
    Kind,
    /// An event's content.
    Payload,
    /// An event's trace id.
    TraceId,
    /// A conversation's id.
    Id,
    /// A conversation's title.
    Title,
    /// The conversation of a message.
    ConversationId,
    /// A message's role.
    Role,
    /// A message's text.
    Content,
    /// A message's length in tokens.
    TokenCount,
    /// A message's time.
    Timestamp,
    /// The metadata of a conversation or message.
    Metadata,
    /// The name of the speaker, or of the function.
    Name,
    /// The tool calls of a message.
    ToolCalls,
    /// The tool call that a message answers.
    ToolCallId,
    /// The function call of a message.
    FunctionCall,
    /// A model's refusal.
    Refusal,
    /// Annotations of the content.
    Annotations,
    /// Audio.
    Audio,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 18] = [
        Self::Kind,
        Self::Payload,
        Self::TraceId,
        Self::Id,
        Self::Title,
        Self::ConversationId,
        Self::Role,
        Self::Content,
        Self::TokenCount,
        Self::Timestamp,
        Self::Metadata,
        Self::Name,
        Self::ToolCalls,
        Self::ToolCallId,
        Self::FunctionCall,
        Self::Refusal,
        Self::Annotations,
        Self::Audio,
    ];

    /// The fields of a message beside its content, by their names in [`crate::conversations::CHAT_MEMBERS`].
    pub(super) const OF_CHAT: [Self; 7] = [
        Self::Name,
        Self::ToolCalls,
        Self::ToolCallId,
        Self::FunctionCall,
        Self::Refusal,
        Self::Annotations,
        Self::Audio,
    ];

    /// The name, which is also the member that holds it by default.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Payload => "payload",
            Self::TraceId => "trace_id",
            Self::Id => "id",
            Self::Title => "title",
            Self::ConversationId => "conversation_id",
            Self::Role => "role",
            Self::Content => "content",
            Self::TokenCount => "token_count",
            Self::Timestamp => "timestamp",
            Self::Metadata => "metadata",
            Self::Name => "name",
            Self::ToolCalls => "tool_calls",
            Self::ToolCallId => "tool_call_id",
            Self::FunctionCall => "function_call",
            Self::Refusal => "refusal",
            Self::Annotations => "annotations",
            Self::Audio => "audio",
        }
    }
}

/// The member that holds each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    members: [String; Field::ALL.len()],
    maps_payload: bool,
}

/// The longest name of a member.
const MAX_NAME_BYTES: usize = 128;

impl Default for Mapping {
    fn default() -> Self {
        Self { members: Field::ALL.map(|field| field.name().to_owned()), maps_payload: false }
    }
}

impl Mapping {
    /// Maps the field `name` to `member`.
    ///
    /// # Errors
    ///
    /// [`ImportsError::Invalid`] if there is no such field, or the member's name is empty or longer than 128 bytes.
    pub fn set(&mut self, name: &str, member: &str) -> Result<(), ImportsError> {
        let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) else {
            let message = "a mapping takes kind, payload, trace_id, id, title, conversation_id, role, content, \
                           token_count, timestamp, metadata, name, tool_calls, tool_call_id, function_call, refusal, \
                           annotations or audio";
            return Err(ImportsError::invalid("map", message));
        };
        if member.is_empty() || member.len() > MAX_NAME_BYTES || member.contains('\0') {
            return Err(ImportsError::invalid("map", "a mapping names a member of 1 to 128 bytes"));
        }
        self.maps_payload |= field == Field::Payload;
        if let Some(slot) = self.members.get_mut(field as usize) {
            member.clone_into(slot);
        }
        Ok(())
    }

    /// The fields that a member holds.
    pub(super) fn fields_of(&self, member: &str) -> impl Iterator<Item = Field> {
        Field::ALL
            .into_iter()
            .zip(&self.members)
            .filter(move |(_, name)| *name == member)
            .map(|(field, _)| field)
    }

    /// Whether an event is a member of its line, and not the whole line.
    pub(super) fn maps_payload(&self) -> bool {
        self.maps_payload
    }

    /// The differences from the default, as JSON.
    pub fn to_json(&self) -> String {
        let changed = Field::ALL.into_iter().zip(&self.members).filter(|(field, member)| {
            field.name() != member.as_str() || (*field == Field::Payload && self.maps_payload)
        });
        let members = changed.map(|(field, member)| (field.name().to_owned(), member.as_str().into()));
        serde_json::Value::Object(members.collect()).to_string()
    }

    /// Parses the output of [`Self::to_json`].
    ///
    /// # Errors
    ///
    /// [`ImportsError::Invalid`].
    pub fn from_json(text: &str) -> Result<Self, ImportsError> {
        let members: std::collections::BTreeMap<String, String> = serde_json::from_str(text)
            .map_err(|_| ImportsError::invalid("map", "a mapping has names of members"))?;
        let mut mapping = Self::default();
        for (field, member) in &members {
            mapping.set(field, member)?;
        }
        Ok(mapping)
    }
}

/// The parameters of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The kind of every line; `None`: each line has a kind.
    pub kind: Option<Kind>,
    /// The members of the fields.
    pub mapping: Mapping,
    /// The kinds that the client may store.
    pub allowed: Allowed,
}

impl Plan {
    /// Whether another plan has the same parameters.
    pub(super) fn asks_as(&self, other: &Self) -> bool {
        (self.kind, &self.mapping) == (other.kind, &other.mapping)
    }
}

/// The limits of a line.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a line.
    pub line_bytes: usize,
    /// Bytes of an event.
    pub event_bytes: usize,
    /// Bytes of a conversation's title.
    pub title_bytes: usize,
    /// Bytes of a message's content.
    pub message_bytes: usize,
    /// Bytes of the metadata of a conversation or message.
    pub metadata_bytes: usize,
    /// Levels of JSON.
    pub json_depth: usize,
    /// Whether conversations and messages can be stored.
    pub has_conversations: bool,
}

/// An import to be run: its file and parameters.
#[derive(Debug, Clone)]
pub(super) struct ImportJob {
    pub(super) file_id: Uuid,
    /// The file's owner.
    pub(super) owner: Option<Uuid>,
    pub(super) plan: Plan,
    pub(super) part_bytes: u64,
    /// Microseconds of Unix time.
    pub(super) started_us: i64,
}

/// The state of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is under way or waits.
    Running,
    /// Every line is stored or rejected.
    Done,
    /// The file cannot be read, or its lines cannot be stored.
    Failed,
}

impl State {
    pub(super) fn parse(word: &str) -> Self {
        match word {
            "done" => Self::Done,
            "failed" => Self::Failed,
            _ => Self::Running,
        }
    }
}

/// The progress of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The file.
    pub file_id: Uuid,
    /// The state.
    pub state: State,
    /// Bytes of the file processed so far.
    pub bytes: i64,
    /// Bytes of the file.
    pub total_bytes: i64,
    /// Lines processed so far, including blank ones.
    pub lines: i64,
    /// Lines stored.
    pub stored: i64,
    /// Lines rejected.
    pub rejected: i64,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// The reason of a failure.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_reads_back_what_it_wrote() {
        let mut mapping = Mapping::default();
        assert_eq!(mapping.to_json(), "{}");
        mapping.set("content", "te\"xt").unwrap();
        mapping.set("payload", "payload").unwrap();
        assert_eq!(Mapping::from_json(&mapping.to_json()).unwrap(), mapping);
        assert!(mapping.maps_payload());
        assert_eq!(mapping.fields_of("te\"xt").collect::<Vec<_>>(), [Field::Content]);
        assert_eq!(mapping.fields_of("content").count(), 0);
        assert!(mapping.set("text", "a").is_err());
        assert!(mapping.set("content", "").is_err());
    }

    #[test]
    fn fields_stand_in_the_order_of_their_numbers() {
        for (place, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!(field as usize, place);
        }
        let of_chat = crate::conversations::CHAT_MEMBERS.map(|(name, _)| name);
        assert_eq!(Field::OF_CHAT.map(Field::name), of_chat);
        let allowed = Allowed::which(|kind| kind == Kind::Message);
        assert_eq!(allowed.names(), ["message"]);
        assert!(!allowed.has(Kind::Event));
    }
}
