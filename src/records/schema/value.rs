//! Values: coercion of what clients send to a field's type, and its checks.

use serde_json::{Map, Number, Value};

use super::address::{email_domain, is_email, is_url, url_host};
use super::date::DateText;
use super::field::{Field, Kind};
use super::number::{number_text, parse_number};
use super::violation::Violation;
use crate::records::RecordId;

/// The longest id, in bytes.
const MAX_ID: i64 = RecordId::MAX_BYTES as i64;
/// The most characters of a text without a limit of its own.
const MAX_TEXT: i64 = 5_000;
/// The most characters of a password without a limit of its own.
const MAX_PASSWORD: i64 = 71;
/// The most bytes of an editor's text without a limit of its own.
const MAX_EDITOR: i64 = 5 << 20;
/// The most bytes of a JSON value without a limit of its own.
const MAX_JSON: i64 = 1 << 20;

impl Field {
    /// The value of a record that has none: `""`, 0, false, `[]`, null, or the point 0, 0.
    pub fn zero(&self) -> Value {
        match &self.kind {
            Kind::Number { .. } => 0.into(),
            Kind::Bool {} => false.into(),
            Kind::Json { .. } => Value::Null,
            Kind::GeoPoint {} => point(0.0, 0.0),
            kind if kind.is_list() => Value::Array(Vec::new()),
            _ => "".into(),
        }
    }

    /// A sent value as the field's type has it. Most values have one; they are checked by [`Field::validate`].
    ///
    /// # Errors
    ///
    /// The violation of a number that is infinite or not a number.
    pub fn coerce(&self, sent: &Value) -> Result<Value, Violation> {
        Ok(match &self.kind {
            Kind::Text { .. }
            | Kind::Editor { .. }
            | Kind::Email { .. }
            | Kind::Url { .. }
            | Kind::Password { .. } => text(sent).into(),
            Kind::Number { .. } => {
                let number = number(sent);
                Number::from_f64(number).map(|_| number_value(number)).ok_or_else(|| {
                    Violation::new("not_a_number", "The submitted number is not properly formatted.")
                })?
            }
            Kind::Bool {} => boolean(sent).into(),
            Kind::Date { .. } | Kind::Autodate { .. } => sent
                .as_str()
                .and_then(DateText::parse)
                .map_or_else(String::new, |date| date.to_string())
                .into(),
            Kind::Select { .. } | Kind::File { .. } | Kind::Relation { .. } => {
                let mut words = words(sent);
                match self.kind.is_list() {
                    true => words.into(),
                    false => words.pop().unwrap_or_default().into(),
                }
            }
            Kind::Json { .. } => json(sent),
            Kind::GeoPoint {} => geo_point(sent),
        })
    }

    /// The words of a sent or stored value: each once, without empty ones.
    pub fn words(&self, value: &Value) -> Vec<String> {
        words(value)
    }

    /// Checks a coerced value.
    ///
    /// # Errors
    ///
    /// The violation.
    pub fn validate(&self, value: &Value) -> Result<(), Violation> {
        if has_nul(value) {
            return Err(Violation::format());
        }
        let is_empty = *value == self.zero() || is_empty_json(value);
        if self.required && is_empty && !self.is_made() {
            return Err(Violation::required());
        }
        let text = value.as_str().unwrap_or_default();
        match &self.kind {
            Kind::Text { min, max, pattern, primary_key, .. } => {
                if is_empty {
                    return Ok(());
                }
                let length = characters(text);
                let max = or(*max, MAX_TEXT);
                if length < *min {
                    return Err(at_least(*min).with("min", *min));
                }
                if length > max {
                    return Err(at_most(max).with("max", max));
                }
                if *primary_key && let Some(character) = RecordId::forbidden(text) {
                    let message = format!("'{character}' is not a valid primary key character.");
                    let violation = Violation::new("forbidden_pk_character", message);
                    return Err(violation.with("ch", character.to_string()));
                }
                if *primary_key && text.len() > RecordId::MAX_BYTES {
                    return Err(at_most(MAX_ID).with("max", MAX_ID));
                }
                if pattern.matches(text) { Ok(()) } else { Err(Violation::format()) }
            }
            Kind::Password { min, max, pattern, .. } => {
                if is_empty {
                    return Ok(());
                }
                let length = characters(text);
                let max = or(*max, MAX_PASSWORD);
                if length < *min {
                    return Err(at_least(*min));
                }
                if length > max {
                    let message = format!("Must be less than {max} character(s).");
                    return Err(Violation::new("max_text_constraint", message));
                }
                if pattern.matches(text) { Ok(()) } else { Err(Violation::format()) }
            }
            Kind::Editor { max_size, .. } => within(text.len(), or(*max_size, MAX_EDITOR), "content"),
            Kind::Json { max_size } => within(value.to_string().len(), or(*max_size, MAX_JSON), "JSON"),
            Kind::Number { min, max, only_int } => self.validate_number(value, *min, *max, *only_int),
            Kind::Email { except_domains, only_domains } => {
                if is_empty {
                    return Ok(());
                }
                if !is_email(text) {
                    return Err(Violation::new("is_email", "Must be a valid email address."));
                }
                match is_allowed(email_domain(text), except_domains, only_domains) {
                    true => Ok(()),
                    false => Err(Violation::new("email_domain_not_allowed", "Email domain is not allowed.")),
                }
            }
            Kind::Url { except_domains, only_domains } => {
                if is_empty {
                    return Ok(());
                }
                if !is_url(text) {
                    return Err(Violation::new("invalid_url", "Must be a valid url."));
                }
                match is_allowed(url_host(text), except_domains, only_domains) {
                    true => Ok(()),
                    false => Err(Violation::new("url_domain_not_allowed", "Url domain is not allowed.")),
                }
            }
            Kind::Date { min, max } => {
                let beyond = |limit: &str, code: &str, words: &str| {
                    let limit = DateText::parse(limit)?;
                    let message = format!("Must be no {words} than {}.", limit.in_messages());
                    Some(Violation::new(code, message).with("threshold", limit.rfc3339()))
                };
                let violation = match text {
                    "" => None,
                    text if text < min.as_str() => beyond(min, "min_greater_equal_than_required", "less"),
                    text if !max.is_empty() && text > max.as_str() => {
                        beyond(max, "max_less_equal_than_required", "greater")
                    }
                    _ => None,
                };
                violation.map_or(Ok(()), Err)
            }
            Kind::Select { values, max_select } => {
                let chosen = chosen(value);
                too_many(&chosen, *max_select)?;
                match chosen.iter().find(|word| !values.iter().any(|value| value == *word)) {
                    None => Ok(()),
                    Some(word) => Err(Violation::new("invalid_value", format!("Invalid value {word}."))
                        .with("value", *word)),
                }
            }
            Kind::Relation { min_select, max_select, .. } => {
                let chosen = chosen(value);
                too_many(&chosen, *max_select)?;
                if !chosen.is_empty() && (chosen.len() as i64) < *min_select {
                    let message = format!("Select at least {min_select}.");
                    return Err(Violation::new("not_enough_values", message).with("minSelect", *min_select));
                }
                Ok(())
            }
            Kind::GeoPoint {} => validate_point(value),
            Kind::File { max_select, .. } => {
                let max = (*max_select).max(1);
                if chosen(value).len() as i64 <= max {
                    return Ok(());
                }
                let message = format!("The maximum allowed files is {max}.");
                Err(Violation::new("too_many_files", message).with("maxSelect", max))
            }
            Kind::Bool {} | Kind::Autodate { .. } => Ok(()),
        }
    }

    fn validate_number(
        &self,
        value: &Value,
        min: Option<f64>,
        max: Option<f64>,
        only_int: bool,
    ) -> Result<(), Violation> {
        let number = value.as_f64().unwrap_or_default();
        if number == 0.0 {
            return Ok(());
        }
        // As Go's conversion to an integer has it.
        let is_int = number.fract() == 0.0 && number.abs() < i64::MAX as f64;
        if only_int && !is_int {
            return Err(Violation::new("only_int_constraint", "Decimal numbers are not allowed."));
        }
        if let Some(min) = min.filter(|min| number < *min) {
            let message = format!("Must be greater or equal than {}.", number_text(min));
            return Err(Violation::new("min_number_constraint", message).with("min", number_value(min)));
        }
        if let Some(max) = max.filter(|max| number > *max) {
            let message = format!("Must be less or equal than {}.", number_text(max));
            return Err(Violation::new("max_number_constraint", message).with("max", number_value(max)));
        }
        Ok(())
    }
}

/// A limit, or the default where it is 0.
fn or(limit: i64, default: i64) -> i64 {
    if limit == 0 { default } else { limit }
}

fn characters(text: &str) -> i64 {
    text.chars().count() as i64
}

fn at_least(min: i64) -> Violation {
    Violation::new("min_text_constraint", format!("Must be at least {min} character(s)."))
}

fn at_most(max: i64) -> Violation {
    Violation::new("max_text_constraint", format!("Must be no more than {max} character(s)."))
}

fn within(bytes: usize, max: i64, what: &str) -> Result<(), Violation> {
    if bytes as u64 <= max.unsigned_abs() {
        return Ok(());
    }
    let code = if what == "JSON" { "json_size_limit" } else { "content_size_limit" };
    let message = format!("The maximum allowed {what} size is {max} bytes.");
    Err(Violation::new(code, message).with("maxSize", max))
}

fn too_many(chosen: &[&str], max_select: i64) -> Result<(), Violation> {
    let max = max_select.max(1);
    if chosen.len() as i64 <= max {
        return Ok(());
    }
    Err(Violation::new("too_many_values", format!("Select no more than {max}.")).with("maxSelect", max))
}

fn is_allowed(domain: &str, except: &[String], only: &[String]) -> bool {
    let is_in = |domains: &[String]| domains.iter().any(|one| one.eq_ignore_ascii_case(domain));
    !is_in(except) && (only.is_empty() || is_in(only))
}

/// The words of a value: one, or those of a list.
fn chosen(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
        Value::String(word) if !word.is_empty() => vec![word],
        _ => Vec::new(),
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn is_empty_json(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// The text of a scalar; `""` for null, lists and objects.
pub fn text(sent: &Value) -> String {
    match sent {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        // Without an exponent.
        Value::Number(number) => number.as_f64().unwrap_or_default().to_string(),
        _ => String::new(),
    }
}

fn number(sent: &Value) -> f64 {
    let number = match sent {
        Value::Number(number) => number.as_f64().unwrap_or_default(),
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::String(text) => parse_number(text).unwrap_or_default(),
        _ => 0.0,
    };
    // No −0.
    number + 0.0
}

/// A number as JSON; whole numbers as integers.
fn number_value(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.fract() == 0.0 && number.abs() <= EXACT {
        true => (number as i64).into(),
        false => Number::from_f64(number).map_or(Value::Null, Value::Number),
    }
}

fn boolean(sent: &Value) -> bool {
    match sent {
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Value::String(text) => matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"),
        _ => false,
    }
}

/// The words of a sent value: each once, without empty ones.
pub(super) fn words(sent: &Value) -> Vec<String> {
    let parsed;
    let values: &[Value] = match sent {
        Value::Array(values) => values,
        Value::String(text) if text.starts_with('[') => match serde_json::from_str(text) {
            Ok(Value::Array(values)) => {
                parsed = values;
                &parsed
            }
            _ => std::slice::from_ref(sent),
        },
        Value::Object(_) => &[],
        _ => std::slice::from_ref(sent),
    };
    let mut words: Vec<String> = Vec::new();
    let mut known = std::collections::HashSet::new();
    for word in values.iter().map(text).filter(|word| !word.is_empty()) {
        if known.insert(word.clone()) {
            words.push(word);
        }
    }
    words
}

/// A JSON value; a text that is JSON becomes its value. Numbers are 64-bit floats.
fn json(sent: &Value) -> Value {
    match sent {
        Value::String(text) => match serde_json::from_str(text) {
            Ok(value) => floats(value),
            Err(_) => sent.clone(),
        },
        sent => floats(sent.clone()),
    }
}

fn floats(value: Value) -> Value {
    match value {
        Value::Number(number) => number_value(number.as_f64().unwrap_or_default() + 0.0),
        Value::Array(values) => values.into_iter().map(floats).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, floats(value))).collect(),
        other => other,
    }
}

fn point(lon: f64, lat: f64) -> Value {
    let mut point = Map::new();
    point.insert("lon".into(), number_value(lon));
    point.insert("lat".into(), number_value(lat));
    Value::Object(point)
}

/// A point; 0, 0 for anything that is none.
fn geo_point(sent: &Value) -> Value {
    let parsed;
    let members = match sent {
        Value::Object(members) => members,
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Object(members)) => {
                parsed = members;
                &parsed
            }
            _ => return point(0.0, 0.0),
        },
        _ => return point(0.0, 0.0),
    };
    let degrees = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Some(0.0),
        Some(value) => value.as_f64(),
    };
    match (degrees("lon"), degrees("lat")) {
        (Some(lon), Some(lat)) => point(lon + 0.0, lat + 0.0),
        _ => point(0.0, 0.0),
    }
}

fn validate_point(value: &Value) -> Result<(), Violation> {
    let degrees = |name: &str| value.get(name).and_then(Value::as_f64).unwrap_or_default();
    if degrees("lat").abs() > 90.0 {
        let message = "Latitude must be between -90 and 90 degrees.";
        return Err(Violation::new("invalid_latitude", message));
    }
    if degrees("lon").abs() > 180.0 {
        let message = "Longitude must be between -180 and 180 degrees.";
        return Err(Violation::new("invalid_longitude", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Answers of PocketBase 0.40.6: by field, pairs of a sent value and the stored one, or an error.
    const ANSWERS: &str = include_str!("testdata/values.json");

    fn field(json: Value) -> Field {
        let mut field: Field = serde_json::from_value(json).unwrap();
        field.complete();
        field
    }

    fn stored(field: &Field, sent: &Value) -> Result<Value, String> {
        let value = field.coerce(sent).map_err(|violation| violation.code)?;
        field.validate(&value).map_err(|violation| violation.code)?;
        Ok(value)
    }

    /// A text of the table that is shortened as `xyz…(5000)`: its first three characters are repeated.
    fn long(text: &str) -> Option<String> {
        let (beginning, length) = text.split_once("…(")?;
        let length: usize = length.strip_suffix(')')?.parse().ok()?;
        Some(beginning.chars().cycle().take(length).collect())
    }

    /// Numbers are the same whether they are integers or floats.
    fn same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len()
                    && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| same(one, other)))
            }
            (one, other) => one == other,
        }
    }

    #[test]
    fn every_value_is_stored_or_refused_as_pocketbase_does() {
        let mut answers: BTreeMap<String, Value> = serde_json::from_str(ANSWERS).unwrap();
        let fields: Vec<Field> =
            answers["fields"].as_array().unwrap().iter().map(|json| field(json.clone())).collect();
        answers.retain(|_, answers| {
            answers.as_array().is_some_and(|list| list.first().is_some_and(Value::is_array))
        });
        assert_eq!(answers.len(), fields.len());
        let (mut checked, mut wrong) = (0, Vec::new());
        for field in &fields {
            let name = answers.keys().find(|name| name.eq_ignore_ascii_case(&field.name)).unwrap();
            for pair in answers[name].as_array().unwrap() {
                let mut sent = pair[0].clone();
                let is_long = sent.as_str().and_then(long).map(|text| sent = text.into()).is_some();
                // A password of more than 72 bytes is beyond bcrypt, and not beyond our hash.
                if field.name == "password" && pair[1]["error"].is_string() {
                    continue;
                }
                let found = stored(field, &sent);
                let is_right = match (&found, &pair[1]["error"]) {
                    (Err(code), Value::Object(errors)) => errors.values().next() == Some(&json!(code)),
                    (Ok(_), Value::Null) if field.is_secret() => true,
                    (Ok(value), Value::Null) => is_long || same(value, &pair[1]),
                    _ => false,
                };
                checked += 1;
                if !is_right {
                    wrong.push(format!("{} {} {found:?} {}", field.name, pair[0], pair[1]));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
        assert!(checked > 1_000, "{checked}");
    }

    #[test]
    fn limits_are_checked_with_their_messages() {
        for (definition, sent, code, message) in [
            (
                json!({"type": "text", "min": 2}),
                json!("a"),
                "min_text_constraint",
                "Must be at least 2 character(s).",
            ),
            (
                json!({"type": "text", "max": 2}),
                json!("äöü"),
                "max_text_constraint",
                "Must be no more than 2 character(s).",
            ),
            (json!({"type": "text", "required": true}), json!(""), "required", "Cannot be blank."),
            (json!({"type": "number", "required": true}), json!("x"), "required", "Cannot be blank."),
            (json!({"type": "bool", "required": true}), json!(false), "required", "Cannot be blank."),
            (json!({"type": "json", "required": true}), json!("{}"), "required", "Cannot be blank."),
            (json!({"type": "geoPoint", "required": true}), json!({}), "required", "Cannot be blank."),
            (
                json!({"type": "select", "values": ["a"], "maxSelect": 2, "required": true}),
                json!([]),
                "required",
                "Cannot be blank.",
            ),
            (
                json!({"type": "number", "min": 3}),
                json!(2.5),
                "min_number_constraint",
                "Must be greater or equal than 3.",
            ),
            (
                json!({"type": "number", "max": 9}),
                json!("10"),
                "max_number_constraint",
                "Must be less or equal than 9.",
            ),
            (
                json!({"type": "date", "min": "2020-01-01"}),
                json!("2019-01-01"),
                "min_greater_equal_than_required",
                "Must be no less than 2020-01-01 00:00:00 +0000 UTC.",
            ),
            (
                json!({"type": "select", "values": ["a", "b", "c"], "maxSelect": 2}),
                json!(["a", "b", "c"]),
                "too_many_values",
                "Select no more than 2.",
            ),
            (
                json!({"type": "json", "maxSize": 5}),
                json!("abcd"),
                "json_size_limit",
                "The maximum allowed JSON size is 5 bytes.",
            ),
            (
                json!({"type": "geoPoint"}),
                json!({"lon": 200}),
                "invalid_longitude",
                "Longitude must be between -180 and 180 degrees.",
            ),
            (
                json!({"type": "geoPoint"}),
                json!({"lat": -91}),
                "invalid_latitude",
                "Latitude must be between -90 and 90 degrees.",
            ),
            (
                json!({"type": "password", "min": 8}),
                json!("abc"),
                "min_text_constraint",
                "Must be at least 8 character(s).",
            ),
            (
                json!({"type": "email", "onlyDomains": ["x.co"]}),
                json!("a@b.co"),
                "email_domain_not_allowed",
                "Email domain is not allowed.",
            ),
            (
                json!({"type": "url", "exceptDomains": ["a.bc"]}),
                json!("http://A.bc/x"),
                "url_domain_not_allowed",
                "Url domain is not allowed.",
            ),
            (json!({"type": "text"}), json!("a\0"), "invalid_format", "Invalid value format."),
        ] {
            let mut definition = definition;
            definition["name"] = "f".into();
            let field = field(definition);
            let value = field.coerce(&sent).unwrap();
            let violation = field.validate(&value).unwrap_err();
            assert_eq!(
                (violation.code, violation.message),
                (format!("validation_{code}"), message.to_owned())
            );
        }
        let at_zero = field(json!({"name": "n", "type": "number", "min": 3, "onlyInt": true}));
        assert_eq!(stored(&at_zero, &json!(0)), Ok(json!(0)));
        let empty = field(json!({"name": "t", "type": "text", "min": 3, "pattern": "^a"}));
        assert_eq!(stored(&empty, &json!("")), Ok(json!("")));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[0-9TZ:+ .eE_-]{0,12}".prop_map(Value::from),
            r#"[\[\]{}",:0-9a-z]{0,12}"#.prop_map(Value::from),
        ];
        scalar.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("lon|lat|[a-z]{0,3}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_stored_value_is_stored_as_itself(sent in any_json(), at in 0_usize..14) {
            let answers: Value = serde_json::from_str(ANSWERS).unwrap();
            let field = field(answers["fields"][at].clone());
            if let Ok(value) = stored(&field, &sent) {
                // A text of a JSON field is parsed once more.
                let is_text = value.is_string() && field.kind.name() == "json";
                prop_assert!(is_text || stored(&field, &value) == Ok(value));
            }
        }
    }
}
