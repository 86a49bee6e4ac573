//! JSON objects read as types, with errors that name the member at fault and repeat no value: it may be a password.

use serde::de::DeserializeOwned;

/// Characters of an unknown member's name that its error repeats.
const MAX_NAME: usize = 64;

/// Why a body is not an object of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// It is not JSON.
    #[error("the body is not JSON at line {line}, column {column}")]
    Syntax {
        /// The line of the first error, from 1.
        line: usize,
        /// Its column.
        column: usize,
    },
    /// It is JSON, but no object.
    #[error("the body takes a JSON object")]
    NotAnObject,
    /// A member is missing, unknown, or has a wrong type or value.
    #[error("{message}")]
    Member {
        /// The member's name.
        field: String,
        /// What is wrong.
        message: String,
    },
}

impl TypeError {
    /// The error of a member's value; `takes` is a phrase such as "takes a number from 0 to 1".
    pub fn member(field: &str, takes: &str) -> Self {
        Self::Member { field: field.to_owned(), message: format!("{field} {takes}") }
    }

    /// The member at fault, or else the body.
    pub fn field(&self) -> &str {
        match self {
            Self::Member { field, .. } => field,
            Self::Syntax { .. } | Self::NotAnObject => "body",
        }
    }

    /// The error of the member at `path`, in serde's words without their position.
    fn new(path: &str, reason: &str) -> Self {
        if let Some(name) = quoted(reason, "unknown field `") {
            let field: String = name.chars().take(MAX_NAME).collect();
            return Self::Member { field, message: "there is no such member".to_owned() };
        }
        if let Some(name) = quoted(reason, "missing field `") {
            return Self::member(name, "is missing");
        }
        if let Some(name) = quoted(reason, "duplicate field `") {
            return Self::member(name, "is there twice");
        }
        let field = path.split(['.', '[']).next().unwrap_or_default();
        match reason.rsplit_once(", expected ") {
            _ if field.is_empty() => Self::NotAnObject,
            Some((_, expected)) => Self::member(field, &format!("takes {}", plain(expected))),
            None if reason.starts_with("takes ") => Self::member(field, reason),
            None => Self::member(field, "has a malformed value"),
        }
    }
}

/// The name behind `prefix` up to the next backtick.
fn quoted<'a>(reason: &'a str, prefix: &str) -> Option<&'a str> {
    reason.strip_prefix(prefix)?.split('`').next()
}

/// A type of serde in a client's words.
fn plain(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" => "a whole number",
        other => other,
    }
}

/// Reads a JSON object.
///
/// # Errors
///
/// [`TypeError`] names the first fault.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<T, TypeError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = match json.trim_ascii_start().first() {
        // An array would be read as the members in their order.
        Some(b'{') => serde_path_to_error::deserialize(&mut reader),
        _ => {
            return Err(serde_json::from_slice::<serde::de::IgnoredAny>(json)
                .map_or_else(|error| syntax(&error), |_any_json| TypeError::NotAnObject));
        }
    };
    let read = read.map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() {
            return syntax(&error);
        }
        let reason = error.to_string();
        let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _position)| reason);
        TypeError::new(&path, reason)
    })?;
    reader.end().map_err(|error| syntax(&error))?;
    Ok(read)
}

fn syntax(error: &serde_json::Error) -> TypeError {
    TypeError::Syntax { line: error.line(), column: error.column() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Example {
        name: String,
        count: Option<u64>,
        switch: Option<bool>,
        words: Option<Vec<String>>,
        share: Option<f64>,
    }

    fn error(json: &str) -> (String, String) {
        let error = from_slice::<Example>(json.as_bytes()).unwrap_err();
        (error.field().to_owned(), error.to_string())
    }

    #[test]
    fn an_error_names_the_member_and_repeats_no_value() {
        for (json, field, message) in [
            (r#"{}"#, "name", "name is missing"),
            (r#"{"name":7}"#, "name", "name takes a string"),
            (r#"{"name":null}"#, "name", "name takes a string"),
            (r#"{"name":"a","name":"b"}"#, "name", "name is there twice"),
            (r#"{"name":"a","count":"secret"}"#, "count", "count takes a whole number"),
            (r#"{"name":"a","count":-1}"#, "count", "count takes a whole number"),
            (r#"{"name":"a","count":0.5}"#, "count", "count takes a whole number"),
            (r#"{"name":"a","switch":"true, expected x"}"#, "switch", "switch takes true or false"),
            (r#"{"name":"a","words":"x"}"#, "words", "words takes a list"),
            (r#"{"name":"a","words":["x",1]}"#, "words", "words takes a string"),
            (r#"{"name":"a","share":"x"}"#, "share", "share takes a number"),
            (r#"{"name":"a","other":1}"#, "other", "there is no such member"),
            (r#"["a"]"#, "body", "the body takes a JSON object"),
            ("1", "body", "the body takes a JSON object"),
            ("", "body", "the body is not JSON at line 1, column 0"),
            (r#"{"name":"secret""#, "body", "the body is not JSON at line 1, column 16"),
            (r#"{"name":"a"} x"#, "body", "the body is not JSON at line 1, column 14"),
        ] {
            assert_eq!(error(json), (field.to_owned(), message.to_owned()), "{json}");
        }
        assert!(error(&format!("{{\"{}\":1}}", "x".repeat(100_000))).0.len() <= MAX_NAME);
    }

    #[test]
    fn members_that_are_null_or_missing_have_no_value() {
        let read: Example = from_slice(br#" {"name":"a","count":null,"words":[]} "#).unwrap();
        let wanted =
            Example { name: "a".into(), count: None, switch: None, words: Some(Vec::new()), share: None };
        assert_eq!(read, wanted);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
            let _any = from_slice::<Example>(&bytes);
        }
    }
}
