//! The tuple of an event in Postgres' binary COPY format, encoded once.
//!
//! A tuple is a 16-bit field count, then for each field a 32-bit length (−1 for null) and the field's bytes, all
//! big-endian ("COPY", file formats, in Postgres' manual). The fields are in the order of [`COLUMNS`]. The queue and the
//! journal keep this tuple.

pub use tidegate_journal::tuple::{Tuple, tuples};
use uuid::Uuid;

use super::id::{self, Tag};
use super::json::JsonKind;

/// The columns of `requests` in the order of the tuple's fields.
pub const COLUMNS: &str = "id, trace_id, payload, body, content_type, received_at";

/// The number of fields.
pub const FIELDS: i16 = 6;
/// The version byte of a binary `jsonb`.
const JSONB_VERSION: u8 = 1;
const NULL: i32 = -1;
/// The size of a tuple without its variable fields: field count, six lengths, the id and the time.
const FIXED_BYTES: usize = 2 + 6 * 4 + 16 + 8;
/// Postgres' epoch, 2000-01-01T00:00:00Z, in microseconds of Unix time.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A body, as kept in `requests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// For `payload`.
    Jsonb(&'a [u8]),
    /// For `body`, byte for byte.
    Bytes(&'a [u8]),
}

/// The content of a row with this body, according to the verdict on it.
pub fn content(verdict: JsonKind, body: &[u8]) -> Content<'_> {
    match verdict {
        JsonKind::Jsonb => Content::Jsonb(body),
        JsonKind::NotJsonb(_) | JsonKind::NotJson(_) => Content::Bytes(body),
    }
}

/// The fields of an event.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// UUIDv7, the primary key.
    pub id: Uuid,
    /// 1–128 visible ASCII characters.
    pub trace_id: &'a [u8],
    /// The body.
    pub content: Content<'a>,
    /// The media type that the client declared.
    pub content_type: Option<&'a str>,
    /// The time of receipt, in microseconds of Unix time.
    pub received_at_us: i64,
}

impl Row<'_> {
    /// The tuple's length in bytes.
    pub fn encoded_len(&self) -> usize {
        let content = match self.content {
            Content::Jsonb(json) => 1 + json.len(),
            Content::Bytes(bytes) => bytes.len(),
        };
        FIXED_BYTES + self.trace_id.len() + content + self.content_type.map_or(0, str::len)
    }

    /// Appends the tuple to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        out.extend_from_slice(&FIELDS.to_be_bytes());
        put_field(out, self.id.as_bytes());
        put_field(out, self.trace_id);
        match self.content {
            Content::Jsonb(json) => {
                put_jsonb(out, json);
                put_null(out);
            }
            Content::Bytes(bytes) => {
                put_null(out);
                put_field(out, bytes);
            }
        }
        match self.content_type {
            Some(content_type) => put_field(out, content_type.as_bytes()),
            None => put_null(out),
        }
        put_field(out, &(self.received_at_us - POSTGRES_EPOCH_US).to_be_bytes());
    }
}

/// Appends a field. Callers bound its size far below 2 GiB.
#[inline]
pub fn put_field(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

#[inline]
fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as i32).to_be_bytes());
}

/// Appends a null field.
#[inline]
pub fn put_null(out: &mut Vec<u8>) {
    out.extend_from_slice(&NULL.to_be_bytes());
}

/// Appends a field of `jsonb`.
#[inline]
pub fn put_jsonb(out: &mut Vec<u8>, json: &[u8]) {
    put_length(out, 1 + json.len());
    out.push(JSONB_VERSION);
    out.extend_from_slice(json);
}

/// The field of a `timestamptz`.
pub fn postgres_timestamp(unix_us: i64) -> [u8; 8] {
    (unix_us - POSTGRES_EPOCH_US).to_be_bytes()
}

/// The id of the event in a tuple.
pub fn tuple_id(tuple: Tuple<'_>) -> Option<Uuid> {
    Uuid::from_slice(tuple.field(0)?).ok()
}

/// Writes an event as a line of JSON: `payload` unchanged, `body` as text, or as base64 in `body_base64`.
///
/// # Errors
///
/// Any error of `out`.
pub fn write_json(tuple: Tuple<'_>, out: &mut impl std::io::Write) -> std::io::Result<()> {
    let [id, trace_id, payload, body, content_type, received_at] = tuple.fields();
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let id = Uuid::from_slice(id.unwrap_or_default()).unwrap_or_default();
    let at_us = received_at.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
    let head = serde_json::json!({
        "id": id.to_string(),
        "trace_id": text(trace_id),
        "content_type": content_type.map(|bytes| text(Some(bytes))),
        "received_at_us": at_us.map(|us| us + POSTGRES_EPOCH_US),
    });
    // The payload is JSON already, and is not parsed.
    let head = head.to_string();
    out.write_all(head.strip_suffix('}').unwrap_or_default().as_bytes())?;
    match (payload, body) {
        (Some([_version, payload @ ..]), _) => {
            out.write_all(b",\"payload\":")?;
            for part in payload.split(|byte| matches!(byte, b'\n' | b'\r')) {
                out.write_all(part)?;
            }
        }
        (_, Some(body)) => match std::str::from_utf8(body) {
            Ok(body) => write!(out, ",\"body\":{}", serde_json::Value::from(body))?,
            Err(_) => {
                let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, body);
                write!(out, ",\"body_base64\":\"{body}\"")?;
            }
        },
        _ => {}
    }
    out.write_all(b"}\n")
}

/// The offset of a tuple's id.
const ID_AT: usize = 2 + 4;
/// The offset of a tuple's trace id.
const TRACE_AT: usize = ID_AT + 16 + 4;

/// Assigns ids to the tuples of `rows`, from `sequence` on; the time in each id stays. With `trace_from_id` the trace id,
/// which has the length of a UUID's text, becomes the id's text.
pub fn stamp(rows: &mut [u8], tag: Tag, mut sequence: u64, trace_from_id: bool) {
    let mut at = 0;
    loop {
        let rest = rows.get(at..).unwrap_or_default();
        let Some(length) = tuples(rest).next().map(|tuple| tuple.bytes().len()) else { return };
        let Some(tuple) = rows.get_mut(at..at + length) else { return };
        at += length;
        let Some(field) = tuple.get_mut(ID_AT..ID_AT + 16) else { return };
        let old = Uuid::from_slice(field).unwrap_or_default();
        let id = id::event_id(id::unix_ms(old), tag, sequence);
        field.copy_from_slice(id.as_bytes());
        sequence += 1;
        if trace_from_id
            && let Some(trace) = tuple.get_mut(TRACE_AT..TRACE_AT + uuid::fmt::Hyphenated::LENGTH)
        {
            id.hyphenated().encode_lower(trace);
        }
    }
}

/// Replaces the id of the first tuple of `rows`.
pub fn set_id(rows: &mut [u8], id: Uuid) {
    if let Some(field) = rows.get_mut(ID_AT..ID_AT + 16) {
        field.copy_from_slice(id.as_bytes());
    }
}

/// The id of the first tuple of `rows`.
pub fn first_id(rows: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(rows.get(ID_AT..ID_AT + 16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stamping_changes_ids_and_nothing_else() {
        let row = |n: u64, trace: &'static [u8]| Row {
            id: id::event_id(n, Tag::of_journal(Uuid::nil()), 0),
            trace_id: trace,
            content: Content::Jsonb(b"[]"),
            content_type: None,
            received_at_us: 5,
        };
        let mut rows = Vec::new();
        for n in 0..3 {
            row(n, b"mine").encode(&mut rows);
        }
        let before = rows.clone();
        let tag = Tag::of_journal(Uuid::max());
        stamp(&mut rows, tag, 7, false);
        assert_eq!(first_id(&rows), Some(id::event_id(0, tag, 7)));
        for (n, (stamped, before)) in tuples(&rows).zip(tuples(&before)).enumerate() {
            assert_eq!(stamped.field(0), Some(&id::event_id(n as u64, tag, 7 + n as u64).as_bytes()[..]));
            assert_eq!(stamped.fields::<6>()[1..], before.fields::<6>()[1..]);
        }
        let mut one = Vec::new();
        row(1, &[b' '; 36]).encode(&mut one);
        stamp(&mut one, tag, 1, true);
        let text = id::event_id(1, tag, 1).to_string();
        assert_eq!(tuples(&one).next().unwrap().field(1), Some(text.as_bytes()));
    }

    proptest! {
        #[test]
        fn tuples_round_trip(
            rows in prop::collection::vec((any::<u128>(), "[!-~]{1,128}", any::<bool>(), ".{0,64}", prop::option::of(".{0,32}"), 0i64..4_000_000_000_000_000), 1..20)
        ) {
            let mut encoded = Vec::new();
            let mut length = 0;
            for (id, trace, json, content, content_type, at) in &rows {
                let content = if *json { Content::Jsonb(content.as_bytes()) } else { Content::Bytes(content.as_bytes()) };
                let row = Row { id: Uuid::from_u128(*id), trace_id: trace.as_bytes(), content, content_type: content_type.as_deref(), received_at_us: *at };
                row.encode(&mut encoded);
                length += row.encoded_len();
            }
            prop_assert_eq!(encoded.len(), length);
            let read: Vec<_> = tuples(&encoded).collect();
            prop_assert_eq!(read.len(), rows.len());
            for (tuple, (id, trace, json, content, content_type, at)) in read.iter().zip(&rows) {
                let [id_field, trace_field, payload, body, type_field, at_field] = tuple.fields();
                prop_assert_eq!(id_field, Some(&id.to_be_bytes()[..]));
                prop_assert_eq!(trace_field, Some(trace.as_bytes()));
                prop_assert_eq!(payload.map(|field| (field[0], &field[1..])), json.then_some((1, content.as_bytes())));
                prop_assert_eq!(body, (!json).then_some(content.as_bytes()));
                prop_assert_eq!(type_field, content_type.as_ref().map(|text| text.as_bytes()));
                prop_assert_eq!(at_field, Some(&postgres_timestamp(*at)[..]));
            }
        }
    }
}
