//! Functions: a list of SQLite's, each written with functions of Postgres that neither change anything nor read anything but their arguments.

use sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectNamePart,
    WindowFrame, WindowFrameBound, WindowFrameUnits, WindowSpec, WindowType,
};

use super::ViewError;
use super::query::{Compiler, Origin};
use super::value::{Type, Value, quote};
use crate::records::TimeFormat;

/// The most arguments.
const MAX_ARGUMENTS: usize = 50;
/// A whole number that Postgres' functions of texts take.
const MAX_LENGTH: &str = "1000000000";

/// The origin of a function's value, by which the field gets its type.
pub(super) fn origin(function: &Function) -> Origin {
    match name(function).as_deref() {
        Ok("count") => Origin::Count,
        Ok("total") => Origin::Number,
        _ => Origin::Other,
    }
}

/// The name in lower case.
fn name(function: &Function) -> Result<String, ViewError> {
    match function.name.0.as_slice() {
        [ObjectNamePart::Identifier(name)] => Ok(name.value.to_ascii_lowercase()),
        _ => Err(ViewError::new(format!("no such function: {}", function.name))),
    }
}

/// The arguments of a call.
enum Arguments<'a> {
    /// `*`.
    All,
    These(Vec<&'a Expr>),
}

/// A call of an aggregate or of a function over a window.
struct Call {
    /// `distinct `, or nothing.
    distinct: &'static str,
    /// The condition of the rows that count, and the window.
    tail: String,
    is_window: bool,
}

impl Compiler<'_> {
    pub(super) fn function(&mut self, function: &Function) -> Result<Value, ViewError> {
        let name = name(function)?;
        let missing = || ViewError::new(format!("no such function: {name}"));
        if function.uses_odbc_syntax
            || function.parameters != FunctionArguments::None
            || !function.within_group.is_empty()
            || function.null_treatment.is_some()
        {
            return Err(ViewError::unknown(&format!("this form of {name}()")));
        }
        let (arguments, distinct, order) = match &function.args {
            FunctionArguments::None => (Arguments::These(Vec::new()), "", &[][..]),
            FunctionArguments::Subquery(_) => return Err(missing()),
            FunctionArguments::List(list) => {
                let order = match list.clauses.as_slice() {
                    [] => &[][..],
                    [sqlparser::ast::FunctionArgumentClause::OrderBy(keys)] => keys.as_slice(),
                    _ => return Err(ViewError::unknown(&format!("this form of {name}()"))),
                };
                let distinct = match list.duplicate_treatment {
                    Some(DuplicateTreatment::Distinct) => "distinct ",
                    Some(DuplicateTreatment::All) | None => "",
                };
                (arguments(&list.args, &name)?, distinct, order)
            }
        };
        let is_plain = distinct.is_empty() && order.is_empty() && function.filter.is_none();
        match (arguments, &function.over) {
            (Arguments::These(arguments), None) if is_plain && is_scalar(&name, arguments.len()) => {
                self.scalar_function(&name, &arguments)
            }
            (arguments, over) if is_aggregate(&name) || over.is_some() => {
                let call = Call { distinct, tail: String::new(), is_window: over.is_some() };
                self.aggregate(&name, &arguments, call, order, function)
            }
            _ => Err(missing()),
        }
    }

    /// An aggregate, or a function over a window.
    fn aggregate(
        &mut self,
        name: &str,
        arguments: &Arguments<'_>,
        mut call: Call,
        order: &[sqlparser::ast::OrderByExpr],
        function: &Function,
    ) -> Result<Value, ViewError> {
        let scope = self.scope()?;
        if scope.is_in_aggregate && !call.is_window {
            return Err(ViewError::new(format!("misuse of aggregate function {name}()")));
        }
        let was_within = scope.is_in_aggregate;
        // The arguments of a function over a window are those of the groups.
        if !call.is_window {
            (scope.is_in_aggregate, scope.has_aggregate) = (true, true);
        }
        let values = match arguments {
            Arguments::All => Vec::new(),
            Arguments::These(arguments) => {
                let mut values = Vec::new();
                for argument in arguments {
                    values.push(self.value(argument)?);
                }
                values
            }
        };
        let order = match order {
            [] => String::new(),
            keys => format!(" {}", self.order_of(keys)?),
        };
        if let Some(condition) = &function.filter {
            call.tail = format!(" filter (where {})", self.value(condition)?.truth()?);
        }
        self.scope()?.is_in_aggregate = was_within;
        if let Some(over) = &function.over {
            let WindowType::WindowSpec(window) = over else {
                return Err(ViewError::unknown("a named window"));
            };
            let spec = self.window(window)?;
            let spec = if spec.is_empty() && name == "row_number" { self.own_order()? } else { spec };
            call.tail = format!("{} over ({spec})", call.tail);
        }
        let (distinct, tail) = (call.distinct, &call.tail);
        let wrong = || ViewError::new(format!("wrong number of arguments to function {name}()"));
        let one = || values.first().filter(|_| values.len() == 1).ok_or_else(wrong);
        let made = |sql: String, kind: Type| Ok(Value { is_aggregate: true, ..Value::new(sql, kind) });
        if !call.is_window
            && matches!(name, "min" | "max")
            && let Ok(value) = one()
        {
            let direction = if name == "min" { "asc" } else { "desc" };
            let first = format!(" order by {} {direction} nulls last", value.sql);
            self.scope()?.extremes.push(first);
        }
        match name {
            "count" if matches!(arguments, Arguments::All) || values.is_empty() => {
                made(format!("(count(*){tail}::numeric)"), Type::Number)
            }
            _ if matches!(arguments, Arguments::All) => Err(wrong()),
            "count" => made(format!("(count({distinct}{}){tail}::numeric)", one()?.sql), Type::Number),
            "sum" => {
                let value = one()?;
                made(format!("(sum({distinct}{}){tail})", value.number()?), value.number_type())
            }
            "total" => made(format!("coalesce(sum({distinct}{}){tail}, 0)", one()?.real()?), Type::Real),
            "avg" => made(format!("(avg({distinct}{}){tail})", one()?.real()?), Type::Real),
            "min" | "max" => {
                let value = one()?;
                let (sql, kind) = match value.kind {
                    // Postgres orders neither.
                    Type::Bool => (value.number()?, Type::Number),
                    Type::Json => (value.text(), Type::Text),
                    kind => (value.sql.clone(), kind),
                };
                made(format!("({name}({distinct}{sql}){tail})"), kind)
            }
            "group_concat" | "string_agg" => {
                let (value, separator) = match values.as_slice() {
                    [value] => (value, format!("{}::text", quote(","))),
                    [value, separator] if distinct.is_empty() => (value, separator.text()),
                    _ => return Err(wrong()),
                };
                made(
                    format!("(string_agg({distinct}{}, {separator}{order}){tail})", value.text()),
                    Type::Text,
                )
            }
            "json_group_array" => {
                let sql =
                    format!("coalesce(jsonb_agg({distinct}{}{order}){tail}, '[]'::jsonb)", one()?.json());
                made(sql, Type::Json)
            }
            "json_group_object" => {
                let [key, value] = values.as_slice() else { return Err(wrong()) };
                let (key, value) = (key.text(), value.json());
                if !tail.is_empty() {
                    return Err(ViewError::unknown("this form of json_group_object()"));
                }
                let sql = format!(
                    "coalesce(jsonb_object_agg({key}, {value}{order}) filter (where {key} is not null), '{{}}'::jsonb)"
                );
                made(sql, Type::Json)
            }
            "row_number" | "rank" | "dense_rank" if values.is_empty() => {
                made(format!("({name}(){tail}::numeric)"), Type::Number)
            }
            "percent_rank" | "cume_dist" if values.is_empty() => {
                made(format!("({name}(){tail})"), Type::Real)
            }
            "ntile" => made(format!("(ntile({}){tail}::numeric)", whole(one()?)?), Type::Number),
            "first_value" | "last_value" => {
                let value = one()?;
                made(format!("({name}({}){tail})", value.sql), value.kind)
            }
            "lag" | "lead" => match values.as_slice() {
                [value] => made(format!("({name}({}){tail})", value.sql), value.kind),
                [value, offset] => {
                    made(format!("({name}({}, {}){tail})", value.sql, whole(offset)?), value.kind)
                }
                [value, offset, other] => {
                    let other = other.cast(value.kind)?;
                    made(format!("({name}({}, {}, {other}){tail})", value.sql, whole(offset)?), value.kind)
                }
                _ => Err(wrong()),
            },
            _ => Err(ViewError::new(format!("no such function: {name}"))),
        }
    }

    fn window(&mut self, window: &WindowSpec) -> Result<String, ViewError> {
        if window.window_name.is_some() {
            return Err(ViewError::unknown("a named window"));
        }
        let mut keys = Vec::new();
        for key in &window.partition_by {
            keys.push(self.value(key)?.sql);
        }
        let mut sql =
            if keys.is_empty() { String::new() } else { format!("partition by {} ", keys.join(", ")) };
        sql.push_str(&self.order_of(&window.order_by)?);
        if let Some(frame) = &window.window_frame {
            sql.push_str(&written_frame(frame)?);
        }
        Ok(sql)
    }

    fn scalar_function(&mut self, name: &str, arguments: &[&Expr]) -> Result<Value, ViewError> {
        match (name, arguments) {
            ("current_timestamp" | "current_date" | "current_time", []) => {
                let format = match name {
                    "current_timestamp" => "%Y-%m-%d %H:%M:%S",
                    "current_date" => "%Y-%m-%d",
                    _ => "%H:%M:%S",
                };
                return self.moment(format, &[]);
            }
            ("date", rest) => return self.moment("%Y-%m-%d", rest),
            ("time", rest) => return self.moment("%H:%M:%S", rest),
            ("datetime", rest) => return self.moment("%Y-%m-%d %H:%M:%S", rest),
            ("julianday" | "unixepoch", rest) => {
                let (format, kind) =
                    if name == "julianday" { ("%J", Type::Real) } else { ("%s", Type::Number) };
                let text = self.moment(format, rest)?;
                let cast = if kind == Type::Real { "double precision" } else { "numeric" };
                return Ok(text.with(format!("({}::{cast})", text.sql), kind));
            }
            ("strftime", [format, rest @ ..]) => {
                let format = self.value(format)?.literal;
                let format =
                    format.ok_or_else(|| ViewError::new("the format of strftime() is a text in views"))?;
                return self.moment(&format, rest);
            }
            ("substr" | "substring", [text, from]) => return self.substr(text, from, None),
            ("substr" | "substring", [text, from, length]) => return self.substr(text, from, Some(length)),
            ("trim", [text, characters @ ..]) => return self.trim_these("btrim", text, characters),
            ("ltrim" | "rtrim", [text, characters @ ..]) => return self.trim_these(name, text, characters),
            _ => {}
        }
        let mut values = Vec::new();
        for argument in arguments {
            values.push(self.value(argument)?);
        }
        let is_aggregate = values.iter().any(|value| value.is_aggregate);
        let value = scalar_of(name, &values)?;
        Ok(Value { is_aggregate, ..value })
    }

    /// A time by SQLite's format, with its modifiers.
    fn moment(&mut self, format: &str, arguments: &[&Expr]) -> Result<Value, ViewError> {
        let (time, modifiers) = match arguments.split_first() {
            Some((time, modifiers)) => (self.value(time)?, modifiers),
            None => (Value::of_text("now"), &[][..]),
        };
        // It stands in a sub-select, where these would count other rows.
        if time.is_aggregate && [" over (", "count(*)"].iter().any(|part| time.sql.contains(part)) {
            return Err(ViewError::unknown("a time made of a window or of count(*)"));
        }
        let mut texts = Vec::new();
        for modifier in modifiers {
            let text = self.value(modifier)?.literal;
            texts.push(text.ok_or_else(|| ViewError::new("modifiers of times are texts in views"))?);
        }
        let Some(format) = TimeFormat::parse(format, &texts) else { return Ok(Value::null()) };
        let (number, text) = match time.kind {
            Type::Null => return Ok(Value::null()),
            Type::Bool | Type::Number => (Some(time.number()?), None),
            Type::Real => (Some(format!("({}::numeric)", time.sql)), None),
            Type::Text | Type::Json => (None, Some(time.text())),
        };
        let mut bind = |text: String| quote(&text);
        let sql = format.sql(number.as_deref(), text.as_deref(), &mut bind);
        Ok(time.with(format!("({sql} collate \"C\")"), Type::Text))
    }

    /// A part of a text: a negative start counts from its end.
    pub(super) fn substr(
        &mut self,
        text: &Expr,
        from: &Expr,
        length: Option<&Expr>,
    ) -> Result<Value, ViewError> {
        let (text, from) = (self.value(text)?, self.value(from)?);
        let length = match length {
            Some(length) => {
                let length = self.value(length)?;
                Some(format!("greatest({}, 0)", whole(&length)?))
            }
            None => None,
        };
        let of = text.text();
        let sql = Value::once_each((&text, &from), (&of, &whole(&from)?), |text, from| {
            // A start before the text shortens what is taken, in both.
            let start = format!("case when {from} < 0 then length({text}) + {from} + 1 else {from} end");
            match &length {
                Some(length) => format!("substr({text}, {start}, {length})"),
                None => format!("substr({text}, {start})"),
            }
        })?;
        Ok(Value::of_two(&text, &from, format!("({sql} collate \"C\")"), Type::Text))
    }

    pub(super) fn trim(
        &mut self,
        function: &str,
        text: &Expr,
        characters: &[Expr],
    ) -> Result<Value, ViewError> {
        self.trim_these(function, text, &characters.iter().collect::<Vec<_>>())
    }

    fn trim_these(&mut self, function: &str, text: &Expr, characters: &[&Expr]) -> Result<Value, ViewError> {
        let text = self.value(text)?;
        match characters {
            [] => Ok(text.with(format!("{function}({})", text.text()), Type::Text)),
            [characters] => {
                let characters = self.value(characters)?;
                let sql = format!("{function}({}, {})", text.text(), characters.text());
                Ok(Value::of_two(&text, &characters, sql, Type::Text))
            }
            _ => Err(ViewError::new("wrong number of arguments to function trim()")),
        }
    }

    /// A member of a JSON value, as JSON or as a text.
    pub(super) fn member(&mut self, json: &Expr, path: &Expr, is_text: bool) -> Result<Value, ViewError> {
        let (json, path) = (self.value(json)?, self.value(path)?);
        let found = member_of(&json, &path, true)?;
        Ok(match is_text {
            true => found.with(found.text(), Type::Text),
            false => found,
        })
    }
}

/// The frame of a window, whose bounds are whole numbers.
fn written_frame(frame: &WindowFrame) -> Result<String, ViewError> {
    let bound = |bound: &WindowFrameBound| {
        let rows = |count: &Option<Box<Expr>>| match count.as_deref() {
            None => Ok("unbounded".to_owned()),
            Some(Expr::Value(value)) => match value.value.to_string().parse::<u32>() {
                Ok(rows) => Ok(rows.to_string()),
                Err(_) => Err(ViewError::unknown("this frame of a window")),
            },
            Some(_) => Err(ViewError::unknown("this frame of a window")),
        };
        Ok(match bound {
            WindowFrameBound::CurrentRow => "current row".to_owned(),
            WindowFrameBound::Preceding(count) => format!("{} preceding", rows(count)?),
            WindowFrameBound::Following(count) => format!("{} following", rows(count)?),
        })
    };
    let units = match frame.units {
        WindowFrameUnits::Rows => "rows",
        WindowFrameUnits::Range => "range",
        WindowFrameUnits::Groups => "groups",
    };
    let start = bound(&frame.start_bound)?;
    Ok(match &frame.end_bound {
        None => format!(" {units} {start}"),
        Some(end) => format!(" {units} between {start} and {}", bound(end)?),
    })
}

/// The member of a JSON value that a constant path leads to.
fn member_of(json: &Value, path: &Value, may_be_key: bool) -> Result<Value, ViewError> {
    let path = match (&path.literal, path.kind) {
        (Some(path), _) if path.starts_with('$') => steps(path)?,
        (Some(key), _) if may_be_key => vec![key.clone()],
        _ => return Err(ViewError::new("a path into JSON is a text such as '$.a[0]' in views")),
    };
    let sql = match json.kind {
        Type::Json => json.sql.clone(),
        Type::Null => return Ok(Value::null()),
        _ => return Err(ViewError::new("JSON is read of fields of the type json in views")),
    };
    let path: Vec<String> = path.iter().map(|step| quote(step)).collect();
    let found = format!("({sql} #> array[{}]::text[])", path.join(", "));
    Ok(json.with(format!("(nullif({found}, 'null'::jsonb))"), Type::Json))
}

/// The steps of a path such as `$.a.b[0]`.
fn steps(path: &str) -> Result<Vec<String>, ViewError> {
    let bad = || ViewError::new(format!("bad JSON path: {path:?}"));
    let mut steps = Vec::new();
    let mut rest = path.strip_prefix('$').ok_or_else(bad)?;
    while !rest.is_empty() {
        let (step, left) = if let Some(quoted) = rest.strip_prefix(".\"") {
            quoted.split_once('"').ok_or_else(bad)?
        } else if let Some(name) = rest.strip_prefix('.') {
            name.split_at(name.find(['.', '[']).unwrap_or(name.len()))
        } else if let Some(index) = rest.strip_prefix('[') {
            let (index, left) = index.split_once(']').ok_or_else(bad)?;
            let number = match index.strip_prefix("#-") {
                Some(number) => format!("-{number}"),
                None => index.to_owned(),
            };
            number.parse::<i32>().map_err(|_| bad())?;
            steps.push(number);
            rest = left;
            continue;
        } else {
            return Err(bad());
        };
        if step.is_empty() {
            return Err(bad());
        }
        steps.push(step.to_owned());
        rest = left;
    }
    Ok(steps)
}

/// A whole number that functions of texts take, within their bounds.
fn whole(value: &Value) -> Result<String, ViewError> {
    let number = value.number()?;
    Ok(format!("(least(greatest(trunc({number}::numeric), -{MAX_LENGTH}), {MAX_LENGTH})::integer)"))
}

fn arguments<'a>(arguments: &'a [FunctionArg], name: &str) -> Result<Arguments<'a>, ViewError> {
    if arguments.len() > MAX_ARGUMENTS {
        return Err(ViewError::new(format!("too many arguments on function {name}")));
    }
    if let [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] = arguments {
        return Ok(Arguments::All);
    }
    let expr = |argument: &'a FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
        _ => Err(ViewError::unknown(&format!("this argument of {name}()"))),
    };
    arguments.iter().map(expr).collect::<Result<_, _>>().map(Arguments::These)
}

fn is_aggregate(name: &str) -> bool {
    matches!(
        name,
        "count"
            | "sum"
            | "total"
            | "avg"
            | "min"
            | "max"
            | "group_concat"
            | "string_agg"
            | "json_group_array"
            | "json_group_object"
    )
}

fn is_scalar(name: &str, arguments: usize) -> bool {
    match name {
        "min" | "max" => arguments > 1,
        "coalesce" | "ifnull" | "iif" | "if" | "nullif" | "lower" | "upper" | "length" | "substr"
        | "substring" | "trim" | "ltrim" | "rtrim" | "replace" | "instr" | "abs" | "round" | "sign"
        | "concat" | "date" | "time" | "datetime" | "julianday" | "unixepoch" | "strftime"
        | "current_timestamp" | "current_date" | "current_time" | "json_extract" | "json_array_length"
        | "json_object" | "json_array" | "json" => true,
        _ => false,
    }
}

/// A function of values.
fn scalar_of(name: &str, values: &[Value]) -> Result<Value, ViewError> {
    let text = |sql: String| Ok(Value::new(sql, Type::Text));
    let number = |sql: String| Ok(Value::new(sql, Type::Number));
    match (name, values) {
        ("coalesce", [_, _, ..]) | ("ifnull", [_, _]) => {
            let kind = Value::unify(values.iter());
            let parts: Result<Vec<String>, _> = values.iter().map(|value| value.cast(kind)).collect();
            Ok(Value::new(format!("coalesce({})", parts?.join(", ")), kind))
        }
        ("iif" | "if", [condition, rest @ ..]) if matches!(rest.len(), 1 | 2) => {
            let null = Value::null();
            let (yes, no) = (rest.first().unwrap_or(&null), rest.get(1).unwrap_or(&null));
            let kind = Value::unify([yes, no].into_iter());
            let (yes, no) = (yes.cast(kind)?, no.cast(kind)?);
            Ok(Value::new(format!("(case when {} then {yes} else {no} end)", condition.truth()?), kind))
        }
        ("nullif", [one, other]) => {
            let (a, b) = Value::pair(one, other)?;
            let sql = Value::once_each((one, other), (&one.sql, &format!("({a} = {b})")), |one, is_same| {
                format!("case when {is_same} then null else {one} end")
            })?;
            Ok(Value::new(sql, one.kind))
        }
        ("min" | "max", [_, _, ..]) => {
            let kind = match Value::unify(values.iter()) {
                Type::Json | Type::Bool => Type::Text,
                kind => kind,
            };
            let parts: Result<Vec<String>, _> = values.iter().map(|value| value.cast(kind)).collect();
            let parts = parts?;
            let function = if name == "min" { "least" } else { "greatest" };
            // Null if one of them is.
            let nulls: Vec<String> = parts.iter().map(|part| format!("{part} is null")).collect();
            let sql = format!(
                "(case when {} then null else {function}({}) end)",
                nulls.join(" or "),
                parts.join(", ")
            );
            Ok(Value::new(sql, kind))
        }
        ("lower" | "upper", [value]) => text(format!("{name}({})", value.text())),
        ("length", [value]) => number(format!("(length({})::numeric)", value.text())),
        ("replace", [value, old, new]) => {
            text(format!("replace({}, {}, {})", value.text(), old.text(), new.text()))
        }
        ("instr", [value, part]) => number(format!("(strpos({}, {})::numeric)", value.text(), part.text())),
        ("concat", [_, ..]) => {
            let parts: Vec<String> =
                values.iter().map(|value| format!("coalesce({}, '')", value.text())).collect();
            text(format!("({})", parts.join(" || ")))
        }
        ("abs", [value]) => Ok(Value::new(format!("abs({})", value.number()?), value.number_type())),
        ("sign", [value]) => number(format!("(sign({})::numeric)", value.number()?)),
        ("round", [value]) => {
            Ok(Value::new(format!("(round({}::numeric)::double precision)", value.number()?), Type::Real))
        }
        ("round", [value, digits]) => {
            let digits = format!("least(greatest({}, 0), 30)", whole(digits)?);
            let sql = format!("(round({}::numeric, {digits})::double precision)", value.number()?);
            Ok(Value::new(sql, Type::Real))
        }
        ("json", [value]) if matches!(value.kind, Type::Json | Type::Null) => Ok(value.clone()),
        ("json_extract", [json, path]) => member_of(json, path, false),
        ("json_array_length", [json, path @ ..]) if path.len() <= 1 => {
            let json = match path.first() {
                Some(path) => member_of(json, path, false)?,
                None => json.clone(),
            };
            match json.kind {
                Type::Json => {}
                Type::Null => return Ok(Value::null()),
                _ => return Err(ViewError::new("JSON is read of fields of the type json in views")),
            }
            number(json.once(|json| {
                format!(
                    "case when jsonb_typeof({json}) = 'array' then jsonb_array_length({json})::numeric \
                     when {json} is not null then 0 end"
                )
            })?)
        }
        ("json_array", values) => {
            let parts: Vec<String> = values.iter().map(Value::json).collect();
            Ok(Value::new(format!("jsonb_build_array({})", parts.join(", ")), Type::Json))
        }
        ("json_object", values) if values.len() % 2 == 0 => {
            let mut parts = Vec::new();
            for pair in values.chunks(2) {
                let [key, value] = pair else { continue };
                parts.push(format!("coalesce({}, ''), {}", key.text(), value.json()));
            }
            Ok(Value::new(format!("jsonb_build_object({})", parts.join(", ")), Type::Json))
        }
        _ => Err(ViewError::new(format!("wrong number of arguments to function {name}()"))),
    }
}
