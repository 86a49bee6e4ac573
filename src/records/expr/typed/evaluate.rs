//! Evaluation in memory, over a record's own fields.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Map, Value as Json};

use super::super::evaluate::{TooMuchWork, Work};
use super::super::like::Like;
use super::super::value::Value;
use super::super::{Operator, Order};
use super::scalar::{Affinity, Scalar, compare};
use super::{Leaf, TypedComparison, TypedExpression, TypedNode, TypedOperand, TypedPath};
use crate::records::schema::EMAIL_VISIBILITY;
use crate::time::Millis;

impl TypedExpression {
    /// Whether the expression holds for a record, with its id and all fields, at a time. `None`: it reads more than the record's own fields,
    /// so Postgres decides.
    ///
    /// # Errors
    ///
    /// [`TooMuchWork`].
    pub fn matches(&self, record: &Map<String, Json>, now: Millis) -> Result<Option<bool>, TooMuchWork> {
        if !self.is_own() {
            return Ok(None);
        }
        Evaluation { record, now, work: Work::default() }.node(&self.0).map(Some)
    }
}

struct Evaluation<'a> {
    record: &'a Map<String, Json>,
    now: Millis,
    work: Work,
}

/// The value of an operand.
struct Operand<'a> {
    scalar: Scalar<'a>,
    affinity: Affinity,
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Literal,
    Field,
    /// Null is null only.
    Json,
}

impl<'a> Evaluation<'a> {
    fn node(&mut self, node: &TypedNode) -> Result<bool, TooMuchWork> {
        match node {
            TypedNode::All(nodes) => {
                for node in nodes {
                    if !self.node(node)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            TypedNode::Any(nodes) => {
                for node in nodes {
                    if self.node(node)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            TypedNode::Comparison(comparison) => self.comparison(comparison),
        }
    }

    /// Whether a comparison holds; unknown is not true.
    fn comparison(&mut self, comparison: &TypedComparison) -> Result<bool, TooMuchWork> {
        let is_guarded =
            |operand: &TypedOperand| matches!(operand, TypedOperand::Path(path) if path.is_guarded);
        let is_visible = || self.record.get(EMAIL_VISIBILITY) == Some(&Json::Bool(true));
        if (is_guarded(&comparison.left) || is_guarded(&comparison.right)) && !is_visible() {
            return Ok(false);
        }
        let (left, right) = (self.operand(&comparison.left)?, self.operand(&comparison.right)?);
        self.work.read(64)?;
        let ordering = || compare((&left.scalar, left.affinity), (&right.scalar, right.affinity));
        let holds = match comparison.operator {
            Operator::Equal => Some(equals(&left, &right)),
            Operator::NotEqual => Some(!equals(&left, &right)),
            Operator::Ordered(order) => ordering().map(|ordering| includes(order, ordering)),
            Operator::Like => self.like(comparison, &left.scalar, &right.scalar)?,
            Operator::NotLike => self.like(comparison, &left.scalar, &right.scalar)?.map(|holds| !holds),
        };
        Ok(holds == Some(true))
    }

    fn like(
        &mut self,
        comparison: &TypedComparison,
        one: &Scalar<'_>,
        other: &Scalar<'_>,
    ) -> Result<Option<bool>, TooMuchWork> {
        let (Some(text), Some(pattern)) = (one.text(), other.text()) else { return Ok(None) };
        self.work.read(text.len())?;
        let holds = match &comparison.pattern {
            Some(like) => like.matches(&text, &mut self.work),
            None if matches!(comparison.right, TypedOperand::Path(_)) => {
                Like::of_field(&pattern).matches(&text, &mut self.work)
            }
            None => Like::of_literal(&pattern).matches(&text, &mut self.work),
        };
        holds.map(Some)
    }

    fn operand(&mut self, operand: &TypedOperand) -> Result<Operand<'a>, TooMuchWork> {
        let literal = |scalar| Operand { scalar, affinity: Affinity::None, source: Source::Literal };
        match operand {
            TypedOperand::Literal(value) => Ok(literal(Scalar::of_literal(value))),
            TypedOperand::Flag(flag) => Ok(literal(Scalar::of_number(f64::from(u8::from(*flag))))),
            TypedOperand::Date(date) => Ok(literal(match date.value(self.now) {
                // As fields have them.
                Value::Text(text) => Scalar::Text(text.replacen('T', " ", 1).into()),
                value => Scalar::of_literal(&value),
            })),
            TypedOperand::Path(path) => self.path(path),
            // Postgres decides.
            TypedOperand::Elements(..) | TypedOperand::Distance(_) | TypedOperand::Moment(_) => {
                Ok(literal(Scalar::Null))
            }
        }
    }

    fn path(&mut self, path: &TypedPath) -> Result<Operand<'a>, TooMuchWork> {
        self.work.read(64)?;
        let mut scalar = self.leaf(&path.leaf);
        let mut affinity = match path.leaf {
            Leaf::Number(_) | Leaf::List(_) => Affinity::Number,
            Leaf::Id | Leaf::Column(_) | Leaf::Text(_) => Affinity::Text,
            Leaf::Each(_) | Leaf::Length(_) | Leaf::Json(..) => Affinity::None,
        };
        if path.is_lower {
            affinity = Affinity::None;
            let lower = scalar.text().map(|text| text.to_ascii_lowercase());
            scalar = lower.map_or(Scalar::Null, |text| Scalar::Text(text.into()));
        }
        let source = if matches!(path.leaf, Leaf::Json(..)) { Source::Json } else { Source::Field };
        Ok(Operand { scalar, affinity, source })
    }

    fn leaf(&self, leaf: &Leaf) -> Scalar<'a> {
        let member = |name: &str| self.record.get(name);
        match leaf {
            Leaf::Id => text(member("id")),
            Leaf::Column(name) => text(member(name)),
            Leaf::Text(name) => text(member(name)),
            Leaf::Number(name) => match member(name) {
                Some(Json::Bool(flag)) => Scalar::Integer(f64::from(u8::from(*flag))),
                Some(number) => number.as_f64().map_or(Scalar::Null, Scalar::of_number),
                None => Scalar::Null,
            },
            Leaf::List(name) => {
                let list = member(name).filter(|list| list.is_array());
                list.map_or(Scalar::Text("[]".into()), |list| Scalar::Text(list.to_string().into()))
            }
            Leaf::Length(name) => {
                let length = member(name).and_then(Json::as_array).map_or(0, Vec::len);
                Scalar::Integer(length as f64)
            }
            // Several values: Postgres decides.
            Leaf::Each(_) => Scalar::Null,
            Leaf::Json(name, path) => json(member(name), path),
        }
    }
}

fn text(value: Option<&Json>) -> Scalar<'_> {
    value.and_then(Json::as_str).map_or(Scalar::Null, |text| Scalar::Text(text.into()))
}

/// The value at a path; a number in it goes into a list.
fn json<'a>(value: Option<&'a Json>, path: &[String]) -> Scalar<'a> {
    let mut value = value;
    for name in path {
        value = value.and_then(|value| match value {
            Json::Array(elements) => elements.get(name.parse::<usize>().ok()?),
            value => value.get(name),
        });
    }
    match value {
        None | Some(Json::Null) => Scalar::Null,
        Some(Json::Bool(flag)) => Scalar::Integer(f64::from(u8::from(*flag))),
        Some(Json::Number(number)) if number.is_f64() => Scalar::Real(number.as_f64().unwrap_or_default()),
        Some(Json::Number(number)) => Scalar::Integer(number.as_f64().unwrap_or_default()),
        Some(Json::String(text)) => Scalar::Text(text.as_str().into()),
        Some(nested) => Scalar::Text(Cow::Owned(nested.to_string())),
    }
}

/// Whether two values are equal, as of `=`.
fn equals(left: &Operand<'_>, right: &Operand<'_>) -> bool {
    let (one, other) = (&left.scalar, &right.scalar);
    let is_null = |scalar: &Scalar<'_>| *scalar == Scalar::Null;
    let is_empty = |scalar: &Scalar<'_>| match scalar {
        Scalar::Null => true,
        Scalar::Text(text) => text.is_empty(),
        _ => false,
    };
    let same = |one: &Scalar<'_>, other: &Scalar<'_>, affinities: [Affinity; 2]| {
        compare((one, affinities[0]), (other, affinities[1])) == Some(Ordering::Equal)
    };
    let affinities = [left.affinity, right.affinity];
    if left.source == Source::Json || right.source == Source::Json {
        return match (is_null(one), is_null(other)) {
            (false, false) => same(one, other, affinities),
            (one, other) => one && other,
        };
    }
    let (of_left, of_right) = (left.source == Source::Literal, right.source == Source::Literal);
    match (of_left && is_empty(one), of_right && is_empty(other)) {
        (true, true) => true,
        (false, true) => is_empty(one),
        (true, false) => is_empty(other),
        (false, false) if of_left || of_right => same(one, other, affinities),
        (false, false) => {
            let empty = Scalar::Text("".into());
            let one = if is_null(one) { &empty } else { one };
            let other = if is_null(other) { &empty } else { other };
            same(one, other, [Affinity::None; 2])
        }
    }
}

fn includes(order: Order, ordering: Ordering) -> bool {
    match order {
        Order::Greater => ordering.is_gt(),
        Order::GreaterOrEqual => ordering.is_ge(),
        Order::Less => ordering.is_lt(),
        Order::LessOrEqual => ordering.is_le(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::corpus::Corpus;
    use super::*;

    /// Those that lead to other records are a test of Postgres (`tests/pocketbase_filters.rs`).
    #[test]
    fn every_filter_over_own_fields_finds_the_records_that_pocketbase_finds() {
        let corpus = Corpus::read();
        let records = &corpus.collection("gpost").2;
        let (mut wrong, mut decided) = (Vec::new(), 0);
        for (filter, expected) in &corpus.filters {
            let found = match corpus.resolve(filter) {
                Err(error) => Json::from(error.to_string()),
                Ok(expression) if !expression.is_own() => continue,
                Ok(expression) => {
                    let holds = |record: &&Json| {
                        expression.matches(record.as_object().unwrap(), Millis(0)).unwrap().unwrap()
                    };
                    records.iter().filter(holds).map(|record| record["row"].clone()).collect()
                }
            };
            decided += 1;
            let is_right = found == *expected || (found.is_string() && expected.is_number());
            if !is_right {
                wrong.push(format!("{filter}\n   found    {found}\n   expected {expected}"));
            }
        }
        let shown = wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
        assert!(wrong.is_empty(), "{} of {decided}:\n{shown}", wrong.len());
        assert!(decided > 1_000, "{decided}");
    }

    #[test]
    fn unknown_fields_are_named_as_pocketbase_names_them() {
        let corpus = Corpus::read();
        let refusal = |filter: &str| corpus.resolve(filter).unwrap_err().to_string();
        assert_eq!(refusal("nope = 1"), "invalid left operand \"nope\" - unknown field \"nope\"");
        assert_eq!(
            refusal("1 = author.nope"),
            "invalid right operand \"author.nope\" - unknown field \"nope\""
        );
        assert_eq!(refusal("title.x = 1"), "invalid left operand \"title.x\" - unknown field \"title\"");
        assert_eq!(
            refusal("gauth_via_tags.row = 1"),
            "invalid left operand \"gauth_via_tags.row\" - unknown field \"gauth_via_tags\""
        );
        assert_eq!(
            refusal("@collection.nope.x = 1"),
            "failed to load collection \"nope\" from field path \"@collection.nope.x\""
        );
        let far = format!("{}.row = 1", ["author.gpost_via_author"; 4].join("."));
        assert_eq!(refusal(&far), "a field leads over at most 6 relations");
    }
}
