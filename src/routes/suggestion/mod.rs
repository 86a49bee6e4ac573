//! Derives a table and a route from recent payloads.
//!
//! A member of the payloads is a column. It has a type only if every value of the sample fits: `bigint`, `numeric`, `boolean`, `timestamptz`
//! (RFC 3339, with a space or a T), `text`; everything else is `jsonb`.

mod store;

use std::collections::BTreeMap;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::generate::{fill, quoted};
use super::{Definition, RouteError};
use crate::db::sql;

/// The most members that become columns; a table has at most 1,600.
const MOST_COLUMNS: usize = 500;
/// The most bytes of a column's name.
const NAME_BYTES: usize = 63;
/// The columns that every suggested table has.
const OWN: [&str; 2] = ["event_id", "received_at"];

/// A suggested table and route.
#[derive(Debug, Clone)]
pub struct Suggestion {
    /// The events that were read, and those of them for which the condition holds.
    pub read: u64,
    /// See [`Self::read`].
    pub events: u64,
    /// The columns.
    pub columns: Vec<SuggestedColumn>,
    /// Its schema, quoted.
    schema: String,
    /// The statement that creates the table.
    pub table: String,
    /// The route.
    pub definition: Definition,
}

/// A suggested column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuggestedColumn {
    /// The member of the payload.
    pub member: String,
    /// The column's name.
    pub name: String,
    /// Its type.
    pub sql_type: &'static str,
    /// Whether a value may be missing or null.
    pub is_nullable: bool,
    /// Events that have the member.
    pub events: u64,
}

/// The values of a member.
#[derive(Debug, Default)]
struct Member {
    events: u64,
    nulls: u64,
    bigint: u64,
    number: u64,
    boolean: u64,
    time: u64,
    text: u64,
}

/// The members of a sample.
#[derive(Debug, Default)]
struct Sampled {
    events: u64,
    members: BTreeMap<String, Member>,
}

impl Sampled {
    fn add(&mut self, payload: &str) {
        let Ok(Value::Object(payload)) = serde_json::from_str::<Value>(payload) else { return };
        self.events += 1;
        for (name, value) in payload {
            if self.members.len() >= MOST_COLUMNS && !self.members.contains_key(&name) {
                continue;
            }
            let member = self.members.entry(name).or_default();
            member.events += 1;
            match value {
                Value::Null => member.nulls += 1,
                Value::Bool(_) => member.boolean += 1,
                Value::Number(number) => {
                    member.number += 1;
                    member.bigint += u64::from(number.is_i64());
                }
                Value::String(text) => {
                    member.text += 1;
                    member.time += u64::from(is_time(&text));
                }
                Value::Array(_) | Value::Object(_) => {}
            }
        }
    }

    /// The columns, the most frequent first.
    fn columns(&self) -> Vec<SuggestedColumn> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(name, member)| (std::cmp::Reverse(member.events), (*name).clone()));
        let mut taken: Vec<String> = OWN.map(str::to_owned).into();
        let column = |(name, member): (&String, &Member)| {
            let values = member.events - member.nulls;
            let sql_type = match values {
                0 => "jsonb",
                n if member.bigint == n => "bigint",
                n if member.number == n => "numeric",
                n if member.boolean == n => "boolean",
                n if member.time == n => "timestamptz",
                n if member.text == n => "text",
                _ => "jsonb",
            };
            let column = unique(&snake_case(name), &taken);
            taken.push(column.clone());
            SuggestedColumn {
                member: name.clone(),
                name: column,
                sql_type,
                is_nullable: values < self.events,
                events: member.events,
            }
        };
        members.into_iter().map(column).collect()
    }

    /// The suggestion for a target, a condition, and columns that are its key, if any.
    fn suggestion(
        self,
        (schema, table): (&str, &str),
        condition: &str,
        key: &[String],
        read: u64,
    ) -> Result<Suggestion, RouteError> {
        let columns = self.columns();
        for name in key {
            let message = match columns.iter().find(|column| column.name == *name) {
                None => format!("no member becomes the column {name}"),
                Some(column) if column.is_nullable => format!("{name} is missing or null in some events"),
                Some(column) if column.sql_type == "jsonb" => format!("{name} has values of several types"),
                Some(_) => continue,
            };
            return Err(RouteError::invalid("key", message));
        }
        let schema = quoted_if_needed(schema);
        let target = format!("{schema}.{}", quoted_if_needed(table));
        let (mut defined, mut selected) = (String::new(), String::new());
        for column in &columns {
            let (name, member) = (quoted_if_needed(&column.name), column.member.replace('\'', "''"));
            let null = if column.is_nullable { "" } else { " not null" };
            defined += &format!(",\n    {name} {}{null}", column.sql_type);
            // A backslash is itself, as standard_conforming_strings is on where routes run.
            selected += &match column.sql_type {
                "jsonb" => format!(",\n    payload->'{member}' as {name}"),
                "text" => format!(",\n    payload->>'{member}' as {name}"),
                sql_type => format!(",\n    (payload->>'{member}')::{sql_type} as {name}"),
            };
        }
        let (event_key, key_clause) = match key {
            [] => ("primary key", String::new()),
            key => {
                let names: Vec<String> = key.iter().map(|name| quoted_if_needed(name)).collect();
                ("not null", format!(",\n    primary key ({})", names.join(", ")))
            }
        };
        let table =
            [("target", &*target), ("event_key", event_key), ("columns", &defined), ("key", &key_clause)];
        let route = [("columns", &*selected), ("condition", condition)];
        let definition = Definition {
            into: target.clone(),
            sql: fill(sql!("routes/suggest_route.sql").trim_end(), &route),
            key: key.to_vec(),
            ..Definition::default()
        };
        let table = fill(sql!("routes/suggest_table.sql").trim_end(), &table);
        Ok(Suggestion { read, events: self.events, columns, schema, table, definition })
    }
}

/// Whether a text is a time with its offset.
fn is_time(text: &str) -> bool {
    // From "2026-11-30T00:00:00Z" to nanoseconds with an offset.
    if !(20..=35).contains(&text.len()) || !text.is_ascii() {
        return false;
    }
    OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339).is_ok()
}

/// A member's name as that of a column: lower case, with `_` where words meet.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut before = None::<char>;
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        let starts_word = c.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase()
                    || before.is_ascii_digit()
                    || before.is_uppercase() && rest.peek().is_some_and(|next| next.is_lowercase())
            });
        if starts_word {
            snake.push('_');
        }
        match c.is_alphanumeric() {
            true => snake.extend(c.to_lowercase()),
            false if !snake.ends_with('_') => snake.push('_'),
            false => {}
        }
        before = Some(c);
    }
    let mut snake = snake.trim_matches('_').to_owned();
    if snake.is_empty() || snake.starts_with(|c: char| c.is_ascii_digit()) {
        snake.insert_str(0, "c_");
    }
    shortened(&snake, NAME_BYTES).to_owned()
}

/// A name that is not taken.
fn unique(name: &str, taken: &[String]) -> String {
    let is_free = |name: &String| !taken.contains(name);
    let numbered = (2..).map(|number| {
        let suffix = format!("_{number}");
        format!("{}{suffix}", shortened(name, NAME_BYTES - suffix.len()))
    });
    std::iter::once(name.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

fn shortened(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// A name, quoted unless it is certainly no keyword.
fn quoted_if_needed(name: &str) -> String {
    let is_plain =
        name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_plain =
        is_plain && !name.starts_with("current_") && !matches!(name, "session_user" | "system_user");
    if is_plain { name.to_owned() } else { quoted(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_snake_case_and_stay_apart() {
        let cases = [
            ("userId", "user_id"),
            ("HTTPStatus", "http_status"),
            ("user-id", "user_id"),
            ("$x y", "x_y"),
            ("", "c_"),
            ("2nd", "c_2nd"),
            ("Größe", "größe"),
            ("v2Beta", "v2_beta"),
        ];
        for (name, expected) in cases {
            assert_eq!(snake_case(name), expected, "{name}");
        }
        assert!(snake_case(&"ä".repeat(100)).len() <= NAME_BYTES);
        let taken = ["a".to_owned(), "a_2".to_owned()];
        assert_eq!((unique("a", &taken), unique("b", &taken)), ("a_3".to_owned(), "b".to_owned()));
    }

    #[test]
    fn a_column_has_a_type_only_if_every_value_fits() {
        let mut sampled = Sampled::default();
        for payload in [
            r#"{"n":1,"x":1.5,"big":99999999999999999999,"b":true,"at":"2026-11-30 10:00:00.5+01:00","t":"a","mixed":1,"o":{},"event_id":1}"#,
            r#"{"n":2,"x":1,"big":1,"b":false,"at":"2026-11-30T10:00:00Z","t":"2026-11-30T10:00:00Z","mixed":"1","o":[],"none":null}"#,
            "[1]",
        ] {
            sampled.add(payload);
        }
        let types: BTreeMap<String, (&str, bool)> = sampled
            .columns()
            .into_iter()
            .map(|column| (column.name, (column.sql_type, column.is_nullable)))
            .collect();
        let expected = [
            ("n", ("bigint", false)),
            ("x", ("numeric", false)),
            ("big", ("numeric", false)),
            ("b", ("boolean", false)),
            ("at", ("timestamptz", false)),
            ("t", ("text", false)),
            ("mixed", ("jsonb", false)),
            ("o", ("jsonb", false)),
            ("event_id_2", ("bigint", true)),
            ("none", ("jsonb", true)),
        ];
        assert_eq!(types, expected.into_iter().map(|(name, column)| (name.to_owned(), column)).collect());
        let suggestion = sampled.suggestion(("app", "t"), "true", &["n".to_owned()], 3).unwrap();
        assert!(suggestion.table.ends_with(",\n    primary key (\"n\")\n)"), "{}", suggestion.table);
        assert!(suggestion.table.contains("\"at\" timestamptz not null"), "{}", suggestion.table);
        assert!(suggestion.definition.sql.contains("(payload->>'n')::bigint as \"n\""), "{suggestion:?}");
    }
}
