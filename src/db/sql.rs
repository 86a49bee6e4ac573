//! The statements of `sql/`, loaded at compile time by one macro.

use std::sync::OnceLock;

/// A statement from `sql/`.
///
/// * `sql!("conversations/lock.sql")`: its text, for a statement that names no schema and has no placeholder.
/// * `sql!(database, "conversations/get.sql")`: its text for the schema of a [`Database`](super::Database).
/// * `sql!(database, "conversations/list.sql", mine = OF_OWNER)`: the same with `{mine}` substituted. Values have to be the same at
///   every use, as the substitution happens once.
///
/// All are `&'static str`.
macro_rules! sql {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/", $path))
    };
    ($database:expr, $path:literal $(, $name:ident = $value:expr)* $(,)?) => {{
        static TEXT: $crate::db::SqlText = $crate::db::SqlText::new();
        let database: &$crate::db::Database = &$database;
        TEXT.get(database.schema(), || {
            let text = $crate::db::sql!($path);
            $(let text = text.replace(concat!("{", stringify!($name), "}"), &$value);)*
            database.sql(&text)
        })
    }};
}
pub(crate) use sql;

/// The text of a statement for each schema that it was used with: one in a service, a few in a test.
#[derive(Debug)]
pub struct SqlText(OnceLock<Box<Substituted>>);

#[derive(Debug)]
struct Substituted {
    schema: Box<str>,
    text: String,
    next: SqlText,
}

impl SqlText {
    /// A text that was not used yet.
    #[expect(clippy::new_without_default, reason = "only `sql!` makes one, in a static")]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The text for a schema, from `substitute` at its first use.
    pub fn get(&'static self, schema: &str, substitute: impl Fn() -> String) -> &'static str {
        let mut slot = self;
        loop {
            let new =
                || Box::new(Substituted { schema: schema.into(), text: substitute(), next: Self::new() });
            let known = slot.0.get_or_init(new);
            if *known.schema == *schema {
                return &known.text;
            }
            slot = &known.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_substituted_once_for_each_schema() {
        static TEXT: SqlText = SqlText::new();
        let made = std::cell::Cell::new(0);
        let text = |schema: &str| {
            TEXT.get(schema, || {
                made.set(made.get() + 1);
                format!("select from {schema}.t")
            })
        };
        for schema in ["a", "b", "a", "b", "c"] {
            assert_eq!(text(schema), format!("select from {schema}.t"));
        }
        assert_eq!(made.get(), 3);
    }

    #[test]
    fn a_file_is_found_from_any_module() {
        assert!(sql!("conversations/lock.sql").contains("pg_advisory_xact_lock"));
    }
}
