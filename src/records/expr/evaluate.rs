//! Evaluation in memory: of one state of an object, as its change in the feed has it.

use std::cmp::Ordering;

use super::like::Like;
use super::value::Value;
use super::{Comparison, Expression, Modifier, Node, Operand, Operator, Order};
use crate::realtime::{Members, each_element, value_at};
use crate::records::expression::Field;
use crate::time::Millis;

/// The work of one evaluation: comparisons, and every 16 bytes that are read. A few milliseconds.
const MAX_WORK: u64 = 1 << 20;

/// An evaluation that would take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the filter takes too much work for this object")]
pub struct TooMuchWork;

/// The work that was done.
#[derive(Debug, Default)]
pub(super) struct Work(u64);

impl Work {
    /// Counts a step that reads some bytes.
    pub(super) fn read(&mut self, bytes: usize) -> Result<(), TooMuchWork> {
        self.0 += 1 + bytes as u64 / 16;
        if self.0 > MAX_WORK { Err(TooMuchWork) } else { Ok(()) }
    }
}

/// The members of a record that are not its own.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// The id.
    pub id: &'a str,
    /// The creation.
    pub created: Millis,
    /// The last update. `None`: it is among the own members.
    pub updated: Option<Millis>,
}

/// One state of an object.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// For a record. `None`: all members are its own.
    pub made: Option<Made<'a>>,
    /// Its members: JSON as `jsonb` writes it.
    pub data: &'a str,
    /// The index of `data`.
    pub members: &'a Members,
}

impl Expression {
    /// Whether the expression holds for an object at a time.
    ///
    /// # Errors
    ///
    /// [`TooMuchWork`].
    pub fn matches(&self, subject: &Subject<'_>, now: Millis) -> Result<bool, TooMuchWork> {
        Evaluation { subject, now, work: Work::default() }.node(&self.0)
    }
}

struct Evaluation<'a> {
    subject: &'a Subject<'a>,
    now: Millis,
    work: Work,
}

/// A field's value before it is one of an operand.
enum Found<'a> {
    Missing,
    Json(&'a str),
    Text(String),
}

impl<'a> Evaluation<'a> {
    fn node(&mut self, node: &Node) -> Result<bool, TooMuchWork> {
        match node {
            Node::All(nodes) => {
                for node in nodes {
                    if !self.node(node)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Node::Any(nodes) => {
                for node in nodes {
                    if self.node(node)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Comparison(comparison) => self.comparison(comparison),
        }
    }

    fn comparison(&mut self, comparison: &Comparison) -> Result<bool, TooMuchWork> {
        let (left, right) = (self.values(&comparison.left)?, self.values(&comparison.right)?);
        for left in &left {
            for right in &right {
                let pattern = comparison.pattern.as_ref();
                let is_field = matches!(comparison.right, Operand::Field(..));
                let holds = compare(comparison.operator, left, right, pattern, is_field, &mut self.work)?;
                if holds == comparison.is_any {
                    return Ok(holds);
                }
            }
        }
        Ok(!comparison.is_any)
    }

    /// The values of an operand, at least one; one unless it has `:each`.
    fn values(&mut self, operand: &Operand) -> Result<Vec<Value<'a>>, TooMuchWork> {
        let (field, modifier) = match operand {
            Operand::Literal(value) => return Ok(vec![value.clone()]),
            Operand::Flag(flag) => return Ok(vec![Value::of_flag(*flag)]),
            Operand::Date(date) => return Ok(vec![date.value(self.now)]),
            Operand::Field(field, modifier) => (field, *modifier),
            // Of typed collections.
            Operand::Call(..) | Operand::Body { .. } => return Ok(vec![Value::Null]),
        };
        let found = self.find(field)?;
        Ok(match modifier {
            None => vec![found.value()],
            Some(Modifier::Lower) => vec![match found.value() {
                Value::Null => Value::Null,
                value => Value::Text(value.text().to_ascii_lowercase().into()),
            }],
            Some(Modifier::Length) => vec![Value::Number(self.length(&found)?.to_string().into())],
            Some(Modifier::Each) => self.elements(found)?,
        })
    }

    fn find(&mut self, field: &Field) -> Result<Found<'a>, TooMuchWork> {
        let Subject { made, data, members } = self.subject;
        let own = |name| members.get(data, name).map_or(Found::Missing, Found::Json);
        self.work.read(0)?;
        Ok(match (field, made) {
            (Field::Id, Some(made)) => Found::Text(made.id.to_owned()),
            (Field::Created, Some(made)) => Found::Text(made.created.to_string()),
            (Field::Updated, Some(Made { updated: Some(updated), .. })) => Found::Text(updated.to_string()),
            (Field::Id, None) => own("id"),
            (Field::Created, None) => own("created"),
            (Field::Updated, _) => own("updated"),
            (Field::Path(path), _) => {
                let Some((first, rest)) = path.split_first() else { return Ok(Found::Missing) };
                let Some(json) = members.get(data, first) else { return Ok(Found::Missing) };
                if !rest.is_empty() {
                    self.work.read(json.len())?;
                }
                value_at(json, rest).map_or(Found::Missing, Found::Json)
            }
        })
    }

    fn length(&mut self, found: &Found<'a>) -> Result<usize, TooMuchWork> {
        Ok(match found {
            Found::Missing | Found::Json("null" | "\"\"") => 0,
            Found::Json(json) if json.starts_with('[') => {
                self.work.read(json.len())?;
                let mut count = 0;
                each_element(json, |_| {
                    count += 1;
                    true
                });
                count
            }
            Found::Json(_) | Found::Text(_) => 1,
        })
    }

    fn elements(&mut self, found: Found<'a>) -> Result<Vec<Value<'a>>, TooMuchWork> {
        let json = match found {
            Found::Json(json) if json.starts_with('[') => json,
            other => return Ok(vec![other.value()]),
        };
        self.work.read(json.len())?;
        let (mut values, mut is_too_much) = (Vec::new(), false);
        each_element(json, |element| {
            values.push(Value::of_json(element));
            // Each takes memory.
            is_too_much = self.work.read(64).is_err();
            !is_too_much
        });
        if is_too_much {
            return Err(TooMuchWork);
        }
        if values.is_empty() {
            values.push(Value::Null);
        }
        Ok(values)
    }
}

impl<'a> Found<'a> {
    fn value(self) -> Value<'a> {
        match self {
            Self::Missing => Value::Null,
            Self::Json(json) => Value::of_json(json),
            Self::Text(text) => Value::Text(text.into()),
        }
    }
}

/// Whether two values compare so. `pattern` is that of the right value, if it is known.
fn compare(
    operator: Operator,
    left: &Value<'_>,
    right: &Value<'_>,
    pattern: Option<&Like>,
    is_field: bool,
    work: &mut Work,
) -> Result<bool, TooMuchWork> {
    work.read(left.text().len().min(right.text().len()))?;
    let mut like = || match (pattern, is_field) {
        (Some(pattern), _) => pattern.matches(left.text(), work),
        (None, true) => Like::of_field(right.text()).matches(left.text(), work),
        (None, false) => Like::of_literal(right.text()).matches(left.text(), work),
    };
    Ok(match operator {
        Operator::Equal => left.equals(right),
        Operator::NotEqual => !left.equals(right),
        Operator::Like => like()?,
        Operator::NotLike => !like()?,
        Operator::Ordered(order) => left.compare(right).is_some_and(|ordering| order.includes(ordering)),
    })
}

impl Order {
    fn includes(self, ordering: Ordering) -> bool {
        match self {
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
        }
    }
}

/// Whether a comparison of two literals holds.
pub(super) fn literals(comparison: &Comparison, left: &Value<'_>, right: &Value<'_>) -> bool {
    let pattern = comparison.pattern.as_ref();
    // A literal has at most `MAX_CHARACTERS`.
    compare(comparison.operator, left, right, pattern, false, &mut Work::default()).unwrap_or_default()
}
