//! The order of a list: `sortBy=-created,name`.
//!
//! The order is total, so that a cursor can go on anywhere in it: the id comes last, in the direction of the field before
//! it. Members of different types are ordered as in `jsonb`: null (and missing), text, numbers, booleans, lists,
//! objects. All lists are equal, and so are all objects. So that a cursor stays short, text is ordered by the bytes of its first
//! [`COMPARED_CHARACTERS`] characters, and numbers by their first [`COMPARED_DIGITS`] digits on either side of the point:
//! those with more before it are capped.

use super::RecordsError;
use super::expression::{Field, IN_NAMES, Parameter, Parameters, cut};
use crate::time::Millis;

/// The most fields.
const MAX_FIELDS: usize = 8;
/// The compared prefix of a text, in characters.
pub const COMPARED_CHARACTERS: usize = 200;
/// The compared digits of a number, before and behind the point.
pub const COMPARED_DIGITS: usize = 500;

/// An order of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sort {
    /// The client's text, without white space.
    text: String,
    fields: Vec<(Field, Direction)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

/// An expression that records are ordered by.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) sql: String,
    pub(super) kind: KeyKind,
    direction: Direction,
}

/// The type of a key's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    Id,
    Created,
    Updated,
    /// `jsonb`: null, a number, a boolean, or a substitute for all texts, all lists, all objects.
    Json,
    Text,
}

/// By id: for ids that the service makes, by the time of creation.
impl Default for Sort {
    fn default() -> Self {
        Self { text: String::new(), fields: vec![(Field::Id, Direction::Ascending)] }
    }
}

impl Sort {
    /// Reads a list of fields, each with a `-` before it if it descends.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Invalid`] names `sortBy`.
    pub fn parse(text: &str) -> Result<Self, RecordsError> {
        let mut fields = Vec::new();
        let mut names = Vec::new();
        for name in cut(text, ',', IN_NAMES).into_iter().map(str::trim) {
            if fields.len() == MAX_FIELDS {
                return Err(RecordsError::invalid(
                    "sortBy",
                    format!("sortBy takes at most {MAX_FIELDS} fields"),
                ));
            }
            let (name, direction) = match name.strip_prefix('-') {
                Some(name) => (name, Direction::Descending),
                None => (name.strip_prefix('+').unwrap_or(name), Direction::Ascending),
            };
            fields.push((Field::parse(name, "sortBy")?, direction));
            names.push(if direction == Direction::Descending { format!("-{name}") } else { name.to_owned() });
        }
        let last = fields.last().map_or(Direction::Ascending, |(_, direction)| *direction);
        // Fields behind the id decide nothing.
        match fields.iter().position(|(field, _)| *field == Field::Id) {
            Some(id) => fields.truncate(id + 1),
            None => fields.push((Field::Id, last)),
        }
        Ok(Self { text: names.join(","), fields })
    }

    /// The client's text, without white space.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The kinds of the keys, in order; the last one is the id.
    pub(super) fn kinds(&self) -> Vec<KeyKind> {
        let mut ignored = Parameters::default();
        self.keys(&mut ignored).into_iter().map(|key| key.kind).collect()
    }

    /// The expressions to order by; the last one is the id.
    pub(super) fn keys(&self, parameters: &mut Parameters) -> Vec<Key> {
        let mut keys = Vec::new();
        for (field, direction) in &self.fields {
            let mut add = |kind, sql: String| keys.push(Key { sql, kind, direction: *direction });
            match field {
                Field::Id => add(KeyKind::Id, "id".into()),
                Field::Created => add(KeyKind::Created, "created".into()),
                Field::Updated => add(KeyKind::Updated, "updated".into()),
                Field::Path(path) => {
                    let value = parameters.value_at(path);
                    let number = bounded_number(&value);
                    // An empty list would come before null, so one that is not empty stands for all.
                    add(
                        KeyKind::Json,
                        format!(
                            "case jsonb_typeof({value}) when 'string' then '\"\"'::jsonb when 'array' then '[0]'::jsonb \
                             when 'object' then '{{}}'::jsonb when 'number' then {number} \
                             else coalesce({value}, 'null'::jsonb) end"
                        ),
                    );
                    add(
                        KeyKind::Text,
                        format!(
                            "(case jsonb_typeof({value}) when 'string' \
                             then left({value} #>> '{{}}', {COMPARED_CHARACTERS}) else '' end) collate \"C\""
                        ),
                    );
                }
            }
        }
        keys
    }
}

/// The number with at most [`COMPARED_DIGITS`] digits on either side of the point. This never inverts the order of two numbers, and leaves
/// most numbers unchanged.
fn bounded_number(value: &str) -> String {
    let number = format!("({value})::numeric");
    let limit = format!("1e{COMPARED_DIGITS}");
    format!(
        "case when scale({number}) <= {COMPARED_DIGITS} and {number} between -{limit} and {limit} then {value} \
         else to_jsonb(trunc(least(greatest({number}, -{limit}), {limit}), {COMPARED_DIGITS})) end"
    )
}

/// The list of `order by`.
pub(super) fn order(keys: &[Key]) -> String {
    let parts = keys.iter().map(|key| match key.direction {
        Direction::Ascending => key.sql.clone(),
        Direction::Descending => format!("{} desc", key.sql),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// A value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyValue {
    Text(String),
    Json(String),
    Time(Millis),
}

/// The condition that a record is behind these values, one for each key.
///
/// If all keys have one direction it is one comparison of rows, for which an index can be used.
pub(super) fn after(keys: &[Key], values: Vec<KeyValue>, parameters: &mut Parameters) -> String {
    let bound: Vec<String> = values
        .into_iter()
        .map(|value| match value {
            KeyValue::Text(text) => parameters.bind(Parameter::Text(text)),
            KeyValue::Json(text) => format!("{}::jsonb", parameters.bind(Parameter::Text(text))),
            KeyValue::Time(time) => parameters.bind(Parameter::Time(time)),
        })
        .collect();
    let comparison = |key: &Key| match key.direction {
        Direction::Ascending => ">",
        Direction::Descending => "<",
    };
    let same_way = keys.windows(2).all(|pair| pair[0].direction == pair[1].direction);
    if let (true, Some(first)) = (same_way, keys.first()) {
        let sql: Vec<&str> = keys.iter().map(|key| key.sql.as_str()).collect();
        return format!("({}) {} ({})", sql.join(", "), comparison(first), bound.join(", "));
    }
    let mut alternatives = Vec::new();
    let mut equal = String::new();
    for (key, value) in keys.iter().zip(&bound) {
        alternatives.push(format!("({equal}{} {} {value})", key.sql, comparison(key)));
        equal += &format!("{} = {value} and ", key.sql);
    }
    format!("({})", alternatives.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_comes_last_in_the_direction_of_the_field_before_it() {
        let order_of = |text: &str| {
            let mut parameters = Parameters::default();
            order(&Sort::parse(text).unwrap().keys(&mut parameters))
        };
        assert_eq!(order_of("-created"), "created desc, id desc");
        assert_eq!(order_of("created"), "created, id");
        assert_eq!(order_of("-id,name"), "id desc");
        assert_eq!(Sort::parse("a,-b").unwrap().kinds().len(), 5);
    }

    #[test]
    fn sorting_by_nothing_or_too_much_is_refused() {
        let many = ["a"; 9].join(",");
        for bad in ["", "-", "a,", ",a", "a..b", "\0", &many, &"x".repeat(10_000)] {
            let refused = Sort::parse(bad);
            assert!(
                matches!(refused, Err(RecordsError::Invalid { field, .. }) if field == "sortBy"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn one_comparison_of_rows_goes_on_where_all_keys_go_one_way() {
        let after = |text: &str, values: Vec<KeyValue>| {
            let mut parameters = Parameters::default();
            let keys = Sort::parse(text).unwrap().keys(&mut parameters);
            after(&keys, values, &mut parameters)
        };
        let values = || vec![KeyValue::Time(Millis(1)), KeyValue::Text("x".into())];
        assert_eq!(after("-created", values()), "(created, id) < ($1, $2)");
        let mixed = vec![KeyValue::Time(Millis(1)), KeyValue::Time(Millis(2)), KeyValue::Text("x".into())];
        assert_eq!(
            after("-created,updated", mixed),
            "((created < $1) or (created = $1 and updated > $2) or (created = $1 and updated = $2 and id > $3))"
        );
    }
}
