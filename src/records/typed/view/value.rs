//! Values of a view's query: SQL of Postgres with the type that it has there, and conversions between the types as SQLite makes them.

use super::ViewError;

/// A text that is a number.
const NUMBER: &str = r"'^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$'";
/// The longest operand that stands several times in an expression.
const SHORT: usize = 240;
/// The longest one that has to, as it contains an aggregate, which would count other rows within a sub-select.
const MAX_REPEATED: usize = 4_000;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// Only null.
    Null,
    /// True or false: 1 or 0 in SQLite.
    Bool,
    /// Postgres' `numeric`.
    Number,
    /// A floating-point number.
    Real,
    /// A text, compared by its bytes.
    Text,
    /// JSON; as a scalar it has the value that it contains.
    Json,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Number => "numeric",
            Self::Real => "double precision",
            Self::Null | Self::Text => "text",
            Self::Json => "jsonb",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Number | Self::Real)
    }
}

/// An expression.
#[derive(Debug, Clone)]
pub(super) struct Value {
    /// The SQL: a name, a literal or an expression in parentheses.
    pub(super) sql: String,
    pub(super) kind: Type,
    /// Whether it has an aggregate or a window function, which belongs to the select that it stands in.
    pub(super) is_aggregate: bool,
    /// The text of a literal.
    pub(super) literal: Option<String>,
}

impl Value {
    pub(super) fn new(sql: String, kind: Type) -> Self {
        Self { sql, kind, is_aggregate: false, literal: None }
    }

    pub(super) fn null() -> Self {
        Self::new("null::text".into(), Type::Null)
    }

    /// A text of the query, quoted anew.
    pub(super) fn of_text(text: &str) -> Self {
        let literal = Some(text.to_owned());
        Self { literal, ..Self::new(format!("({}::text collate \"C\")", quote(text)), Type::Text) }
    }

    /// The same type and origin with other SQL.
    pub(super) fn with(&self, sql: String, kind: Type) -> Self {
        Self { sql, kind, is_aggregate: self.is_aggregate, literal: None }
    }

    /// An expression of two values.
    pub(super) fn of_two(one: &Self, other: &Self, sql: String, kind: Type) -> Self {
        Self { is_aggregate: one.is_aggregate || other.is_aggregate, ..Self::new(sql, kind) }
    }

    /// An expression that names its operand several times.
    pub(super) fn once(&self, body: impl Fn(&str) -> String) -> Result<String, ViewError> {
        if self.sql.len() <= SHORT {
            return Ok(format!("({})", body(&self.sql)));
        }
        if self.is_aggregate {
            if self.sql.len() > MAX_REPEATED {
                return Err(ViewError::new("an expression is too complex"));
            }
            return Ok(format!("({})", body(&self.sql)));
        }
        Ok(format!("(select {} from (select {} as x) as once)", body("once.x"), self.sql))
    }

    /// The same of two operands, already converted.
    pub(super) fn once_each(
        (one, other): (&Self, &Self),
        (one_sql, other_sql): (&str, &str),
        body: impl Fn(&str, &str) -> String,
    ) -> Result<String, ViewError> {
        let length = one_sql.len().max(other_sql.len());
        if length <= SHORT {
            return Ok(format!("({})", body(one_sql, other_sql)));
        }
        if one.is_aggregate || other.is_aggregate {
            if length > MAX_REPEATED {
                return Err(ViewError::new("an expression is too complex"));
            }
            return Ok(format!("({})", body(one_sql, other_sql)));
        }
        let body = body("once.x", "once.y");
        Ok(format!("(select {body} from (select {one_sql} as x, {other_sql} as y) as once)"))
    }

    /// Its text.
    pub(super) fn text(&self) -> String {
        match self.kind {
            Type::Null => "null::text".into(),
            Type::Bool => format!("({}::integer::text collate \"C\")", self.sql),
            Type::Number => format!("(trim_scale({})::text collate \"C\")", self.sql),
            Type::Real => format!("({}::text collate \"C\")", self.sql),
            Type::Text => self.sql.clone(),
            Type::Json => format!("(({} #>> '{{}}') collate \"C\")", self.sql),
        }
    }

    /// Its number, for a comparison: null for a text that is none.
    fn compared_number(&self) -> Result<String, ViewError> {
        self.as_number("null::numeric")
    }

    /// Its number, for a calculation: 0 for a text that is none.
    pub(super) fn number(&self) -> Result<String, ViewError> {
        self.as_number("0")
    }

    fn as_number(&self, of_others: &str) -> Result<String, ViewError> {
        Ok(match self.kind {
            Type::Null => "null::numeric".into(),
            Type::Bool => format!("({}::integer::numeric)", self.sql),
            Type::Number | Type::Real => self.sql.clone(),
            Type::Text => self.once(|text| {
                format!("case when {text} ~ {NUMBER} then {text}::numeric when {text} is not null then {of_others} end")
            })?,
            Type::Json => self.once(|json| {
                format!(
                    "case jsonb_typeof({json}) when 'number' then ({json})::numeric \
                     when 'boolean' then ({json})::boolean::integer::numeric \
                     when 'string' then case when ({json} #>> '{{}}') ~ {NUMBER} then ({json} #>> '{{}}')::numeric else {of_others} end \
                     when 'null' then null else {of_others} end"
                )
            })?,
        })
    }

    /// The type of its number.
    pub(super) fn number_type(&self) -> Type {
        if self.kind == Type::Real { Type::Real } else { Type::Number }
    }

    /// Its floating-point number.
    pub(super) fn real(&self) -> Result<String, ViewError> {
        Ok(format!("({}::double precision)", self.number()?))
    }

    /// Whether it counts as true.
    pub(super) fn truth(&self) -> Result<String, ViewError> {
        Ok(match self.kind {
            Type::Null => "null::boolean".into(),
            Type::Bool => self.sql.clone(),
            _ => format!("({} <> 0)", self.number()?),
        })
    }

    /// It as JSON.
    pub(super) fn json(&self) -> String {
        match self.kind {
            Type::Null => "null::jsonb".into(),
            Type::Bool => format!("to_jsonb({}::integer)", self.sql),
            Type::Number => format!("to_jsonb(trim_scale({}))", self.sql),
            Type::Real | Type::Text => format!("to_jsonb({})", self.sql),
            Type::Json => self.sql.clone(),
        }
    }

    /// It as a member of a JSON field: a text that is a number, or a word of JSON, becomes that.
    pub(super) fn json_member(&self) -> Result<String, ViewError> {
        if self.kind != Type::Text {
            return Ok(self.json());
        }
        self.once(|text| {
            format!(
                "case when {text} ~ '^-?(0|[1-9][0-9]{{0,30}})(\\.[0-9]{{1,30}})?$' then to_jsonb({text}::numeric) \
                 when {text} in ('true', 'false', 'null') then ({text})::jsonb else to_jsonb({text}) end"
            )
        })
    }

    /// It as another type.
    pub(super) fn cast(&self, kind: Type) -> Result<String, ViewError> {
        Ok(match kind {
            _ if self.kind == kind => self.sql.clone(),
            _ if self.kind == Type::Null => format!("null::{}", kind.name()),
            Type::Null | Type::Text => self.text(),
            Type::Bool => self.truth()?,
            Type::Number => format!("({}::numeric)", self.number()?),
            Type::Real => self.real()?,
            Type::Json => self.json(),
        })
    }

    /// Two values in a type in which they can be compared.
    pub(super) fn pair(one: &Self, other: &Self) -> Result<(String, String), ViewError> {
        let is_numeric = |value: &Self| value.kind.is_number() || value.kind == Type::Bool;
        let number = |literal: &Option<String>| {
            let number = literal.as_deref()?.trim().parse::<f64>().ok();
            number.filter(|number| number.is_finite()).map(|number| format!("({number}::numeric)"))
        };
        Ok(match (one.kind, other.kind) {
            (a, b) if a == b && a != Type::Json => (one.sql.clone(), other.sql.clone()),
            (Type::Null, kind) => (format!("null::{}", kind.name()), other.sql.clone()),
            (kind, Type::Null) => (one.sql.clone(), format!("null::{}", kind.name())),
            _ if is_numeric(one) && is_numeric(other) => (one.number()?, other.number()?),
            (Type::Json, _) if is_numeric(other) => (one.compared_number()?, other.number()?),
            (_, Type::Json) if is_numeric(one) => (one.number()?, other.compared_number()?),
            (Type::Text, _) if is_numeric(other) && number(&one.literal).is_some() => {
                (number(&one.literal).unwrap_or_default(), other.number()?)
            }
            (_, Type::Text) if is_numeric(one) && number(&other.literal).is_some() => {
                (one.number()?, number(&other.literal).unwrap_or_default())
            }
            _ => (one.text(), other.text()),
        })
    }

    /// Values in one type: of texts and numbers together it is JSON.
    pub(super) fn unify<'a>(values: impl Iterator<Item = &'a Self> + Clone) -> Type {
        values.map(|value| value.kind).fold(Type::Null, unified)
    }
}

/// The type of values of two types.
pub(super) fn unified(one: Type, other: Type) -> Type {
    match (one, other) {
        (Type::Null, kind) | (kind, Type::Null) => kind,
        (one, other) if one == other => one,
        (Type::Real, Type::Number | Type::Bool) | (Type::Number | Type::Bool, Type::Real) => Type::Real,
        (Type::Number, Type::Bool) | (Type::Bool, Type::Number) => Type::Number,
        _ => Type::Json,
    }
}

/// A text in SQL. Not in quotes, whose escapes depend on a setting.
pub(super) fn quote(text: &str) -> String {
    let mut tag = String::from("$v");
    while text.contains(tag.as_str()) {
        tag.push('v');
    }
    tag.push('$');
    format!("{tag}{text}{tag}")
}
