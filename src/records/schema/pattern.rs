//! Regular expressions of fields. They are those of RE2, which Go's and Rust's share: matching takes linear time.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a compiled expression.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// A regular expression; `""` matches everything.
#[derive(Debug, Clone, Default)]
pub struct Pattern {
    text: String,
    /// `None`: the text is empty, or no regular expression.
    compiled: Option<Arc<Regex>>,
}

impl Pattern {
    /// A pattern, compiled if it can be.
    pub fn new(text: &str) -> Self {
        let compiled = match text {
            "" => None,
            text => RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build().ok().map(Arc::new),
        };
        Self { text: text.to_owned(), compiled }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it can be used.
    pub fn is_valid(&self) -> bool {
        self.text.is_empty() || self.compiled.is_some()
    }

    /// Whether it is found in a text.
    pub fn matches(&self, text: &str) -> bool {
        self.compiled.as_ref().is_none_or(|compiled| compiled.is_match(text))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&String::deserialize(deserializer)?))
    }
}
