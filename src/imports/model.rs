//! What an import is asked for, and how far it is.

use serde::Serialize;
use uuid::Uuid;

use super::ImportsError;

/// What a line becomes.
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

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Conversation => "conversation",
            Self::Message => "message",
        }
    }

    /// The kind that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == word)
    }
}

/// The kinds that somebody may store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed([bool; 3]);

impl Allowed {
    /// Those for which `may` says so.
    pub fn which(may: impl Fn(Kind) -> bool) -> Self {
        Self(Kind::ALL.map(may))
    }

    /// Whether a kind is among them.
    pub fn has(self, kind: Kind) -> bool {
        self.0.get(kind as usize).copied().unwrap_or(false)
    }

    /// Their words.
    pub fn names(self) -> Vec<&'static str> {
        Kind::ALL.into_iter().filter(|kind| self.has(*kind)).map(Kind::name).collect()
    }
}

/// What a line may say, by the members that a [`Mapping`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// What it becomes.
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
    /// Who speaks in a message.
    Role,
    /// A message's text.
    Content,
    /// A message's length in tokens.
    TokenCount,
    /// When a message was said.
    Timestamp,
    /// Whatever else belongs to a conversation or message.
    Metadata,
    /// The name of who speaks, or of the function.
    Name,
    /// Tools that a message calls.
    ToolCalls,
    /// The call that a tool's message answers.
    ToolCallId,
    /// A function that a message calls.
    FunctionCall,
    /// Why a model does not answer.
    Refusal,
    /// What belongs to places of the content.
    Annotations,
    /// Speech.
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

    /// Those of a message beside its content, by their names in [`crate::conversations::CHAT_MEMBERS`].
    pub(super) const OF_CHAT: [Self; 7] = [
        Self::Name,
        Self::ToolCalls,
        Self::ToolCallId,
        Self::FunctionCall,
        Self::Refusal,
        Self::Annotations,
        Self::Audio,
    ];

    /// The word for it, which is also the member that holds it where no mapping says otherwise.
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

/// Which member of a line holds each field.
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
    /// Says that `member` holds the field that `name` names.
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

    /// Whether an event is a member of its line, and not the whole of it.
    pub(super) fn maps_payload(&self) -> bool {
        self.maps_payload
    }

    /// What differs from the default, as JSON.
    pub fn to_json(&self) -> String {
        let changed = Field::ALL.into_iter().zip(&self.members).filter(|(field, member)| {
            field.name() != member.as_str() || (*field == Field::Payload && self.maps_payload)
        });
        let members = changed.map(|(field, member)| (field.name().to_owned(), member.as_str().into()));
        serde_json::Value::Object(members.collect()).to_string()
    }

    /// Reads what [`Self::to_json`] wrote.
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

/// What an import is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What every line becomes; without it each line says so.
    pub kind: Option<Kind>,
    /// Which member holds what.
    pub mapping: Mapping,
    /// What whoever asked may store.
    pub allowed: Allowed,
}

impl Plan {
    /// Whether another asks for the same.
    pub(super) fn asks_as(&self, other: &Self) -> bool {
        (self.kind, &self.mapping) == (other.kind, &other.mapping)
    }
}

/// The most that a line may hold.
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
}

/// An import that is to be run: its file, and how it began.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) file_id: Uuid,
    /// Whose the file is.
    pub(super) owner: Option<Uuid>,
    pub(super) plan: Plan,
    pub(super) part_bytes: u64,
    /// Microseconds of Unix time.
    pub(super) started_us: i64,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is under way, or waits for its turn.
    Running,
    /// Every line is stored or rejected.
    Done,
    /// The file cannot be read.
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

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The file.
    pub file_id: Uuid,
    /// How far it is.
    pub state: State,
    /// Bytes of the file that are behind it.
    pub bytes: i64,
    /// Bytes of the file.
    pub total_bytes: i64,
    /// Lines that are behind it, blank ones too.
    pub lines: i64,
    /// Those that were stored.
    pub stored: i64,
    /// Those that were not.
    pub rejected: i64,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// Why it failed.
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
