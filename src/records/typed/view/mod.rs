//! Queries of view collections: SQLite's SQL, checked and written anew for Postgres.
//!
//! The text is parsed by `sqlparser`. From the tree this module writes a query of its own, of the constructs and the functions that it knows, over
//! the tables of collections; no text of the client's stands in it but literals, quoted anew, so everything that is not written here is refused.
//! Columns have the types of their fields, and values are converted as SQLite does.
//!
//! ```text
//! viewQuery ─▶ parsed ─▶ query.rs (selects, joins, groups) ─▶ expression.rs, function.rs ─▶ value.rs (types) ─▶ SQL over (id, created, updated, data)
//!                           └─ fields: of columns those of their collections, of casts and counts numbers, else JSON
//! ```
//!
//! A view's query is a Postgres view of the shape of a collection's table, so that filters, orders and relations work on it as on a table.

mod catalog;
mod expression;
mod fields;
mod function;
mod query;
mod value;

use std::collections::BTreeMap;

use sqlparser::ast::{Query, Statement};
use sqlparser::dialect::SQLiteDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Tokenizer};

use super::catalog::Definitions;
use crate::records::schema::Field;
pub(super) use catalog::{Views, settled, tables};

/// The longest query, in bytes.
const MAX_BYTES: usize = 5_000;
/// The deepest nesting of parentheses.
const MAX_PARENTHESES: usize = 24;
/// The most operators and keywords. The parser nests a chain of operators without end, and a tree is copied and dropped by recursion.
const MAX_OPERATORS: usize = 500;
/// The stack of the thread that parses and writes: several times what the deepest query takes without optimization. Unused pages of it are no
/// memory.
const STACK_BYTES: usize = 32 << 20;
/// The deepest nesting that the parser follows.
const MAX_PARSED_DEPTH: usize = 50;
/// The most bytes of the SQL that is written.
const MAX_WRITTEN_BYTES: usize = 200_000;
/// The most tables that a query reads, by other views too: each of them multiplies the work.
const MAX_TABLES: usize = 64;

/// A refused query, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct ViewError(String);

impl ViewError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// A construct that this module does not write.
    fn unknown(construct: &str) -> Self {
        Self(format!("{construct} is not supported in views"))
    }
}

/// A query for Postgres.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WrittenView {
    /// A select of the columns of a collection's table. A collection's table is its name between `\0`, which is in no query.
    sql: String,
    /// The fields of its records.
    pub(super) fields: Vec<Field>,
    /// The places of the collections that it reads, and how often.
    pub(super) sources: BTreeMap<usize, usize>,
}

impl WrittenView {
    /// Writes the query of a view for Postgres.
    ///
    /// # Errors
    ///
    /// [`ViewError`], if SQLite or this module does not know it.
    pub(super) fn of(text: &str, definitions: &Definitions) -> Result<Self, ViewError> {
        on_own_stack(|| Self::written(text, definitions))
    }

    fn written(text: &str, definitions: &Definitions) -> Result<Self, ViewError> {
        let query = parsed(text)?;
        let mut compiler = query::Compiler::new(definitions);
        let (sql, columns, is_ordered) = compiler.view(&query)?;
        let fields = fields::infer(&columns)?;
        let sql = fields::records(&sql, &columns, &fields, is_ordered)?;
        if sql.len() > MAX_WRITTEN_BYTES {
            return Err(ViewError::new("the query is too complex"));
        }
        Ok(Self { sql, fields, sources: compiler.sources() })
    }

    /// The text of a query with other names of collections, which are by their places. `None`: it has none of them.
    pub(super) fn renamed(
        text: &str,
        definitions: &Definitions,
        names: &BTreeMap<usize, String>,
    ) -> Option<String> {
        let named = on_own_stack(|| {
            let query = parsed(text)?;
            let mut compiler = query::Compiler::new(definitions);
            compiler.view(&query)?;
            Ok(compiler.names_of_tables())
        });
        let mut renamed = text.to_owned();
        let mut has_changed = false;
        // From the end, so that the places before it stay.
        for ((begin, end), at) in named.ok()?.into_iter().rev() {
            let Some(name) = names.get(&at) else { continue };
            let (begin, end) = (offset(text, begin)?, offset(text, end)?);
            renamed.get(begin..end)?;
            renamed.replace_range(begin..end, &format!("\"{name}\""));
            has_changed = true;
        }
        has_changed.then_some(renamed)
    }

    /// The SQL, with the tables that `table` names.
    pub(super) fn sql(&self, table: impl Fn(&str) -> Option<String>) -> Option<String> {
        let mut parts = self.sql.split('\0');
        let mut sql = parts.next().unwrap_or_default().to_owned();
        while let (Some(name), Some(rest)) = (parts.next(), parts.next()) {
            sql.push_str(&table(name)?);
            sql.push_str(rest);
        }
        Some(sql)
    }
}

/// Runs what recurses over a query's tree on a thread with a stack of its own: the parser's frames are large, those of a build without
/// optimization much larger than the stacks of other threads allow for. It takes moments.
fn on_own_stack<T: Send>(step: impl FnOnce() -> Result<T, ViewError> + Send) -> Result<T, ViewError> {
    let failed = || ViewError::new("the query cannot be read: there is no thread for it");
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("view".into()).stack_size(STACK_BYTES).spawn_scoped(scope, step);
        thread.map_or_else(|_| Err(failed()), |thread| thread.join().unwrap_or_else(|_| Err(failed())))
    })
}

/// The byte of a line and a column, which count from 1 on.
fn offset(text: &str, (line, column): (u64, u64)) -> Option<usize> {
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    let before: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let characters = text.get(before..)?.chars().take(column.checked_sub(1)?);
    Some(before + characters.map(char::len_utf8).sum::<usize>())
}

/// The words of a query, in lower case: the names of the collections that it reads are among them.
fn words(text: &str) -> Vec<String> {
    let tokens = Tokenizer::new(&SQLiteDialect {}, text).tokenize().unwrap_or_default();
    let word = |token: Token| match token {
        Token::Word(word) => Some(word.value.to_ascii_lowercase()),
        _ => None,
    };
    tokens.into_iter().filter_map(word).collect()
}

/// The one select of a text.
fn parsed(text: &str) -> Result<Query, ViewError> {
    if text.len() > MAX_BYTES {
        return Err(ViewError::new(format!("a query has at most {MAX_BYTES} bytes")));
    }
    if text.contains('\0') {
        return Err(ViewError::new("a query has no \\0"));
    }
    let refuse = |error: ParserError| match error {
        ParserError::TokenizerError(reason) | ParserError::ParserError(reason) => ViewError::new(reason),
        ParserError::RecursionLimitExceeded => ViewError::new("the query is nested too deep"),
    };
    let dialect = SQLiteDialect {};
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| refuse(error.into()))?;
    let (mut depth, mut operators) = (0_usize, 0_usize);
    for token in &tokens {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Whitespace(_) | Token::Comma | Token::Period | Token::Number(..) => {}
            Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) => {}
            Token::Word(word) if word.keyword == Keyword::NoKeyword => {}
            _ => operators += 1,
        }
        if operators > MAX_OPERATORS {
            return Err(ViewError::new("the query is too complex"));
        }
        if depth > MAX_PARENTHESES {
            return Err(ViewError::new("the query is nested too deep"));
        }
    }
    let mut parser =
        Parser::new(&dialect).with_recursion_limit(MAX_PARSED_DEPTH).with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements().map_err(refuse)?;
    match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Query(query)), true) => Ok(*query),
        (_, false) => Err(ViewError::new("multiple statements are not supported")),
        _ => Err(ViewError::new("the query is one SELECT")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::catalog::DefinedCollection;
    use super::*;
    use crate::records::schema::Definition;
    use crate::time::Millis;

    fn definitions() -> Definitions {
        let bodies = [
            json!({"name": "posts", "fields": [
                {"name": "title", "type": "text"}, {"name": "n", "type": "number"}, {"name": "tags", "type": "json"},
            ]}),
            json!({"name": "users", "type": "auth", "fields": []}),
        ];
        let now = Millis(0);
        let all = bodies.iter().zip(1..).map(|(body, number)| {
            let (name, definition) = Definition::create(body).unwrap();
            DefinedCollection { number, name, definition, created: now, updated: now }
        });
        Definitions::new(all.collect())
    }

    fn written(query: &str) -> Result<String, String> {
        let written = WrittenView::of(query, &definitions()).map_err(|error| error.to_string())?;
        Ok(written.sql(|name| Some(format!("t_{name}"))).unwrap())
    }

    #[test]
    fn only_collections_and_known_functions_are_read() {
        for (query, reason) in [
            ("SELECT id, rolname from pg_catalog.pg_roles", "no such table: pg_catalog.pg_roles"),
            ("SELECT id from pg_roles", "no such table: pg_roles"),
            ("SELECT id from records_1", "no such table: records_1"),
            ("SELECT id from information_schema.tables", "no such table: information_schema.tables"),
            ("SELECT id from sqlite_master", "no such table: sqlite_master"),
            ("SELECT id, password from users", "the column password cannot be read"),
            ("SELECT u.id, u.tokenKey from users u", "the column tokenKey cannot be read"),
            ("SELECT id from users where tokenkey like 'a%'", "the column tokenKey cannot be read"),
            ("SELECT id from users order by password", "the column password cannot be read"),
            ("SELECT posts.id from posts join users using (password)", "not present in both tables"),
            ("SELECT id, pg_sleep(10) as s from posts", "no such function: pg_sleep"),
            ("SELECT id, pg_read_file('/etc/passwd') as s from posts", "no such function: pg_read_file"),
            ("SELECT id, pg_catalog.lower(title) as s from posts", "no such function: pg_catalog.lower"),
            ("SELECT id, data as s from posts", "no such column: data"),
            ("SELECT id, version as s from posts", "no such column: version"),
            ("SELECT id, posts as s from posts", "no such column: posts"),
            ("SELECT id, title::regclass as s from posts", ""),
            ("SELECT id, cast(title as regclass) as s from posts", "not supported"),
            ("SELECT id, row_to_json(posts) as s from posts", "no such function"),
            ("SELECT id from posts for update", "not supported"),
            ("SELECT id into x from posts", "not supported"),
            ("SELECT id, $1 as s from posts", "parameters"),
            ("SELECT id, ? as s from posts", "parameters"),
            (
                "with recursive x as (select 1 as id union all select id from x) select id from x",
                "WITH RECURSIVE",
            ),
            ("SELECT id from posts; select id from posts", "multiple statements"),
            ("DELETE from posts", "one SELECT"),
            ("with x as (delete from posts returning id) select id from x", "one SELECT"),
            ("SELECT id from generate_series(1, 10)", "not supported"),
            ("SELECT id, \0 from posts", "\\0"),
            ("values (1)", "not supported"),
            ("table posts", "an SQL statement"),
        ] {
            let error = written(query).unwrap_err();
            assert!(error.contains(reason), "{query}: {error}");
        }
    }

    #[test]
    fn a_renamed_collection_is_renamed_where_a_query_names_it() {
        let names = BTreeMap::from([(0, "articles".to_owned())]);
        let renamed = |query: &str| WrittenView::renamed(query, &definitions(), &names);
        assert_eq!(
            renamed("SELECT posts.id, 'posts' as posts,\n é.id as x from posts join `users` é on é.id = Posts.title").as_deref(),
            Some("SELECT \"articles\".id, 'posts' as posts,\n é.id as x from \"articles\" join `users` é on é.id = \"articles\".title")
        );
        assert_eq!(
            renamed("with posts as (select id from [posts]) select posts.id from posts").as_deref(),
            Some("with posts as (select id from \"articles\") select posts.id from posts")
        );
        assert_eq!(renamed("SELECT id from users"), None);
    }

    #[test]
    fn texts_of_a_query_are_quoted_anew() {
        let sql =
            written("SELECT id, 'a''b\\ $v$; drop table x; --' as s, \"it''s\" as d from posts").unwrap();
        assert!(sql.contains("$vv$a'b\\ $v$; drop table x; --$vv$"), "{sql}");
        assert!(sql.contains("t_posts as s1"), "{sql}");
    }

    #[test]
    fn a_grouped_id_decides_its_other_columns_and_other_columns_are_of_one_row() {
        let sql = written("SELECT id, title, count(*) as c from posts group by id").unwrap();
        assert!(!sql.contains("array_agg"), "{sql}");
        let sql = written("SELECT n as id, title, count(*) as c from posts group by n").unwrap();
        assert_eq!(sql.matches("array_agg").count(), 1, "{sql}");
        let sql = written("SELECT n as id, title, max(n) as c from posts group by n").unwrap();
        assert!(sql.contains("desc nulls last))[1]"), "{sql}");
    }

    #[test]
    fn no_query_takes_long_or_much() {
        let deep = |open: &str, close: &str, times: usize| {
            format!("SELECT id, {}n{} as x from posts", open.repeat(times), close.repeat(times))
        };
        let chains = ["+", "||", "and", "/", "collate nocase ="];
        let mut queries: Vec<String> = chains
            .iter()
            .map(|op| format!("SELECT id, n{} as x from posts", format!(" {op} n").repeat(450)))
            .collect();
        for (open, close) in [
            ("(", ")"),
            ("- ", ""),
            ("not ", ""),
            ("(select ", ")"),
            ("case ", " when 1 then 2 when 2 then 3 end"),
            ("coalesce(1, ", ")"),
            ("cast(", " as text)"),
            ("1 between 1 and ", ""),
            ("strftime('%Y', ", ")"),
            ("5 / ", ""),
        ] {
            queries.extend([5, 20, 60, 400].map(|times| deep(open, close, times)));
        }
        // As deep as they may be, and deeper.
        queries.push(format!("SELECT id, {}1 as x from posts", "1+".repeat(490)));
        queries.push(format!("SELECT id, {}1 from posts", "1||".repeat(490)));
        queries.push(format!("SELECT id, {}1 from posts", "1+".repeat(2_000)));
        for times in [5, 20, 60, 200, 700] {
            queries.push(format!("SELECT id from {}posts{}", "(".repeat(times), ")".repeat(times)));
            queries.push(format!("SELECT id from posts where {}1", "exists (select ".repeat(times)));
            queries.push(format!("SELECT 1 as id{}", " union select 1".repeat(times)));
            queries.push(format!("SELECT p1.id from posts p1{}", " join posts".repeat(times)));
        }
        for query in queries {
            let begun = Instant::now();
            let length = written(&query).map_or_else(|reason| reason.len(), |sql| sql.len());
            assert!(length <= 2 * MAX_WRITTEN_BYTES, "{}", &query[..60]);
            assert!(begun.elapsed().as_secs() < 2, "{}", &query[..60]);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}", words in prop::collection::vec(prop::sample::select(vec![
            "select", "from", "where", "group by", "order by", "having", "limit", "id", "title", "n", "tags", "posts", "users", "p", "as",
            "join", "left join", "on", "using", "(", ")", ",", ".", "*", "+", "-", "/", "%", "||", "=", "<", "<>", "and", "or", "not", "in",
            "between", "like", "is", "null", "true", "1", "2.5", "'x'", "\"y\"", "`z`", "[w]", "count(", "max(", "coalesce(", "cast(", "as int)",
            "case", "when", "then", "else", "end", "union", "union all", "with", "exists", "over (", "partition by", "distinct", "desc", "->", ";",
        ]), 0..30)) {
            let _ = written(&text);
            let _ = written(&format!("SELECT id, {}", words.join(" ")));
            let _ = written(&words.join(" "));
        }
    }
}
