//! Expressions.

use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, InTarget, Query, TrimWhereField, UnaryOperator,
    Value as Literal,
};

use super::ViewError;
use super::query::{Compiler, Origin};
use super::value::{Type, Value};

/// The deepest expression.
pub(super) const MAX_DEPTH: usize = 80;
/// The most values of a list.
const MAX_LIST: usize = 500;

/// Whether an expression is compared without regard to case.
pub(super) fn ignores_case(expr: &Expr) -> bool {
    match expr {
        Expr::Collate { collation, .. } => collation.to_string().eq_ignore_ascii_case("nocase"),
        Expr::Nested(inner) => ignores_case(inner),
        _ => false,
    }
}

/// The origin of a cast, by which the field gets its type.
pub(super) fn cast_origin(data_type: &DataType) -> Origin {
    match data_type {
        DataType::Real | DataType::Decimal(_) | DataType::Numeric(_) => Origin::Number,
        DataType::Int(None) | DataType::Integer(None) => Origin::Integer,
        DataType::Text => Origin::Text,
        DataType::Bool | DataType::Boolean => Origin::Bool,
        _ => Origin::Other,
    }
}

impl Compiler<'_> {
    /// The value of an expression.
    pub(super) fn value(&mut self, expr: &Expr) -> Result<Value, ViewError> {
        self.enter()?;
        self.step()?;
        let value = match expr {
            // They stand in no list of groups by themselves, or are found there by their column.
            Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Nested(_) => {
                self.written(expr)?
            }
            expr => match self.group_key(expr)? {
                Some(key) => key,
                None => self.written(expr)?,
            },
        };
        self.depth -= 1;
        match value.sql.len() > super::MAX_WRITTEN_BYTES {
            true => Err(ViewError::new("the query is too complex")),
            false => Ok(value),
        }
    }

    fn written(&mut self, expr: &Expr) -> Result<Value, ViewError> {
        match expr {
            Expr::Value(value) => literal(&value.value),
            Expr::Identifier(name) => self.named(std::slice::from_ref(name)),
            Expr::CompoundIdentifier(names) => self.named(names),
            Expr::Nested(inner) => self.value(inner),
            Expr::Function(function) => self.function(function),
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right),
            Expr::UnaryOp { op, expr } => {
                let value = self.value(expr)?;
                match op {
                    UnaryOperator::Minus => {
                        Ok(value.with(format!("(- {})", value.number()?), value.number_type()))
                    }
                    UnaryOperator::Plus => Ok(value),
                    UnaryOperator::Not => Ok(value.with(format!("(not {})", value.truth()?), Type::Bool)),
                    other => Err(ViewError::unknown(&format!("the operator {other}"))),
                }
            }
            Expr::IsNull(expr) => self.is_null(expr, true),
            Expr::IsNotNull(expr) => self.is_null(expr, false),
            Expr::IsTrue(expr) => self.is(expr, "is true"),
            Expr::IsNotTrue(expr) => self.is(expr, "is not true"),
            Expr::IsFalse(expr) => self.is(expr, "is false"),
            Expr::IsNotFalse(expr) => self.is(expr, "is not false"),
            Expr::IsDistinctFrom(left, right) => self.compare(left, "is distinct from", right),
            Expr::IsNotDistinctFrom(left, right) => self.compare(left, "is not distinct from", right),
            Expr::In { expr, target, negated, global: false } => self.is_in(expr, target, *negated),
            Expr::Between { expr, negated, low, high } => {
                let value = (self.value(expr)?, ignores_case(expr));
                let (low, high) = (self.compared(&value, ">=", low)?, self.compared(&value, "<=", high)?);
                let not = if *negated { "not " } else { "" };
                let sql = format!("({not}({} and {}))", low.sql, high.sql);
                Ok(Value::of_two(&low, &high, sql, Type::Bool))
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, escape_char.as_deref(), *negated)
            }
            Expr::Cast { kind: CastKind::Cast, expr, data_type, format: None } => {
                let value = self.value(expr)?;
                cast(&value, data_type)
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref())
            }
            Expr::Exists { subquery, negated } => {
                let rows = self.rows(subquery)?;
                let not = if *negated { "not " } else { "" };
                Ok(Value::new(format!("({not}exists ({rows}))"), Type::Bool))
            }
            Expr::Subquery(query) => {
                let (sql, value) = self.scalar(query)?;
                let alias = self.name('s');
                Ok(Value::new(format!("(select {alias}.c1 from ({sql}) as {alias} limit 1)"), value.kind))
            }
            Expr::Collate { expr, collation } => {
                let name = collation.to_string();
                match ["nocase", "binary"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
                    true => self.value(expr),
                    false => Err(ViewError::new(format!("no such collation sequence: {name}"))),
                }
            }
            Expr::Substring { expr, substring_from: Some(from), substring_for, special: true, .. } => {
                self.substr(expr, from, substring_for.as_deref())
            }
            Expr::Trim { trim_where: None, trim_what: None, expr, trim_characters } => {
                self.trim("btrim", expr, trim_characters.as_deref().unwrap_or_default())
            }
            Expr::Trim { trim_where: Some(TrimWhereField::Both), .. } => {
                Err(ViewError::unknown("TRIM … FROM"))
            }
            Expr::Ceil { expr, .. } => self.rounded("ceil", expr),
            Expr::Floor { expr, .. } => self.rounded("floor", expr),
            other => Err(ViewError::unknown(construct(other))),
        }
    }

    fn rounded(&mut self, function: &str, expr: &Expr) -> Result<Value, ViewError> {
        let value = self.value(expr)?;
        Ok(value.with(format!("{function}({})", value.number()?), value.number_type()))
    }

    fn is_null(&mut self, expr: &Expr, is: bool) -> Result<Value, ViewError> {
        let value = self.value(expr)?;
        let not = if is { "" } else { "not " };
        Ok(value.with(format!("({} is {not}null)", value.sql), Type::Bool))
    }

    fn is(&mut self, expr: &Expr, what: &str) -> Result<Value, ViewError> {
        let value = self.value(expr)?;
        Ok(value.with(format!("({} {what})", value.truth()?), Type::Bool))
    }

    fn binary(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<Value, ViewError> {
        match op {
            BinaryOperator::And => self.chain(left, op, right, " and ", Type::Bool),
            BinaryOperator::Or => self.chain(left, op, right, " or ", Type::Bool),
            BinaryOperator::StringConcat => self.chain(left, op, right, " || ", Type::Text),
            BinaryOperator::Eq | BinaryOperator::Assignment => self.compare(left, "=", right),
            BinaryOperator::NotEq => self.compare(left, "<>", right),
            BinaryOperator::Lt => self.compare(left, "<", right),
            BinaryOperator::LtEq => self.compare(left, "<=", right),
            BinaryOperator::Gt => self.compare(left, ">", right),
            BinaryOperator::GtEq => self.compare(left, ">=", right),
            BinaryOperator::Is => self.compare(left, "is not distinct from", right),
            BinaryOperator::IsNot => self.compare(left, "is distinct from", right),
            BinaryOperator::Plus => self.calculation(left, "+", right),
            BinaryOperator::Minus => self.calculation(left, "-", right),
            BinaryOperator::Multiply => self.calculation(left, "*", right),
            BinaryOperator::Divide => self.quotient(left, right),
            BinaryOperator::Modulo => {
                let (one, other) = (self.value(left)?, self.value(right)?);
                let whole =
                    |value: &Value| Ok::<_, ViewError>(format!("trunc({}::numeric)", value.number()?));
                let sql = format!("mod({}, nullif({}, 0))", whole(&one)?, whole(&other)?);
                Ok(Value::of_two(&one, &other, sql, Type::Number))
            }
            BinaryOperator::Arrow => self.member(left, right, false),
            BinaryOperator::LongArrow => self.member(left, right, true),
            other => Err(ViewError::unknown(&format!("the operator {other}"))),
        }
    }

    /// A chain of one operator, however long: the parser nests it to the left.
    fn chain(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        written: &str,
        kind: Type,
    ) -> Result<Value, ViewError> {
        let (mut operands, mut rest) = (vec![right], left);
        while let Expr::BinaryOp { left, op: inner, right } = rest
            && inner == op
        {
            operands.push(right);
            rest = left;
        }
        operands.push(rest);
        let (mut parts, mut is_aggregate) = (Vec::new(), false);
        for operand in operands.into_iter().rev() {
            let value = self.value(operand)?;
            is_aggregate |= value.is_aggregate;
            parts.push(if kind == Type::Bool { value.truth()? } else { value.text() });
        }
        Ok(Value { is_aggregate, ..Value::new(format!("({})", parts.join(written)), kind) })
    }

    fn calculation(&mut self, left: &Expr, op: &str, right: &Expr) -> Result<Value, ViewError> {
        let (one, other) = (self.value(left)?, self.value(right)?);
        let kind =
            if [&one, &other].iter().any(|side| side.kind == Type::Real) { Type::Real } else { Type::Number };
        let sql = format!("({} {op} {})", one.number()?, other.number()?);
        Ok(Value::of_two(&one, &other, sql, kind))
    }

    /// Whole numbers are divided to a whole number.
    fn quotient(&mut self, left: &Expr, right: &Expr) -> Result<Value, ViewError> {
        let (one, other) = (self.value(left)?, self.value(right)?);
        if [&one, &other].iter().any(|side| side.kind == Type::Real) {
            let sql = format!("({} / nullif({}, 0))", one.real()?, other.real()?);
            return Ok(Value::of_two(&one, &other, sql, Type::Real));
        }
        let sql = Value::once_each((&one, &other), (&one.number()?, &other.number()?), |a, b| {
            format!(
                "case when {b} = 0 then null when {a} = trunc({a}) and {b} = trunc({b}) then trunc({a} / {b}) \
                 else ({a}::double precision / {b}::double precision)::numeric end"
            )
        })?;
        Ok(Value::of_two(&one, &other, sql, Type::Number))
    }

    fn compare(&mut self, left: &Expr, op: &str, right: &Expr) -> Result<Value, ViewError> {
        let one = (self.value(left)?, ignores_case(left));
        self.compared(&one, op, right)
    }

    /// The same of a value that is written already, and whether its case does not count.
    fn compared(
        &mut self,
        (one, ignores): &(Value, bool),
        op: &str,
        right: &Expr,
    ) -> Result<Value, ViewError> {
        let other = self.value(right)?;
        let (a, b) = match *ignores || ignores_case(right) {
            true => (format!("lower({})", one.text()), format!("lower({})", other.text())),
            false => Value::pair(one, &other)?,
        };
        Ok(Value::of_two(one, &other, format!("({a} {op} {b})"), Type::Bool))
    }

    fn is_in(&mut self, expr: &Expr, target: &InTarget, negated: bool) -> Result<Value, ViewError> {
        let not = if negated { "not " } else { "" };
        match target {
            InTarget::List(list) if list.is_empty() => {
                self.value(expr)?;
                Ok(Value::new(negated.to_string(), Type::Bool))
            }
            InTarget::List(list) if list.len() > MAX_LIST => {
                Err(ViewError::new(format!("a list has at most {MAX_LIST} values")))
            }
            InTarget::List(list) => {
                let value = self.value(expr)?;
                let mut is_aggregate = value.is_aggregate;
                let mut values = Vec::new();
                for item in list {
                    values.push(self.value(item)?);
                }
                is_aggregate |= values.iter().any(|item| item.is_aggregate);
                let pairs: Result<Vec<_>, _> = values.iter().map(|item| Value::pair(&value, item)).collect();
                let pairs = pairs?;
                let first = pairs.first().map(|(one, _)| one.clone()).unwrap_or_default();
                let sql = match pairs.iter().all(|(one, _)| *one == first) {
                    true => {
                        let items: Vec<&str> = pairs.iter().map(|(_, item)| item.as_str()).collect();
                        format!("({first} {not}in ({}))", items.join(", "))
                    }
                    false => {
                        let equal: Vec<String> =
                            pairs.iter().map(|(one, item)| format!("{one} = {item}")).collect();
                        format!("({not}({}))", equal.join(" or "))
                    }
                };
                if sql.len() > super::MAX_WRITTEN_BYTES {
                    return Err(ViewError::new("the query is too complex"));
                }
                Ok(Value { is_aggregate, ..Value::new(sql, Type::Bool) })
            }
            InTarget::Subquery(query) => self.is_in_rows(expr, query, not),
            InTarget::Unnest(_) | InTarget::Table { .. } => Err(ViewError::unknown("IN without parentheses")),
        }
    }

    fn is_in_rows(&mut self, expr: &Expr, query: &Query, not: &str) -> Result<Value, ViewError> {
        let value = self.value(expr)?;
        let (sql, column) = self.scalar(query)?;
        let alias = self.name('s');
        let item = Value::new(format!("{alias}.c1"), column.kind);
        let (one, item) = Value::pair(&value, &item)?;
        Ok(value.with(format!("({one} {not}in (select {item} from ({sql}) as {alias}))"), Type::Bool))
    }

    /// Without regard to the case of ASCII letters, and without an escape unless there is one.
    fn like(
        &mut self,
        expr: &Expr,
        pattern: &Expr,
        escape: Option<&Expr>,
        negated: bool,
    ) -> Result<Value, ViewError> {
        let escape = match escape {
            None => String::new(),
            Some(escape) => match self.value(escape)?.literal {
                Some(escape) if escape.chars().count() == 1 => escape,
                _ => return Err(ViewError::new("ESCAPE expression must be a single character")),
            },
        };
        let (one, other) = (self.value(expr)?, self.value(pattern)?);
        let not = if negated { "not " } else { "" };
        let escape = super::value::quote(&escape);
        let sql = format!("({} {not}ilike {} escape {escape})", one.text(), other.text());
        Ok(Value::of_two(&one, &other, sql, Type::Bool))
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        conditions: &[sqlparser::ast::CaseWhen],
        otherwise: Option<&Expr>,
    ) -> Result<Value, ViewError> {
        let (mut whens, mut results, mut is_aggregate) = (Vec::new(), Vec::new(), false);
        let operand = match operand {
            Some(operand) => Some((self.value(operand)?, ignores_case(operand))),
            None => None,
        };
        for branch in conditions {
            let condition = match &operand {
                None => self.value(&branch.condition)?,
                Some(operand) => self.compared(operand, "=", &branch.condition)?,
            };
            is_aggregate |= condition.is_aggregate;
            whens.push(condition.truth()?);
            results.push(self.value(&branch.result)?);
        }
        if let Some(otherwise) = otherwise {
            results.push(self.value(otherwise)?);
        }
        is_aggregate |= results.iter().any(|result| result.is_aggregate);
        let kind = Value::unify(results.iter());
        let mut sql = String::from("(case");
        let mut results = results.iter();
        for (when, result) in whens.iter().zip(results.by_ref()) {
            sql.push_str(&format!(" when {when} then {}", result.cast(kind)?));
        }
        if let Some(result) = results.next() {
            sql.push_str(&format!(" else {}", result.cast(kind)?));
        }
        sql.push_str(" end)");
        if sql.len() > super::MAX_WRITTEN_BYTES {
            return Err(ViewError::new("the query is too complex"));
        }
        Ok(Value { is_aggregate, ..Value::new(sql, kind) })
    }
}

/// The name of an expression for an error. Not its text, which is written by recursion.
fn construct(expr: &Expr) -> &'static str {
    match expr {
        Expr::Array(_) | Expr::CompoundFieldAccess { .. } => "an array",
        Expr::AtTimeZone { .. } => "AT TIME ZONE",
        Expr::Cast { .. } => "this form of CAST",
        Expr::Convert { .. } => "CONVERT",
        Expr::Extract { .. } => "EXTRACT",
        Expr::ILike { .. } => "ILIKE",
        Expr::Interval(_) => "INTERVAL",
        Expr::Overlay { .. } => "OVERLAY",
        Expr::Position { .. } => "POSITION",
        Expr::RLike { .. } | Expr::SimilarTo { .. } => "a pattern other than that of LIKE",
        Expr::Tuple(_) => "a row of values",
        Expr::Trim { .. } => "this form of TRIM",
        Expr::TypedString(_) => "a text with a type",
        Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => "* in an expression",
        _ => "an expression of this kind",
    }
}

fn literal(value: &Literal) -> Result<Value, ViewError> {
    match value {
        Literal::Number(number, _) => {
            let is_digit = |byte: u8| byte.is_ascii_digit() || b".eE+-".contains(&byte);
            let is_number = number.bytes().all(is_digit)
                && number.len() <= 60
                && number.parse::<f64>().is_ok_and(f64::is_finite);
            if !is_number {
                return Err(ViewError::new(format!("the number {number} is not supported in views")));
            }
            let is_real = number.bytes().any(|byte| b".eE".contains(&byte));
            Ok(match is_real {
                true => Value::new(format!("('{number}'::double precision)"), Type::Real),
                false => Value::new(format!("({number}::numeric)"), Type::Number),
            })
        }
        Literal::SingleQuotedString(text) | Literal::DoubleQuotedString(text) => Ok(Value::of_text(text)),
        Literal::Boolean(is) => Ok(Value::new(is.to_string(), Type::Bool)),
        Literal::Null => Ok(Value::null()),
        Literal::Placeholder(_) => Err(ViewError::new("parameters are not allowed in views")),
        other => Err(ViewError::unknown(&format!("the literal {other}"))),
    }
}

/// A cast, by the affinity of its type.
fn cast(value: &Value, data_type: &DataType) -> Result<Value, ViewError> {
    if value.kind == Type::Null {
        return Ok(Value::null());
    }
    let name = data_type.to_string();
    // The name alone: lengths do not count.
    let name = name.split('(').next().unwrap_or_default().trim().to_ascii_uppercase();
    Ok(match name.as_str() {
        "INT" | "INTEGER" | "BIGINT" | "SMALLINT" | "TINYINT" | "MEDIUMINT" | "INT2" | "INT4" | "INT8" => {
            value.with(format!("trunc({}::numeric)", value.number()?), Type::Number)
        }
        "REAL" | "FLOAT" | "DOUBLE" | "DOUBLE PRECISION" => value.with(value.real()?, Type::Real),
        "NUMERIC" | "DECIMAL" => value.with(value.number()?, value.number_type()),
        "TEXT" | "VARCHAR" | "CHAR" | "CHARACTER" | "NVARCHAR" | "CLOB" | "STRING" => {
            value.with(value.text(), Type::Text)
        }
        "BOOL" | "BOOLEAN" => value.with(value.truth()?, Type::Bool),
        other => return Err(ViewError::unknown(&format!("CAST AS {other}"))),
    })
}
