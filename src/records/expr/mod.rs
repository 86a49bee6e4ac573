//! Filter expressions: `status = "open" && (priority >= 3 || tags:each ?= "urgent")`.
//!
//! The grammar is that of PocketBase. One parser makes an [`Expression`]; two back ends decide it, and agree: SQL with bound parameters, for
//! lists, and evaluation in memory, for subscriptions. A property test holds them against each other (`tests/filters.rs`).
//!
//! # Grammar
//!
//! ```text
//! expression  = and *("||" and)
//! and         = term *("&&" term)
//! term        = "(" expression ")" / operand operator operand
//! operator    = ["?"] ("=" / "!=" / ">" / ">=" / "<" / "<=" / "~" / "!~")
//! operand     = text / number / identifier [":each" / ":length" / ":lower"]
//! ```
//!
//! A text is in either quote, and a backslash escapes only that quote. A number is `-14` or `10.50`. An identifier is `[A-Za-z_@#][\w.:]*`: a
//! field by its dotted path, `null`, `true`, `false`, a date such as `@now`, or `@request.auth.*`. `//` begins a comment.
//!
//! # Values
//!
//! * Booleans are the numbers 1 and 0. A list or an object is its JSON text, as Postgres writes it.
//! * `=` and `!=`: null, a missing field and `""` are alike. Values of different types are not equal.
//! * `>`, `>=`, `<`, `<=`: numbers as numbers, texts by their bytes. Between different types, and for null, they do not hold.
//! * `~`: the left side contains the right one; ASCII letters of either case are alike. An unescaped `%` makes the right side a pattern as it
//!   stands, with `%` and `_`; otherwise both are literal. A field on the right side is always a pattern, within `%`. Null is `""`.
//! * `:each` is every element of a list (of an empty one: null): a plain operator holds if it does for all of them, one with `?` for any.
//! * `:length` is the number of elements; of null and `""` 0, of other values 1. `:lower` is the text with lower ASCII letters.
//!
//! `filter_<field>=operator:value` ([`super::Filter`]) has other rules — `eq:10` finds a text, too — and shares only fields and parameters.

mod date;
mod evaluate;
mod like;
mod matcher;
mod parser;
mod request;
mod sql;
pub mod typed;
mod value;

pub use evaluate::{Made, Subject, TooMuchWork};
pub use matcher::ExpressionMatcher;
pub use request::{AuthValues, RequestValues};

use date::DateMacro;
use like::Like;
use value::Value;

use super::RecordsError;
use super::expression::Field;

/// The longest expression, in characters.
pub const MAX_CHARACTERS: usize = 3_500;
/// The most comparisons.
pub const MAX_COMPARISONS: usize = 200;
/// The deepest nesting of parentheses.
pub const MAX_DEPTH: usize = 32;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression(Node);

/// What `@request.auth.*` stands for: names and their values. All others are null.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestAuth<'a>(pub &'a [(&'a str, String)]);

/// The names that an expression may use beside fields.
#[derive(Debug, Clone, Copy)]
enum Names<'a> {
    /// `@request.auth.*`.
    Auth(RequestAuth<'a>),
    /// `@request.*` and `@collection.*`, in expressions over typed collections. `created` and `updated` are fields as all others.
    Request(&'a RequestValues),
}

/// An expression that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}, at character {at}")]
pub struct ExpressionError {
    /// The place: the number of a character, from 1 on.
    pub at: usize,
    /// The reason.
    pub message: String,
}

impl From<ExpressionError> for RecordsError {
    fn from(error: ExpressionError) -> Self {
        Self::invalid("filter", error.to_string())
    }
}

impl Expression {
    /// Parses an expression.
    ///
    /// # Errors
    ///
    /// [`ExpressionError`] names the place.
    pub fn parse(text: &str, auth: RequestAuth<'_>) -> Result<Self, ExpressionError> {
        parser::parse(text, Names::Auth(auth)).map(Self)
    }

    /// Whether a text reads `@request.auth`: then its expression is that of one client.
    pub fn reads_auth(text: &str) -> bool {
        text.contains("@request")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Comparison(Box<Comparison>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Comparison {
    left: Operand,
    operator: Operator,
    /// Of many values any is enough.
    is_any: bool,
    right: Operand,
    /// The right side of `~`, if it is a literal.
    pattern: Option<Like>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Ordered(Order),
    Like,
    NotLike,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    Literal(Value<'static>),
    /// `true` or `false`.
    Flag(bool),
    Date(DateMacro),
    Field(Field, Option<Modifier>),
    /// `:each` or `:length` of a member of the request's body, which have a meaning for fields with lists; over typed collections alone.
    Body {
        field: String,
        elements: Vec<Value<'static>>,
        modifier: Modifier,
    },
    /// A function of operands that are none themselves; over typed collections alone.
    Call(Function, Vec<Operand>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    /// Kilometres between two points, each a longitude and a latitude.
    GeoDistance,
    /// A format, a time and modifiers, as SQLite has them.
    Strftime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Modifier {
    Each,
    Length,
    Lower,
}

impl Modifier {
    fn name(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Length => "length",
            Self::Lower => "lower",
        }
    }
}
