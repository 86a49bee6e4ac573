//! Bodies that are read member by member, or that hold what a client likes: how they are described.
#![expect(dead_code, reason = "what these describe is read and written elsewhere")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// Bytes as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(in crate::http) struct AnyBytes(Vec<u8>);

/// A JSON object; `id`, `created` and `updated` are the service's.
#[derive(ToSchema)]
#[schema(as = NewRecord, example = json!({"name": "a", "n": 1}))]
pub(in crate::http) struct RecordBody {
    /// 15 characters of a to z and 0 to 9; without one it is made.
    #[schema(pattern = "^[a-z0-9]{15}$")]
    id: Option<String>,
    #[serde(flatten)]
    members: BTreeMap<String, Value>,
}

/// A record.
#[derive(Serialize, ToSchema)]
#[schema(as = Record)]
pub(in crate::http) struct RecordShape {
    id: Option<String>,
    /// RFC 3339.
    created: Option<String>,
    /// RFC 3339.
    updated: Option<String>,
    /// Whatever was sent.
    #[serde(flatten)]
    members: BTreeMap<String, Value>,
}

/// What became of a batch.
#[derive(ToSchema)]
#[schema(as = BatchAnswer)]
pub(in crate::http) struct BatchShape {
    /// Events that were taken.
    accepted: u64,
    /// Those that were not.
    rejected: Vec<RejectedShape>,
    /// With ack=committed: those that did not become rows.
    dead_lettered: Option<Vec<DeadLetteredShape>>,
    /// With ack=committed: indexes of those that were stored before, under the same keys.
    duplicates: Option<Vec<u64>>,
}

/// An event of a batch that was not taken.
#[derive(ToSchema)]
#[schema(as = RejectedEvent)]
struct RejectedShape {
    index: u64,
    #[schema(example = "invalid_json")]
    code: String,
    message: String,
}

/// An event of a batch that did not become a row.
#[derive(ToSchema)]
#[schema(as = DeadLetteredEvent)]
struct DeadLetteredShape {
    index: u64,
    /// `rejected`, `dropped_by_trigger` or `quarantined`.
    reason: String,
    /// Of a rejected event.
    sqlstate: Option<String>,
}

/// What a conversation is to be, or what of it is to be changed.
#[derive(ToSchema)]
#[schema(as = ConversationChange)]
pub(in crate::http) struct ConversationBody {
    /// "New Conversation" without one.
    #[schema(nullable, example = "Travel plans")]
    title: Option<String>,
    /// An object.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

/// A conversation.
#[derive(ToSchema)]
#[schema(as = Conversation)]
pub(in crate::http) struct ConversationShape {
    id: Uuid,
    title: String,
    /// RFC 3339.
    #[schema(format = DateTime)]
    created_at: String,
    /// When something was done to it last. RFC 3339.
    #[schema(format = DateTime)]
    updated_at: String,
    #[schema(value_type = Object)]
    metadata: Value,
}

/// A message that is to be added.
#[derive(ToSchema)]
#[schema(as = NewMessage)]
pub(in crate::http) struct MessageBody {
    /// system, developer, user, assistant, tool or function.
    #[schema(example = "user")]
    role: String,
    /// A text, or parts; null beside tool_calls.
    content: Option<ContentShape>,
    #[serde(flatten)]
    chat: ChatShape,
    /// The client's own count.
    #[schema(minimum = 0)]
    token_count: Option<i32>,
    /// An object.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    /// false: text is added to it until it is done.
    done: Option<bool>,
}

/// The content of a message: a text, or parts such as texts and images.
#[derive(ToSchema)]
#[schema(as = MessageContent)]
#[serde(untagged)]
pub(in crate::http) enum ContentShape {
    Text(String),
    Parts(Vec<ContentPartShape>),
}

/// A part of a message's content.
#[derive(ToSchema)]
#[schema(as = ContentPart)]
pub(in crate::http) struct ContentPartShape {
    #[schema(example = "text")]
    r#type: String,
    #[serde(flatten)]
    members: BTreeMap<String, Value>,
}

/// What a message of a chat has beside its content; it is returned as it was sent.
#[derive(ToSchema)]
#[schema(as = ChatMembers)]
pub(in crate::http) struct ChatShape {
    name: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    tool_calls: Option<Vec<Value>>,
    tool_call_id: Option<String>,
    #[schema(value_type = Option<Object>)]
    function_call: Option<Value>,
    refusal: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    annotations: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    audio: Option<Value>,
}

/// One message, or several of which all are added or none.
#[derive(ToSchema)]
#[schema(as = NewMessages)]
#[serde(untagged)]
pub(in crate::http) enum MessagesBody {
    One(Box<MessageBody>),
    Several(Vec<MessageBody>),
}

/// A message.
#[derive(ToSchema)]
#[schema(as = Message)]
pub(in crate::http) struct MessageShape {
    id: Uuid,
    conversation_id: Uuid,
    /// system, developer, user, assistant, tool or function.
    role: String,
    /// So far, if it is being written.
    content: Option<ContentShape>,
    #[serde(flatten)]
    chat: ChatShape,
    /// RFC 3339.
    #[schema(format = DateTime)]
    timestamp: String,
    token_count: Option<i32>,
    #[schema(value_type = Object)]
    metadata: Value,
    /// Whether nothing more is added to it.
    done: bool,
}

/// One message, or those of an array.
#[derive(ToSchema)]
#[schema(as = Messages)]
#[serde(untagged)]
pub(in crate::http) enum MessagesShape {
    One(Box<MessageShape>),
    Several(Vec<MessageShape>),
}

/// Text that is added to a message.
#[derive(ToSchema)]
#[schema(as = Piece)]
pub(in crate::http) struct PieceBody {
    content: String,
    /// How many characters (Unicode code points) there are so far.
    #[schema(minimum = 0)]
    at: i64,
    /// Nothing more comes.
    done: Option<bool>,
}

/// Files, each a part with a name.
#[derive(ToSchema)]
pub(in crate::http) struct UploadForm {
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<String>,
}

/// How far an import is.
#[derive(ToSchema)]
#[schema(as = ImportProgress)]
pub(in crate::http) struct ProgressShape {
    file_id: Uuid,
    /// running, done or failed.
    state: String,
    /// Bytes of the file that are behind it.
    bytes: i64,
    total_bytes: i64,
    /// Lines that are behind it, blank ones too.
    lines: i64,
    stored: i64,
    rejected: i64,
    /// RFC 3339.
    #[schema(format = DateTime)]
    started_at: String,
    /// RFC 3339.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// Why it failed.
    error: Option<String>,
}
