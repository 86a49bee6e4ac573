//! Options of a topic: `topic?options={"filter": "state = 'open'", "leave": true}`, in JSON.

use std::sync::Arc;

use percent_encoding::percent_decode;
use serde::Deserialize;

use crate::http::wire::error::ApiError;
use crate::realtime::{Change, Filter, FilterKey, Filters, MatchError, Matcher, Verdict};
use crate::records::{Expression, ExpressionMatcher, Fields, RequestAuth};
use crate::typed;

/// The longest options of a topic, in bytes.
const MAX_OPTIONS_BYTES: usize = 8 * 1024;
/// The longest filters of a stream together, in bytes: a compiled filter may take some 30 times as much memory.
pub(super) const MAX_FILTERS_BYTES: usize = 64 * 1024;

/// The options of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    filter: Option<String>,
    leave: bool,
    shape: Arc<Shape>,
}

/// What an event shows of its change, beyond what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// The members of the record, and of its previous state. `None`: all.
    pub(super) fields: Option<Fields>,
    /// Whether it shows the state before an update.
    pub(super) old: bool,
    /// Whether it names the members that an update changed.
    pub(super) changed: bool,
}

/// The objects of a topic, as far as options apply to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objects {
    /// Records, which have previous states.
    Records,
    /// Rows of tables, which have previous states.
    Rows,
    /// Published JSON.
    Published,
    /// Conversations and their messages.
    Messages,
    /// None.
    None,
}

impl Objects {
    /// Their name in the keys of filters.
    fn kind(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Rows | Self::Published => "objects",
            Self::Messages | Self::None => "messages",
        }
    }

    /// Whether an option applies to them.
    fn takes(self, option: &str) -> bool {
        match self {
            Self::Records | Self::Rows => true,
            Self::Published => matches!(option, "filter" | "fields"),
            Self::Messages | Self::None => false,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptionsRequest {
    filter: Option<String>,
    fields: Option<String>,
    old: Option<bool>,
    changed: Option<bool>,
    leave: Option<bool>,
}

impl Options {
    /// Reads the text behind `options=`: a JSON object, percent-encoded or not.
    ///
    /// # Errors
    ///
    /// 400 names the option.
    pub(super) fn parse(text: &str, objects: Objects) -> Result<Self, ApiError> {
        if text.len() > MAX_OPTIONS_BYTES * 3 {
            return Err(too_long());
        }
        let decoded = match text.starts_with('{') {
            true => text.into(),
            false => percent_decode(text.as_bytes())
                .decode_utf8()
                .map_err(|_| ApiError::invalid("the options of a topic are not UTF-8").field("options"))?,
        };
        if decoded.len() > MAX_OPTIONS_BYTES {
            return Err(too_long());
        }
        let request: OptionsRequest = typed::from_slice(decoded.as_bytes()).map_err(|error| {
            let message = match &error {
                typed::TypeError::Member { field, message } => format!("the option {field}: {message}"),
                _ => "the options of a topic are a JSON object, percent-encoded".to_owned(),
            };
            let field = if error.field() == "body" { "options" } else { error.field() };
            ApiError::invalid(message).field(field.to_owned())
        })?;
        for (option, is_set) in [
            ("filter", request.filter.is_some()),
            ("fields", request.fields.is_some()),
            ("old", request.old.is_some()),
            ("changed", request.changed.is_some()),
            ("leave", request.leave.is_some()),
        ] {
            if is_set && !objects.takes(option) {
                let message = format!("the option {option} is for topics of records and tables");
                return Err(ApiError::invalid(message).field(option));
            }
        }
        let leave = request.leave.unwrap_or_default();
        if leave && request.filter.is_none() {
            return Err(ApiError::invalid("the option leave needs a filter").field("leave"));
        }
        let shape = Shape {
            fields: request.fields.as_deref().map(Fields::parse).transpose()?,
            old: request.old.unwrap_or_default(),
            changed: request.changed.unwrap_or_default(),
        };
        Ok(Self { filter: request.filter, leave, shape: Arc::new(shape) })
    }

    /// The bytes of the filter.
    pub(super) fn filter_bytes(&self) -> usize {
        self.filter.as_ref().map_or(0, String::len)
    }

    /// What events show.
    pub(super) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// Compiles the filter for a caller, or finds the compiled one.
    ///
    /// # Errors
    ///
    /// 400 names the place of the filter's first error.
    pub(super) fn compile(
        &self,
        objects: Objects,
        filters: &Filters,
        auth: &[(&'static str, String)],
    ) -> Result<CompiledFilter, ApiError> {
        let Some(text) = &self.filter else { return Ok(CompiledFilter(None)) };
        let auth = if Expression::reads_auth(text) { auth } else { &[] };
        let key = FilterKey { kind: objects.kind(), text: text.clone(), auth: auth.to_vec() };
        let compile = || {
            let expression = Expression::parse(text, RequestAuth(auth))?;
            Ok::<Box<dyn Matcher>, crate::records::ExpressionError>(Box::new(match objects {
                Objects::Records => ExpressionMatcher::of_records(expression),
                _ => ExpressionMatcher::of_objects(expression),
            }))
        };
        let filter = filters
            .get(key, compile)
            .map_err(|error| ApiError::invalid(format!("the option filter: {error}")).field("filter"))?;
        Ok(CompiledFilter(Some((filter, self.leave))))
    }
}

fn too_long() -> ApiError {
    ApiError::invalid(format!("the options of a topic have up to {MAX_OPTIONS_BYTES} bytes")).field("options")
}

/// The filter of a topic, if it has one, and whether the subscription wants to know what leaves it.
#[derive(Debug, Clone, Default)]
pub(super) struct CompiledFilter(Option<(Arc<Filter>, bool)>);

impl CompiledFilter {
    /// What the subscription gets of a change.
    ///
    /// # Errors
    ///
    /// [`MatchError`] ends the subscription.
    pub(super) fn verdict(&self, change: &Change) -> Result<Verdict, MatchError> {
        match &self.0 {
            None => Ok(Verdict::Deliver),
            Some((filter, leaves)) => filter.verdict(change, *leaves),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_are_read_encoded_or_not_and_equal_ones_are_equal() {
        let plain = r#"{"filter": "a = 1", "fields": "a,b.c", "old": true, "changed": false, "leave": true}"#;
        let encoded =
            percent_encoding::utf8_percent_encode(plain, percent_encoding::NON_ALPHANUMERIC).to_string();
        let read = |text: &str| Options::parse(text, Objects::Records).unwrap();
        assert_eq!(read(plain), read(&encoded));
        assert_eq!(read("{}"), Options::default());
        assert_eq!(read(r#"{"old": null}"#), Options::default());
        assert_ne!(read(r#"{"old": true}"#), read(r#"{"changed": true}"#));
    }

    #[test]
    fn a_wrong_option_is_named() {
        let long = format!(r#"{{"filter": "{}"}}"#, "x".repeat(MAX_OPTIONS_BYTES));
        let deep = format!(r#"{{"filter": {}{}}}"#, "[".repeat(3000), "]".repeat(3000));
        for (text, field) in [
            ("", "options"),
            ("x", "options"),
            ("[]", "options"),
            ("{", "options"),
            ("%ff", "options"),
            (long.as_str(), "options"),
            (&deep, "filter"),
            (r#"{"filter": 1}"#, "filter"),
            (r#"{"fields": ["a"]}"#, "fields"),
            (r#"{"fields": ""}"#, "fields"),
            (r#"{"old": "yes"}"#, "old"),
            (r#"{"leave": true}"#, "leave"),
            (r#"{"other": 1}"#, "other"),
            (r#"{"old": true, "old": true}"#, "old"),
        ] {
            let error = Options::parse(text, Objects::Records).unwrap_err();
            assert!(
                format!("{error:?}").contains(&format!("field: Some(\"{field}\")")),
                "{text:.60} {error:?}"
            );
        }
        for option in [r#""filter": "a=1""#, r#""fields": "a""#, r#""old": true"#, r#""changed": true"#] {
            let text = format!("{{{option}}}");
            assert!(Options::parse(&text, Objects::Messages).is_err(), "{text}");
            assert_eq!(
                Options::parse(&text, Objects::Published).is_ok(),
                text.starts_with(r#"{"fi"#),
                "{text}"
            );
            assert!(Options::parse(&text, Objects::Rows).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,60}", json in "\\{[a-z\":,{}\\[\\] 0-9]{0,60}") {
            let _ = (Options::parse(&text, Objects::Records), Options::parse(&json, Objects::Rows));
        }
    }
}
