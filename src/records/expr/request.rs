//! `@request.*` in the rules and filters of typed collections: the values of one request.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::parser::AUTH;
use super::value::Value;
use super::{Modifier, Operand};
use crate::records::expression::Field as FieldName;

/// The record that a caller signed in as.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuthValues {
    /// The id of its collection.
    pub collection: String,
    /// The id of the record.
    pub id: String,
    /// Its members, with `collectionId` and `collectionName`, without secrets.
    pub members: Map<String, Json>,
}

impl AuthValues {
    /// Whether it is a record of a collection.
    pub fn is(&self, collection: &str, id: &str) -> bool {
        self.collection == collection && self.id == id
    }

    /// The operand of a member: a value, or a path to related records.
    fn operand(&self, path: &str, modifier: Option<Modifier>) -> Option<Operand> {
        let names: Vec<&str> = path.split('.').collect();
        let (first, rest) = names.split_first()?;
        let leads_on = match self.members.get(*first) {
            Some(Json::Object(_)) | None => first.contains("_via_"),
            Some(Json::Array(_)) => rest.first().is_some_and(|name| name.parse::<usize>().is_err()),
            Some(_) => !rest.is_empty(),
        };
        if !leads_on && modifier != Some(Modifier::Each) {
            return None;
        }
        let mut parts = vec![AUTH.to_owned(), self.collection.clone(), self.id.clone()];
        parts.extend(names.into_iter().map(str::to_owned));
        Some(Operand::Field(FieldName::Path(parts), modifier))
    }
}

/// The values of a request, for its rules and filters. Unknown names are null.
#[derive(Debug, Clone, Default)]
pub struct RequestValues {
    /// The kind of access: `default`, `expand`.
    pub context: &'static str,
    /// The method.
    pub method: String,
    /// The parameters of the query; values are texts.
    pub query: Map<String, Json>,
    /// The headers, in snake_case.
    pub headers: Map<String, Json>,
    /// The body.
    pub body: Map<String, Json>,
    /// The stored record that the request changes, for `:changed`.
    pub before: Option<Map<String, Json>>,
    /// The caller's own record; `None`: a guest's request.
    pub auth: Option<Arc<AuthValues>>,
}

impl RequestValues {
    /// The operand of a name without its `@request.`. `None`: it has a modifier that it does not take.
    pub(super) fn operand(&self, name: &str) -> Option<Operand> {
        let (name, modifier) = match name.split_once(':') {
            None => (name, None),
            Some((name, modifier)) => (name, Some(modifier)),
        };
        let (root, path) = name.split_once('.').unwrap_or((name, ""));
        let modifier_of_field = match modifier {
            None => Some(None),
            Some("each") => Some(Some(Modifier::Each)),
            Some("length") => Some(Some(Modifier::Length)),
            Some("lower") => Some(Some(Modifier::Lower)),
            Some(_) => None,
        };
        let auth = self.auth.as_ref().filter(|_| root == "auth");
        if let Some((auth, modifier)) = auth.zip(modifier_of_field)
            && let Some(operand) = auth.operand(path, modifier)
        {
            return Some(operand);
        }
        if root == "auth" && modifier == Some("each") {
            return Some(Operand::Literal(Value::Null));
        }
        let members = match root {
            "query" => Some(&self.query),
            "headers" => Some(&self.headers),
            "body" => Some(&self.body),
            _ => None,
        };
        let value = match (root, members) {
            ("context", _) => Json::from(self.context),
            ("method", _) => Json::from(self.method.as_str()),
            (_, Some(members)) => at(members, path),
            _ => auth.map_or(Json::Null, |auth| at(&auth.members, path)),
        };
        if let (Some(Some(modifier @ (Modifier::Each | Modifier::Length))), "body") =
            (modifier_of_field, root)
        {
            let elements = match &value {
                Json::Null => Vec::new(),
                Json::Array(elements) => elements.iter().map(value_of).collect(),
                value => vec![value_of(value)],
            };
            return Some(Operand::Body { field: path.to_owned(), elements, modifier });
        }
        let is_set = || members.is_some_and(|members| members.contains_key(path));
        match modifier {
            None => Some(literal(&value)),
            Some("isset") if members.is_some() => Some(Operand::Flag(is_set())),
            Some("changed") if root == "body" => {
                let before = self.before.as_ref().and_then(|before| before.get(path));
                Some(Operand::Flag(is_set() && before.unwrap_or(&Json::Null) != &value))
            }
            Some("length") => {
                let length = value.as_array().map_or(0, Vec::len);
                Some(Operand::Literal(Value::Number(length.to_string().into())))
            }
            Some("lower") => Some(match literal(&value) {
                Operand::Literal(Value::Null) => Operand::Literal(Value::Null),
                Operand::Literal(value) => {
                    Operand::Literal(Value::Text(value.text().to_ascii_lowercase().into()))
                }
                other => other,
            }),
            Some(_) => None,
        }
    }

    /// Whether a text reads `@request`: then its expression is that of one request.
    pub fn are_read_by(text: &str) -> bool {
        text.contains("@request")
    }
}

/// The value at a dotted path.
fn at(members: &Map<String, Json>, path: &str) -> Json {
    if let Some(value) = members.get(path) {
        return value.clone();
    }
    let mut parts = path.split('.');
    let first = parts.next().and_then(|name| members.get(name));
    let found = parts.try_fold(first, |value, name| {
        let next = match value? {
            Json::Array(elements) => elements.get(name.parse::<usize>().ok()?),
            value => value.get(name),
        };
        Some(next)
    });
    found.flatten().cloned().unwrap_or(Json::Null)
}

fn literal(value: &Json) -> Operand {
    match value {
        Json::Bool(flag) => Operand::Flag(*flag),
        value => Operand::Literal(value_of(value)),
    }
}

fn value_of(value: &Json) -> Value<'static> {
    // Postgres has no NUL in texts.
    let text = |text: &str| Value::Text(text.replace('\0', "\u{fffd}").into());
    match value {
        Json::Null => Value::Null,
        // Without an exponent.
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or_default().to_string().into()),
        Json::String(value) => text(value),
        nested => text(&nested.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_a_request_are_its_values() {
        let members = |value: Json| value.as_object().unwrap().clone();
        let values = RequestValues {
            context: "default",
            method: "PATCH".into(),
            query: members(json!({"a": "1"})),
            headers: members(json!({"x_b": "h"})),
            body: members(
                json!({"n": 1.5, "t": "Text", "l": ["a", "b"], "o": {"p": [7]}, "none": null, "nul": "a\0"}),
            ),
            before: Some(members(json!({"n": 1.5, "t": "text"}))),
            auth: None,
        };
        let text = |text: &'static str| Operand::Literal(Value::Text(text.into()));
        let number = |text: &'static str| Operand::Literal(Value::Number(text.into()));
        for (name, expected) in [
            ("context", text("default")),
            ("method", text("PATCH")),
            ("query.a", text("1")),
            ("headers.x_b", text("h")),
            ("body.n", number("1.5")),
            ("body.o.p.0", number("7")),
            ("body.l", text("[\"a\",\"b\"]")),
            ("body.t:lower", text("text")),
            ("body.nul", text("a\u{fffd}")),
            ("body.nothing", Operand::Literal(Value::Null)),
            ("body.none:isset", Operand::Flag(true)),
            ("body.nothing:isset", Operand::Flag(false)),
            ("query.b:isset", Operand::Flag(false)),
            ("body.n:changed", Operand::Flag(false)),
            ("body.t:changed", Operand::Flag(true)),
            ("body.nothing:changed", Operand::Flag(false)),
            ("auth.id", Operand::Literal(Value::Null)),
            ("auth.team.name", Operand::Literal(Value::Null)),
        ] {
            assert_eq!(values.operand(name), Some(expected), "{name}");
        }
        let body = |field: &str, elements: &[&'static str], modifier| Operand::Body {
            field: field.into(),
            elements: elements.iter().map(|text| Value::Text((*text).into())).collect(),
            modifier,
        };
        for (name, expected) in [
            ("body.l:each", body("l", &["a", "b"], Modifier::Each)),
            ("body.l:length", body("l", &["a", "b"], Modifier::Length)),
            ("body.t:each", body("t", &["Text"], Modifier::Each)),
            ("body.none:each", body("none", &[], Modifier::Each)),
            ("body.nothing:each", body("nothing", &[], Modifier::Each)),
        ] {
            assert_eq!(values.operand(name), Some(expected), "{name}");
        }
        for bad in ["auth.id:isset", "method:isset", "query.a:changed", "query.a:each", "body.n:x"] {
            assert_eq!(values.operand(bad), None, "{bad}");
        }
    }
}
