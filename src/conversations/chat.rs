//! Members of chat messages beside plain text: content in parts, tool calls, and their relatives.
//!
//! Chat SDKs send messages whose `content` is a list of parts (text, references to images), or null beside `tool_calls`. These
//! members are stored as they were sent, as one JSON object ([`Extra`]); the text of the parts is also the message's content, which search
//! reads.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::ingest::json::{self, JsonKind};

/// The members that a message may have beside `content`, with their shapes.
pub const CHAT_MEMBERS: [(&str, Shape); 7] = [
    ("name", Shape::Text),
    ("tool_calls", Shape::List),
    ("tool_call_id", Shape::Text),
    ("function_call", Shape::Object),
    ("refusal", Shape::Text),
    ("annotations", Shape::List),
    ("audio", Shape::Object),
];
/// The members with which a message needs no content.
const REPLACING_CONTENT: [&str; 4] = ["tool_calls", "function_call", "refusal", "audio"];
const CONTENT: &str = "content";

/// The shape of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A text.
    Text,
    /// A list.
    List,
    /// An object.
    Object,
}

impl Shape {
    fn fits(self, raw: &str) -> bool {
        raw.starts_with(match self {
            Self::Text => '"',
            Self::List => '[',
            Self::Object => '{',
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

/// The reason for which a message is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidContent {
    /// The member.
    pub member: &'static str,
    /// The reason, to follow its name.
    pub why: Cow<'static, str>,
    /// Whether the message exceeds `MAX_MESSAGE_BYTES`.
    pub is_too_large: bool,
}

/// The members of a message beyond its text: an object that `jsonb` takes.
#[derive(Debug, Clone)]
pub struct Extra(Box<RawValue>);

impl Extra {
    /// An extra from the object of one that [`read`] made.
    pub fn new(object: Box<RawValue>) -> Self {
        Self(object)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

/// The content of a message.
#[derive(Debug, Clone)]
pub struct MessageContent {
    /// Its text; of parts, the text of all of them, a line each.
    pub text: String,
    /// Members beyond the text.
    pub extra: Option<Extra>,
}

impl MessageContent {
    /// Whether chunks can be appended to it: it is plain text.
    pub fn is_text(&self) -> bool {
        self.extra
            .as_ref()
            .is_none_or(|extra| members(extra).is_some_and(|members| !members.contains_key(CONTENT)))
    }
}

/// Reads the content of a message, of up to `max_bytes`: the raw JSON of its `content`, if it is present and not null, and of its
/// [`CHAT_MEMBERS`].
///
/// # Errors
///
/// [`InvalidContent`] names the member.
pub fn read(
    content: Option<&str>,
    others: &[(&'static str, &str)],
    max_bytes: usize,
    max_depth: usize,
) -> Result<MessageContent, InvalidContent> {
    let refuse =
        |member, why: &'static str| Err(InvalidContent { member, why: why.into(), is_too_large: false });
    let mut extra: BTreeMap<&str, &RawValue> = BTreeMap::new();
    let mut bytes = 0;
    for (name, raw) in content.map(|raw| (CONTENT, raw)).iter().chain(others) {
        let (verdict, size) = json::measure(raw.as_bytes(), max_depth);
        if let JsonKind::NotJsonb(reason) = verdict {
            return Err(InvalidContent {
                member: name,
                why: format!("cannot be stored: {reason}").into(),
                is_too_large: false,
            });
        }
        let Ok(value) = serde_json::from_str::<&RawValue>(raw) else { return refuse(name, "is not JSON") };
        let is_text = *name == CONTENT && Shape::Text.fits(raw);
        // A text counts with its decoded bytes.
        bytes += if is_text { 0 } else { size };
        match CHAT_MEMBERS.iter().find(|(known, _)| known == name) {
            Some((_, shape)) if !shape.fits(raw) => {
                let why = format!("takes {}", shape.name());
                return Err(InvalidContent { member: name, why: why.into(), is_too_large: false });
            }
            _ if !is_text => _ = extra.insert(name, value),
            _ => {}
        }
    }
    let text = match content {
        Some(raw) if Shape::Text.fits(raw) => match serde_json::from_str::<String>(raw) {
            Ok(text) => text,
            Err(_) => return refuse(CONTENT, "takes a text"),
        },
        Some(raw) => text_of_parts(raw)?,
        None if REPLACING_CONTENT.iter().any(|name| extra.contains_key(name)) => {
            extra.insert(CONTENT, RawValue::NULL);
            String::new()
        }
        None => return refuse(CONTENT, "has to be there, or tool_calls"),
    };
    // The text of parts was counted with them.
    let bytes = if extra.contains_key(CONTENT) { bytes } else { bytes + text.len() };
    if bytes > max_bytes {
        let why = format!("takes up to {max_bytes} bytes (MAX_MESSAGE_BYTES)").into();
        return Err(InvalidContent { member: CONTENT, why, is_too_large: true });
    }
    let extra = match extra.is_empty() {
        true => None,
        false => serde_json::value::to_raw_value(&extra).ok().map(Extra),
    };
    Ok(MessageContent { text, extra })
}

/// The text of content in parts, each an object with a `type`.
fn text_of_parts(raw: &str) -> Result<String, InvalidContent> {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(default)]
        text: Option<&'a RawValue>,
    }
    let parts = serde_json::from_str::<Vec<Part<'_>>>(raw).ok();
    let parts = parts.filter(|parts| !parts.is_empty() && parts.iter().all(|part| !part.kind.is_empty()));
    let Some(parts) = parts else {
        let why = "takes a text, or a list of parts, each an object with a type";
        return Err(InvalidContent { member: CONTENT, why: why.into(), is_too_large: false });
    };
    let texts = parts.iter().filter_map(|part| serde_json::from_str::<String>(part.text?.get()).ok());
    Ok(texts.collect::<Vec<_>>().join("\n"))
}

fn members(extra: &Extra) -> Option<BTreeMap<Cow<'_, str>, &RawValue>> {
    serde_json::from_str(extra.as_str()).ok()
}

/// Writes the members of a message: the content as it was sent, then the others.
pub(super) fn write<M: SerializeMap>(map: &mut M, text: &str, extra: Option<&Extra>) -> Result<(), M::Error> {
    let mut members = extra.and_then(members).unwrap_or_default();
    match members.remove(CONTENT) {
        Some(content) => map.serialize_entry(CONTENT, content)?,
        None => map.serialize_entry(CONTENT, text)?,
    }
    members.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(raw: Option<&str>, others: &[(&'static str, &str)]) -> Result<MessageContent, InvalidContent> {
        read(raw, others, 200, 10)
    }

    #[test]
    fn text_parts_and_calls_are_read_and_nothing_else() {
        let plain = content(Some(r#""a\u00e9""#), &[]).unwrap();
        assert_eq!((plain.text.as_str(), plain.is_text(), plain.extra.is_none()), ("aé", true, true));
        let named = content(Some(r#""a""#), &[("name", r#""bob""#)]).unwrap();
        assert_eq!((named.is_text(), named.extra.unwrap().as_str()), (true, r#"{"name":"bob"}"#));
        let parts = r#"[{"type":"text","text":"one"}, {"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"two"}]"#;
        let in_parts = content(Some(parts), &[]).unwrap();
        assert_eq!((in_parts.text.as_str(), in_parts.is_text()), ("one\ntwo", false));
        assert_eq!(in_parts.extra.unwrap().as_str(), format!("{{\"content\":{parts}}}"));
        let call = content(None, &[("tool_calls", r#"[{"id":"1"}]"#)]).unwrap();
        assert_eq!(call.extra.unwrap().as_str(), r#"{"content":null,"tool_calls":[{"id":"1"}]}"#);
        let long = format!("\"{}\"", "x".repeat(201));
        let digits = r#"[{"type":"text","n":1e300}]"#;
        for (raw, others, member, is_too_large) in [
            (None, &[][..], "content", false),
            (None, &[("name", r#""x""#)], "content", false),
            (Some("7"), &[], "content", false),
            (Some("[]"), &[], "content", false),
            (Some(r#"["text"]"#), &[], "content", false),
            (Some(r#"[{"type":""}]"#), &[], "content", false),
            (Some(r#"[{"text":"a"}]"#), &[], "content", false),
            (Some(r#"[{"type":"text","text":"\u0000"}]"#), &[], "content", false),
            (Some(r#""a""#), &[("tool_calls", "{}")], "tool_calls", false),
            (Some(r#""a""#), &[("tool_call_id", "7")], "tool_call_id", false),
            (Some(&long), &[], "content", true),
            (Some(digits), &[], "content", true),
            (Some(r#""a""#), &[("name", &long)], "content", true),
        ] {
            let refused = content(raw, others).unwrap_err();
            assert_eq!((refused.member, refused.is_too_large), (member, is_too_large), "{raw:?} {others:?}");
        }
    }
}
