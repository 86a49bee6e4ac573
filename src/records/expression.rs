//! The fields that clients name, as SQL expressions, and the parameters that statements are put together with.
//!
//! Nothing that a client sent is ever part of a statement's text: names of members and values are parameters.

use super::{Millis, RecordsError};

/// The longest name of a field, in bytes.
const MAX_FIELD_BYTES: usize = 255;
/// The most parts of a dotted name.
const MAX_PARTS: usize = 16;

/// What a client may filter and sort by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Id,
    Created,
    Updated,
    /// A member, and members of members below it.
    Path(Vec<String>),
}

impl Field {
    /// Reads a field's name; `parameter` is what it stands in, for the refusal.
    pub(super) fn parse(name: &str, parameter: &str) -> Result<Self, RecordsError> {
        Ok(match name {
            "id" => Self::Id,
            "created" => Self::Created,
            "updated" => Self::Updated,
            _ => Self::Path(path(name, parameter)?),
        })
    }
}

/// Takes a dotted name apart.
pub(super) fn path(name: &str, parameter: &str) -> Result<Vec<String>, RecordsError> {
    let refuse = |message: String| Err(RecordsError::invalid(parameter, message));
    if name.is_empty() {
        return refuse(format!("{} names no field", shown(parameter)));
    }
    if name.len() > MAX_FIELD_BYTES || name.contains('\0') {
        return refuse(format!("a field's name has at most {MAX_FIELD_BYTES} bytes, without NUL"));
    }
    let parts: Vec<String> = name.split('.').map(str::to_owned).collect();
    if parts.len() > MAX_PARTS || parts.iter().any(String::is_empty) {
        return refuse(format!(
            "a field's name has at most {MAX_PARTS} parts between dots, none of them empty"
        ));
    }
    Ok(parts)
}

fn shown(parameter: &str) -> String {
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

    /// The value at a path, as `jsonb`; null in SQL where there is none. A single name is looked up by `->`, which
    /// matches an index on that expression.
    pub(super) fn value_at(&mut self, path: &[String]) -> String {
        match path {
            [name] => format!("(data -> {})", self.bind(Parameter::Text(name.clone()))),
            _ => format!("(data #> {})", self.bind(Parameter::Texts(path.to_vec()))),
        }
    }
}
