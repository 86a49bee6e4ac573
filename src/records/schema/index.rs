//! Indexes, as clients write them: `CREATE UNIQUE INDEX name ON collection (a, b COLLATE NOCASE DESC) WHERE a != ''`.
//!
//! The text is parsed into its parts and never run: the store builds a statement of its own from them.

use super::violation::Violation;

/// The longest text of an index, in bytes.
const MAX_BYTES: usize = 4 * 1024;
/// The most columns of an index; Postgres has 32.
const MAX_COLUMNS: usize = 32;

/// The parts of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Whether values are unique.
    pub is_unique: bool,
    /// Its columns, at least one.
    pub columns: Vec<IndexColumn>,
    /// Conditions that all have to hold for a record to be in the index.
    pub conditions: Vec<IndexCondition>,
}

/// A column of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexColumn {
    /// The field.
    pub field: String,
    /// Whether ASCII letters of either case are alike (`COLLATE NOCASE`, `lower(…)`).
    pub ignores_case: bool,
    /// Whether the order descends.
    pub descends: bool,
}

/// A condition of an index: a field against a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexCondition {
    /// The field.
    pub field: String,
    /// One of `=`, `<>`, `<`, `<=`, `>`, `>=`.
    pub operator: &'static str,
    /// The constant's text. `None`: null.
    pub value: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word or a number, as written.
    Word(String),
    /// A name in backticks or brackets.
    Name(String),
    /// A text in single quotes, or in double quotes, which may also be a name.
    Text(String, bool),
    Sign(&'static str),
}

const SIGNS: [&str; 13] = ["<>", "!=", "==", "<=", ">=", "(", ")", ",", ";", ".", "=", "<", ">"];

impl Index {
    /// Parses the text of an index.
    ///
    /// # Errors
    ///
    /// The violation of a text that is none, or has more than columns and comparisons with constants.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        let tokens = (text.len() <= MAX_BYTES).then(|| tokens(text)).flatten();
        let index = tokens.and_then(|tokens| Parser { tokens, at: 0 }.index());
        index.ok_or_else(|| Violation::new("invalid_index_expression", "Invalid CREATE INDEX expression."))
    }

    /// The fields that it names, in its columns and its conditions.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns.iter().map(|column| column.field.as_str());
        columns.chain(self.conditions.iter().map(|condition| condition.field.as_str()))
    }

    /// Its text for another collection, as PocketBase writes it.
    pub fn text(&self, collection: &str) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let collate = if column.ignores_case { " COLLATE NOCASE" } else { "" };
                let order = if column.descends { " DESC" } else { "" };
                format!("`{}`{collate}{order}", column.field)
            })
            .collect();
        let conditions: Vec<String> = self
            .conditions
            .iter()
            .map(|condition| match (&condition.value, condition.operator) {
                (None, "=") => format!("`{}` IS NULL", condition.field),
                (None, _) => format!("`{}` IS NOT NULL", condition.field),
                (Some(value), operator) => {
                    format!("`{}` {operator} '{}'", condition.field, value.replace('\'', "''"))
                }
            })
            .collect();
        let unique = if self.is_unique { "UNIQUE " } else { "" };
        let filter = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        format!("CREATE {unique}INDEX `{}` ON `{collection}` ({}){filter}", self.name, columns.join(", "))
    }
}

/// The tokens of a text. `None`: a quote is not closed, or there is something else.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '`' => quoted(rest, '`').map(|(text, length)| (Token::Name(text), length))?,
            '[' => {
                let end = rest.find(']')?;
                (Token::Name(rest.get(1..end)?.to_owned()), end + 1)
            }
            '"' => quoted(rest, '"').map(|(text, length)| (Token::Text(text, true), length))?,
            '\'' => quoted(rest, '\'').map(|(text, length)| (Token::Text(text, false), length))?,
            c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') => {
                let is_of_word = |(at, byte): &(usize, u8)| {
                    byte.is_ascii_alphanumeric()
                        || *byte == b'_'
                        || (*at == 0 && *byte == b'-')
                        || (c.is_ascii_digit() || c == '-') && *byte == b'.'
                };
                let length = rest.bytes().enumerate().take_while(is_of_word).count();
                (Token::Word(rest.get(..length)?.to_owned()), length)
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign))?;
                (Token::Sign(sign), sign.len())
            }
        };
        tokens.push(token);
        rest = rest.get(length..)?.trim_start();
    }
    Some(tokens)
}

/// A text in quotes, each of which is doubled within, and its length with them.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return Some((text, at + 1));
        }
        text.push(character);
    }
    None
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn index(&mut self) -> Option<Index> {
        self.word("create")?;
        let is_unique = self.word("unique").is_some();
        self.word("index")?;
        if self.word("if").is_some() {
            self.word("not")?;
            self.word("exists")?;
        }
        let mut name = self.name()?;
        if self.sign(".").is_some() {
            name = self.name()?;
        }
        self.word("on")?;
        self.name()?;
        self.sign("(")?;
        let mut columns = vec![self.column()?];
        while self.sign(",").is_some() {
            columns.push(self.column()?);
        }
        self.sign(")")?;
        let mut conditions = Vec::new();
        if self.word("where").is_some() {
            conditions.push(self.condition()?);
            while self.word("and").is_some() {
                conditions.push(self.condition()?);
            }
        }
        while self.sign(";").is_some() {}
        let is_whole = self.at == self.tokens.len() && columns.len() <= MAX_COLUMNS && !name.is_empty();
        is_whole.then_some(Index { name, is_unique, columns, conditions })
    }

    fn column(&mut self) -> Option<IndexColumn> {
        let is_lower = self.word("lower").is_some();
        if is_lower {
            self.sign("(")?;
        }
        let field = self.name()?;
        if is_lower {
            self.sign(")")?;
        }
        let mut ignores_case = is_lower;
        if self.word("collate").is_some() {
            match self.name()?.to_ascii_lowercase().as_str() {
                "nocase" => ignores_case = true,
                "binary" => {}
                _ => return None,
            }
        }
        let descends = self.word("desc").is_some();
        if !descends {
            let _default = self.word("asc");
        }
        Some(IndexColumn { field, ignores_case, descends })
    }

    fn condition(&mut self) -> Option<IndexCondition> {
        let is_grouped = self.sign("(").is_some();
        let field = self.name()?;
        let condition = if self.word("is").is_some() {
            let operator = if self.word("not").is_some() { "<>" } else { "=" };
            self.word("null")?;
            IndexCondition { field, operator, value: None }
        } else {
            let operator = match self.next()? {
                Token::Sign("=" | "==") => "=",
                Token::Sign("!=" | "<>") => "<>",
                Token::Sign(sign @ ("<" | "<=" | ">" | ">=")) => sign,
                _ => return None,
            };
            let value = match self.next()? {
                Token::Text(text, _) => text,
                Token::Word(word) if word.eq_ignore_ascii_case("true") => "1".into(),
                Token::Word(word) if word.eq_ignore_ascii_case("false") => "0".into(),
                Token::Word(word) if super::parse_number(&word).is_some_and(f64::is_finite) => word,
                _ => return None,
            };
            IndexCondition { field, operator, value: Some(value) }
        };
        if is_grouped {
            self.sign(")")?;
        }
        Some(condition)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is_next =
            matches!(self.tokens.get(self.at), Some(Token::Word(next)) if next.eq_ignore_ascii_case(word));
        self.at += usize::from(is_next);
        is_next.then_some(())
    }

    fn sign(&mut self, sign: &str) -> Option<()> {
        let is_next = matches!(self.tokens.get(self.at), Some(Token::Sign(next)) if *next == sign);
        self.at += usize::from(is_next);
        is_next.then_some(())
    }

    fn name(&mut self) -> Option<String> {
        let name = match self.tokens.get(self.at)? {
            Token::Word(name) if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
                name.clone()
            }
            Token::Name(name) | Token::Text(name, true) => name.clone(),
            _ => return None,
        };
        self.at += 1;
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(field: &str, ignores_case: bool, descends: bool) -> IndexColumn {
        IndexColumn { field: field.into(), ignores_case, descends }
    }

    #[test]
    fn the_parts_of_an_index_are_found_in_every_spelling() {
        let index = Index::parse(
            "Create unique index IF NOT EXISTS `foo` on `cp` ( `qq`  desc, [id], lower(\"a\"), b collate nocase asc ) \
             where qq != \"\" AND (n >= -1.5) and `x` is not null;",
        );
        let index = index.unwrap();
        assert_eq!((index.name.as_str(), index.is_unique), ("foo", true));
        assert_eq!(
            index.columns,
            [
                column("qq", false, true),
                column("id", false, false),
                column("a", true, false),
                column("b", true, false)
            ]
        );
        let conditions: Vec<_> = index
            .conditions
            .iter()
            .map(|one| (one.field.as_str(), one.operator, one.value.as_deref()))
            .collect();
        assert_eq!(conditions, [("qq", "<>", Some("")), ("n", ">=", Some("-1.5")), ("x", "<>", None)]);
        assert_eq!(index.fields().collect::<Vec<_>>(), ["qq", "id", "a", "b", "qq", "n", "x"]);
        assert_eq!(Index::parse(&index.text("other")).unwrap(), index);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "Create index bad",
            "CREATE INDEX f1 ON cp (qq); drop table cp",
            "CREATE INDEX f1 ON cp (qq, abs(n))",
            "CREATE INDEX f1 ON cp ()",
            "CREATE INDEX f1 ON cp (qq) WHERE",
            "CREATE INDEX f1 ON cp (qq) WHERE qq = (select 1)",
            "CREATE INDEX f1 ON cp (qq) WHERE qq = other",
            "CREATE INDEX f1 ON cp (qq) WHERE a = 1 or b = 2",
            "CREATE INDEX ON cp (qq)",
            "CREATE INDEX `` ON cp (qq)",
            "CREATE INDEX f1 ON cp (`qq)",
            "CREATE INDEX f1 ON cp (qq COLLATE \"de_DE\")",
            "CREATE INDEX f1 ON cp (qq) -- x",
        ] {
            assert_eq!(Index::parse(text).unwrap_err().message, "Invalid CREATE INDEX expression.", "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,80}", near in "(create|unique|index|on|where|is|not|null|and|[a-z]|[`'\"(),;=<>!.\\[\\]-]| ){0,20}") {
            let _ = Index::parse(&text);
            let _ = Index::parse(&near);
        }

        #[test]
        fn a_written_index_is_read_as_itself(
            name in "[a-z_][a-z0-9_]{0,9}", fields in prop::collection::vec("[a-zA-Z_][a-z0-9_]{0,9}", 1..5),
            flags in prop::collection::vec(any::<(bool, bool)>(), 5), is_unique: bool, value in "[^\\x00]{0,12}"
        ) {
            let columns = fields.iter().zip(&flags).map(|(field, flags)| column(field, flags.0, flags.1)).collect();
            let conditions = vec![IndexCondition { field: "x".into(), operator: "<>", value: Some(value) }];
            let index = Index { name, is_unique, columns, conditions };
            prop_assert_eq!(Index::parse(&index.text("posts")).unwrap(), index);
        }
    }
}
