//! A message as a tuple of Postgres' binary `COPY`; see [`crate::ingest::row`] for the format.

use uuid::Uuid;

use super::parse::Message;
use crate::ingest::row::{postgres_timestamp, put_field, put_jsonb, put_null};

/// The columns of `messages` that a tuple fills, in the tuple's order.
pub(super) const COLUMNS: &str =
    "id, conversation_id, role, content, timestamp, token_count, metadata, extra";

const FIELDS: i16 = 8;

/// Appends a tuple to `out`; `at_us` is in microseconds of Unix time.
pub(super) fn encode(out: &mut Vec<u8>, id: Uuid, at_us: i64, message: &Message<'_>) {
    out.extend_from_slice(&FIELDS.to_be_bytes());
    put_field(out, id.as_bytes());
    put_field(out, message.conversation.as_bytes());
    put_field(out, message.role.as_bytes());
    put_field(out, message.content.as_bytes());
    put_field(out, &postgres_timestamp(at_us));
    match message.token_count {
        Some(count) => put_field(out, &count.to_be_bytes()),
        None => put_null(out),
    }
    put_jsonb(out, message.metadata.as_bytes());
    match &message.extra {
        Some(extra) => put_jsonb(out, extra.as_bytes()),
        None => put_null(out),
    }
}
