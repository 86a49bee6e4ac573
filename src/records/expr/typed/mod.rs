//! Expressions over typed collections: their fields have the types of a schema, and lead to related records.
//!
//! The parser is the engine's; `resolve` gives names their meaning. Comparisons are those of PocketBase, which are SQLite's:
//!
//! * A value is null, a number or a text. Null < numbers < texts; texts by their bytes. A whole number of a field has the text `5`, a number
//!   that a filter names has the text `5.0`.
//! * An operand has an affinity: numbers, booleans and bare lists have that of numbers, all other fields that of text, and literals, members of
//!   JSON, `:lower`, `:length` and `:each` have none. Before a comparison the other side of a number becomes a number if it looks like one;
//!   the other side of a text becomes a text if it has no affinity.
//! * `=`, `!=`: null equals null and `""`, but beside a member of JSON null equals only null. `!=` is the negation, even for null.
//! * `>`, `>=`, `<`, `<=`, `~`, `!~` are unknown for null, and unknown is not true.
//! * Many values (`:each`, relations over lists, back relations): a plain operator holds if it does for at least one of them and is
//!   false for none; with `?` one is enough. No related record is one null. All comparisons of an expression that lead over the same path
//!   mean the same one of its records: `members.who ?= "ann" && members.role ?= "admin"` finds one member that is both.
//!
//! Expressions over the record's own fields are decided in memory as well. PocketBase's own answers to 2,595 filters are a test of both
//! (`testdata/filters.json`).

#[cfg(test)]
mod corpus;
mod evaluate;
mod moment;
mod resolve;
mod scalar;
mod sort;
mod sql;

pub(in crate::records) use moment::Format as TimeFormat;
pub(super) use moment::MAX_ARGUMENTS;
pub use resolve::{Catalog, ResolveError, Seen, TypedCollection};

use super::date::DateMacro;
use super::like::Like;
use super::value::Value;
use super::{Names, Operator, RequestValues};
use resolve::Resolver;

/// An expression whose fields are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedExpression(TypedNode);

/// The order of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedSort(Vec<sort::SortKey>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum TypedNode {
    All(Vec<TypedNode>),
    Any(Vec<TypedNode>),
    Comparison(Box<TypedComparison>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TypedComparison {
    left: TypedOperand,
    operator: Operator,
    is_any: bool,
    right: TypedOperand,
    /// The right side of `~`, if it is a literal.
    pattern: Option<Like>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TypedOperand {
    Literal(Value<'static>),
    /// `true` or `false`: 1 or 0, with the text of a whole number.
    Flag(bool),
    Date(DateMacro),
    Path(TypedPath),
    /// The elements of a list in the body of the request, with the name of its field. Postgres decides.
    Elements(String, Vec<Value<'static>>),
    /// Kilometres between two points. Postgres decides.
    Distance(Box<[TypedOperand; 4]>),
    /// The text of a time. Postgres decides.
    Moment(Box<(moment::Format, TypedOperand)>),
}

/// A field, of the record or of those that relations lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TypedPath {
    hops: Vec<Hop>,
    leaf: Leaf,
    /// Whether ASCII letters become lower ones.
    is_lower: bool,
    /// Whether it is an email that a client may read only where the record makes it visible.
    is_guarded: bool,
}

/// A step from a record to records of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hop {
    step: Step,
    /// The id of that collection.
    collection: String,
    /// What a client may see of that collection. `None`: all.
    seen: Option<Box<TypedExpression>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// To the records that a field names.
    Relation { field: String, is_list: bool },
    /// To the records whose field names this one.
    Back { field: String, is_list: bool },
    /// To all records. Each alias stands for one of them.
    All { alias: String },
    /// To the record of an id: the caller's own.
    One { id: String },
}

/// The value at the end of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leaf {
    /// The id.
    Id,
    /// The date of a column, `created` or `updated`.
    Column(&'static str),
    /// A number or a boolean.
    Number(String),
    /// A text.
    Text(String),
    /// A list as its JSON text.
    List(String),
    /// The elements of a list.
    Each(String),
    /// The number of elements of a list.
    Length(String),
    /// A member of a JSON value or of a point; the value itself with an empty path.
    Json(String, Vec<String>),
}

impl TypedExpression {
    /// Parses an expression and resolves its fields, from those of the collection with this id. `sees` limits the records of other collections.
    /// A trusted one, a rule or a superuser's, reads hidden fields and all emails. Passwords and token keys no expression reads.
    ///
    /// # Errors
    ///
    /// [`ResolveError`].
    pub fn parse(
        text: &str,
        values: &RequestValues,
        catalog: &dyn Catalog,
        collection: &str,
        sees: &dyn Fn(&str) -> Seen,
        is_trusted: bool,
    ) -> Result<Self, ResolveError> {
        let node = super::parser::parse(text, Names::Request(values))?;
        Resolver { catalog, collection, sees, is_trusted }.node(&node).map(Self)
    }

    /// Whether it reads the record's own fields only, each with one value: then it can be decided in memory.
    pub fn is_own(&self) -> bool {
        !self.0.needs_table()
    }
}

impl TypedNode {
    /// Whether the values are not all in the record's own row.
    fn needs_table(&self) -> bool {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(Self::needs_table),
            Self::Comparison(comparison) => {
                [&comparison.left, &comparison.right].into_iter().any(|operand| match operand {
                    TypedOperand::Path(path) => path.needs_table(),
                    TypedOperand::Literal(_) | TypedOperand::Flag(_) | TypedOperand::Date(_) => false,
                    TypedOperand::Elements(..) | TypedOperand::Distance(_) | TypedOperand::Moment(_) => true,
                })
            }
        }
    }
}

impl TypedPath {
    /// Whether the values are not all in the record's own row.
    fn needs_table(&self) -> bool {
        self.is_many() || !self.hops.is_empty()
    }

    /// Whether the value is one of JSON, of any type.
    fn is_json(&self) -> bool {
        matches!(self.leaf, Leaf::Json(..))
    }

    /// Whether there may be more values than one.
    fn is_many(&self) -> bool {
        let leads_to_many = |hop: &Hop| match hop.step {
            Step::Relation { is_list, .. } => is_list,
            Step::One { .. } => false,
            Step::Back { .. } | Step::All { .. } => true,
        };
        matches!(self.leaf, Leaf::Each(_)) || self.hops.iter().any(leads_to_many)
    }
}
