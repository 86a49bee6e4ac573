//! The members of a small JSON object, taken out one by one, so that a refusal names the one that is at fault.

use std::time::Instant;

use axum::extract::Request;
use serde_json::{Map, Value};

use super::super::Services;
use super::super::wire::body::{self, BodyLimits, LimitedBody};
use super::super::wire::error::ApiError;
use super::super::wire::json::check_json;
use crate::ingest::text;

/// Bytes of a body.
const MAX_BYTES: usize = 16 * 1024;

/// The members that were not taken yet.
#[derive(Debug)]
pub(super) struct Members(Map<String, Value>);

impl Members {
    /// Those of a request's body; of an empty one, none.
    pub(super) async fn read(services: &Services, request: Request) -> Result<Self, ApiError> {
        let (head, incoming) = request.into_parts();
        let deadline = Instant::now() + services.limits.body_timeout;
        let limits = BodyLimits { bytes: MAX_BYTES, setting: "the most that this takes", deadline };
        let mut body = LimitedBody::new(&head, incoming, limits);
        let read = match check_json(&head.headers) {
            Ok(()) => body::read_whole(&mut body, &services.bodies).await,
            Err(refusal) => Err(refusal),
        };
        match read {
            Ok(whole) => Self::parse(text::without_mark(&whole)),
            Err(refusal) => {
                body.discard().await;
                Err(refusal)
            }
        }
    }

    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.trim_ascii().is_empty() {
            return Ok(Self(Map::new()));
        }
        let members = serde_json::from_slice(body);
        members.map(Self).map_err(|error| {
            // Where it breaks off, and not what it has there: that may be a password.
            let (line, column) = (error.line(), error.column());
            ApiError::invalid(format!("the body is no JSON object at line {line}, column {column}"))
                .field("body")
        })
    }

    /// A text, if it is there and not null.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::invalid(format!("{name} takes a text")).field(name)),
        }
    }

    /// A text that has to be there.
    pub(super) fn needed_text(&mut self, name: &'static str) -> Result<String, ApiError> {
        self.text(name)?.ok_or_else(|| ApiError::invalid(format!("{name} has to be there")).field(name))
    }

    /// A list of texts, if it is there.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<Option<Vec<String>>, ApiError> {
        let refuse = || ApiError::invalid(format!("{name} takes a list of texts")).field(name);
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(values)) => {
                let text = |value| if let Value::String(text) = value { Ok(text) } else { Err(refuse()) };
                values.into_iter().map(text).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(refuse()),
        }
    }

    /// A boolean, if it is there.
    pub(super) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(ApiError::invalid(format!("{name} takes true or false")).field(name)),
        }
    }

    /// A whole number, if it is there.
    pub(super) fn number(&mut self, name: &'static str) -> Result<Option<i64>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let refuse = || ApiError::invalid(format!("{name} takes a whole number")).field(name);
                value.as_i64().ok_or_else(refuse).map(Some)
            }
        }
    }

    /// Refuses members that nobody took: a mistyped one would be passed over otherwise.
    pub(super) fn end(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::invalid("there is no such member").field(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_are_taken_by_type_and_what_is_left_over_is_refused() {
        let mut members =
            Members::parse(br#"{"a":"x","b":["y"],"c":3,"d":null,"e":1,"f":true,"g":"true"}"#).unwrap();
        assert_eq!(members.needed_text("a").unwrap(), "x");
        assert_eq!(members.texts("b").unwrap(), Some(vec!["y".to_owned()]));
        assert_eq!(members.number("c").unwrap(), Some(3));
        assert_eq!((members.boolean("f").unwrap(), members.boolean("d").unwrap()), (Some(true), None));
        assert!(members.boolean("g").is_err());
        assert_eq!(members.text("d").unwrap(), None);
        assert!(members.needed_text("none").is_err() && members.text("e").is_err());
        assert!(Members::parse(br#"{"x":1}"#).unwrap().end().is_err());
        for bad in ["[]", "1", "{", "nul", "\u{feff}{}", &"[".repeat(1000)] {
            assert!(Members::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(bytes: Vec<u8>) {
            let _any = Members::parse(&bytes);
        }
    }
}
