//! Bodies of requests: a JSON object, or a form, whose files `multipart` receives.

use std::fmt;
use std::time::Instant;

use axum::extract::Request;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::Refusal;
use super::multipart::{self, Files};
use crate::http::Services;
use crate::http::wire::body::{self, BodyLimits, LimitedBody, MemoryPermit, WholeBody};
use crate::http::wire::encoding::{Encoding, decode_whole};
use crate::http::wire::{json, query};
use crate::records::typed::Uploads;

/// The head of a request, and the members of its body.
pub(super) struct Read {
    pub(super) head: Parts,
    pub(super) members: Map<String, Value>,
    /// Whether it was a form: its values are typed by their spelling.
    pub(super) is_form: bool,
    /// The files that came with it.
    pub(super) uploads: Uploads,
    /// The names of those parts of a form that are files, and the names of the files in records.
    pub(super) parts: Vec<(String, String)>,
    /// Holds the memory of the body.
    _memory: Memory,
}

/// The memory of a body.
enum Memory {
    Whole { _body: WholeBody },
    Fields { _permit: MemoryPermit },
}

/// Reads a body of up to `bytes`: JSON, or a form without files. An empty one has no members.
pub(super) async fn read(services: &Services, request: Request, bytes: usize) -> Result<Read, Refusal> {
    read_with(services, request, bytes, Files::None).await
}

/// Reads a form of sign-ins or of settings, of up to `bytes`: one that cannot be read has a message of its own.
pub(super) async fn read_form(services: &Services, request: Request, bytes: usize) -> Result<Read, Refusal> {
    read(services, request, bytes).await.map_err(Refusal::of_form)
}

/// Reads a body of up to `bytes` beside its files, which a form in parts may have.
pub(super) async fn read_with(
    services: &Services,
    request: Request,
    bytes: usize,
    files: Files<'_>,
) -> Result<Read, Refusal> {
    let (head, incoming) = request.into_parts();
    let media_type = media_type(&head);
    if media_type == "multipart/form-data" && !matches!(files, Files::None) {
        let form = multipart::read(services, &head, incoming, bytes, files).await?;
        let multipart::Form { members, uploads, parts, permit } = form;
        return Ok(Read {
            head,
            members,
            is_form: true,
            uploads,
            parts,
            _memory: Memory::Fields { _permit: permit },
        });
    }
    let limits = BodyLimits {
        bytes,
        setting: "MAX_EVENT_BYTES",
        deadline: Instant::now() + services.limits.body_timeout,
    };
    let mut body = LimitedBody::new(&head, incoming, limits);
    let whole = match Encoding::of(&head.headers) {
        Ok(Encoding::Identity) => body::read_whole(&mut body, &services.bodies).await,
        Ok(encoding) => decode_whole(&mut body, encoding, &services.bodies).await,
        Err(refusal) => Err(refusal),
    };
    let whole = match whole {
        Ok(whole) => whole,
        Err(refusal) => {
            body.discard().await;
            return Err(refusal.into());
        }
    };
    let is_form = match media_type.as_str() {
        "" | "application/json" => false,
        "application/x-www-form-urlencoded" => true,
        _ if whole.is_empty() => false,
        _ => return Err(Refusal::new(StatusCode::BAD_REQUEST, "Unsupported Content-Type.")),
    };
    let parse = move |whole: &WholeBody| Ok(if is_form { of_form(whole) } else { of_json(whole) });
    let (members, whole) = json::parse(whole, parse).await?;
    Ok(Read {
        head,
        members: members.ok_or_else(Refusal::generic)?,
        is_form,
        uploads: Uploads::default(),
        parts: Vec::new(),
        _memory: Memory::Whole { _body: whole },
    })
}

fn media_type(head: &Parts) -> String {
    let media_type = head.headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The members of a JSON object; of an empty body and of null there are none. Text behind the value is ignored, as PocketBase ignores it.
pub(super) fn of_json(body: &[u8]) -> Option<Map<String, Value>> {
    if body.trim_ascii().is_empty() {
        return Some(Map::new());
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    match Unique.deserialize(&mut reader).ok()? {
        Value::Object(members) => Some(members),
        Value::Null => Some(Map::new()),
        _ => None,
    }
}

/// The members of a form: `true`, `false` and numbers in their shortest spelling are typed, a repeated name is a list, and the JSON of
/// `@jsonPayload` is taken as it is.
fn of_form(body: &[u8]) -> Option<Map<String, Value>> {
    of_pairs(query::pairs(&String::from_utf8_lossy(body)))
}

/// The members of the fields of a form. `None`: a `@jsonPayload` is no JSON object.
pub(super) fn of_pairs(pairs: impl Iterator<Item = (String, String)>) -> Option<Map<String, Value>> {
    let (mut members, mut payloads) = (Map::new(), Vec::new());
    for (name, value) in pairs {
        if name == PAYLOAD {
            payloads.push(of_json(value.as_bytes())?);
            continue;
        }
        let value = typed(&value);
        match members.get_mut(&name) {
            None => drop(members.insert(name, value)),
            Some(Value::Array(values)) => values.push(value),
            Some(known) => *known = Value::Array(vec![known.take(), value]),
        }
    }
    for payload in payloads {
        members.extend(payload);
    }
    Some(members)
}

/// The field of a form that has members as JSON.
const PAYLOAD: &str = "@jsonPayload";

/// Adds the name of a file to a member of a record: behind the names that it keeps.
pub(super) fn add_file(members: &mut Map<String, Value>, member: &str, name: String) {
    let kept = members.entry(member.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
    match kept {
        Value::Array(names) => names.push(name.into()),
        Value::String(text) if !text.is_empty() => {
            let mut names = match serde_json::from_str::<Value>(text) {
                Ok(Value::Array(names)) => names,
                _ => vec![text.as_str().into()],
            };
            names.push(name.into());
            *kept = Value::Array(names);
        }
        // Null, or what is no name.
        _ => *kept = Value::Array(vec![name.into()]),
    }
}

fn typed(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        text => match text.parse::<f64>().ok().filter(|number| number.to_string() == text) {
            Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => (number as i64).into(),
            Some(number) => Number::from_f64(number).map_or_else(|| text.into(), Value::Number),
            None => text.into(),
        },
    }
}

/// A JSON value whose objects have each name once.
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value whose objects have each name once")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(Unique)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Unique)?;
            if members.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a name twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_an_object_whose_names_are_unique() {
        for (body, expected) in [
            ("", Some(json!({}))),
            (" null ", Some(json!({}))),
            (r#"{"a":[1,{"b":null}],"c":1.5} trailing"#, Some(json!({"a": [1, {"b": null}], "c": 1.5}))),
            (r#"{"a":1,"a":2}"#, None),
            (r#"{"a":{"b":1,"b":1}}"#, None),
            ("[1]", None),
            ("\"x\"", None),
            ("{", None),
            (r#"{"a":1e400}"#, None),
            (r#"{"a":"\ud800"}"#, None),
            ("\u{feff}{}", None),
        ] {
            assert_eq!(of_json(body.as_bytes()).map(Value::Object), expected, "{body}");
        }
        assert_eq!(of_json(b"{\"a\":\"\xff\"}"), None);
    }

    #[test]
    fn forms_have_typed_values_lists_and_json() {
        let form =
            "a=true&n=7&x=1.50&f=1.5&z=007&l=a&l=b&t=a+b%26&%40jsonPayload=%7B%22a%22%3A%7B%22b%22%3A1%7D%7D";
        let expected =
            json!({"a": {"b": 1}, "n": 7, "x": "1.50", "f": 1.5, "z": "007", "l": ["a", "b"], "t": "a b&"});
        assert_eq!(of_form(form.as_bytes()).map(Value::Object), Some(expected));
        assert_eq!(of_form(b"%40jsonPayload=%5B1%5D"), None);
    }

    proptest! {
        #[test]
        fn no_body_makes_reading_panic(bytes: Vec<u8>, text in "[\\[\\]{}:,\"a1e.\\\\-]{0,40}") {
            let _ = (of_json(&bytes), of_form(&bytes), of_json(text.as_bytes()), of_form(text.as_bytes()));
        }
    }
}
