//! Fields: names, flags and the options of their type.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::date::DateText;
use super::pattern::Pattern;
use super::violation::{Violation, Violations};

/// The field of the id.
pub const ID: &str = "id";
/// The pattern of ids without one of their own.
pub(super) const ID_PATTERN: &str = "^[a-z0-9]+$";
/// What the service makes ids of, if a collection does not say otherwise.
pub(super) const MADE_ID: &str = "[a-z0-9]{15}";
/// The longest name, in bytes: a column of a view has it.
const MAX_NAME_BYTES: usize = 63;
/// Names that records have already.
const RESERVED: [&str; 5] = ["expand", "collectionId", "collectionName", "null", "_rowid_"];

/// A field of a collection. As JSON it has the members of PocketBase, the options beside the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// The id, which stays when the field is renamed. `""`: made from type and name.
    #[serde(default, deserialize_with = "or_default")]
    pub id: String,
    /// The name, which is the name of the member.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Whether it cannot be removed.
    #[serde(default, deserialize_with = "or_default")]
    pub system: bool,
    /// Whether only superusers see and set it.
    #[serde(default, deserialize_with = "or_default")]
    pub hidden: bool,
    /// Whether it names the record in a user interface.
    #[serde(default, deserialize_with = "or_default")]
    pub presentable: bool,
    /// Whether an empty value is refused.
    #[serde(default, deserialize_with = "or_default")]
    pub required: bool,
    /// A text for a user interface.
    #[serde(default, deserialize_with = "or_default")]
    pub help: String,
    /// The type and its options.
    #[serde(flatten)]
    pub kind: Kind,
}

/// A type and its options. A number of 0 is the default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Kind {
    /// A text.
    Text {
        /// The fewest characters.
        #[serde(default, deserialize_with = "or_default")]
        min: i64,
        /// The most characters: 5,000 by default.
        #[serde(default, deserialize_with = "or_default")]
        max: i64,
        /// A regular expression.
        #[serde(default, deserialize_with = "or_default")]
        pattern: Pattern,
        /// The regular expression of texts that the service makes.
        #[serde(default, deserialize_with = "or_default")]
        autogenerate_pattern: String,
        /// Whether it is the id.
        #[serde(default, deserialize_with = "or_default")]
        primary_key: bool,
    },
    /// A text with markup.
    Editor {
        /// The most bytes: 5 MiB by default.
        #[serde(default, deserialize_with = "or_default")]
        max_size: i64,
        /// For a user interface.
        #[serde(default, deserialize_with = "or_default", rename = "convertURLs")]
        convert_urls: bool,
    },
    /// A 64-bit float.
    Number {
        /// The smallest value.
        #[serde(default)]
        min: Option<f64>,
        /// The largest value.
        #[serde(default)]
        max: Option<f64>,
        /// Whether fractions are refused.
        #[serde(default, deserialize_with = "or_default")]
        only_int: bool,
    },
    /// True or false.
    Bool {},
    /// An email address.
    Email {
        /// Domains that are refused.
        #[serde(default, deserialize_with = "or_default")]
        except_domains: Vec<String>,
        /// The only domains.
        #[serde(default, deserialize_with = "or_default")]
        only_domains: Vec<String>,
    },
    /// A URL.
    Url {
        /// Hosts that are refused.
        #[serde(default, deserialize_with = "or_default")]
        except_domains: Vec<String>,
        /// The only hosts.
        #[serde(default, deserialize_with = "or_default")]
        only_domains: Vec<String>,
    },
    /// A date.
    Date {
        /// The earliest.
        #[serde(default, deserialize_with = "date_or_none")]
        min: String,
        /// The latest.
        #[serde(default, deserialize_with = "date_or_none")]
        max: String,
    },
    /// A date that the service sets.
    Autodate {
        /// Whether creation sets it.
        #[serde(default, deserialize_with = "or_default")]
        on_create: bool,
        /// Whether every change sets it.
        #[serde(default, deserialize_with = "or_default")]
        on_update: bool,
    },
    /// Words of a list.
    Select {
        /// The words.
        #[serde(default, deserialize_with = "or_default")]
        values: Vec<String>,
        /// The most words of a value. Above 1 a value is a list.
        #[serde(default, deserialize_with = "or_default")]
        max_select: i64,
    },
    /// Files.
    File {
        /// The most files. Above 1 a value is a list.
        #[serde(default, deserialize_with = "or_default")]
        max_select: i64,
        /// The most bytes of a file: 5 MiB by default.
        #[serde(default, deserialize_with = "or_default")]
        max_size: i64,
        /// The only media types.
        #[serde(default, deserialize_with = "or_default")]
        mime_types: Vec<String>,
        /// Sizes of previews.
        #[serde(default, deserialize_with = "or_default")]
        thumbs: Vec<String>,
        /// Whether a file needs a token.
        #[serde(default, deserialize_with = "or_default")]
        protected: bool,
    },
    /// Ids of records of another collection.
    Relation {
        /// The id of that collection.
        #[serde(default, deserialize_with = "or_default")]
        collection_id: String,
        /// Whether the deletion of the last related record deletes the record.
        #[serde(default, deserialize_with = "or_default")]
        cascade_delete: bool,
        /// The fewest ids.
        #[serde(default, deserialize_with = "or_default")]
        min_select: i64,
        /// The most ids. Above 1 a value is a list.
        #[serde(default, deserialize_with = "or_default")]
        max_select: i64,
    },
    /// Any JSON value.
    Json {
        /// The most bytes: 1 MiB by default.
        #[serde(default, deserialize_with = "or_default")]
        max_size: i64,
    },
    /// Longitude and latitude.
    GeoPoint {},
    /// A password, kept as a hash.
    Password {
        /// The fewest characters.
        #[serde(default, deserialize_with = "or_default")]
        min: i64,
        /// The most characters: 71 by default.
        #[serde(default, deserialize_with = "or_default")]
        max: i64,
        /// A regular expression.
        #[serde(default, deserialize_with = "or_default")]
        pattern: Pattern,
        /// The cost of the hash, which is kept and not used.
        #[serde(default, deserialize_with = "or_default")]
        cost: i64,
    },
}

/// A value, or the default where it is null.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A date, or `""` where it is none.
fn date_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text: String = or_default(deserializer)?;
    Ok(DateText::parse(&text).map_or_else(String::new, |date| date.to_string()))
}

impl Kind {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Editor { .. } => "editor",
            Self::Number { .. } => "number",
            Self::Bool {} => "bool",
            Self::Email { .. } => "email",
            Self::Url { .. } => "url",
            Self::Date { .. } => "date",
            Self::Autodate { .. } => "autodate",
            Self::Select { .. } => "select",
            Self::File { .. } => "file",
            Self::Relation { .. } => "relation",
            Self::Json { .. } => "json",
            Self::GeoPoint {} => "geoPoint",
            Self::Password { .. } => "password",
        }
    }

    /// Whether a value is a list.
    pub fn is_list(&self) -> bool {
        match self {
            Self::Select { max_select, .. }
            | Self::File { max_select, .. }
            | Self::Relation { max_select, .. } => *max_select > 1,
            _ => false,
        }
    }
}

impl Field {
    /// The id of a new collection's records: 15 characters of `a` to `z` and `0` to `9`.
    pub fn id_field() -> Self {
        let kind = Kind::Text {
            min: 15,
            max: 15,
            pattern: Pattern::new(ID_PATTERN),
            autogenerate_pattern: MADE_ID.into(),
            primary_key: true,
        };
        let mut field = Self {
            id: String::new(),
            name: ID.into(),
            system: true,
            hidden: false,
            presentable: false,
            required: true,
            help: String::new(),
            kind,
        };
        field.complete();
        field
    }

    /// Whether it is the id.
    pub fn is_id(&self) -> bool {
        matches!(self.kind, Kind::Text { primary_key: true, .. })
    }

    /// Whether the service sets it, whatever a client sends.
    pub fn is_made(&self) -> bool {
        matches!(self.kind, Kind::Autodate { .. })
    }

    /// Whether it never leaves the service.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Password { .. })
    }

    /// Fills in members that a client may leave out: the id, and the flags and the pattern of the field of the id.
    pub fn complete(&mut self) {
        if self.id.is_empty() {
            self.id = format!("{}{}", self.kind.name(), crc32fast::hash(self.name.as_bytes()));
        }
        if let (ID, Kind::Text { primary_key, pattern, .. }) = (self.name.as_str(), &mut self.kind) {
            (*primary_key, self.system, self.required, self.hidden) = (true, true, true, false);
            if pattern.as_str().is_empty() {
                *pattern = Pattern::new(ID_PATTERN);
            }
        }
    }

    /// The violations of its definition, by member.
    pub fn check(&self) -> Violations {
        let mut found = Violations::default();
        if self.name.is_empty() {
            found.add("name", Violation::required());
        } else if self.name.contains("_via_") {
            found.add("name", Violation::new("found_via", "The value cannot contain \"_via_\"."));
        } else if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(&self.name)) {
            found.add("name", Violation::new("not_in_invalid", "Must not be in list."));
        } else if !is_name(&self.name) {
            found.add("name", Violation::new("match_invalid", "Must be in a valid format."));
        }
        let at_least = |least: i64| {
            Violation::new("min_greater_equal_than_required", format!("Must be no less than {least}."))
                .with("threshold", least)
        };
        let mut not_below = |member: &str, value: i64, least: i64| {
            if value < least {
                found.add(member, at_least(least));
            }
        };
        match &self.kind {
            Kind::Text { min, max, .. } | Kind::Password { min, max, .. } => {
                not_below("min", *min, 0);
                if *max != 0 {
                    not_below("max", *max, *min);
                }
            }
            Kind::Number { min: Some(min), max: Some(max), .. } if max < min => {
                let message = format!("Must be no less than {}.", super::number_text(*min));
                let violation =
                    Violation::new("min_greater_equal_than_required", message).with("threshold", *min);
                found.add("max", violation);
            }
            Kind::Editor { max_size, .. } | Kind::Json { max_size } => not_below("maxSize", *max_size, 0),
            Kind::File { max_size, max_select, .. } => {
                not_below("maxSize", *max_size, 0);
                not_below("maxSelect", *max_select, 0);
            }
            Kind::Relation { collection_id, min_select, max_select, .. } => {
                not_below("minSelect", *min_select, 0);
                not_below("maxSelect", *max_select, 0);
                if collection_id.is_empty() {
                    found.add("collectionId", Violation::required());
                }
            }
            Kind::Select { values, max_select } => {
                not_below("maxSelect", *max_select, 0);
                if values.is_empty() || values.iter().any(String::is_empty) {
                    found.add("values", Violation::required());
                }
            }
            _ => {}
        }
        let (pattern, generated) = match &self.kind {
            Kind::Text { pattern, autogenerate_pattern, .. } => {
                (Some(pattern), autogenerate_pattern.as_str())
            }
            Kind::Password { pattern, .. } => (Some(pattern), ""),
            _ => (None, ""),
        };
        let invalid = || Violation::new("invalid_regex", "Invalid regular expression.");
        if pattern.is_some_and(|pattern| !pattern.is_valid()) {
            found.add("pattern", invalid());
        }
        if !Pattern::new(generated).is_valid() {
            found.add("autogeneratePattern", invalid());
        }
        if self.kind.name() != "text" && self.name == ID {
            found.add("name", Violation::new("not_in_invalid", "Must not be in list."));
        }
        found
    }

    /// As a client reads it.
    pub fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Whether a text can be a field's name: letters, digits and `_`.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: Value) -> Field {
        let mut field: Field = serde_json::from_value(json).unwrap();
        field.complete();
        field
    }

    #[test]
    fn a_field_is_read_and_written_as_pocketbase_has_it() {
        // The real server's.
        for (sent, shown) in [
            (
                json!({"name": "title", "type": "text", "required": true, "min": 2, "max": 5}),
                r#"{"autogeneratePattern":"","help":"","hidden":false,"id":"text724990059","max":5,"min":2,"name":"title","pattern":"","presentable":false,"primaryKey":false,"required":true,"system":false,"type":"text"}"#,
            ),
            (
                json!({"name": "n", "type": "number", "min": 1, "max": 9, "onlyInt": true, "help": null}),
                r#"{"help":"","hidden":false,"id":"number2013832146","max":9.0,"min":1.0,"name":"n","onlyInt":true,"presentable":false,"required":false,"system":false,"type":"number"}"#,
            ),
            (
                json!({"name": "b", "type": "bool", "required": true}),
                r#"{"help":"","hidden":false,"id":"bool1908338681","name":"b","presentable":false,"required":true,"system":false,"type":"bool"}"#,
            ),
            (
                json!({"name": "d", "type": "date", "min": "2020-01-01"}),
                r#"{"help":"","hidden":false,"id":"date2564639436","max":"","min":"2020-01-01 00:00:00.000Z","name":"d","presentable":false,"required":false,"system":false,"type":"date"}"#,
            ),
            (
                json!({"name": "ed", "type": "editor"}),
                r#"{"convertURLs":false,"help":"","hidden":false,"id":"editor327952476","maxSize":0,"name":"ed","presentable":false,"required":false,"system":false,"type":"editor"}"#,
            ),
            (
                json!({"name": "g", "type": "geoPoint"}),
                r#"{"help":"","hidden":false,"id":"geoPoint30677878","name":"g","presentable":false,"required":false,"system":false,"type":"geoPoint"}"#,
            ),
            (
                json!({"name": "id", "type": "text", "primaryKey": true}),
                r#"{"autogeneratePattern":"","help":"","hidden":false,"id":"text3208210256","max":0,"min":0,"name":"id","pattern":"^[a-z0-9]+$","presentable":false,"primaryKey":true,"required":true,"system":true,"type":"text"}"#,
            ),
        ] {
            let field = read(sent);
            assert_eq!(field.json().to_string(), shown);
            assert_eq!(read(field.json()), field);
            assert!(field.check().is_empty());
        }
        assert!(Field::id_field().check().is_empty());
    }

    #[test]
    fn bad_definitions_are_refused_by_member() {
        for (sent, member, code) in [
            (json!({"type": "bool"}), "name", "required"),
            (json!({"name": "a_via_b", "type": "text"}), "name", "found_via"),
            (json!({"name": "expand", "type": "text"}), "name", "not_in_invalid"),
            (json!({"name": "a b", "type": "text"}), "name", "match_invalid"),
            (json!({"name": "r", "type": "relation"}), "collectionId", "required"),
            (json!({"name": "s", "type": "select"}), "values", "required"),
            (json!({"name": "t", "type": "text", "pattern": "("}), "pattern", "invalid_regex"),
            (
                json!({"name": "t", "type": "text", "min": 5, "max": 2}),
                "max",
                "min_greater_equal_than_required",
            ),
            (
                json!({"name": "n", "type": "number", "min": 5, "max": 2}),
                "max",
                "min_greater_equal_than_required",
            ),
        ] {
            let found = read(sent.clone()).check();
            let code = format!("validation_{code}");
            assert_eq!(
                found.get(member).map(|violation| violation.code.as_str()),
                Some(code.as_str()),
                "{sent}"
            );
        }
        assert!(serde_json::from_value::<Field>(json!({"name": "a", "type": "nope"})).is_err());
        assert!(serde_json::from_value::<Field>(json!({"name": "a", "type": "text", "min": "x"})).is_err());
    }
}
