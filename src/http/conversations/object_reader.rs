//! Reads the members of a JSON object one by one, so that a refusal names the invalid one.
//!
//! Values are kept as text: what Postgres cannot store (`\u0000`, half of a surrogate pair) is found in its member, and metadata keeps all
//! digits of its numbers.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::wire::error::ApiError;
use crate::conversations::Metadata;
use crate::ingest::json::{self, JsonKind};

/// The most members of an object.
const MAX_MEMBERS: usize = 32;

/// The members of an object that were not read yet.
#[derive(Debug)]
pub(super) struct ObjectReader<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// The prefix of a member's name in a refusal.
    prefix: String,
    max_depth: usize,
}

impl<'a> ObjectReader<'a> {
    /// A reader of a body that is an object, or empty.
    pub(super) fn of_body(body: &'a [u8], max_depth: usize) -> Result<Self, ApiError> {
        if body.trim_ascii().is_empty() {
            return Ok(Self { members: Vec::new(), prefix: String::new(), max_depth });
        }
        Self::of_object(body, String::new(), max_depth)
    }

    /// A reader of each object of a body that is one object, or an array of up to `most`; and whether it is an array.
    pub(super) fn of_each(
        body: &'a [u8],
        most: usize,
        max_depth: usize,
    ) -> Result<(Vec<Self>, bool), ApiError> {
        if body.trim_ascii_start().first() != Some(&b'[') {
            return Ok((vec![Self::of_object(body, String::new(), max_depth)?], false));
        }
        let mut reader = serde_json::Deserializer::from_slice(body);
        let elements =
            reader.deserialize_seq(Elements { most }).and_then(|elements| reader.end().map(|()| elements));
        let elements = elements.map_err(|error| unreadable(&error))?;
        if elements.len() > most {
            let message = format!("the body takes up to {most} messages");
            return Err(ApiError::too_large(message).field("body"));
        }
        let object = |(place, element): (usize, &'a RawValue)| {
            Self::of_object(element.get().as_bytes(), format!("[{place}]."), max_depth)
        };
        Ok((elements.into_iter().enumerate().map(object).collect::<Result<_, _>>()?, true))
    }

    fn of_object(text: &'a [u8], prefix: String, max_depth: usize) -> Result<Self, ApiError> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let members = reader.deserialize_map(Object).and_then(|members| reader.end().map(|()| members));
        let members = members.map_err(|error| match prefix.strip_suffix('.') {
            Some(place) => unreadable(&error).field(place.to_owned()),
            None => unreadable(&error),
        })?;
        Ok(Self { members, prefix, max_depth })
    }

    /// The field of a refusal of a member.
    fn field(&self, name: &str) -> String {
        format!("{}{}", self.prefix, name.chars().take(100).collect::<String>())
    }

    /// A refusal of a member.
    pub(super) fn refuse(&self, name: &str, message: &str) -> ApiError {
        ApiError::invalid(format!("{name} {message}")).field(self.field(name))
    }

    /// A refusal of a member that exceeds the limit of a setting.
    pub(super) fn too_large(&self, name: &str, max_bytes: usize, setting: Option<&str>) -> ApiError {
        let setting = setting.map(|setting| format!(" ({setting})")).unwrap_or_default();
        let message = format!("{name} takes up to {max_bytes} bytes{setting}");
        ApiError::too_large(message).field(self.field(name))
    }

    /// The JSON of a value that is present and not null, if Postgres can store it.
    pub(super) fn value(&mut self, name: &str) -> Result<Option<&'a str>, ApiError> {
        let Some(place) = self.members.iter().position(|(member, _)| member == name) else { return Ok(None) };
        let (_, value) = self.members.swap_remove(place);
        match json::classify(value.get().as_bytes(), self.max_depth) {
            JsonKind::Jsonb => Ok((value.get() != "null").then_some(value.get())),
            JsonKind::NotJsonb(reason) => Err(self.refuse(name, &format!("cannot be stored: {reason}"))),
            JsonKind::NotJson(_) => Err(self.refuse(name, "is not JSON")),
        }
    }

    /// A text, if present.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        let value = self.value(name)?;
        value
            .map(|value| serde_json::from_str(value).map_err(|_| self.refuse(name, "takes a text")))
            .transpose()
    }

    /// A required text.
    pub(super) fn needed_text(&mut self, name: &'static str) -> Result<String, ApiError> {
        self.text(name)?.ok_or_else(|| self.refuse(name, "has to be there"))
    }

    /// A whole number from 0 on, if present.
    pub(super) fn number(&mut self, name: &'static str) -> Result<Option<i32>, ApiError> {
        let Some(value) = self.value(name)? else { return Ok(None) };
        let number = serde_json::from_str(value).ok().filter(|number: &i32| *number >= 0);
        number
            .map(Some)
            .ok_or_else(|| self.refuse(name, &format!("takes a whole number from 0 to {}", i32::MAX)))
    }

    /// A boolean, if present.
    pub(super) fn truth(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let value = self.value(name)?;
        value
            .map(|value| serde_json::from_str(value).map_err(|_| self.refuse(name, "takes true or false")))
            .transpose()
    }

    /// The member `metadata`, if present.
    pub(super) fn metadata(&mut self, max_bytes: usize) -> Result<Option<Metadata>, ApiError> {
        const NAME: &str = "metadata";
        let Some(value) = self.value(NAME)? else { return Ok(None) };
        if !value.starts_with('{') {
            return Err(self.refuse(NAME, "takes an object"));
        }
        let (_, bytes) = json::measure(value.as_bytes(), self.max_depth);
        if bytes > max_bytes {
            return Err(self.too_large(NAME, max_bytes, None));
        }
        let object = RawValue::from_string(value.to_owned()).map_err(|error| unreadable(&error))?;
        Ok(Some(Metadata::new(object)))
    }

    /// Refuses members that were not read: a mistyped one would be ignored otherwise.
    pub(super) fn end(self) -> Result<(), ApiError> {
        match self.members.first() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::invalid("there is no such member").field(self.field(name))),
        }
    }
}

/// The position of the error, without the text there.
fn unreadable(error: &serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    let message = match error.classify() {
        serde_json::error::Category::Data => "the body does not have the form that this takes",
        _ => "the body is not JSON",
    };
    ApiError::invalid(format!("{message} (line {line}, column {column})")).field("body")
}

/// The members of an object, each once.
struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::new();
        while let Some(name) = map.next_key::<Name<'de>>()? {
            let value = map.next_value()?;
            if members.len() == MAX_MEMBERS || members.iter().any(|(member, _)| *member == name.0) {
                return Err(A::Error::custom("a member twice, or too many of them"));
            }
            members.push((name.0, value));
        }
        Ok(members)
    }
}

/// A name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The elements of an array, up to one more than the most; the rest is skipped.
struct Elements {
    most: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            if elements.len() <= self.most {
                elements.push(element);
            }
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_are_read_by_type_and_unknown_ones_are_refused() {
        let body = br#"{"a":"x\u00e9","b":3,"c":null,"d":true,"metadata":{"n":1.10},"e":1}"#;
        let mut members = ObjectReader::of_body(body, 10).unwrap();
        assert_eq!(members.needed_text("a").unwrap(), "x\u{e9}");
        assert_eq!(members.number("b").unwrap(), Some(3));
        assert_eq!(members.text("c").unwrap(), None);
        assert_eq!(members.truth("d").unwrap(), Some(true));
        assert_eq!(members.metadata(100).unwrap().unwrap().as_str(), r#"{"n":1.10}"#);
        assert!(members.text("a").unwrap().is_none() && members.end().is_err());
        for bad in ["[]", "1", "{", "nul", "\u{feff}{}", r#"{"a":1,"a":2}"#, "{} {}", &"[".repeat(1000)] {
            assert!(ObjectReader::of_body(bad.as_bytes(), 10).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_postgres_cannot_store_is_refused_by_name() {
        for (body, field) in [
            (r#"{"a":"\u0000"}"#, "a"),
            (r#"{"a":"\ud800"}"#, "a"),
            (r#"{"a":1}"#, "a"),
            (r#"{"a":"x","metadata":{"b":"\u0000"}}"#, "metadata"),
            (r#"{"a":"x","metadata":[]}"#, "metadata"),
            (r#"{"a":"x","metadata":{"b":{"c":{"d":{}}}}}"#, "metadata"),
        ] {
            let mut members = ObjectReader::of_body(body.as_bytes(), 3).unwrap();
            let refused = members.text("a").and_then(|_| members.metadata(100)).unwrap_err();
            assert!(format!("{refused:?}").contains(&format!("Some(\"{field}\")")), "{body}: {refused:?}");
        }
    }

    #[test]
    fn the_elements_of_an_array_are_bounded_and_named() {
        let (each, is_array) = ObjectReader::of_each(br#"[{"a":1},{"b":2}]"#, 2, 10).unwrap();
        assert_eq!((each.len(), is_array, each[1].field("b")), (2, true, "[1].b".to_owned()));
        assert!(ObjectReader::of_each(b"[{},{},{}]", 2, 10).is_err());
        assert!(ObjectReader::of_each(b"[{},1]", 2, 10).is_err());
        assert!(ObjectReader::of_each(b"", 2, 10).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(bytes: Vec<u8>, text in "[\\[\\]{}\":,a0\\\\u]{0,40}") {
            let _ = ObjectReader::of_each(&bytes, 3, 3);
            if let Ok((each, _)) = ObjectReader::of_each(text.as_bytes(), 3, 3) {
                for mut members in each {
                    let _ = members.text("a");
                }
            }
        }
    }
}
