//! The expression in SQL, over the columns of a collection's table. Values and the names inside of JSON are parameters; names of
//! fields are those of a schema, which have no other characters than letters, digits and `_`, and stand in the text, so that an index
//! on the same expression can be used.
//!
//! A condition is true, false, or unknown, which is null.
//!
//! Conditions that lead to other records are within one `exists` over joins: each path is joined once, so that all comparisons over it mean the same
//! record. A plain comparison over several values also has a `select` of its own, in which it may be false for none.

use super::super::value::Value;
use super::super::{Operator, Order};
use super::scalar::{Affinity, Scalar};
use super::{Hop, Leaf, Step, TypedComparison, TypedExpression, TypedNode, TypedOperand, TypedPath};
use crate::records::expression::{Parameter, Parameters};
use crate::records::schema::{EMAIL_VISIBILITY, parse_number};
use crate::time::Millis;

/// A text that is a number.
const NUMBER: &str = r"'^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$'";

impl TypedExpression {
    /// The condition in SQL; dates are those of `now`. `table` names the table of a collection's id.
    pub(in crate::records) fn compile(
        &self,
        now: Millis,
        table: &dyn Fn(&str) -> String,
        parameters: &mut Parameters,
    ) -> String {
        Compiler::new(now, table, parameters).condition(&self.0)
    }
}

/// The columns of a record.
const COLUMNS: [&str; 4] = ["id", "created", "updated", "data"];
/// The deepest nesting of rules of collections that an expression leads to.
const MAX_RULES: usize = 3;

pub(super) struct Compiler<'a> {
    now: Millis,
    table: &'a dyn Fn(&str) -> String,
    parameters: &'a mut Parameters,
    /// Before the columns of the record: empty, or the alias of its table and a dot.
    row: String,
    /// The joins that the conditions share.
    joins: Vec<Join>,
    /// The rules around this expression.
    rules: usize,
    /// The side of a comparison whose joins are its own; 0: joins are shared.
    side: u8,
}

/// A join that the conditions of an expression share.
struct Join {
    hops: Vec<Hop>,
    /// The field whose elements are joined.
    each: Option<String>,
    side: u8,
    sql: String,
}

/// A side of a comparison: an SQL number, an SQL text, or both, of which one at most is not null.
#[derive(Debug, Clone)]
struct Side {
    number: Option<String>,
    text: Option<String>,
    affinity: Affinity,
    /// The value of a literal.
    literal: Option<Scalar<'static>>,
    nulls: Nulls,
    is_many: bool,
}

/// What null equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nulls {
    /// Null and the empty text.
    Empty,
    /// Null: a member of JSON.
    Null,
    /// Nothing: an element of the request's body.
    Unknown,
}

impl Side {
    fn of_text(text: String, affinity: Affinity) -> Self {
        Self { text: Some(text), ..Self::empty(affinity) }
    }

    fn of_number(number: String, affinity: Affinity) -> Self {
        Self { number: Some(number), ..Self::empty(affinity) }
    }

    fn empty(affinity: Affinity) -> Self {
        Self { number: None, text: None, affinity, literal: None, nulls: Nulls::Empty, is_many: false }
    }

    fn is_null(&self) -> String {
        let parts = [&self.number, &self.text];
        let parts: Vec<String> = parts.into_iter().flatten().map(|part| format!("{part} is null")).collect();
        if parts.is_empty() { "true".into() } else { format!("({})", parts.join(" and ")) }
    }

    /// Whether it is a literal that is null or the empty text.
    fn is_empty_literal(&self) -> bool {
        match &self.literal {
            Some(Scalar::Null) => true,
            Some(Scalar::Text(text)) => text.is_empty(),
            _ => false,
        }
    }

    /// Its text in SQL.
    fn as_text(&self) -> Option<String> {
        let of_number = self.number.as_ref().map(|number| format!("trim_scale({number})::text"));
        match (&self.text, of_number) {
            (Some(text), Some(number)) => Some(format!("coalesce({text}, {number})")),
            (Some(text), None) => Some(text.clone()),
            (None, number) => number,
        }
    }
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        now: Millis,
        table: &'a dyn Fn(&str) -> String,
        parameters: &'a mut Parameters,
    ) -> Self {
        Self { now, table, parameters, row: String::new(), joins: Vec::new(), rules: 0, side: 0 }
    }

    /// A whole expression. Its conditions on the record's own fields stand outside of the joins, where indexes serve them.
    pub(super) fn condition(&mut self, node: &TypedNode) -> String {
        let nodes = match node {
            TypedNode::All(nodes) => nodes.as_slice(),
            node => std::slice::from_ref(node),
        };
        let mut parts: Vec<String> =
            nodes.iter().filter(|node| !node.needs_table()).map(|node| self.node(node)).collect();
        let joined: Vec<&TypedNode> = nodes.iter().filter(|node| node.needs_table()).collect();
        if !joined.is_empty() {
            let record = self.record();
            let outer = std::mem::replace(&mut self.row, "j0.".into());
            let conditions: Vec<String> = joined.into_iter().map(|node| self.node(node)).collect();
            self.row = outer;
            let joins: String = self.joins.drain(..).map(|join| join.sql).collect();
            parts.push(format!(
                "exists (select from {record} as j0{joins} where {})",
                conditions.join(" and ")
            ));
        }
        match parts.as_slice() {
            [one] => one.clone(),
            parts => format!("({})", parts.join(" and ")),
        }
    }

    /// The record as a table of one row.
    fn record(&self) -> String {
        let columns = COLUMNS.map(|column| format!("{}{column}", self.row));
        format!("(select {})", columns.join(", "))
    }

    /// The prefix of the row that a path leads to, by the shared joins.
    fn shared(&mut self, path: &TypedPath) -> String {
        let (mut row, side) = (self.row.clone(), self.side);
        for count in 1..=path.hops.len() {
            let Some(hops) = path.hops.get(..count) else { continue };
            let known = self
                .joins
                .iter()
                .position(|join| join.side == side && join.hops == hops && join.each.is_none());
            let number = known.unwrap_or_else(|| {
                let alias = format!("j{}", self.joins.len() + 1);
                let sql = match hops.last() {
                    Some(hop) => self.join(hop, &row, &alias),
                    None => String::new(),
                };
                self.joins.push(Join { hops: hops.to_vec(), each: None, side, sql });
                self.joins.len() - 1
            });
            row = format!("j{}.", number + 1);
        }
        row
    }

    /// The alias of the elements of a path's field, by the shared joins.
    fn shared_elements(&mut self, path: &TypedPath, field: &str, row: &str) -> String {
        let side = self.side;
        let is_it =
            |join: &Join| join.side == side && join.hops == path.hops && join.each.as_deref() == Some(field);
        let number = self.joins.iter().position(is_it).unwrap_or_else(|| {
            let alias = format!("j{}", self.joins.len() + 1);
            let sql = format!(" cross join lateral {}", elements(row, field, &alias));
            self.joins.push(Join { hops: path.hops.clone(), each: Some(field.to_owned()), side, sql });
            self.joins.len() - 1
        });
        format!("j{}", number + 1)
    }

    /// The alias of the elements of a list in the request's body, by the shared joins.
    fn shared_values(&mut self, field: &str, values: &[Value<'static>]) -> String {
        let (side, name) = (self.side, format!("@request.body.{field}"));
        let is_it = |join: &Join| join.side == side && join.each.as_deref() == Some(name.as_str());
        let number = match self.joins.iter().position(is_it) {
            Some(number) => number,
            None => {
                let texts = values.iter().map(|value| value.text().to_owned()).collect();
                let texts = self.parameters.bind(Parameter::Texts(texts));
                let alias = format!("j{}", self.joins.len() + 1);
                // Of an empty one, null.
                let sql = format!(
                    " cross join unnest(case when {texts}::text[] = '{{}}' then '{{null}}' else {texts}::text[] end) as {alias} (element)"
                );
                self.joins.push(Join { hops: Vec::new(), each: Some(name), side, sql });
                self.joins.len() - 1
            }
        };
        format!("j{}", number + 1)
    }

    /// The join of a step from the row with the prefix `row`.
    fn join(&mut self, hop: &Hop, row: &str, next: &str) -> String {
        let on = match &hop.step {
            Step::Relation { field, is_list: false } => format!("{next}.id = ({row}data ->> '{field}')"),
            Step::Relation { field, is_list: true } => {
                let ids = array(&format!("{row}data -> '{field}'"));
                format!("{next}.id in (select jsonb_array_elements_text({ids}))")
            }
            Step::Back { field, is_list: false } => {
                format!("({next}.data ->> '{field}') collate \"C\" = {row}id")
            }
            Step::Back { field, is_list: true } => format!("({next}.data -> '{field}') ? {row}id"),
            Step::All { .. } => "true".into(),
            Step::One { id } => format!("{next}.id = {}::text", self.bind(id.clone())),
        };
        format!(" left join {} as {next} on {on}", (self.table)(&hop.collection))
    }

    /// The conditions under which a client sees the records that an operand leads to.
    fn seen(&mut self, operand: &TypedOperand) -> Vec<String> {
        let path = match operand {
            TypedOperand::Path(path) => path,
            TypedOperand::Distance(points) => {
                return points.iter().flat_map(|point| self.seen(point)).collect();
            }
            TypedOperand::Moment(moment) => return self.seen(&moment.1),
            TypedOperand::Literal(_)
            | TypedOperand::Flag(_)
            | TypedOperand::Date(_)
            | TypedOperand::Elements(..) => return Vec::new(),
        };
        let mut conditions = Vec::new();
        if path.is_guarded {
            let row = self.shared(path);
            conditions.push(is_visible(&row));
        }
        for (at, hop) in path.hops.iter().enumerate() {
            let Some(rule) = &hop.seen else { continue };
            if self.rules == MAX_RULES {
                conditions.push("false".into());
                continue;
            }
            let hops = path.hops.get(..=at).unwrap_or_default().to_vec();
            let row = self.shared(&TypedPath { hops, leaf: Leaf::Id, is_lower: false, is_guarded: false });
            let mut compiler = Compiler {
                now: self.now,
                table: self.table,
                parameters: &mut *self.parameters,
                row,
                joins: Vec::new(),
                rules: self.rules + 1,
                side: 0,
            };
            conditions.push(compiler.condition(&rule.0));
        }
        conditions
    }

    /// The keys of an order by a path. Of many values the first one in that order counts.
    pub(super) fn order(&mut self, path: &TypedPath, descends: bool) -> Vec<String> {
        if let (Leaf::Column(column), false, true) = (&path.leaf, path.is_lower, path.hops.is_empty()) {
            return vec![(*column).to_owned()];
        }
        let has_tables = path.needs_table();
        let record = self.record();
        if has_tables {
            self.row = "j0.".into();
        }
        let side = self.path(path);
        self.row.clear();
        let text = side.text.as_ref().map(|text| format!("{text} collate \"C\""));
        let mut keys = Vec::new();
        if let (Some(number), Some(text)) = (&side.number, &side.text) {
            keys.push(format!(
                "(case when {number} is not null then 1 when {text} is not null then 2 else 0 end)"
            ));
        }
        keys.extend(side.number);
        keys.extend(text);
        if !has_tables {
            return keys;
        }
        let joins: String = self.joins.drain(..).map(|join| join.sql).collect();
        let direction = if descends { "desc nulls last" } else { "nulls first" };
        let first =
            |key: String| format!("(select {key} from {record} as j0{joins} order by 1 {direction} limit 1)");
        keys.into_iter().map(first).collect()
    }

    fn node(&mut self, node: &TypedNode) -> String {
        match node {
            TypedNode::All(nodes) => self.joined(nodes, " and "),
            TypedNode::Any(nodes) => self.joined(nodes, " or "),
            TypedNode::Comparison(comparison) => self.comparison(comparison),
        }
    }

    fn joined(&mut self, nodes: &[TypedNode], operator: &str) -> String {
        let nodes: Vec<String> = nodes.iter().map(|node| self.node(node)).collect();
        format!("({})", nodes.join(operator))
    }

    fn comparison(&mut self, comparison: &TypedComparison) -> String {
        let left = self.operand(&comparison.left);
        let right = self.operand(&comparison.right);
        let mut conditions = self.seen(&comparison.left);
        conditions.extend(self.seen(&comparison.right));
        conditions.insert(0, self.holds(comparison, &left, &right, false));
        if !comparison.is_any && (left.is_many || right.is_many) {
            conditions.push(self.holds_for_all(comparison));
        }
        match conditions.as_slice() {
            [one] => one.clone(),
            conditions => format!("({})", conditions.join(" and ")),
        }
    }

    /// That a comparison is false for none of its values: over joins of its own, which see all of them.
    fn holds_for_all(&mut self, comparison: &TypedComparison) -> String {
        let record = self.record();
        let shared = std::mem::take(&mut self.joins);
        let outer = std::mem::replace(&mut self.row, "j0.".into());
        // All combinations of the values of both sides that the client sees.
        self.side = 1;
        let left = self.operand(&comparison.left);
        let mut seen = self.seen(&comparison.left);
        self.side = 2;
        let right = self.operand(&comparison.right);
        seen.extend(self.seen(&comparison.right));
        self.side = 0;
        let seen = if seen.is_empty() { String::new() } else { format!(" where {}", seen.join(" and ")) };
        let holds = self.holds(comparison, &left, &right, true);
        self.row = outer;
        let joins: String =
            std::mem::replace(&mut self.joins, shared).into_iter().map(|join| join.sql).collect();
        format!(
            "(select coalesce(bool_and(holds), true) from (select {holds} as holds from {record} as j0{joins}{seen}) as compared)"
        )
    }

    /// Whether two sides compare so. It is null where it is unknown, and may be null instead of false unless `is_exact`.
    fn holds(&mut self, comparison: &TypedComparison, left: &Side, right: &Side, is_exact: bool) -> String {
        match comparison.operator {
            Operator::Equal => match self.by_index(left, right).filter(|_| !is_exact) {
                Some(sql) => sql,
                None => self.equal(left, right),
            },
            Operator::NotEqual => format!("(not {})", self.equal(left, right)),
            Operator::Ordered(order) => {
                let (left, right) = (self.drawn(left, right.affinity), self.drawn(right, left.affinity));
                ordered(order, &left, &right)
            }
            Operator::Like => self.like(comparison, "ilike", left, right),
            Operator::NotLike => self.like(comparison, "not ilike", left, right),
        }
    }

    /// The equality of a field with a constant, in a form for which an index can be used. It may be null, which is as good as
    /// false where it stands alone.
    fn by_index(&mut self, left: &Side, right: &Side) -> Option<String> {
        let is_plain = |side: &Side| side.literal.is_none() && side.nulls == Nulls::Empty;
        if !is_plain(left) || right.literal.is_none() || right.is_empty_literal() {
            return None;
        }
        let (one, other) = (self.drawn(left, right.affinity), self.drawn(right, left.affinity));
        match equal_parts(&one, &other).as_slice() {
            [sql] => Some(format!("({sql})")),
            _ => None,
        }
    }

    /// The side with the affinity of the other one.
    fn drawn(&mut self, side: &Side, other: Affinity) -> Side {
        match (&side.literal, side.affinity, other) {
            (Some(Scalar::Text(text)), Affinity::None, Affinity::Number) => {
                let number =
                    parse_number(text.trim()).filter(|number| number.is_finite() && !text.contains('_'));
                match number {
                    Some(number) => self.literal(Scalar::Real(number)),
                    None => side.clone(),
                }
            }
            (Some(number @ (Scalar::Integer(_) | Scalar::Real(_))), Affinity::None, Affinity::Text) => {
                let text = number.text().unwrap_or_default().into_owned();
                self.literal(Scalar::Text(text.into()))
            }
            (None, Affinity::Text | Affinity::None, Affinity::Number) => match &side.text {
                Some(text) => {
                    let read = format!("case when {text} ~ {NUMBER} then {text}::numeric end");
                    let number = match &side.number {
                        Some(number) => format!("coalesce({number}, {read})"),
                        None => format!("({read})"),
                    };
                    let text = format!("(case when {text} !~ {NUMBER} then {text} end)");
                    Side { number: Some(number), text: Some(text), ..side.clone() }
                }
                None => side.clone(),
            },
            (None, Affinity::None, Affinity::Text) => {
                Side { text: side.as_text(), number: None, ..side.clone() }
            }
            _ => side.clone(),
        }
    }

    /// Whether the sides are equal; never null.
    fn equal(&mut self, left: &Side, right: &Side) -> String {
        let same = |compiler: &mut Self, left: &Side, right: &Side| {
            let (one, other) = (compiler.drawn(left, right.affinity), compiler.drawn(right, left.affinity));
            let pairs = equal_parts(&one, &other);
            if pairs.is_empty() { "false".into() } else { format!("coalesce({}, false)", pairs.join(", ")) }
        };
        let either = |nulls| left.nulls == nulls || right.nulls == nulls;
        if either(Nulls::Unknown) {
            return same(self, left, right);
        }
        if either(Nulls::Null) {
            let (one, other) = (left.is_null(), right.is_null());
            let same = same(self, left, right);
            return format!("(case when {one} or {other} then {one} and {other} else {same} end)");
        }
        let is_empty = |side: &Side| match (&side.number, &side.text) {
            (Some(number), Some(text)) => format!("({number} is null and coalesce({text}, '') = '')"),
            (Some(number), None) => format!("({number} is null)"),
            (None, Some(text)) => format!("(coalesce({text}, '') = '')"),
            (None, None) => "true".into(),
        };
        match (left.is_empty_literal(), right.is_empty_literal()) {
            (true, true) => "true".into(),
            (false, true) => is_empty(left),
            (true, false) => is_empty(right),
            (false, false) if left.literal.is_some() || right.literal.is_some() => same(self, left, right),
            (false, false) => {
                let plain = |side: &Side| {
                    let null = side.is_null();
                    let text = match &side.text {
                        Some(text) => format!("(case when {null} then '' else {text} end)"),
                        None => format!("(case when {null} then '' end)"),
                    };
                    Side { text: Some(text), affinity: Affinity::None, ..side.clone() }
                };
                same(self, &plain(left), &plain(right))
            }
        }
    }

    fn like(&mut self, comparison: &TypedComparison, operator: &str, left: &Side, right: &Side) -> String {
        let text = match &left.literal {
            Some(literal) => match literal.text() {
                Some(text) => format!("{}::text", self.bind(text.into_owned())),
                None => return "null::boolean".into(),
            },
            None => left.as_text().unwrap_or_else(|| "null::text".into()),
        };
        let pattern = match (&right.literal, &comparison.pattern) {
            (Some(Scalar::Null), _) => return "null::boolean".into(),
            (Some(_), Some(pattern)) => self.bind(pattern.sql()),
            (Some(literal), None) => {
                let text = literal.text().unwrap_or_default().into_owned();
                self.bind(super::super::like::Like::of_literal(&text).sql())
            }
            (None, _) => format!("'%' || {} || '%'", right.as_text().unwrap_or_else(|| "null::text".into())),
        };
        format!("({text} collate \"C\" {operator} ({pattern}))")
    }

    fn operand(&mut self, operand: &TypedOperand) -> Side {
        match operand {
            TypedOperand::Literal(value) => self.literal(Scalar::of_literal(value)),
            TypedOperand::Flag(flag) => self.literal(Scalar::of_number(f64::from(u8::from(*flag)))),
            TypedOperand::Date(date) => match date.value(self.now) {
                Value::Text(text) => self.literal(Scalar::Text(text.replacen('T', " ", 1).into())),
                value => self.literal(Scalar::of_literal(&value)),
            },
            TypedOperand::Path(path) => self.path(path),
            TypedOperand::Elements(field, elements) => {
                let element = self.shared_values(field, elements);
                let side = Side::of_text(format!("{element}.element"), Affinity::None);
                Side { is_many: true, nulls: Nulls::Unknown, ..side }
            }
            TypedOperand::Distance(points) => self.distance(points),
            TypedOperand::Moment(moment) => {
                let (format, time) = &**moment;
                let time = self.operand(time);
                let mut bind = |text: String| self.bind(text);
                let text = format.sql(time.number.as_deref(), time.text.as_deref(), &mut bind);
                Side { is_many: time.is_many, ..Side::of_text(text, Affinity::None) }
            }
        }
    }

    /// Kilometres between two points on a sphere.
    fn distance(&mut self, points: &[TypedOperand; 4]) -> Side {
        let sides = points.each_ref().map(|operand| {
            let side = self.operand(operand);
            let side = self.drawn(&side, Affinity::Number);
            (side.number.unwrap_or_else(|| "null".into()), side.is_many)
        });
        let is_many = sides.iter().any(|(_, is_many)| *is_many);
        // A number that no `float8` holds would be an error.
        let radians = |(number, _): (String, bool)| {
            format!("radians(case when ({number}) between -1e15 and 1e15 then ({number})::float8 end)")
        };
        let [a_lon, a_lat, b_lon, b_lat] = sides.map(radians);
        // Rounding may lead beyond 1. `least` and `greatest` would not see nulls.
        let sql = format!(
            "(select (6371 * acos(case when c > 1 then 1 when c < -1 then -1 else c end))::numeric from (select \
             cos({a_lat}) * cos({b_lat}) * cos({b_lon} - {a_lon}) + sin({a_lat}) * sin({b_lat}) as c) as angle)"
        );
        Side { is_many, nulls: Nulls::Null, ..Side::of_number(sql, Affinity::None) }
    }

    fn literal(&mut self, scalar: Scalar<'static>) -> Side {
        let mut side = Side::empty(Affinity::None);
        match &scalar {
            Scalar::Null => side.text = Some("null::text".into()),
            Scalar::Integer(number) | Scalar::Real(number) => {
                side.number = Some(format!("{}::numeric", self.bind(number.to_string())));
            }
            Scalar::Text(text) => side.text = Some(format!("{}::text", self.bind(text.clone().into_owned()))),
        }
        Side { literal: Some(scalar), ..side }
    }

    fn path(&mut self, path: &TypedPath) -> Side {
        let row = self.shared(path);
        let mut side = match &path.leaf {
            Leaf::Each(field) => {
                let elements = self.shared_elements(path, field, &row);
                Side::of_text(format!("{elements}.element"), Affinity::None)
            }
            leaf => self.leaf(leaf, &row),
        };
        if path.is_guarded {
            let guarded = |text: String| format!("(case when {} then {text} end)", is_visible(&row));
            side.text = side.text.map(guarded);
        }
        if path.is_lower {
            let text = side.as_text().unwrap_or_else(|| "null::text".into());
            side = Side {
                nulls: side.nulls,
                ..Side::of_text(format!("lower({text} collate \"C\")"), Affinity::None)
            };
        }
        Side { is_many: path.is_many(), ..side }
    }

    fn leaf(&mut self, leaf: &Leaf, row: &str) -> Side {
        match leaf {
            Leaf::Id => Side::of_text(format!("{row}id"), Affinity::Text),
            Leaf::Column(column) => Side::of_text(
                format!("to_char({row}{column} at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS\"Z\"')"),
                Affinity::Text,
            ),
            Leaf::Text(name) | Leaf::Each(name) => {
                Side::of_text(format!("({row}data ->> '{name}')"), Affinity::Text)
            }
            Leaf::Number(name) => {
                Side::of_number(number(&format!("({row}data -> '{name}')")), Affinity::Number)
            }
            Leaf::List(name) => Side::of_text(
                format!(
                    "(select case when {row}data is not null then '[' || coalesce(string_agg(element::text, ',' order by place), '') || ']' end \
                     from jsonb_array_elements({}) with ordinality as elements (element, place))",
                    array(&format!("{row}data -> '{name}'"))
                ),
                Affinity::Number,
            ),
            Leaf::Length(name) => Side::of_number(
                format!("jsonb_array_length({})::numeric", array(&format!("{row}data -> '{name}'"))),
                Affinity::None,
            ),
            Leaf::Json(name, path) => {
                let value = match path.as_slice() {
                    [] => format!("({row}data -> '{name}')"),
                    path => {
                        let path = self.parameters.bind(Parameter::Texts(path.to_vec()));
                        format!("({row}data -> '{name}' #> {path}::text[])")
                    }
                };
                // Without the spaces outside of texts.
                let compact =
                    format!(r#"regexp_replace({value}::text, '("(?:[^"\\]|\\.)*")|([,:]) ', '\1\2', 'g')"#);
                let text = format!(
                    "(case jsonb_typeof({value}) when 'string' then {value} #>> '{{}}' \
                     when 'array' then {compact} when 'object' then {compact} end)"
                );
                Side {
                    number: Some(number(&value)),
                    nulls: Nulls::Null,
                    ..Side::of_text(text, Affinity::None)
                }
            }
        }
    }

    fn bind(&mut self, text: String) -> String {
        self.parameters.bind(Parameter::Text(text))
    }
}

/// Whether a record shows its email to all who see it.
fn is_visible(row: &str) -> String {
    format!("({row}data -> '{EMAIL_VISIBILITY}') = 'true'::jsonb")
}

/// A `jsonb` that is a list; any other is an empty one.
fn array(value: &str) -> String {
    format!("case when jsonb_typeof({value}) = 'array' then {value} else '[]'::jsonb end")
}

/// The elements of a list as a table; of an empty one, null.
fn elements(row: &str, field: &str, alias: &str) -> String {
    let value = format!("{row}data -> '{field}'");
    format!(
        "jsonb_array_elements_text(case when jsonb_typeof({value}) = 'array' and {value} <> '[]'::jsonb then {value} else '[null]'::jsonb end) \
         as {alias} (element)"
    )
}

/// The equalities that make two sides equal, of numbers and of texts. Fields have indexes in the order of bytes.
fn equal_parts(one: &Side, other: &Side) -> Vec<String> {
    let mut parts = Vec::new();
    if let (Some(left), Some(right)) = (&one.number, &other.number) {
        parts.push(format!("{left} = {right}"));
    }
    if let (Some(left), Some(right)) = (&one.text, &other.text) {
        parts.push(format!("{left} collate \"C\" = {right}"));
    }
    parts
}

/// The number of a `jsonb`; null if it is none. A boolean is 1 or 0.
fn number(value: &str) -> String {
    format!(
        "(case jsonb_typeof({value}) when 'number' then ({value})::numeric \
         when 'boolean' then ({value})::boolean::integer::numeric end)"
    )
}

/// The order of two sides; numbers before texts.
fn ordered(order: Order, left: &Side, right: &Side) -> String {
    let operator = order.sql();
    let is_less = matches!(order, Order::Less | Order::LessOrEqual);
    let mut cases: Vec<(String, String)> = Vec::new();
    let both = |one: &str, other: &str| format!("{one} is not null and {other} is not null");
    if let (Some(one), Some(other)) = (&left.number, &right.number) {
        cases.push((both(one, other), format!("{one} {operator} {other}")));
    }
    if let (Some(one), Some(other)) = (&left.text, &right.text) {
        cases.push((both(one, other), format!("{one} collate \"C\" {operator} {other}")));
    }
    if let (Some(one), Some(other)) = (&left.number, &right.text) {
        cases.push((both(one, other), is_less.to_string()));
    }
    if let (Some(one), Some(other)) = (&left.text, &right.number) {
        cases.push((both(one, other), (!is_less).to_string()));
    }
    match cases.as_slice() {
        [] => "null::boolean".into(),
        [(_, holds)] if holds.contains(' ') => format!("({holds})"),
        cases => {
            let cases: String =
                cases.iter().map(|(when, then)| format!(" when {when} then {then}")).collect();
            format!("(case{cases} end)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::corpus::Corpus;
    use super::*;

    fn compiled(filter: &str) -> String {
        let corpus = Corpus::read();
        let mut parameters = Parameters::default();
        corpus.resolve(filter).unwrap().compile(Millis(0), &|id| format!("t_{id}"), &mut parameters)
    }

    #[test]
    fn a_field_against_a_constant_is_a_comparison_that_an_index_serves() {
        let number = "(case jsonb_typeof((data -> 'n')) when 'number' then ((data -> 'n'))::numeric \
                      when 'boolean' then ((data -> 'n'))::boolean::integer::numeric end)";
        for (filter, sql) in [
            ("title = 'a'", "((data ->> 'title') collate \"C\" = $1::text)".to_owned()),
            ("title >= 'a'", "((data ->> 'title') collate \"C\" >= $1::text)".to_owned()),
            ("id = 'a'", "(id collate \"C\" = $1::text)".to_owned()),
            ("title = ''", "(coalesce((data ->> 'title'), '') = '')".to_owned()),
            ("n = 5", format!("({number} = $1::numeric)")),
            ("n < 5", format!("({number} < $1::numeric)")),
            // Numbers come before texts.
            ("n < 'x'", format!("(case when {number} is not null and $1::text is not null then true end)")),
        ] {
            assert_eq!(compiled(filter), sql, "{filter}");
        }
    }

    #[test]
    fn a_path_is_joined_once_and_own_fields_stand_outside_of_the_joins() {
        let corpus = Corpus::read();
        let id = &corpus.collection("gauth").1.id;
        assert_eq!(
            compiled("author.name = 'Ann' && title = 'a' && author.age ?> 5"),
            format!(
                "(((data ->> 'title') collate \"C\" = $1::text) and exists (select from (select id, created, updated, data) as j0 \
                 left join t_{id} as j1 on j1.id = (j0.data ->> 'author') where ((j1.data ->> 'name') collate \"C\" = $2::text) and \
                 ((case jsonb_typeof((j1.data -> 'age')) when 'number' then ((j1.data -> 'age'))::numeric \
                 when 'boolean' then ((j1.data -> 'age'))::boolean::integer::numeric end) > $3::numeric)))"
            )
        );
    }
}
