//! The query of a list of records, and the fields that it shows.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::cursor::RecordSortKey;
use super::expression::{IN_NAMES, Parameters, cut, path};
use super::{Expression, Filter, Record, RecordsError, RequestAuth, Sort, sort};
use crate::paging::{self, InvalidParameter, SeenParameters};
use crate::time::Millis;

const DEFAULT_LIMIT: usize = 50;
/// The most records of a page.
pub const MAX_LIMIT: usize = 1000;
/// The most records that `offset` skips; a cursor goes on behind them without reading them.
const MAX_OFFSET: u32 = 10_000_000;
/// The most filters.
const MAX_FILTERS: usize = 50;
/// The most fields of `fields`.
const MAX_FIELDS: usize = 100;

/// The query of a list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    pub(super) filters: Vec<Filter>,
    /// A filter expression, and the time of its dates.
    expression: Option<(Expression, Millis)>,
    /// The order.
    pub sort: Sort,
    pub(super) limit: usize,
    pub(super) offset: u32,
    pub(super) after: Option<RecordSortKey>,
    /// The members to show. `None`: all.
    pub fields: Option<Fields>,
    /// Whether to count all matching records.
    pub counts: bool,
}

impl ListQuery {
    /// Reads a query's parameters.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Invalid`] names the first that is invalid.
    pub fn parse(parameters: &[(String, String)], auth: RequestAuth<'_>) -> Result<Self, RecordsError> {
        let mut query = Self { limit: DEFAULT_LIMIT, ..Self::default() };
        let mut after = None;
        let mut seen = SeenParameters::default();
        for (name, value) in parameters {
            if let Some(field) = name.strip_prefix("filter_") {
                if query.filters.len() == MAX_FILTERS {
                    return Err(RecordsError::invalid(
                        name,
                        format!("there are at most {MAX_FILTERS} filters"),
                    ));
                }
                query.filters.push(Filter::parse(field, value)?);
                continue;
            }
            seen.add(name)?;
            match name.as_str() {
                "limit" => query.limit = paging::limit(value, MAX_LIMIT)?,
                "offset" => query.offset = paging::offset(value, MAX_OFFSET)?,
                "filter" => query.expression = Some((Expression::parse(value, auth)?, Millis::now())),
                "sortBy" => query.sort = Sort::parse(value)?,
                "after" => after = Some(value),
                "fields" => query.fields = Some(Fields::parse(value)?),
                "count" => match value.as_str() {
                    "exact" => query.counts = true,
                    _ => return Err(RecordsError::invalid("count", "count takes exact")),
                },
                _ => return Err(InvalidParameter::unknown(name).into()),
            }
        }
        if let Some(cursor) = after {
            if query.offset > 0 {
                return Err(RecordsError::invalid("offset", "offset does not go with after"));
            }
            query.after = Some(RecordSortKey::parse(cursor, &query.sort)?);
        }
        Ok(query)
    }

    /// The conditions of the filters; `true` if there are none.
    pub(super) fn conditions(&self, parameters: &mut Parameters) -> Result<Vec<String>, RecordsError> {
        let mut conditions = vec!["true".to_owned()];
        for filter in &self.filters {
            conditions.push(filter.compile(parameters)?);
        }
        if let Some((expression, now)) = &self.expression {
            conditions.push(expression.compile(*now, parameters));
        }
        Ok(conditions)
    }

    /// The conditions of the filters and of the cursor.
    pub(super) fn page_conditions(
        &self,
        keys: &[sort::Key],
        parameters: &mut Parameters,
    ) -> Result<String, RecordsError> {
        let mut conditions = self.conditions(parameters)?;
        if let Some(key) = &self.after {
            conditions.push(sort::after(keys, key.values.clone(), parameters));
        }
        Ok(conditions.join(" and "))
    }
}

/// The members of a record that a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fields(BTreeMap<String, Fields>);

impl Fields {
    /// Reads a list of dotted names.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Invalid`] names `fields`.
    pub fn parse(text: &str) -> Result<Self, RecordsError> {
        let mut fields = Self::default();
        for (index, name) in cut(text, ',', IN_NAMES).into_iter().map(str::trim).enumerate() {
            if index == MAX_FIELDS {
                return Err(RecordsError::invalid(
                    "fields",
                    format!("fields takes at most {MAX_FIELDS} names"),
                ));
            }
            let mut inner = &mut fields;
            for part in path(name, "fields")? {
                inner = inner.0.entry(part).or_default();
            }
            // A whole member includes its parts.
            inner.0.insert(WHOLE.into(), Self::default());
        }
        Ok(fields)
    }

    /// Appends a record with these members only.
    pub fn write_json(&self, record: &Record, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let (created, updated) = (record.created.to_string(), record.updated.to_string());
        let made = [("id", record.id.as_str()), ("created", &created), ("updated", &updated)];
        out.push(b'{');
        let mut first = true;
        for (name, value) in made {
            if self.0.contains_key(name) {
                separate(&mut first, out);
                serde_json::to_writer(&mut *out, name)?;
                out.push(b':');
                serde_json::to_writer(&mut *out, value)?;
            }
        }
        self.write_members(&record.data, &mut first, out)?;
        out.push(b'}');
        Ok(())
    }

    /// An object with these members only; other JSON as it is.
    ///
    /// # Errors
    ///
    /// Those of malformed JSON.
    pub fn select(&self, json: &str) -> Result<String, serde_json::Error> {
        if !json.starts_with('{') {
            return Ok(json.to_owned());
        }
        let mut out = vec![b'{'];
        self.write_members(json, &mut true, &mut out)?;
        out.push(b'}');
        // Slices of a text, and names that were written as JSON.
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    fn write_members(
        &self,
        object: &str,
        first: &mut bool,
        out: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(object)?;
        for (name, value) in members {
            let Some(inner) = self.0.get(&*name) else { continue };
            let value = value.get();
            let is_whole = inner.0.contains_key(WHOLE);
            if !is_whole && !value.starts_with('{') {
                continue;
            }
            separate(first, out);
            serde_json::to_writer(&mut *out, &name)?;
            out.push(b':');
            if is_whole {
                out.extend_from_slice(value.as_bytes());
            } else {
                out.push(b'{');
                inner.write_members(value, &mut true, out)?;
                out.push(b'}');
            }
        }
        Ok(())
    }
}

/// Marks a whole member; no part of a name is empty.
const WHOLE: &str = "";

fn separate(first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(first) {
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RecordId, Version};
    use super::*;

    fn parse(parameters: &[(&str, &str)]) -> Result<ListQuery, RecordsError> {
        let owned: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ListQuery::parse(&owned, RequestAuth::default())
    }

    #[test]
    fn a_malformed_parameter_is_named() {
        for (name, value) in [
            ("limit", "0"),
            ("limit", "1001"),
            ("limit", "x"),
            ("limit", "-1"),
            ("offset", "-1"),
            ("offset", "99999999999999999999"),
            ("sortBy", ""),
            ("count", "about"),
            ("after", "x"),
            ("fields", ""),
            ("unknown", "1"),
            ("filter_", "1"),
            ("filter", "a ="),
        ] {
            let refused = parse(&[(name, value)]);
            assert!(
                matches!(&refused, Err(RecordsError::Invalid { field, .. }) if field == name),
                "{name} {refused:?}"
            );
        }
        assert!(parse(&[("limit", "1"), ("limit", "1")]).is_err());
        assert!(parse(&vec![("filter_a", "1"); MAX_FILTERS + 1]).is_err());
    }

    #[test]
    fn a_list_shows_the_requested_fields_only() {
        let record = Record {
            id: RecordId::parse("abcdefghij01234").unwrap(),
            version: Version(1),
            created: Millis(0),
            updated: Millis(0),
            data: r#"{"a": {"b": 1, "c": [2]}, "d": 1.50, "e": "x"}"#.into(),
        };
        let shown = |fields: &str| {
            let mut out = Vec::new();
            Fields::parse(fields).unwrap().write_json(&record, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown("id,d"), r#"{"id":"abcdefghij01234","d":1.50}"#);
        assert_eq!(shown("a.b,d.x,nothing"), r#"{"a":{"b":1}}"#);
        assert_eq!(shown("a,a.b"), r#"{"a":{"b": 1, "c": [2]}}"#);
        assert_eq!(shown("created"), r#"{"created":"1970-01-01T00:00:00.000Z"}"#);
    }
}
