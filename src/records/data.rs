//! A record's own members, as a client sends them: a JSON object that `jsonb` takes, without the members that the
//! service makes.
//!
//! The text is scanned, not parsed into a tree, and copied only where reserved members have to be removed. A repeated name stays: in `jsonb`
//! the last one counts.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{RecordId, RecordsError};
use crate::ingest::json::{self, JsonKind};
use crate::ingest::text;

/// The members that the service makes. A client may send them back; they are removed.
const RESERVED: [&str; 3] = ["id", "created", "updated"];

/// A JSON object that `jsonb` takes, without reserved members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    text: Bytes,
    size: usize,
}

impl Data {
    /// Its text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// Its text, owned.
    pub fn into_bytes(self) -> Bytes {
        self.text
    }

    /// Its size in bytes as a record: without white space, and with all digits of its numbers, which `jsonb` expands (`1e1000`). A record is
    /// never read larger than the size that it was written with.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The result of [`super::merge()`].
    pub(super) fn merged(text: Vec<u8>) -> Self {
        Self::measured(text.into())
    }

    /// Data from an object that `jsonb` takes.
    fn measured(text: Bytes) -> Self {
        let (_, size) = json::measure(&text, usize::MAX);
        Self { text, size }
    }
}

/// A client's record: its members, and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The members but the reserved ones.
    pub data: Data,
    /// The id, if the client chose one.
    pub id: Option<RecordId>,
}

impl Draft {
    /// Reads a body; containers may be nested up to `max_depth`.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Invalid`] has the reason.
    pub fn parse(body: &Bytes, max_depth: usize) -> Result<Self, RecordsError> {
        let refuse = |message: String| Err(RecordsError::invalid("body", message));
        let body = &body.slice(body.len() - text::without_mark(body).len()..);
        let (verdict, size) = json::measure(body, max_depth);
        match verdict {
            JsonKind::Jsonb => {}
            JsonKind::NotJson(at) => return refuse(format!("the body is not JSON from byte {at} on")),
            JsonKind::NotJsonb(reason) => return refuse(format!("the body cannot be stored: {reason}")),
        }
        if body.trim_ascii_start().first() != Some(&b'{') {
            return refuse("the body takes a JSON object".into());
        }
        let mut found = Found::default();
        walk(body, &mut found)?;
        let id = match found.id.as_deref().map(serde_json::from_str::<Option<Cow<'_, str>>>) {
            None | Some(Ok(None)) => None,
            Some(Ok(Some(text))) => Some(RecordId::parse_plain(&text).ok_or_else(bad_id)?),
            Some(Err(_)) => return Err(bad_id()),
        };
        let data = match found.reserved {
            false => Data { text: body.clone(), size },
            true => Data::measured(without_reserved(body)?.into()),
        };
        Ok(Self { data, id })
    }
}

fn bad_id() -> RecordsError {
    RecordsError::invalid("id", "id takes 15 characters of a to z and 0 to 9")
}

/// Walks an object's members with `visitor`.
fn walk<'de, V: Visitor<'de>>(body: &'de [u8], visitor: V) -> Result<V::Value, RecordsError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    reader
        .deserialize_map(visitor)
        .map_err(|error| RecordsError::invalid("body", format!("the body cannot be read: {error}")))
}

/// The reserved members that were found, and the id.
#[derive(Default)]
struct Found {
    reserved: bool,
    id: Option<String>,
}

impl<'de> Visitor<'de> for &mut Found {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<Text<'de>>()? {
            if !RESERVED.contains(&&*name.0) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            self.reserved = true;
            let value = members.next_value::<&RawValue>()?;
            if name.0 == "id" {
                self.id = Some(value.get().to_owned());
            }
        }
        Ok(())
    }
}

/// A name, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

fn without_reserved(body: &[u8]) -> Result<Vec<u8>, RecordsError> {
    struct Rest(Vec<u8>);
    impl<'de> Visitor<'de> for Rest {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Vec<u8>, A::Error> {
            let out = &mut self.0;
            out.push(b'{');
            while let Some((name, value)) = members.next_entry::<Text<'de>, &RawValue>()? {
                if RESERVED.contains(&&*name.0) {
                    continue;
                }
                if out.len() > 1 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, &name.0).map_err(serde::de::Error::custom)?;
                out.push(b':');
                out.extend_from_slice(value.get().as_bytes());
            }
            out.push(b'}');
            Ok(self.0)
        }
    }
    walk(body, Rest(Vec::with_capacity(body.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Draft, RecordsError> {
        Draft::parse(&Bytes::from(text.to_owned()), 100)
    }

    fn data(text: &str) -> String {
        String::from_utf8(parse(text).unwrap().data.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn reserved_members_are_taken_out_however_they_are_written() {
        assert_eq!(data(r#" {"a": 1, "b":[ {} ]} "#), r#" {"a": 1, "b":[ {} ]} "#);
        assert_eq!(
            data(r#"{"id":null,"a":1,"created":{"x":[1]},"\u0075pdated":2,"b":"\"é"}"#),
            r#"{"a":1,"b":"\"é"}"#
        );
        assert_eq!(data(r#"{"created":1}"#), "{}");
        assert_eq!(data("\u{feff} {\"a\":1}"), " {\"a\":1}");
        assert_eq!(data(r#"{"x":{"id":1}}"#), r#"{"x":{"id":1}}"#);
    }

    #[test]
    fn the_clients_id_is_read_and_checked() {
        assert_eq!(parse(r#"{"id":"abcdefghij01234"}"#).unwrap().id.unwrap().as_str(), "abcdefghij01234");
        assert_eq!(parse(r#"{"id":null}"#).unwrap().id, None);
        for bad in
            [r#"{"id":1}"#, r#"{"id":""}"#, r#"{"id":"ABC"}"#, r#"{"id":{}}"#, r#"{"id":"'; drop table"}"#]
        {
            assert!(matches!(parse(bad), Err(RecordsError::Invalid { field, .. }) if field == "id"), "{bad}");
        }
    }

    #[test]
    fn a_size_counts_what_is_stored_and_nothing_else() {
        let size = |text: &str| parse(text).unwrap().data.size();
        assert_eq!(size(r#" { "a" : 1 } "#), r#"{"a":1}"#.len());
        assert_eq!(size(r#"{"id":"abcdefghij01234", "created":1e9, "a": 1}"#), r#"{"a":1}"#.len());
        assert_eq!(size(r#"{"a":1e1000}"#), 1001 + r#"{"a":}"#.len());
        assert_eq!(Data::merged(br#"{"a": 1e9, "b": 2}"#.to_vec()).size(), r#"{"a":1000000000,"b":2}"#.len());
    }

    #[test]
    fn what_is_no_object_or_no_jsonb_is_refused() {
        for bad in [
            "",
            "[]",
            "1",
            "null",
            "\"a\"",
            "NaN",
            "{",
            "{a:1}",
            r#"{"a":NaN}"#,
            r#"{"a":"\u0000"}"#,
            r#"{"\u0000":1}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":1e400000}"#,
            "{} {}",
        ] {
            assert!(
                matches!(parse(bad), Err(RecordsError::Invalid { field, .. }) if field == "body"),
                "{bad}"
            );
        }
        let deep = r#"{"a":"#.repeat(101) + "1" + &"}".repeat(101);
        assert!(parse(&deep).is_err());
    }
}
