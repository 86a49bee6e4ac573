//! The names of watched tables, as clients and the feed spell them.

use std::fmt;

/// The longest identifier of Postgres, in bytes.
const MAX_IDENTIFIER_BYTES: usize = 63;

/// The name of a table with its schema: `app.orders`.
///
/// Each part is literal, without Postgres' folding to lower case. A part with a dot or a quote is in double quotes, a quote in it doubled,
/// as in SQL; other parts may be quoted too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

impl TableName {
    /// Reads a name; `None`: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (schema, rest) = part(text)?;
        let (table, rest) = part(rest.strip_prefix('.')?)?;
        rest.is_empty().then_some(Self { schema, table })
    }

    /// The topic of the feed to which its triggers write.
    pub fn topic(&self) -> String {
        format!("table:{self}")
    }
}

/// The part at the beginning of a text, and what follows.
fn part(text: &str) -> Option<(String, &str)> {
    let (part, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let (mut part, mut rest) = (String::new(), quoted);
            loop {
                let (plain, behind) = rest.split_once('"')?;
                part.push_str(plain);
                match behind.strip_prefix('"') {
                    Some(more) => {
                        part.push('"');
                        rest = more;
                    }
                    None => break (part, behind),
                }
            }
        }
        None => {
            let (plain, rest) = text.split_at_checked(text.find('.').unwrap_or(text.len()))?;
            (plain.to_owned(), rest)
        }
    };
    let is_identifier = (1..=MAX_IDENTIFIER_BYTES).contains(&part.len()) && !part.contains('\0');
    let is_spelled = text.starts_with('"') || !part.contains('"');
    (is_identifier && is_spelled).then_some((part, rest))
}

/// As the feed spells it: in quotes only where it has to be.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spelled = |part: &str| match part.contains(['.', '"']) {
            true => format!("\"{}\"", part.replace('"', "\"\"")),
            false => part.to_owned(),
        };
        write!(f, "{}.{}", spelled(&self.schema), spelled(&self.table))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_two_parts_each_plain_or_quoted() {
        for (text, schema, table, spelled) in [
            ("app.orders", "app", "orders", "app.orders"),
            ("App.Order lines, ä", "App", "Order lines, ä", "App.Order lines, ä"),
            ("\"app\".\"orders\"", "app", "orders", "app.orders"),
            ("\"a.b\".\"say \"\"x\"\"\"", "a.b", "say \"x\"", "\"a.b\".\"say \"\"x\"\"\""),
        ] {
            let name = TableName::parse(text).unwrap();
            assert_eq!((name.schema.as_str(), name.table.as_str()), (schema, table));
            assert_eq!(name.to_string(), spelled);
        }
        for text in ["", ".", "a", "a.", ".b", "a.b.c", "\"a.b", "\"a\"b.c", "a\"b.c", "\"\".b", "a.b\0"] {
            assert_eq!(TableName::parse(text), None, "{text:?}");
        }
        assert_eq!(TableName::parse(&format!("a.{}", "x".repeat(64))), None);
    }

    proptest! {
        #[test]
        fn every_name_is_read_as_it_is_spelled(schema in "[^\0]{1,15}", table in "[^\0]{1,15}", text in ".{0,20}") {
            let name = TableName { schema, table };
            prop_assert_eq!(TableName::parse(&name.to_string()), Some(name));
            let _ = TableName::parse(&text);
        }
    }
}
