//! Violations: the reasons for which a value is refused, by member.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// A refused value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Violation {
    /// The code, such as `validation_required`.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// Values of the message.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
}

impl Violation {
    /// A violation; its code is `validation_` and `code`.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: format!("validation_{code}"), message: message.into(), params: Map::new() }
    }

    /// Adds a value of the message.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.insert(name.to_owned(), value.into());
        self
    }

    /// A missing or empty value.
    pub fn required() -> Self {
        Self::new("required", "Cannot be blank.")
    }

    /// A text with fewer or more characters than these.
    pub fn out_of_range(min: usize, max: usize) -> Self {
        Self::new("length_out_of_range", format!("The length must be between {min} and {max}."))
            .with("max", max)
            .with("min", min)
    }

    /// A value in another format than its field's.
    pub fn format() -> Self {
        Self::new("invalid_format", "Invalid value format.")
    }
}

/// Violations by member; lists by the index of the element.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Violations(BTreeMap<String, Entry>);

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Entry {
    Violation(Violation),
    Members(Violations),
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (member, entry)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            match entry {
                Entry::Violation(violation) => write!(f, "{comma}{member}: {}", violation.message)?,
                Entry::Members(members) => write!(f, "{comma}{member} ({members})")?,
            }
        }
        Ok(())
    }
}

impl Violations {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a violation; the first one of a member stays.
    pub fn add(&mut self, member: &str, violation: Violation) {
        self.0.entry(member.to_owned()).or_insert(Entry::Violation(violation));
    }

    /// Adds the violations of a member's own members.
    pub fn add_all(&mut self, member: &str, violations: Self) {
        if !violations.is_empty() {
            self.0.entry(member.to_owned()).or_insert(Entry::Members(violations));
        }
    }

    /// Adds others; the first one of a member stays.
    pub fn extend(&mut self, others: Self) {
        for (member, entry) in others.0 {
            self.0.entry(member).or_insert(entry);
        }
    }

    /// The violation of a member, if it has one of its own.
    pub fn get(&self, member: &str) -> Option<&Violation> {
        match self.0.get(member)? {
            Entry::Violation(violation) => Some(violation),
            Entry::Members(_) => None,
        }
    }

    /// The first member with a violation of its own.
    pub fn first(&self) -> Option<(&str, &Violation)> {
        self.0.iter().find_map(|(member, entry)| match entry {
            Entry::Violation(violation) => Some((member.as_str(), violation)),
            Entry::Members(_) => None,
        })
    }

    /// As an error.
    ///
    /// # Errors
    ///
    /// The violations, if there are any.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn violations_are_nested_by_member_and_the_first_one_stays() {
        let mut name = Violations::default();
        name.add("name", Violation::required());
        let (mut fields, mut all) = (Violations::default(), Violations::default());
        fields.add_all("1", name);
        all.add_all("fields", fields);
        all.add_all("none", Violations::default());
        all.add(
            "title",
            Violation::new("min_text_constraint", "Must be at least 2 character(s).").with("min", 2),
        );
        all.add("title", Violation::required());
        let expected = json!({
            "fields": {"1": {"name": {"code": "validation_required", "message": "Cannot be blank."}}},
            "title": {
                "code": "validation_min_text_constraint",
                "message": "Must be at least 2 character(s).",
                "params": {"min": 2},
            },
        });
        assert_eq!(serde_json::to_value(&all).unwrap(), expected);
        assert!(all.into_result().is_err() && Violations::default().into_result().is_ok());
    }
}
