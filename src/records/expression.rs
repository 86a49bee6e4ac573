//! The fields that clients name, as SQL expressions, and the parameters of composed statements.
//!
//! No text of a client is ever part of a statement: names of members and values are parameters.
//!
//! A backslash escapes a special character behind it: `a\.b` is one name with a dot.

use super::RecordsError;
use crate::time::Millis;

/// The longest name of a field, in bytes.
pub(super) const MAX_FIELD_BYTES: usize = 255;
/// The most parts of a dotted name.
pub(super) const MAX_PARTS: usize = 16;

/// A field to filter and sort by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Id,
    Created,
    Updated,
    /// A member, and members of members below it.
    Path(Vec<String>),
}

impl Field {
    /// Reads a field's name; a refusal names `parameter`.
    pub(super) fn parse(name: &str, parameter: &str) -> Result<Self, RecordsError> {
        Ok(match name {
            "id" => Self::Id,
            "created" => Self::Created,
            "updated" => Self::Updated,
            _ => Self::Path(path(name, parameter)?),
        })
    }
}

/// The special characters in a list of names.
pub(super) const IN_NAMES: &[char] = &[',', '.', '\\'];

/// Splits a text at each `separator` without a backslash before it. The characters of `special` can be escaped.
pub(super) fn cut<'a>(text: &'a str, separator: char, special: &[char]) -> Vec<&'a str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            characters.next_if(|(_, next)| special.contains(next));
        } else if character == separator {
            parts.push(text.get(start..at).unwrap_or_default());
            start = at + separator.len_utf8();
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

/// A text without the backslashes before characters of `special`.
pub(super) fn plain(text: &str, special: &[char]) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped =
            if character == '\\' { characters.next_if(|next| special.contains(next)) } else { None };
        plain.push(escaped.unwrap_or(character));
    }
    plain
}

/// Splits a dotted name.
pub(super) fn path(name: &str, parameter: &str) -> Result<Vec<String>, RecordsError> {
    let refuse = |message: String| Err(RecordsError::invalid(parameter, message));
    if name.is_empty() {
        return refuse(format!("{} names no field", shortened(parameter)));
    }
    if name.len() > MAX_FIELD_BYTES || name.contains('\0') {
        return refuse(format!("a field's name has at most {MAX_FIELD_BYTES} bytes, without NUL"));
    }
    let parts: Vec<String> = cut(name, '.', IN_NAMES).into_iter().map(|part| plain(part, IN_NAMES)).collect();
    if parts.len() > MAX_PARTS || parts.iter().any(String::is_empty) {
        return refuse(format!(
            "a field's name has at most {MAX_PARTS} parts between dots, none of them empty"
        ));
    }
    Ok(parts)
}

fn shortened(parameter: &str) -> String {
    parameter.chars().take(100).collect()
}

/// A value of a statement's parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parameter {
    Text(String),
    Texts(Vec<String>),
    Time(Millis),
    Times(Vec<Millis>),
}

/// The parameters of one statement.
#[derive(Debug, Default)]
pub(super) struct Parameters(pub(super) Vec<Parameter>);

impl Parameters {
    /// Adds a parameter; returns its place-holder.
    pub(super) fn bind(&mut self, parameter: Parameter) -> String {
        self.0.push(parameter);
        format!("${}", self.0.len())
    }

    /// The value at a path, as `jsonb`; SQL's null if there is none. A single name is looked up by `->`, for which an index on that
    /// expression can be used.
    pub(super) fn value_at(&mut self, path: &[String]) -> String {
        match path {
            [name] => format!("(data -> {})", self.bind(Parameter::Text(name.clone()))),
            _ => format!("(data #> {})", self.bind(Parameter::Texts(path.to_vec()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_backslash_escapes_special_characters() {
        let path = |name| path(name, "fields").unwrap();
        assert_eq!(path("a.b"), ["a", "b"]);
        assert_eq!(path(r"a\.b.c\,d"), ["a.b", "c,d"]);
        assert_eq!(path(r"a\\.b"), [r"a\", "b"]);
        assert_eq!(path(r"C:\dir\"), [r"C:\dir\"]);
        assert_eq!(cut(r"a\,b,c", ',', IN_NAMES), [r"a\,b", "c"]);
    }

    proptest! {
        #[test]
        fn any_name_can_be_written(parts in prop::collection::vec("[^\0]{1,8}", 1..5)) {
            let escaped = |part: &String| part.replace('\\', r"\\").replace('.', r"\.").replace(',', r"\,");
            let name = parts.iter().map(escaped).collect::<Vec<_>>().join(".");
            prop_assert_eq!(cut(&name, ',', IN_NAMES).len(), 1);
            prop_assert_eq!(path(&name, "fields").unwrap(), parts);
        }
    }
}
