//! The expression in SQL, over the columns of a collection's table. Everything that a client sent is a parameter.
//!
//! A condition stands only below `and` and `or`, so its null is as good as false.

use super::evaluate::literals;
use super::like::Like;
use super::value::Value;
use super::{Comparison, Expression, Modifier, Node, Operand, Operator, Order};
use crate::records::expression::{Field, Parameter, Parameters};
use crate::time::Millis;

/// A time as records show theirs.
const TIME_FORMAT: &str = "YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"";

impl Expression {
    /// The condition in SQL; dates are those of `now`.
    pub(in crate::records) fn compile(&self, now: Millis, parameters: &mut Parameters) -> String {
        Compiler { now, parameters }.node(&self.0)
    }
}

struct Compiler<'a> {
    now: Millis,
    parameters: &'a mut Parameters,
}

/// A side of a comparison.
enum Side<'a> {
    Literal(Value<'a>),
    /// A field: `n` of the table of this alias is its value in `jsonb`, a text, a number or SQL's null.
    Field(&'static str),
}

impl Compiler<'_> {
    fn node(&mut self, node: &Node) -> String {
        match node {
            Node::All(nodes) => self.joined(nodes, " and "),
            Node::Any(nodes) => self.joined(nodes, " or "),
            Node::Comparison(comparison) => self.comparison(comparison),
        }
    }

    fn joined(&mut self, nodes: &[Node], operator: &str) -> String {
        let nodes: Vec<String> = nodes.iter().map(|node| self.node(node)).collect();
        format!("({})", nodes.join(operator))
    }

    fn comparison(&mut self, comparison: &Comparison) -> String {
        if let Some(sql) = self.by_index(comparison) {
            return sql;
        }
        let (mut sources, mut sides) = (Vec::new(), Vec::new());
        let mut is_many = false;
        for (operand, alias) in [(&comparison.left, "l"), (&comparison.right, "r")] {
            sides.push(match self.literal(operand) {
                Some(literal) => Side::Literal(literal),
                None => {
                    sources.push(self.source(operand, alias));
                    is_many |= matches!(operand, Operand::Field(_, Some(Modifier::Each)));
                    Side::Field(alias)
                }
            });
        }
        let Ok([left, right]) = <[Side<'_>; 2]>::try_from(sides) else { return "false".into() };
        if let (Side::Literal(left), Side::Literal(right)) = (&left, &right) {
            return literals(comparison, left, right).to_string();
        }
        let holds = self.holds(comparison, &left, &right);
        let sources = sources.join(", ");
        match (is_many, comparison.is_any) {
            (false, _) => format!("(select {holds} from {sources})"),
            (true, true) => format!("exists (select from {sources} where {holds})"),
            (true, false) => format!("not exists (select from {sources} where not {holds})"),
        }
    }

    fn literal(&self, operand: &Operand) -> Option<Value<'static>> {
        match operand {
            Operand::Literal(value) => Some(value.clone()),
            Operand::Flag(flag) => Some(Value::of_flag(*flag)),
            Operand::Date(date) => Some(date.value(self.now)),
            // Calls are for typed collections.
            Operand::Call(..) | Operand::Body { .. } => Some(Value::Null),
            Operand::Field(..) => None,
        }
    }

    /// A comparison of a column, or the equality of a member and a text, in a form for which an index can be used.
    fn by_index(&mut self, comparison: &Comparison) -> Option<String> {
        let Operand::Field(field, None) = &comparison.left else { return None };
        let Some(Value::Text(text)) = self.literal(&comparison.right) else { return None };
        if text.is_empty() {
            return None;
        }
        match field {
            Field::Id => {
                let operator = match comparison.operator {
                    Operator::Equal => "=",
                    Operator::NotEqual => "<>",
                    Operator::Ordered(order) => order.sql(),
                    Operator::Like | Operator::NotLike => return None,
                };
                Some(format!("id {operator} {}", self.parameters.bind(Parameter::Text(text.into_owned()))))
            }
            Field::Created => self.time("created", comparison.operator, &text),
            Field::Updated => self.time("updated", comparison.operator, &text),
            // A list or an object equals its text, too.
            Field::Path(path) if comparison.operator == Operator::Equal && !text.starts_with(['[', '{']) => {
                let value = self.parameters.value_at(path);
                Some(format!(
                    "{value} = to_jsonb({}::text)",
                    self.parameters.bind(Parameter::Text(text.into_owned()))
                ))
            }
            Field::Path(_) => None,
        }
    }

    /// A comparison of a time. Stored times may be finer than the millisecond that records show, and that is compared.
    fn time(&mut self, column: &str, operator: Operator, text: &str) -> Option<String> {
        let from = Millis::parse(text).filter(|time| time.to_string() == text)?;
        // Its successor is of the next year at the most, which Postgres has.
        let next = Millis(from.0 + 1);
        let mut bind = |time| self.parameters.bind(Parameter::Time(time));
        Some(match operator {
            Operator::Equal => format!("({column} >= {} and {column} < {})", bind(from), bind(next)),
            Operator::NotEqual => format!("({column} < {} or {column} >= {})", bind(from), bind(next)),
            Operator::Ordered(Order::Greater) => format!("{column} >= {}", bind(next)),
            Operator::Ordered(Order::GreaterOrEqual) => format!("{column} >= {}", bind(from)),
            Operator::Ordered(Order::Less) => format!("{column} < {}", bind(from)),
            Operator::Ordered(Order::LessOrEqual) => format!("{column} < {}", bind(next)),
            Operator::Like | Operator::NotLike => return None,
        })
    }

    /// A table with the values of a field, one unless it has `:each`.
    fn source(&mut self, operand: &Operand, alias: &str) -> String {
        let Operand::Field(field, modifier) = operand else { return String::new() };
        let json = match field {
            Field::Id => "to_jsonb(id)".to_owned(),
            Field::Created => time_json("created"),
            Field::Updated => time_json("updated"),
            Field::Path(path) => self.parameters.value_at(path),
        };
        let values = format!("(select {json} as v) as x");
        match modifier {
            None => format!("(select {} as n from {values}) as {alias}", normal("v")),
            Some(Modifier::Lower) => format!(
                "(select to_jsonb(lower(({} #>> '{{}}') collate \"C\")) as n from {values}) as {alias}",
                normal("v")
            ),
            Some(Modifier::Length) => format!(
                "(select to_jsonb(case when jsonb_typeof(v) = 'array' then jsonb_array_length(v) \
                 when coalesce(v, 'null'::jsonb) in ('null'::jsonb, '\"\"'::jsonb) then 0 else 1 end) as n \
                 from {values}) as {alias}"
            ),
            Some(Modifier::Each) => format!(
                "(select {} as n from {values}, jsonb_array_elements(case \
                 when v is null or v = '[]'::jsonb then '[null]'::jsonb \
                 when jsonb_typeof(v) = 'array' then v else jsonb_build_array(v) end) as e) as {alias}",
                normal("e.value")
            ),
        }
    }

    /// The comparison of two sides; never null.
    fn holds(&mut self, comparison: &Comparison, left: &Side<'_>, right: &Side<'_>) -> String {
        match comparison.operator {
            Operator::Equal => self.equal(left, right),
            Operator::NotEqual => format!("not {}", self.equal(left, right)),
            Operator::Ordered(order) => self.ordered(order, left, right),
            Operator::Like => self.like(comparison.pattern.as_ref(), "ilike", left, right),
            Operator::NotLike => self.like(comparison.pattern.as_ref(), "not ilike", left, right),
        }
    }

    fn equal(&mut self, left: &Side<'_>, right: &Side<'_>) -> String {
        let [left, right] = [left, right].map(|side| match side {
            Side::Field(alias) => format!("coalesce({alias}.n, '\"\"'::jsonb)"),
            Side::Literal(Value::Null) => "'\"\"'::jsonb".to_owned(),
            Side::Literal(Value::Text(text)) => format!("to_jsonb({}::text)", self.text(text)),
            Side::Literal(Value::Number(number)) => format!("{}::jsonb", self.text(number)),
        });
        format!("({left} = {right})")
    }

    fn ordered(&mut self, order: Order, left: &Side<'_>, right: &Side<'_>) -> String {
        let operator = order.sql();
        let (mut numbers, mut texts) = (Vec::new(), Vec::new());
        let (mut number, mut text) = (Vec::new(), Vec::new());
        for side in [left, right] {
            match side {
                Side::Literal(Value::Null) => return "false".into(),
                Side::Literal(Value::Number(literal)) => {
                    texts.push("false".to_owned());
                    number.push(format!("{}::numeric", self.text(literal)));
                }
                Side::Literal(Value::Text(literal)) => {
                    numbers.push("false".to_owned());
                    text.push(format!("{}::text", self.text(literal)));
                }
                Side::Field(alias) => {
                    numbers.push(format!("jsonb_typeof({alias}.n) = 'number'"));
                    texts.push(format!("jsonb_typeof({alias}.n) = 'string'"));
                    number.push(format!("({alias}.n)::numeric"));
                    text.push(format!("({alias}.n #>> '{{}}')"));
                }
            }
        }
        let mut cases = String::new();
        // Only in a case's branch is a value that is no number sure not to be read as one.
        if let [left, right] = number.as_slice() {
            cases += &format!(" when {} then {left} {operator} {right}", numbers.join(" and "));
        }
        if let [left, right] = text.as_slice() {
            cases += &format!(" when {} then {left} collate \"C\" {operator} {right}", texts.join(" and "));
        }
        if cases.is_empty() { "false".into() } else { format!("(case{cases} else false end)") }
    }

    fn like(&mut self, pattern: Option<&Like>, operator: &str, left: &Side<'_>, right: &Side<'_>) -> String {
        let text = match left {
            Side::Field(alias) => field_text(alias),
            Side::Literal(literal) => format!("{}::text", self.text(literal.text())),
        };
        let pattern = match (right, pattern) {
            (Side::Field(alias), _) => format!("'%' || {} || '%'", field_text(alias)),
            (Side::Literal(_), Some(pattern)) => self.text(&pattern.sql()),
            (Side::Literal(literal), None) => self.text(&Like::of_literal(literal.text()).sql()),
        };
        format!("({text} collate \"C\" {operator} ({pattern}))")
    }

    fn text(&mut self, text: &str) -> String {
        self.parameters.bind(Parameter::Text(text.to_owned()))
    }
}

impl Order {
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
        }
    }
}

/// The value of a `jsonb`: a text, a number, or SQL's null.
fn normal(value: &str) -> String {
    format!(
        "case jsonb_typeof({value}) when 'boolean' then to_jsonb(({value}::boolean)::integer) \
         when 'null' then null when 'array' then to_jsonb({value}::text) when 'object' then to_jsonb({value}::text) \
         else {value} end"
    )
}

fn time_json(column: &str) -> String {
    format!("to_jsonb(to_char({column} at time zone 'UTC', '{TIME_FORMAT}'))")
}

/// The text of a field's value; `""` for null.
fn field_text(alias: &str) -> String {
    format!("coalesce({alias}.n #>> '{{}}', '')")
}
