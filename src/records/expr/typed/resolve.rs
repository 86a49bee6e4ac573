//! Names to fields: of the collection, of related records (`author.name`, `author.team.name`), and of those that name a record
//! (`posts_via_author.title`).

use super::super::date::DateMacro;
use super::super::value::Value;
use super::super::{ExpressionError, Function, Modifier, Node, Operand, Operator};
use super::moment::Format;
use super::{Hop, Leaf, Step, TypedComparison, TypedExpression, TypedNode, TypedOperand, TypedPath};
use crate::records::expr::like::Like;
use crate::records::expr::parser::{AUTH, COLLECTION};
use crate::records::expression::Field as FieldName;
use crate::records::schema::{Definition, EMAIL, Kind, TOKEN_KEY, number_text};

/// The most steps to related records.
const MAX_HOPS: usize = 6;

/// A collection that an expression may lead to.
#[derive(Debug, Clone, Copy)]
pub struct TypedCollection<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its fields.
    pub definition: &'a Definition,
}

/// The collections that an expression may lead to.
pub trait Catalog {
    /// The collection with this id.
    fn by_id(&self, id: &str) -> Option<TypedCollection<'_>>;
    /// The collection with this name.
    fn by_name(&self, name: &str) -> Option<TypedCollection<'_>>;
}

/// An expression that has no meaning for a collection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It cannot be parsed.
    #[error(transparent)]
    Parse(#[from] ExpressionError),
    /// It names an unknown field.
    #[error("invalid {side} operand \"{operand}\" - unknown field \"{field}\"")]
    UnknownField {
        /// `left` or `right`.
        side: &'static str,
        /// The operand.
        operand: String,
        /// The part of it that is unknown.
        field: String,
    },
    /// It names an unknown collection.
    #[error("failed to load collection \"{name}\" from field path \"{path}\"")]
    UnknownCollection {
        /// Its name.
        name: String,
        /// The whole path.
        path: String,
    },
    /// A modifier of lists stands at a member of the body that is no field.
    #[error(
        "invalid {side} operand \"@request.body.{field}:{modifier}\" - invalid modifier sequence {field}:{modifier}"
    )]
    NoField {
        /// `left` or `right`.
        side: &'static str,
        /// The member.
        field: String,
        /// The modifier.
        modifier: &'static str,
    },
    /// A modifier of lists stands at a member of the body whose field has no list.
    #[error(
        "invalid {side} operand \"@request.body.{field}:{modifier}\" - field \"{field}\" doesn't support multivalue operations"
    )]
    NoList {
        /// `left` or `right`.
        side: &'static str,
        /// The member.
        field: String,
        /// The modifier.
        modifier: &'static str,
    },
    /// It leads to too many records.
    #[error("a field leads over at most {MAX_HOPS} relations")]
    TooFar,
}

/// What a reader sees of a collection that an expression leads to.
#[derive(Debug, Clone)]
pub enum Seen {
    /// Every record.
    All,
    /// The records that an expression holds for.
    Some(Box<TypedExpression>),
    /// Nothing: its fields are unknown.
    Nothing,
}

pub(super) struct Resolver<'a> {
    pub(super) catalog: &'a dyn Catalog,
    /// The id of the collection that the expression is about.
    pub(super) collection: &'a str,
    pub(super) sees: &'a dyn Fn(&str) -> Seen,
    /// Whether hidden fields and all emails may be read.
    pub(super) is_trusted: bool,
}

impl<'a> Resolver<'a> {
    pub(super) fn node(&self, node: &Node) -> Result<TypedNode, ResolveError> {
        let all = |nodes: &[Node]| -> Result<Vec<TypedNode>, ResolveError> {
            nodes.iter().map(|one| self.node(one)).collect()
        };
        Ok(match node {
            Node::All(nodes) => TypedNode::All(all(nodes)?),
            Node::Any(nodes) => TypedNode::Any(all(nodes)?),
            Node::Comparison(comparison) => {
                let left = self.operand(&comparison.left, "left")?;
                let right = self.operand(&comparison.right, "right")?;
                let pattern = match (comparison.operator, &comparison.right) {
                    (Operator::Like | Operator::NotLike, Operand::Literal(value)) => Some(pattern(value)),
                    _ => None,
                };
                let (operator, is_any) = (comparison.operator, comparison.is_any);
                TypedNode::Comparison(Box::new(TypedComparison { left, operator, is_any, right, pattern }))
            }
        })
    }

    fn operand(&self, operand: &Operand, side: &'static str) -> Result<TypedOperand, ResolveError> {
        let (names, modifier) = match operand {
            Operand::Literal(value) => return Ok(TypedOperand::Literal(value.clone())),
            Operand::Flag(flag) => return Ok(TypedOperand::Flag(*flag)),
            Operand::Date(date) => return Ok(TypedOperand::Date(*date)),
            Operand::Call(function, arguments) => return self.call(*function, arguments, side),
            Operand::Body { field, elements, modifier } => {
                return self.body(field, elements, *modifier, side);
            }
            Operand::Field(FieldName::Path(names), modifier) => (names.clone(), *modifier),
            Operand::Field(FieldName::Id, modifier) => (vec!["id".to_owned()], *modifier),
            Operand::Field(FieldName::Created, modifier) => (vec!["created".to_owned()], *modifier),
            Operand::Field(FieldName::Updated, modifier) => (vec!["updated".to_owned()], *modifier),
        };
        let unknown = |field: &str| {
            let operand = match names.as_slice() {
                [root, name, _, rest @ ..] if root == COLLECTION => {
                    format!("{root}.{name}.{}", rest.join("."))
                }
                names => names.join("."),
            };
            ResolveError::UnknownField { side, operand, field: field.to_owned() }
        };
        match self.path(&names, modifier, &unknown) {
            // Callers are of several collections, and not all of them have the field.
            Err(_) if names.first().is_some_and(|root| root == AUTH) => {
                Ok(TypedOperand::Literal(Value::Null))
            }
            path => path.map(TypedOperand::Path),
        }
    }

    /// `:each` or `:length` of a member of the request's body.
    fn body(
        &self,
        name: &str,
        elements: &[Value<'static>],
        modifier: Modifier,
        side: &'static str,
    ) -> Result<TypedOperand, ResolveError> {
        let collection = self.catalog.by_id(self.collection);
        let own = collection.and_then(|collection| collection.definition.field(name));
        let (field, modifier_name) = (name.to_owned(), modifier.name());
        let Some(own) = own else {
            return Err(ResolveError::NoField { side, field, modifier: modifier_name });
        };
        if !matches!(own.kind, Kind::Select { .. } | Kind::Relation { .. } | Kind::File { .. }) {
            return Err(ResolveError::NoList { side, field, modifier: modifier_name });
        }
        Ok(match modifier {
            Modifier::Each if own.kind.is_list() => TypedOperand::Elements(field, elements.to_vec()),
            Modifier::Each => TypedOperand::Literal(elements.first().cloned().unwrap_or(Value::Null)),
            _ => TypedOperand::Literal(Value::Number(elements.len().to_string().into())),
        })
    }

    fn call(
        &self,
        function: Function,
        arguments: &[Operand],
        side: &'static str,
    ) -> Result<TypedOperand, ResolveError> {
        let now = Operand::Date(DateMacro::Now);
        Ok(match (function, arguments) {
            (Function::GeoDistance, [a, b, c, d]) => {
                let operand = |operand| self.operand(operand, side);
                TypedOperand::Distance(Box::new([operand(a)?, operand(b)?, operand(c)?, operand(d)?]))
            }
            (Function::Strftime, [Operand::Literal(format), rest @ ..]) => {
                let (time, modifiers) = rest.split_first().unwrap_or((&now, &[]));
                let text = |operand: &Operand| match operand {
                    Operand::Literal(value) => value.text().to_owned(),
                    _ => String::new(),
                };
                let modifiers: Vec<String> = modifiers.iter().map(text).collect();
                // Unknown fields are refused whatever the format.
                let time = self.operand(time, side)?;
                match Format::parse(format.text(), &modifiers) {
                    Some(format) => TypedOperand::Moment(Box::new((format, time))),
                    None => TypedOperand::Literal(Value::Null),
                }
            }
            // The parser has checked them.
            _ => TypedOperand::Literal(Value::Null),
        })
    }

    /// A step to a collection.
    fn hop(&self, step: Step, collection: &str) -> Option<Hop> {
        let seen = match (self.sees)(collection) {
            Seen::All => None,
            Seen::Some(expression) => Some(expression),
            Seen::Nothing => return None,
        };
        Some(Hop { step, collection: collection.to_owned(), seen })
    }

    /// The path of a dotted name.
    pub(super) fn path(
        &self,
        names: &[String],
        modifier: Option<Modifier>,
        unknown: &dyn Fn(&str) -> ResolveError,
    ) -> Result<TypedPath, ResolveError> {
        let mut hops: Vec<Hop> = Vec::new();
        let (mut at, mut names) = match names {
            [root, name, alias, rest @ ..] if root == COLLECTION => {
                let found = self.catalog.by_name(name).or_else(|| self.catalog.by_id(name));
                let collection = found.ok_or_else(|| {
                    let path = format!("{COLLECTION}.{name}.{}", rest.join("."));
                    ResolveError::UnknownCollection { name: name.clone(), path }
                })?;
                let step = Step::All { alias: alias.clone() };
                hops.push(self.hop(step, &collection.definition.id).ok_or_else(|| unknown(name))?);
                (collection, rest)
            }
            [root, collection, id, rest @ ..] if root == AUTH => {
                let own = self.catalog.by_id(collection).ok_or_else(|| unknown(collection))?;
                hops.push(Hop {
                    step: Step::One { id: id.clone() },
                    collection: collection.clone(),
                    seen: None,
                });
                (own, rest)
            }
            names => (self.catalog.by_id(self.collection).ok_or_else(|| unknown(self.collection))?, names),
        };
        while let Some((name, rest)) = names.split_first() {
            if hops.len() > MAX_HOPS {
                return Err(ResolveError::TooFar);
            }
            let Some(field) = at.definition.field(name) else {
                let (hop, next) = self.back(name, at).ok_or_else(|| unknown(name))?;
                hops.push(hop);
                (at, names) = (next, rest);
                continue;
            };
            let is_lower = modifier == Some(Modifier::Lower);
            let is_auth = at.definition.auth.is_some();
            let is_guarded = is_auth && name == EMAIL && !self.is_trusted;
            let leaf = |leaf| Ok(TypedPath { hops: hops.clone(), leaf, is_lower, is_guarded });
            let is_hidden = field.hidden && !self.is_trusted;
            if field.is_secret() || is_hidden || (is_auth && name == TOKEN_KEY) {
                return Err(unknown(name));
            }
            if field.is_id() {
                return if rest.is_empty() { leaf(Leaf::Id) } else { Err(unknown(name)) };
            }
            let is_list = field.kind.is_list();
            // Its times are members.
            let is_view = at.definition.is_view();
            match &field.kind {
                Kind::Json { .. } | Kind::GeoPoint {} => {
                    return leaf(Leaf::Json(name.clone(), rest.to_vec()));
                }
                // Its own id is the field itself, unless each of a list counts.
                Kind::Relation { .. } if !is_list && matches!(rest, [id] if id == "id") => {
                    return leaf(Leaf::Text(name.clone()));
                }
                Kind::Relation { collection_id, .. } if !rest.is_empty() => {
                    let next = self.catalog.by_id(collection_id).ok_or_else(|| unknown(name))?;
                    let step = Step::Relation { field: name.clone(), is_list };
                    hops.push(self.hop(step, collection_id).ok_or_else(|| unknown(name))?);
                    (at, names) = (next, rest);
                }
                _ if !rest.is_empty() => return Err(unknown(name)),
                _ if is_list => {
                    return leaf(match modifier {
                        Some(Modifier::Each) => Leaf::Each(name.clone()),
                        Some(Modifier::Length) => Leaf::Length(name.clone()),
                        _ => Leaf::List(name.clone()),
                    });
                }
                Kind::Number { .. } | Kind::Bool {} => return leaf(Leaf::Number(name.clone())),
                Kind::Autodate { .. } if name == "created" && !is_view => {
                    return leaf(Leaf::Column("created"));
                }
                Kind::Autodate { .. } if name == "updated" && !is_view => {
                    return leaf(Leaf::Column("updated"));
                }
                _ => return leaf(Leaf::Text(name.clone())),
            }
        }
        Err(unknown(""))
    }

    /// The step of a name such as `posts_via_author`.
    fn back(&self, name: &str, at: TypedCollection<'_>) -> Option<(Hop, TypedCollection<'a>)> {
        let (collection, field) = name.split_once("_via_")?;
        let next = self.catalog.by_name(collection)?;
        let via = next.definition.field(field).filter(|field| !field.hidden || self.is_trusted)?;
        let Kind::Relation { collection_id, .. } = &via.kind else { return None };
        let step = Step::Back { field: field.to_owned(), is_list: via.kind.is_list() };
        let hop = self.hop(step, &next.definition.id)?;
        (*collection_id == at.definition.id).then_some((hop, next))
    }
}

/// The pattern of a literal; a number is as JavaScript writes it.
fn pattern(value: &Value<'_>) -> Like {
    match value {
        Value::Number(number) => Like::of_literal(&number_text(number.parse().unwrap_or_default())),
        value => Like::of_literal(value.text()),
    }
}
