//! Orders of typed records: `-created,author.name,title:lower,@random`.

use super::resolve::{Catalog, ResolveError, Resolver, Seen};
use super::sql::Compiler;
use super::{TypedPath, TypedSort};
use crate::records::expr::{ExpressionError, Modifier};
use crate::records::expression::Parameters;
use crate::time::Millis;

/// The most keys.
const MAX_KEYS: usize = 8;

/// A key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SortKey {
    by: SortBy,
    descends: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SortBy {
    Path(TypedPath),
    Random,
    /// The order of insertion.
    Row,
}

impl TypedSort {
    /// Parses an order of the collection with this id; an empty text is the order of insertion.
    ///
    /// # Errors
    ///
    /// [`ResolveError`].
    pub fn parse(
        text: &str,
        catalog: &dyn Catalog,
        collection: &str,
        sees: &dyn Fn(&str) -> Seen,
        is_trusted: bool,
    ) -> Result<Self, ResolveError> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let refuse = |message: String| ResolveError::from(ExpressionError { at: 1, message });
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        if names.len() > MAX_KEYS {
            return Err(refuse(format!("an order has at most {MAX_KEYS} keys")));
        }
        let key = |name: &str| -> Result<SortKey, ResolveError> {
            let descends = name.starts_with('-');
            let name = name.strip_prefix(['-', '+']).unwrap_or(name);
            let (field, modifier) = match name.split_once(':') {
                None => (name, None),
                Some((field, "lower")) => (field, Some(Modifier::Lower)),
                Some(_) => return Err(refuse("an order takes no other modifier than :lower".into())),
            };
            let by = match field {
                "@random" => SortBy::Random,
                "@rowid" => SortBy::Row,
                field => {
                    let names: Vec<String> = field.split('.').map(str::to_owned).collect();
                    let unknown = |part: &str| ResolveError::UnknownField {
                        side: "left",
                        operand: field.to_owned(),
                        field: part.to_owned(),
                    };
                    let resolver = Resolver { catalog, collection, sees, is_trusted };
                    SortBy::Path(resolver.path(&names, modifier, &unknown)?)
                }
            };
            Ok(SortKey { by, descends })
        };
        names.into_iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// The keys of an `order by`, each with its direction; the order of insertion is the last one.
    pub(in crate::records) fn compile(
        &self,
        table: &dyn Fn(&str) -> String,
        parameters: &mut Parameters,
    ) -> String {
        let mut keys: Vec<String> = Vec::new();
        for SortKey { by, descends } in &self.0 {
            let direction = if *descends { " desc" } else { "" };
            match by {
                SortBy::Random => keys.push("random()".into()),
                SortBy::Row => {
                    keys.extend(["created", "id"].map(|column| format!("{column}{direction}")));
                }
                SortBy::Path(path) => {
                    // A field of the record itself is never null, and an index on it is in the default order.
                    let is_never_null = path.hops.is_empty() && !path.is_json() && !path.is_guarded;
                    let nulls = match (is_never_null, descends) {
                        (true, _) => "",
                        (false, true) => " nulls last",
                        (false, false) => " nulls first",
                    };
                    let expressions = Compiler::new(Millis(0), table, parameters).order(path, *descends);
                    keys.extend(
                        expressions.into_iter().map(|expression| format!("{expression}{direction}{nulls}")),
                    );
                }
            }
        }
        keys.extend(["created".into(), "id".into()]);
        keys.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::corpus::Corpus;
    use super::*;

    #[test]
    fn orders_are_parsed_and_unknown_keys_are_refused() {
        let corpus = Corpus::read();
        let parse = |text: &str| {
            TypedSort::parse(text, &corpus, &corpus.collection("gpost").1.id, &|_| Seen::All, false)
        };
        for good in [
            "",
            "title",
            "-title, +n",
            "@random",
            "-@rowid",
            "title:lower",
            "author.name",
            "data.a",
            "place.lat",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let many = ["n"; MAX_KEYS + 1].join(",");
        for bad in [",", "nope", "title,", "title.x", "title:each", "author.nope", many.as_str()] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let mut parameters = Parameters::default();
        let sql = parse("-title,n").unwrap().compile(&|_| String::new(), &mut parameters);
        let number = "(case jsonb_typeof((data -> 'n')) when 'number' then ((data -> 'n'))::numeric \
                      when 'boolean' then ((data -> 'n'))::boolean::integer::numeric end)";
        assert_eq!(sql, format!("(data ->> 'title') collate \"C\" desc, {number}, created, id"));
    }
}
