//! The parser: from text to the tree, in one pass. Errors name a place in the text.

use super::super::expression::{Field, MAX_FIELD_BYTES, MAX_PARTS};
use super::date::DateMacro;
use super::like::Like;
use super::typed::MAX_ARGUMENTS;
use super::value::Value;
use super::{
    Comparison, ExpressionError, Function, MAX_CHARACTERS, MAX_COMPARISONS, MAX_DEPTH, Modifier, Names, Node,
    Operand, Operator, Order,
};

/// Operators; one that is the beginning of another comes behind it.
const OPERATORS: [(&str, Operator); 8] = [
    ("!=", Operator::NotEqual),
    ("!~", Operator::NotLike),
    (">=", Operator::Ordered(Order::GreaterOrEqual)),
    ("<=", Operator::Ordered(Order::LessOrEqual)),
    ("=", Operator::Equal),
    (">", Operator::Ordered(Order::Greater)),
    ("<", Operator::Ordered(Order::Less)),
    ("~", Operator::Like),
];

/// The characters of a name in an error.
const SHOWN: usize = 40;
/// The first part of a path into another collection; its name and its alias follow.
pub(super) const COLLECTION: &str = "@collection";
/// The root of paths of the caller's own record; the ids of its collection and of the record follow.
pub(super) const AUTH: &str = "@request.auth";

pub(super) fn parse(text: &str, names: Names<'_>) -> Result<Node, ExpressionError> {
    let mut parser = Parser { text, at: 0, depth: 0, comparisons: 0, names };
    if text.chars().nth(MAX_CHARACTERS).is_some() {
        let message = format!("an expression has at most {MAX_CHARACTERS} characters");
        return Err(ExpressionError { at: MAX_CHARACTERS + 1, message });
    }
    if let Some(at) = text.find('\0') {
        return Err(parser.error(at, "an expression has no NUL"));
    }
    parser.skip_space();
    if parser.rest().is_empty() {
        return Err(parser.error(parser.at, "the expression is empty"));
    }
    let node = parser.any()?;
    match parser.rest().is_empty() {
        true => Ok(node),
        false => Err(parser.error(parser.at, "&&, || or the end is expected here")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    comparisons: usize,
    names: Names<'a>,
}

impl<'a> Parser<'a> {
    fn error(&self, at: usize, message: impl Into<String>) -> ExpressionError {
        let before = self.text.get(..at).unwrap_or(self.text);
        ExpressionError { at: before.chars().count() + 1, message: message.into() }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Skips white space and comments.
    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Takes a token and the space behind it.
    fn take(&mut self, token: &str) -> bool {
        let is_next = self.rest().starts_with(token);
        if is_next {
            self.at += token.len();
            self.skip_space();
        }
        is_next
    }

    fn any(&mut self) -> Result<Node, ExpressionError> {
        let mut nodes = vec![self.all()?];
        while self.take("||") {
            nodes.push(self.all()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self) -> Result<Node, ExpressionError> {
        let mut nodes = vec![self.term()?];
        while self.take("&&") {
            nodes.push(self.term()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn term(&mut self) -> Result<Node, ExpressionError> {
        let start = self.at;
        if self.take("(") {
            if self.depth == MAX_DEPTH {
                return Err(self.error(start, format!("parentheses are nested {MAX_DEPTH} deep at the most")));
            }
            self.depth += 1;
            let node = self.any()?;
            if !self.take(")") {
                return Err(self.error(self.at, "&&, || or a closing parenthesis is expected here"));
            }
            self.depth -= 1;
            return Ok(node);
        }
        if self.comparisons == MAX_COMPARISONS {
            let message = format!("an expression has at most {MAX_COMPARISONS} comparisons");
            return Err(self.error(start, message));
        }
        self.comparisons += 1;
        let left = self.operand()?;
        let (operator, is_any) = self.operator()?;
        let right = self.operand()?;
        Ok(Node::Comparison(Box::new(comparison(left, operator, is_any, right))))
    }

    fn operator(&mut self) -> Result<(Operator, bool), ExpressionError> {
        let start = self.at;
        let rest = self.rest();
        let (is_any, rest) = rest.strip_prefix('?').map_or((false, rest), |rest| (true, rest));
        let Some((name, operator)) = OPERATORS.iter().find(|(name, _)| rest.starts_with(name)) else {
            let message =
                "an operator is expected here: = != > >= < <= ~ !~, each with a ? before it for any value";
            return Err(self.error(start, message));
        };
        self.at += name.len() + usize::from(is_any);
        self.skip_space();
        Ok((*operator, is_any))
    }

    fn operand(&mut self) -> Result<Operand, ExpressionError> {
        let start = self.at;
        let rest = self.rest();
        let mut characters = rest.chars();
        let operand = match (characters.next(), characters.next()) {
            (Some(quote @ ('"' | '\'')), _) => Operand::Literal(Value::Text(self.string(quote)?.into())),
            (Some('0'..='9'), _) | (Some('-'), Some('0'..='9')) => {
                Operand::Literal(Value::Number(self.number()?.into()))
            }
            (Some('A'..='Z' | 'a'..='z' | '_' | '@' | '#'), _) => {
                let length = rest.bytes().skip(1).take_while(|byte| is_of_identifier(*byte)).count() + 1;
                self.at += length;
                let name = rest.get(..length).unwrap_or_default();
                if self.rest().starts_with('(') {
                    return self.call(name, start);
                }
                self.identifier(name, start)?
            }
            _ => return Err(self.error(start, "a field, a text in quotes or a number is expected here")),
        };
        self.skip_space();
        Ok(operand)
    }

    /// The arguments of a function.
    fn call(&mut self, name: &str, start: usize) -> Result<Operand, ExpressionError> {
        let function = match (name, self.names) {
            ("geoDistance", Names::Request(_)) => Function::GeoDistance,
            ("strftime", Names::Request(_)) => Function::Strftime,
            _ => {
                let message = "there is no such function; geoDistance and strftime are for typed collections";
                return Err(self.error(start, message));
            }
        };
        self.take("(");
        let mut arguments = Vec::new();
        let mut is_more = !self.take(")");
        while is_more {
            let start = self.at;
            match self.operand()? {
                Operand::Call(..) => return Err(self.error(start, "a function takes no other one")),
                argument => arguments.push(argument),
            }
            is_more = self.take(",");
            if arguments.len() > MAX_ARGUMENTS || (!is_more && !self.take(")")) {
                return Err(self.error(self.at, "a comma or a closing parenthesis is expected here"));
            }
        }
        let is_text = |operand: &Operand| matches!(operand, Operand::Literal(Value::Text(_)));
        let is_constant = |operand: &Operand| matches!(operand, Operand::Literal(_));
        let is_right = match function {
            Function::GeoDistance => arguments.len() == 4 && !arguments.iter().any(is_text),
            Function::Strftime => {
                arguments.first().is_some_and(is_text) && arguments.iter().skip(2).all(is_constant)
            }
        };
        match is_right {
            true => Ok(Operand::Call(function, arguments)),
            false => Err(self.error(
                start,
                "write geoDistance(lonA, latA, lonB, latB) of numbers, or strftime('format', time, 'modifier', …)",
            )),
        }
    }

    /// A text in quotes; a backslash escapes only its quote, and over typed collections itself too, as JSON has it.
    fn string(&mut self, quote: char) -> Result<String, ExpressionError> {
        let start = self.at;
        let is_typed = matches!(self.names, Names::Request(_));
        let mut text = String::new();
        let mut characters = self.rest().char_indices().skip(1).peekable();
        while let Some((offset, character)) = characters.next() {
            if character == quote {
                self.at = start + offset + quote.len_utf8();
                return Ok(text);
            }
            let is_escaped = |next: char| next == quote || (is_typed && next == '\\');
            let escaped =
                (character == '\\').then(|| characters.next_if(|(_, next)| is_escaped(*next))).flatten();
            text.push(escaped.map_or(character, |(_, quote)| quote));
        }
        Err(self.error(start, "this text has no closing quote"))
    }

    /// A number, as `numeric` writes it.
    fn number(&mut self) -> Result<String, ExpressionError> {
        let start = self.at;
        let rest = self.rest();
        let is_of_number = |byte: &u8| is_of_identifier(*byte) || matches!(byte, b'-' | b'+');
        let text = rest.get(..rest.bytes().take_while(is_of_number).count()).unwrap_or_default();
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) {
            return Err(self.error(start, "a number is written as -14 or 10.50"));
        }
        self.at += text.len();
        let whole = whole.trim_start_matches('0');
        let is_zero = whole.is_empty() && fraction.bytes().all(|digit| digit == b'0');
        let sign = if text.starts_with('-') && !is_zero { "-" } else { "" };
        let whole = if whole.is_empty() { "0" } else { whole };
        Ok(match digits.contains('.') {
            true => format!("{sign}{whole}.{fraction}"),
            false => format!("{sign}{whole}"),
        })
    }

    fn identifier(&self, text: &str, start: usize) -> Result<Operand, ExpressionError> {
        let refuse = |message: String| Err(self.error(start, message));
        let shown: String = text.chars().take(SHOWN).collect();
        if let Names::Request(values) = self.names {
            if let Some(member) = text.strip_prefix("@request.") {
                return match values.operand(member) {
                    Some(operand) => Ok(operand),
                    None => refuse(format!("invalid modifier sequence {shown}")),
                };
            }
            if let Some(path) = text.strip_prefix("@collection.") {
                return match of_collection(path) {
                    Some(operand) => Ok(operand),
                    None => refuse(format!(
                        "{shown}: write @collection.name.field or @collection.name:alias.field"
                    )),
                };
            }
        }
        let (name, modifier) = match text.split_once(':') {
            None => (text, None),
            Some((name, "each")) => (name, Some(Modifier::Each)),
            Some((name, "length")) => (name, Some(Modifier::Length)),
            Some((name, "lower")) => (name, Some(Modifier::Lower)),
            Some((_, "isset" | "changed")) => {
                return refuse(format!("{shown}: isset and changed are for the body of a request"));
            }
            Some(_) => return refuse(format!("{shown}: a field takes one of :each, :length and :lower")),
        };
        if let Some(name) = name.strip_prefix('@') {
            let value = match name.strip_prefix("request.auth.") {
                Some(member) => Operand::Literal(self.of_auth(member)),
                None => match DateMacro::parse(name) {
                    Some(date) => Operand::Date(date),
                    None => return refuse(unknown(name, &shown)),
                },
            };
            return match (value, modifier) {
                (value, None) => Ok(value),
                (Operand::Literal(value), Some(Modifier::Lower)) => Ok(Operand::Literal(lower(value))),
                _ => refuse(format!("{shown}: only fields take :each and :length")),
            };
        }
        let literals = [
            ("null", Operand::Literal(Value::Null)),
            ("true", Operand::Flag(true)),
            ("false", Operand::Flag(false)),
        ];
        if let Some((_, literal)) = literals.into_iter().find(|(word, _)| name.eq_ignore_ascii_case(word)) {
            return match modifier {
                None => Ok(literal),
                Some(_) => refuse(format!("{shown}: only fields take :each, :length and :lower")),
            };
        }
        let parts: Vec<&str> = name.split('.').collect();
        if name.len() > MAX_FIELD_BYTES || parts.len() > MAX_PARTS || parts.contains(&"") {
            return refuse(format!(
                "a field has at most {MAX_FIELD_BYTES} bytes and {MAX_PARTS} parts between dots, none of them empty"
            ));
        }
        let is_typed = matches!(self.names, Names::Request(_));
        let field = match name {
            "id" if !is_typed => Field::Id,
            "created" if !is_typed => Field::Created,
            "updated" if !is_typed => Field::Updated,
            _ => Field::Path(parts.into_iter().map(str::to_owned).collect()),
        };
        Ok(Operand::Field(field, modifier))
    }

    fn of_auth(&self, member: &str) -> Value<'static> {
        let Names::Auth(auth) = self.names else { return Value::Null };
        let found = auth.0.iter().find(|(name, _)| *name == member);
        found.map_or(Value::Null, |(_, value)| Value::Text(value.clone().into()))
    }
}

/// The field of another collection: `name.field`, `name:alias.field`, with a modifier behind it. Its path begins with [`COLLECTION`].
fn of_collection(path: &str) -> Option<Operand> {
    let (collection, field) = path.split_once('.')?;
    let (collection, alias) = collection.split_once(':').unwrap_or((collection, ""));
    let (field, modifier) = match field.split_once(':') {
        None => (field, None),
        Some((field, "each")) => (field, Some(Modifier::Each)),
        Some((field, "length")) => (field, Some(Modifier::Length)),
        Some((field, "lower")) => (field, Some(Modifier::Lower)),
        Some(_) => return None,
    };
    let mut parts = vec![COLLECTION.to_owned(), collection.to_owned(), alias.to_owned()];
    parts.extend(field.split('.').map(str::to_owned));
    let is_path =
        field.len() <= MAX_FIELD_BYTES && parts.len() <= MAX_PARTS && !field.split('.').any(str::is_empty);
    is_path.then_some(Operand::Field(Field::Path(parts), modifier))
}

fn is_of_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':')
}

fn lower(value: Value<'static>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        value => Value::Text(value.text().to_ascii_lowercase().into()),
    }
}

/// The error of a name that begins with `@`.
fn unknown(name: &str, shown: &str) -> String {
    match name.split('.').next() {
        Some("request") => format!("{shown}: of a request only @request.auth.* is known here"),
        Some("collection") => format!("{shown}: other collections cannot be joined"),
        _ => format!("{shown}: there is no such name"),
    }
}

fn comparison(mut left: Operand, operator: Operator, is_any: bool, mut right: Operand) -> Comparison {
    let is_time = |operand: &Operand| {
        matches!(operand, Operand::Field(Field::Created | Field::Updated, None | Some(Modifier::Each)))
    };
    if is_time(&left) {
        as_time(&mut right);
    }
    if is_time(&right) {
        as_time(&mut left);
    }
    let pattern = match (operator, &right) {
        (Operator::Like | Operator::NotLike, Operand::Literal(value)) => Some(Like::of_literal(value.text())),
        (Operator::Like | Operator::NotLike, Operand::Flag(flag)) => {
            Some(Like::of_literal(Value::of_flag(*flag).text()))
        }
        _ => None,
    };
    Comparison { left, operator, is_any, right, pattern }
}

/// A date as PocketBase writes it, `2026-01-31 12:00`, becomes one as records have them.
fn as_time(operand: &mut Operand) {
    let Operand::Literal(Value::Text(text)) = operand else { return };
    let shape: String = text.chars().take(11).map(|c| if c.is_ascii_digit() { 'd' } else { c }).collect();
    if shape == "dddd-dd-dd " {
        *text = text.replacen(' ', "T", 1).into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::RequestAuth;
    use super::*;

    fn parsed(text: &str) -> Result<Node, ExpressionError> {
        parse(text, Names::Auth(RequestAuth(&[("id", "ada".to_owned())])))
    }

    fn good(text: &str) -> Node {
        parsed(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn and_binds_tighter_than_or_and_spelling_does_not_matter() {
        assert_eq!(good("a=1||b=2&&c=3"), good(" a = 1 // one\n || ( b = 2 && (c = 3) ) // end"));
        assert_ne!(good("a=1||b=2&&c=3"), good("(a=1||b=2)&&c=3"));
        assert_eq!(good(r#"a = "x'\"y\n""#), good(r#"a = 'x\'"y\n'"#));
        assert_eq!(good("a = TRUE"), good("a = true"));
        assert_eq!(good("a = -007.50"), good("a = -7.50"));
        assert_eq!(good("a = -0"), good("a = 0"));
        assert_eq!(good("a = @request.auth.id"), good("a = 'ada'"));
        assert_eq!(good("a = @request.auth.team"), good("a = null"));
        assert_eq!(
            good("created > '2026-11-30 08:00:00.000Z'"),
            good("created > '2026-11-30T08:00:00.000Z'")
        );
        assert_ne!(good("a > '2026-11-30 08:00'"), good("a > '2026-11-30T08:00'"));
        assert_ne!(good("a ?= 1"), good("a = 1"));
    }

    #[test]
    fn an_error_names_the_place_and_the_reason() {
        let deep = format!("{}a=1{}", "(".repeat(MAX_DEPTH + 1), ")".repeat(MAX_DEPTH + 1));
        let many = vec!["a=1"; MAX_COMPARISONS + 1].join("&&");
        let long = format!("a='{}'", "é".repeat(MAX_CHARACTERS));
        let parts = format!("{} = 1", ["a"; 17].join("."));
        for (text, at, part) in [
            ("", 1, "empty"),
            (" // nothing", 12, "empty"),
            ("a", 2, "operator"),
            ("é = 1", 1, "expected here"),
            ("a = é", 5, "expected here"),
            ("a == 1", 4, "expected here"),
            ("a = 1 b", 7, "the end"),
            ("a = 1 &&", 9, "expected here"),
            ("(a = 1", 7, "closing parenthesis"),
            ("a = 1)", 6, "the end"),
            ("a = 'x", 5, "closing quote"),
            ("a = 1e5", 5, "a number"),
            ("a = 1.", 5, "a number"),
            ("a = .5", 5, "expected here"),
            ("a = 1.2.3", 5, "a number"),
            ("a = 'é' && @collection.x.y = 1", 12, "joined"),
            ("@request.body.x = 1", 1, "@request.auth"),
            ("@request.auth.id:each = 1", 1, ":each"),
            ("@nothing = 1", 1, "no such name"),
            ("a:b = 1", 1, ":each"),
            ("a:each:lower = 1", 1, ":each"),
            ("a:isset = 1", 1, "body"),
            ("null:lower = 1", 1, "only fields"),
            ("a..b = 1", 1, "parts"),
            ("a. = 1", 1, "parts"),
            ("geoDistance(1, 2, 3, 4) < 5", 1, "geoDistance"),
            ("a = '\0'", 6, "NUL"),
            (&parts, 1, "parts"),
            (&deep, MAX_DEPTH + 1, "deep"),
            (&many, MAX_COMPARISONS * 5 + 1, "comparisons"),
            (&long, MAX_CHARACTERS + 1, "characters"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.message.contains(part) && error.message.len() < 200, "{text:.50}: {error}");
            assert_eq!(error.at, at, "{text:.50}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = parsed(&text);
        }

        #[test]
        fn no_mixture_of_tokens_makes_the_parser_panic(tokens in prop::collection::vec(prop::sample::select(vec![
            "a", "a.0", "@now", "@request.auth.id", ":each", ":lower", "(", ")", "&&", "||", "=", "?", "!", "~", "<",
            "\"", "'", "\\", "//", "\n", " ", "1", "-", ".", "é", "null", "#",
        ]), 0..40)) {
            let text = tokens.concat();
            if let Err(error) = parsed(&text) {
                prop_assert!((1..=text.chars().count() + 1).contains(&error.at), "{} {}", text, error);
            }
        }
    }
}
