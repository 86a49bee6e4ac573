//! The functions of a route (`sql/routes/trigger.sql`, `apply.sql`).
//!
//! The parts that come from users are put in last and once, so nothing in them is a placeholder; they were parsed as one statement before.

use std::fmt::Write;

use crate::db::sql;

/// Events that are tried together where a batch fails. A single bad row costs the rows of its chunk a second attempt.
const CHUNK: usize = 64;

/// A column of the target, quoted.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) quoted: String,
    /// The type, without its modifier.
    pub(super) sql_type: String,
}

/// What a route's functions do.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The target, quoted.
    pub(super) target: &'a str,
    /// The columns of the select, as they are in the target.
    pub(super) columns: &'a [Column],
    /// The columns of the key, of those.
    pub(super) key: &'a [Column],
    pub(super) select: &'a str,
    pub(super) on_conflict: Option<&'a str>,
    pub(super) strict: bool,
    pub(super) serial: bool,
    /// Whether the select aggregates.
    pub(super) whole: bool,
}

impl Plan<'_> {
    /// The insert. `events`: an expression for an array of events that stands for the batch; `None`: the transition table does.
    ///
    /// The rows of a key are reduced to the last one, and inserted in the key's order: twice one key in a statement is an error, and two
    /// writers with other orders block each other for ever. A row with a null in its key is no other row's double.
    pub(super) fn insert(&self, events: Option<&str>) -> String {
        let array = sql!("routes/events_of_array.sql");
        self.insert_over(&events.map_or_else(String::new, |events| fill(array, &[("events", events)])))
    }

    /// The insert over the events that the clause `batch` names.
    pub(super) fn insert_over(&self, batch: &str) -> String {
        let names = |prefix: &str, columns: &[Column]| {
            let names = columns.iter().map(|column| format!("{prefix}{}", column.quoted));
            names.collect::<Vec<_>>().join(", ")
        };
        let is_key = |column: &Column| self.key.iter().any(|key| key.quoted == column.quoted);
        let typed = self.columns.iter().map(|column| match is_key(column) {
            true => format!("cast(route_one.{0} as {1}) as {0}", column.quoted, column.sql_type),
            false => format!("route_one.{}", column.quoted),
        });
        let template =
            if self.key.is_empty() { sql!("routes/rows.sql") } else { sql!("routes/rows_by_key.sql") };
        let parts = [
            ("target", self.target),
            ("columns", &names("", self.columns)),
            ("events", batch),
            ("row_columns", &names("route_row.", self.columns)),
            ("row_key", &names("route_row.", self.key)),
            ("typed_columns", &typed.collect::<Vec<_>>().join(", ")),
            ("typed_key", &names("route_typed.", self.key)),
            ("select", self.select),
        ];
        let mut sql = fill(template, &parts);
        let clause = match self.on_conflict {
            Some(clause) => Some(clause.trim().to_owned()),
            None if self.key.is_empty() => None,
            None => Some(self.update()),
        };
        if let Some(clause) = clause {
            let key = if self.key.is_empty() { String::new() } else { format!("({}) ", names("", self.key)) };
            let _infallible = write!(sql, "\non conflict {key}{clause}\n");
        }
        sql
    }

    /// The clause for conflicts where a key has none: the other columns are updated.
    fn update(&self) -> String {
        let others =
            self.columns.iter().filter(|column| !self.key.iter().any(|key| key.quoted == column.quoted));
        let set: Vec<String> = others.map(|column| format!("{0} = excluded.{0}", column.quoted)).collect();
        if set.is_empty() { "do nothing".to_owned() } else { format!("do update set {}", set.join(", ")) }
    }

    /// The statements that make the functions: that of the trigger and `apply`, from their templates.
    pub(super) fn functions(&self, function: &str, id: i32, [trigger, apply]: [&str; 2]) -> [String; 2] {
        const ROW_FAULTS: &str = "when data_exception or integrity_constraint_violation or program_limit_exceeded or plpgsql_error then raise;";
        const PROBED: &str =
            "if current_setting('tidegate.routes', true) = 'strict' then return null; end if;";
        let id = id.to_string();
        let serial = if self.serial { literal(self.target) } else { "null".to_owned() };
        let chunk = CHUNK.to_string();
        let on = |is_on: bool, text: &'static str| if is_on { text } else { "" };
        let (set, array) = (self.insert(None), self.insert(Some("route_rows")));
        let quote = quote_outside(&[&set, &array]);
        let parts = |insert| {
            [
                ("function", function),
                ("quote", &quote),
                ("id", &id),
                ("serial", &serial),
                ("chunk", &chunk),
                ("probed", on(!self.strict, PROBED)),
                ("strict", on(self.strict, "raise;")),
                ("strict_outer", on(self.strict, ROW_FAULTS)),
                ("whole", on(self.whole, sql!("routes/whole.sql"))),
                ("insert", insert),
            ]
        };
        [fill(trigger, &parts(&set)), fill(apply, &parts(&array))]
    }
}

/// Replaces each `{name}` of a template, in one pass.
pub(super) fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let found = after.split_once('}').and_then(|(name, behind)| {
            let (_, text) = parts.iter().find(|(other, _)| *other == name)?;
            Some((text, behind))
        });
        match found {
            Some((text, behind)) => {
                filled.push_str(text);
                rest = behind;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// A dollar quote that none of the texts contains.
pub(super) fn quote_outside(texts: &[&str]) -> String {
    let free = |number: &u32| !texts.iter().any(|text| text.contains(&format!("$route{number}$")));
    let number = (0..).find(free).unwrap_or_default();
    format!("$route{number}$")
}

/// A text as a literal, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A name, quoted.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str) -> Column {
        Column { quoted: quoted(name), sql_type: "bigint".into() }
    }

    #[test]
    fn parts_of_users_are_no_templates_and_end_no_quote() {
        let columns = [column("a")];
        let plan = Plan {
            target: "\"s\".\"t'{id}\"",
            columns: &columns,
            key: &[],
            select: "values ('{function} $route0$') -- end",
            on_conflict: None,
            strict: false,
            serial: true,
            whole: false,
        };
        let [trigger, apply] = plan.functions(
            "f",
            7,
            ["{function}({id}) {quote}{insert};{quote} {other} {serial}", "{quote}{insert}"],
        );
        assert!(trigger.starts_with("f(7) $route1$insert into \"s\".\"t'{id}\" (\"a\")\n"), "{trigger}");
        assert!(trigger.contains("$route0$') -- end\n) as route_row\n;$route1$ {other}"), "{trigger}");
        assert!(trigger.ends_with(r#"E'"s"."t\'{id}"'"#), "{trigger}");
        assert!(apply.contains("with batch as (select * from pg_catalog.unnest(route_rows))"), "{apply}");
    }

    #[test]
    fn a_key_updates_the_other_columns_unless_a_clause_says_otherwise() {
        let columns = [column("k"), column("v")];
        let mut plan = Plan {
            target: "t",
            columns: &columns,
            key: &columns[..1],
            select: "values (1, 2)",
            on_conflict: None,
            strict: false,
            serial: false,
            whole: false,
        };
        assert!(plan.insert(None).ends_with("on conflict (\"k\") do update set \"v\" = excluded.\"v\"\n"));
        plan.on_conflict = Some(" do nothing");
        assert!(plan.insert(None).ends_with("on conflict (\"k\") do nothing\n"));
        plan.columns = &columns[..1];
        plan.on_conflict = None;
        assert!(plan.insert(None).ends_with("do nothing\n"));
    }
}
