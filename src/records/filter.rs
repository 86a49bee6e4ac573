//! Conditions on records: `filter_<field>=<operator>:<value>`.
//!
//! A value is compared by the type of the field: with a number as a number, if it is one; with text as text, by its bytes (`collate "C"`);
//! `true`, `false` and `null` with themselves. So `eq:10` finds `10` and `"10"`. A missing field is null.
//!
//! A backslash escapes a special character behind it: `in:a\,b` is one value, `like:50\%` matches a percent sign, `filter_a\.b` is about the
//! member `a.b`.

use super::RecordsError;
use super::expression::{Field, Parameter, Parameters, cut, plain};
use crate::ingest::json::{self, JsonKind};
use crate::time::Millis;

/// The longest value, in bytes.
const MAX_VALUE_BYTES: usize = 8_192;
/// The special characters in the list of `in:`, and in the pattern of `like:`.
const IN_LISTS: &[char] = &[',', '\\'];
const IN_PATTERNS: &[char] = &['%', '_', '\\'];
/// The most values of `in:`.
const MAX_VALUES: usize = 200;

/// A condition on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    field: Field,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    /// The field is one of these.
    OneOf(Vec<String>),
    NotOneOf(Vec<String>),
    Compared(Comparison, String),
    /// SQL's `like`, with the backslash as its escape character, which is how Postgres has it.
    Like(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Comparison {
    fn sql(self) -> &'static str {
        match self {
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
        }
    }
}

impl Filter {
    /// Reads the value of `filter_<name>`. Without a known operator, all of it is the value.
    ///
    /// # Errors
    ///
    /// [`RecordsError::Invalid`] names the parameter.
    pub fn parse(name: &str, text: &str) -> Result<Self, RecordsError> {
        let parameter = format!("filter_{name}");
        let field = Field::parse(name, &parameter)?;
        if text.len() > MAX_VALUE_BYTES || text.contains('\0') {
            let message = format!("a filter's value has at most {MAX_VALUE_BYTES} bytes, without NUL");
            return Err(RecordsError::invalid(&parameter, message));
        }
        let (operator, value) = text.split_once(':').unwrap_or(("", text));
        let compared = |comparison| Test::Compared(comparison, value.to_owned());
        let test = match operator {
            "eq" => Test::OneOf(vec![value.to_owned()]),
            "ne" => Test::NotOneOf(vec![value.to_owned()]),
            "gt" => compared(Comparison::Greater),
            "gte" => compared(Comparison::GreaterOrEqual),
            "lt" => compared(Comparison::Less),
            "lte" => compared(Comparison::LessOrEqual),
            "like" => Test::Like(pattern(value)),
            "in" => {
                let values = cut(value, ',', IN_LISTS).into_iter().map(|value| plain(value, IN_LISTS));
                Test::OneOf(values.collect())
            }
            _ => Test::OneOf(vec![text.to_owned()]),
        };
        if let Test::OneOf(values) = &test
            && values.len() > MAX_VALUES
        {
            return Err(RecordsError::invalid(&parameter, format!("in takes at most {MAX_VALUES} values")));
        }
        let filter = Self { field, test };
        // Invalid comparisons are refused before a statement runs.
        filter.compile(&mut Parameters::default())?;
        Ok(filter)
    }

    /// The condition in SQL.
    pub(super) fn compile(&self, parameters: &mut Parameters) -> Result<String, RecordsError> {
        match &self.field {
            Field::Id => Ok(self.compile_id(parameters)),
            Field::Created => self.compile_time("created", parameters),
            Field::Updated => self.compile_time("updated", parameters),
            Field::Path(path) => Ok(self.compile_path(path, parameters)),
        }
    }

    fn compile_id(&self, parameters: &mut Parameters) -> String {
        match &self.test {
            Test::OneOf(values) => format!("id = any({})", parameters.bind(Parameter::Texts(values.clone()))),
            Test::NotOneOf(values) => {
                format!("id <> all({})", parameters.bind(Parameter::Texts(values.clone())))
            }
            Test::Compared(comparison, value) => {
                format!("id {} {}", comparison.sql(), parameters.bind(Parameter::Text(value.clone())))
            }
            Test::Like(pattern) => {
                format!("id like {}", parameters.bind(Parameter::Text(pattern.clone())))
            }
        }
    }

    fn compile_time(&self, column: &str, parameters: &mut Parameters) -> Result<String, RecordsError> {
        let refuse = || {
            let message = format!("{column} is compared with a time such as 2026-01-31T12:00:00Z (RFC 3339)");
            RecordsError::invalid(&format!("filter_{column}"), message)
        };
        let time = |text: &String| Millis::parse(text).ok_or_else(refuse);
        let times = |values: &[String]| values.iter().map(time).collect::<Result<Vec<_>, _>>();
        Ok(match &self.test {
            Test::OneOf(values) => {
                format!("{column} = any({})", parameters.bind(Parameter::Times(times(values)?)))
            }
            Test::NotOneOf(values) => {
                format!("{column} <> all({})", parameters.bind(Parameter::Times(times(values)?)))
            }
            Test::Compared(comparison, value) => {
                format!("{column} {} {}", comparison.sql(), parameters.bind(Parameter::Time(time(value)?)))
            }
            Test::Like(_) => return Err(refuse()),
        })
    }

    fn compile_path(&self, path: &[String], parameters: &mut Parameters) -> String {
        let value = parameters.value_at(path);
        match &self.test {
            Test::OneOf(values) => is_one_of(&value, values, parameters),
            Test::NotOneOf(values) => {
                format!("not coalesce({}, false)", is_one_of(&value, values, parameters))
            }
            Test::Compared(comparison, operand) => {
                let comparison = comparison.sql();
                let text = parameters.bind(Parameter::Text(operand.clone()));
                // Only in a case's branch is a value that is no number sure not to be read as one.
                let number = match is_number(operand) {
                    true => format!("({value} #>> '{{}}')::numeric {comparison} {text}::numeric"),
                    false => "false".to_owned(),
                };
                format!(
                    "case jsonb_typeof({value}) when 'number' then {number} \
                     when 'string' then ({value} #>> '{{}}') collate \"C\" {comparison} {text} else false end"
                )
            }
            Test::Like(pattern) => {
                let pattern = parameters.bind(Parameter::Text(pattern.clone()));
                format!(
                    "case jsonb_typeof({value}) when 'string' then ({value} #>> '{{}}') like {pattern} \
                     else false end"
                )
            }
        }
    }
}

/// Whether the value is one of these: in `jsonb` numbers are equal as numbers and text is equal byte for byte.
fn is_one_of(value: &str, texts: &[String], parameters: &mut Parameters) -> String {
    let mut candidates = Vec::with_capacity(texts.len() + 1);
    for text in texts {
        if matches!(text.as_str(), "true" | "false" | "null") || is_number(text) {
            candidates.push(text.clone());
        }
        candidates.push(serde_json::Value::from(text.as_str()).to_string());
    }
    let candidates = parameters.bind(Parameter::Texts(candidates));
    let equal = format!("{value} = any({candidates}::jsonb[])");
    match texts.iter().any(|text| text == "null") {
        true => format!("({value} is null or {equal})"),
        false => equal,
    }
}

/// Whether the text is a number as JSON has them, which `numeric` can hold.
fn is_number(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let ends = text.ends_with(|c: char| c.is_ascii_digit());
    begins && ends && json::classify(text.as_bytes(), 0) == JsonKind::Jsonb
}

/// What `like` takes: a pattern without a wildcard is looked for anywhere. A backslash that stands before nothing special is
/// one itself.
fn pattern(text: &str) -> String {
    let (mut pattern, mut has_wildcard) = (String::with_capacity(text.len() + 2), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                pattern.push('\\');
                pattern.push(characters.next_if(|next| IN_PATTERNS.contains(next)).unwrap_or('\\'));
            }
            '%' | '_' => {
                has_wildcard = true;
                pattern.push(character);
            }
            _ => pattern.push(character),
        }
    }
    if has_wildcard { pattern } else { format!("%{pattern}%") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compiled(name: &str, text: &str) -> (String, Vec<Parameter>) {
        let mut parameters = Parameters::default();
        let sql = Filter::parse(name, text).unwrap().compile(&mut parameters).unwrap();
        (sql, parameters.0)
    }

    fn texts(values: &[&str]) -> Parameter {
        Parameter::Texts(values.iter().map(|value| (*value).to_owned()).collect())
    }

    #[test]
    fn a_value_is_compared_as_what_it_may_be() {
        let (sql, parameters) = compiled("age", "eq:10");
        assert_eq!(sql, "(data -> $1) = any($2::jsonb[])");
        assert_eq!(parameters, [Parameter::Text("age".into()), texts(&["10", "\"10\""])]);
        assert_eq!(compiled("a", "null").0, "((data -> $1) is null or (data -> $1) = any($2::jsonb[]))");
        assert_eq!(compiled("a", "in:x,true,1").1[1], texts(&["\"x\"", "true", "\"true\"", "1", "\"1\""]));
        assert_eq!(compiled("a.b", "x").1[0], texts(&["a", "b"]));
        assert!(compiled("a", "gt:abc").0.contains("when 'number' then false"));
        assert!(compiled("a", "gt:1e5").0.contains("::numeric > $2::numeric"));
    }

    #[test]
    fn an_operator_that_is_not_known_is_a_part_of_the_value() {
        assert_eq!(compiled("a", "https://x").1[1], texts(&["\"https://x\""]));
        assert_eq!(compiled("a", "eq:gt:1").1[1], texts(&["\"gt:1\""]));
    }

    #[test]
    fn a_backslash_takes_the_meaning_from_commas_wildcards_and_dots() {
        assert_eq!(compiled("a", r"in:x\,y,z\\,\w").1[1], texts(&["\"x,y\"", r#""z\\""#, r#""\\w""#]));
        assert_eq!(compiled(r"a\.b", "x").1[0], Parameter::Text("a.b".into()));
        let like = |text: &str| compiled("a", &format!("like:{text}")).1[1].clone();
        for (text, expected) in [
            ("x", "%x%"),
            ("50%", "50%"),
            (r"50\%", r"%50\%%"),
            (r"a\_b%", r"a\_b%"),
            (r"C:\dir\", r"%C:\\dir\\%"),
            (r"\\", r"%\\%"),
        ] {
            assert_eq!(like(text), Parameter::Text(expected.into()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused_by_name() {
        let long = "x".repeat(10_000);
        let many = format!("in:{}", ",".repeat(300));
        for (name, value) in [
            ("", "1"),
            ("a..b", "1"),
            ("a\0", "1"),
            ("a", "\0"),
            ("created", "eq:yesterday"),
            ("created", "like:2"),
            ("created", "eq:9999-12-31T23:59:59-00:01"),
            ("updated", "lt:0000-01-01T00:00:00+00:01"),
            (&long, "1"),
            ("a", &long),
            ("a", &many),
        ] {
            let Err(RecordsError::Invalid { field, message }) = Filter::parse(name, value) else {
                panic!("{name:?} {value:?}");
            };
            assert!(field.starts_with("filter_") && field.len() <= 100, "{field}");
            assert!(message.len() < 200, "{message}");
        }
    }

    proptest! {
        #[test]
        fn nothing_a_client_sent_becomes_a_part_of_the_statement(name in r"[^.\\\x00]{1,20}", text in "[^\0]{0,40}") {
            prop_assume!(!matches!(name.as_str(), "id" | "created" | "updated"));
            let (sql, parameters) = compiled(&name, &text);
            let (same, _) = compiled("other", &text);
            prop_assert_eq!(sql, same);
            prop_assert_eq!(&parameters[0], &Parameter::Text(name));
        }

        #[test]
        fn no_text_makes_parsing_panic(name in ".{0,300}", text in ".{0,300}") {
            let _ = Filter::parse(&name, &text);
        }
    }
}
