//! Content of appends, in the form in which it is stored.
//!
//! Bytes are stored as they came. JSON messages are stored one after another, each as it came and followed by a comma, so that any run of them
//! becomes an array by `[` before it and `]` in the place of its last comma.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// JSON messages of one append.
pub const MAX_MESSAGES: usize = 1_000_000;
/// The nesting of a JSON message.
const MAX_DEPTH: usize = crate::config::limits::MAX_JSON_DEPTH;

/// The content of one append, not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendBody {
    bytes: Bytes,
    message_ends: Option<Box<[u32]>>,
}

/// A body that is no JSON for a stream of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// It is no JSON.
    #[error("the body is not valid JSON")]
    Malformed,
    /// It is nested too deeply.
    #[error("the body is nested deeper than {MAX_DEPTH} levels")]
    Deep,
    /// It has too many messages.
    #[error("the body has more than {MAX_MESSAGES} messages")]
    TooMany,
}

impl AppendBody {
    /// Bytes of a stream of another type than JSON; `None`: there are none.
    pub fn of_bytes(bytes: Bytes) -> Option<Self> {
        (!bytes.is_empty()).then_some(Self { bytes, message_ends: None })
    }

    /// Messages of a stream of JSON: one, or those of an array, of which one level is flattened. Each keeps its bytes, without white space around it.
    /// `None`: the array is empty.
    ///
    /// # Errors
    ///
    /// [`InvalidJson`].
    pub fn of_json(body: &[u8]) -> Result<Option<Self>, InvalidJson> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        if is_deep(body) {
            return Err(InvalidJson::Deep);
        }
        let mut messages = Messages { bytes: Vec::with_capacity(body.len() + 1), ends: Vec::new() };
        let first = body.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
        if first == Some(&b'[') {
            let mut reader = serde_json::Deserializer::from_slice(body);
            let read = (&mut messages).deserialize(&mut reader).and_then(|()| reader.end());
            if messages.ends.len() > MAX_MESSAGES {
                return Err(InvalidJson::TooMany);
            }
            read.map_err(|_| InvalidJson::Malformed)?;
        } else {
            let message = serde_json::from_slice::<&RawValue>(body).map_err(|_| InvalidJson::Malformed)?;
            messages.push(message);
        }
        let Messages { bytes, ends } = messages;
        Ok((!ends.is_empty()).then(|| Self { bytes: bytes.into(), message_ends: Some(ends.into()) }))
    }

    /// The stored form.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The end of each JSON message in [`Self::bytes`], behind its comma; `None`: these are no messages.
    pub fn message_ends(&self) -> Option<&[u32]> {
        self.message_ends.as_deref()
    }

    /// Whether it consists of JSON messages.
    pub fn is_json(&self) -> bool {
        self.message_ends.is_some()
    }
}

/// Messages in their stored form.
struct Messages {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Messages {
    fn push(&mut self, message: &RawValue) {
        self.bytes.extend_from_slice(message.get().as_bytes());
        self.bytes.push(b',');
        // A body is smaller than 4 GiB by far.
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }
}

impl<'de> DeserializeSeed<'de> for &mut Messages {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Messages {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(message) = array.next_element::<&RawValue>()? {
            self.push(message);
            if self.ends.len() > MAX_MESSAGES {
                return Err(serde::de::Error::custom(InvalidJson::TooMany));
            }
        }
        Ok(())
    }
}

/// Whether JSON is nested deeper than [`MAX_DEPTH`], the flattened array included. Of other bytes it says nothing.
fn is_deep(body: &[u8]) -> bool {
    // Nearly all bodies have fewer brackets than that altogether.
    if memchr::memchr2_iter(b'[', b'{', body).take(MAX_DEPTH + 1).count() <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut is_in_text, mut is_escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_in_text => is_escaped = true,
            b'"' => is_in_text = !is_in_text,
            b'[' | b'{' if !is_in_text => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !is_in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The parts of a JSON array of stored messages, which `parts` consists of: `[`, the messages without their last comma, `]`.
pub fn json_array(mut parts: Vec<Bytes>) -> Vec<Bytes> {
    if let Some(last) = parts.last_mut() {
        // Every stored message ends with a comma.
        last.truncate(last.len().saturating_sub(1));
    }
    parts.insert(0, Bytes::from_static(b"["));
    parts.push(Bytes::from_static(b"]"));
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(body: &str) -> Result<Option<(String, Vec<u32>)>, InvalidJson> {
        let body = AppendBody::of_json(body.as_bytes())?;
        Ok(body.map(|body| {
            let text = String::from_utf8(body.bytes().to_vec()).unwrap();
            (text, body.message_ends().unwrap().to_vec())
        }))
    }

    #[test]
    fn one_level_of_an_array_is_flattened_and_messages_keep_their_bytes() {
        let one = |text: &str| Ok(Some((format!("{text},"), vec![text.len() as u32 + 1])));
        assert_eq!(
            stored(r#"{"b":1.0,"a":12345678901234567890}"#),
            one(r#"{"b":1.0,"a":12345678901234567890}"#)
        );
        assert_eq!(stored("\u{feff} {\"a\": 1}\n"), one("{\"a\": 1}"));
        assert_eq!(stored("null"), one("null"));
        assert_eq!(stored(r#""x""#), one(r#""x""#));
        assert_eq!(stored("[ [1, 2] , {\"a\":[ ]} ]"), Ok(Some(("[1, 2],{\"a\":[ ]},".into(), vec![7, 17]))));
        assert_eq!(stored("[[[1,2,3]]]"), one("[[1,2,3]]"));
        assert_eq!(stored("[]"), Ok(None));
        assert_eq!(stored(" [ ] "), Ok(None));
        for bad in
            ["", " ", "{", "[1,]", "[1] 2", "{\"a\":1}{\"b\":2}", "nul", "[", "]", "\u{feff}", "'a'", "[1 2]"]
        {
            assert_eq!(stored(bad), Err(InvalidJson::Malformed), "{bad}");
        }
        assert_eq!(AppendBody::of_json(b"\"\xff\""), Err(InvalidJson::Malformed));
    }

    #[test]
    fn bounds_hold_for_depth_and_number() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(stored(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(stored(&nested(MAX_DEPTH + 1)), Err(InvalidJson::Deep));
        let flat = format!("[{}\"[\\\"[\"]", "[],".repeat(2 * MAX_DEPTH));
        assert!(stored(&flat).is_ok());
        let many = format!("[{}0]", "0,".repeat(MAX_MESSAGES));
        assert_eq!(stored(&many), Err(InvalidJson::TooMany));
        assert_eq!(stored(&"[".repeat(1 << 20)), Err(InvalidJson::Deep));
    }

    #[test]
    fn stored_messages_become_an_array() {
        let array = |parts: &[&'static str]| {
            let parts = parts.iter().map(|part| Bytes::from_static(part.as_bytes())).collect();
            String::from_utf8(json_array(parts).concat()).unwrap()
        };
        assert_eq!(array(&[]), "[]");
        assert_eq!(array(&["1,", "[2],"]), "[1,[2]]");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(body: Vec<u8>) {
            let _any = AppendBody::of_json(&body);
        }

        #[test]
        fn an_array_is_read_back(values in proptest::collection::vec("[a-z\\[\\]{},\"\\\\ ]{0,8}", 1..5)) {
            let wanted = serde_json::json!(values);
            let body = AppendBody::of_json(wanted.to_string().as_bytes()).unwrap().unwrap();
            prop_assert_eq!(body.message_ends().unwrap().len(), values.len());
            let read: serde_json::Value = serde_json::from_slice(&json_array(vec![body.bytes().clone()]).concat()).unwrap();
            prop_assert_eq!(read, wanted);
        }
    }
}
