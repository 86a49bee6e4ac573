//! Reads the members of JSON objects and the elements of arrays one by one, as text, and writes objects.
//!
//! Nothing is built, so that a body costs no more memory than its bytes, however many members or elements it has, and unknown members can
//! be copied as they came. Of several members with one name the last counts, as in `jsonb`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The end of a reading.
#[derive(Debug)]
pub(super) enum Ended<E> {
    /// The text is not JSON, or no object or array as expected.
    NotThis,
    /// The caller's own error.
    By(E),
}

/// Calls `each` with every member of an object, in order.
pub(super) fn members<'a, E>(
    json: &'a [u8],
    mut each: impl FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), E>,
) -> Result<(), Ended<E>> {
    let mut ended = None;
    let object = Object { each: &mut each, ended: &mut ended, json: PhantomData };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = object.deserialize(&mut reader).and_then(|()| reader.end());
    match (ended, read) {
        (Some(error), _) => Err(Ended::By(error)),
        (None, Ok(())) => Ok(()),
        (None, Err(_)) => Err(Ended::NotThis),
    }
}

/// Calls `each` with every element of an array, in order.
pub(super) fn elements<'a, E>(
    json: &'a [u8],
    mut each: impl FnMut(&'a RawValue) -> Result<(), E>,
) -> Result<(), Ended<E>> {
    let mut ended = None;
    let array = Array { each: &mut each, ended: &mut ended, json: PhantomData };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = array.deserialize(&mut reader).and_then(|()| reader.end());
    match (ended, read) {
        (Some(error), _) => Err(Ended::By(error)),
        (None, Ok(())) => Ok(()),
        (None, Err(_)) => Err(Ended::NotThis),
    }
}

/// The text of a JSON string; `None`: the value is none.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// Whether a text is one JSON value.
pub(super) fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok()
}

/// Whether a value is `null`.
pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// A text that is borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Object<'f, 'a, F, E> {
    each: &'f mut F,
    ended: &'f mut Option<E>,
    json: PhantomData<&'a [u8]>,
}

impl<'a, F: FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), E>, E> DeserializeSeed<'a>
    for Object<'_, 'a, F, E>
{
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a, F: FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), E>, E> Visitor<'a> for Object<'_, 'a, F, E> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Text<'a>>()? {
            if let Err(error) = (self.each)(name.0, map.next_value()?) {
                *self.ended = Some(error);
                return Err(A::Error::custom("ended"));
            }
        }
        Ok(())
    }
}

struct Array<'f, 'a, F, E> {
    each: &'f mut F,
    ended: &'f mut Option<E>,
    json: PhantomData<&'a [u8]>,
}

impl<'a, F: FnMut(&'a RawValue) -> Result<(), E>, E> DeserializeSeed<'a> for Array<'_, 'a, F, E> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a, F: FnMut(&'a RawValue) -> Result<(), E>, E> Visitor<'a> for Array<'_, 'a, F, E> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            if let Err(error) = (self.each)(element) {
                *self.ended = Some(error);
                return Err(A::Error::custom("ended"));
            }
        }
        Ok(())
    }
}

/// Writes a JSON object member by member.
#[derive(Debug)]
pub(super) struct ObjectWriter<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl<'o> ObjectWriter<'o> {
    /// Begins an object behind the bytes of `out`.
    pub(super) fn new(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// Writes a name; the caller writes its value behind it.
    pub(super) fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        write_text(self.out, name);
        self.out.push(b':');
        self.out
    }

    /// Writes a member with a value that is JSON.
    pub(super) fn raw(&mut self, name: &str, json: &[u8]) {
        self.name(name).extend_from_slice(json);
    }

    /// Writes a member with a text.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        write_text(self.name(name), text);
    }

    /// Ends the object.
    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

/// Writes a JSON string.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    // Writing text to a vector never fails.
    let _infallible = text.serialize(&mut serde_json::Serializer::new(out));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_elements_come_in_order_as_they_were_written() {
        let mut seen = Vec::new();
        let json = br#" {"a":1.00,"b\n":{"x":[]},"a":"2"} "#;
        let each = |name: Cow<'_, str>, value: &RawValue| {
            seen.push((name.into_owned(), value.get().to_owned()));
            Ok::<(), ()>(())
        };
        assert!(members(json, each).is_ok());
        let expected = [("a", "1.00"), ("b\n", r#"{"x":[]}"#), ("a", "\"2\"")];
        assert_eq!(seen, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mut count = 0;
        let counted = elements(b"[1,[2],{}]", |_| {
            count += 1;
            Ok::<(), ()>(())
        });
        assert!(counted.is_ok());
        assert_eq!(count, 3);
    }

    #[test]
    fn other_values_broken_text_and_the_callers_errors_end_a_reading() {
        for bad in ["[]", "1", "", "{", r#"{"a"}"#, r#"{"a":1}x"#, "{\"a\":\"\u{0}\"}"] {
            assert!(matches!(members(bad.as_bytes(), |_, _| Ok::<(), ()>(())), Err(Ended::NotThis)), "{bad}");
        }
        assert!(matches!(members(b"{\"\xff\":1}", |_, _| Ok::<(), ()>(())), Err(Ended::NotThis)));
        assert!(matches!(members(b"{\"a\":\"\xff\"}", |_, _| Ok::<(), ()>(())), Err(Ended::NotThis)));
        assert!(matches!(elements(b"{}", |_| Ok::<(), ()>(())), Err(Ended::NotThis)));
        assert!(matches!(elements(b"[1,2]", |_| Err(7)), Err(Ended::By(7))));
        assert!(matches!(members(b"{\"a\":1}", |_, _| Err(7)), Err(Ended::By(7))));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(members(deep.as_bytes(), |_, _| Ok::<(), ()>(())).is_ok(), "values are not built");
    }

    #[test]
    fn what_is_written_is_json() {
        let mut out = Vec::new();
        let mut object = ObjectWriter::new(&mut out);
        object.raw("a", b"1");
        object.text("\"", "\n\u{1}é");
        object.end();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":1,"\"":"\n\u0001é"}"#);
    }
}
