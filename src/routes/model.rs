//! Names and definitions of routes, and routes as they are listed.

use super::{ROLE, RouteError};

/// The most characters of a name.
const NAME_CHARS: usize = 63;
/// Paths below `/api/v1/routes` that are no names.
const RESERVED: [&str; 2] = ["check", "suggest"];
/// The most bytes of a select, and of a clause for conflicts.
pub(super) const STATEMENT_BYTES: usize = 64 * 1024;
/// The most columns of a key.
const KEY_COLUMNS: usize = 32;

/// The name of a route: letters, digits, `_` and `-`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteName(String);

impl RouteName {
    /// Parses a name.
    ///
    /// # Errors
    ///
    /// [`RouteError::Invalid`] for any other text.
    pub fn parse(name: &str) -> Result<Self, RouteError> {
        let is_in = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !starts || name.len() > NAME_CHARS || !name.chars().all(is_in) {
            let message = format!(
                "a name has 1 to {NAME_CHARS} of a-z, 0-9, _ and -, and begins with a letter or a digit"
            );
            return Err(RouteError::invalid("name", message));
        }
        if RESERVED.contains(&name) {
            return Err(RouteError::invalid("name", format!("{name} is reserved")));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The definition of a route, as it was asked for.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    /// The target: a schema and a table, with a dot between.
    pub into: String,
    /// One select over `batch`.
    pub sql: String,
    /// The key's columns; none: rows are inserted as they come.
    pub key: Vec<String>,
    /// What follows `on conflict (key)`. `None`: with a key, the other columns are updated.
    pub on_conflict: Option<String>,
    /// The role that the route runs as; `None`: [`ROLE`].
    pub role: Option<String>,
    /// A row that the target refuses makes the event a dead letter.
    pub strict: bool,
    /// One batch at a time writes to the target.
    pub serial: bool,
}

impl Definition {
    /// The role that the route runs as.
    pub fn role(&self) -> &str {
        self.role.as_deref().unwrap_or(ROLE)
    }

    /// The select, without what may follow its end.
    pub fn select(&self) -> &str {
        self.sql.trim_matches(|c: char| c.is_whitespace() || c == ';')
    }

    /// Rejects what needs no database to be rejected.
    pub(super) fn check(&self) -> Result<(), RouteError> {
        if self.select().is_empty() {
            return Err(RouteError::invalid("sql", "a route needs a select over batch"));
        }
        let clauses = [
            ("sql", Some(&self.sql)),
            ("on_conflict", self.on_conflict.as_ref()),
            ("into", Some(&self.into)),
        ];
        for (field, text) in clauses {
            let text = text.map_or("", |text| text.as_str());
            if text.len() > STATEMENT_BYTES {
                return Err(RouteError::invalid(field, format!("it is longer than {STATEMENT_BYTES} bytes")));
            }
            if text.contains('\0') {
                return Err(RouteError::invalid(field, "it contains a NUL"));
            }
        }
        if self.key.len() > KEY_COLUMNS {
            return Err(RouteError::invalid("key", format!("a key has at most {KEY_COLUMNS} columns")));
        }
        if self.key.iter().any(String::is_empty) {
            return Err(RouteError::invalid("key", "a column's name is empty"));
        }
        let role = self.role();
        if role.is_empty() || role.len() > NAME_CHARS || role.contains('\0') {
            return Err(RouteError::invalid("role", "it is no name of a role"));
        }
        let Some(clause) = self.on_conflict.as_deref().map(str::trim) else { return Ok(()) };
        let mut words = clause.split_whitespace().map(str::to_lowercase);
        match (words.next().as_deref(), words.next().as_deref()) {
            (Some("do"), Some("nothing")) => Ok(()),
            (Some("do"), Some("update")) if self.key.is_empty() => Err(RouteError::invalid(
                "on_conflict",
                "do update needs a key: two events of a batch with one key would be an error of the whole batch",
            )),
            (Some("do"), Some("update")) => Ok(()),
            _ => Err(RouteError::invalid("on_conflict", "it begins with do update or do nothing")),
        }
    }
}

/// The state of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// Batches are routed as they are stored.
    Live,
    /// The target failed as a whole: batches are deferred.
    Suspended,
    /// Events pass.
    Disabled,
}

impl RouteState {
    /// The name in the table, and for clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspended => "suspended",
            Self::Disabled => "disabled",
        }
    }

    pub(super) fn named(name: &str) -> Self {
        match name {
            "live" => Self::Live,
            "suspended" => Self::Suspended,
            _ => Self::Disabled,
        }
    }
}

/// The result of a request to change a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It is new.
    Added,
    /// It has another definition.
    Replaced,
}

/// A route as the task saw it last, for health.
#[derive(Debug, Clone)]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// The state.
    pub state: RouteState,
    /// Whether a backfill is under way.
    pub is_filling: bool,
    /// Events that wait until the route is live again.
    pub deferred: i64,
    /// Events that are refused now, of which up to 10,000 are counted.
    pub errors: i64,
    /// The SQLSTATE and message for which it is suspended.
    pub error: Option<String>,
}

/// A route with its state.
#[derive(Debug, Clone)]
pub struct ListedRoute {
    /// The number in the names of its functions.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// The target, quoted where it has to be.
    pub into: String,
    /// The select.
    pub sql: String,
    /// The key's columns.
    pub key: Vec<String>,
    /// The clause for conflicts, as it was given.
    pub on_conflict: Option<String>,
    /// The role.
    pub role: String,
    /// Whether a refused row makes the event a dead letter.
    pub strict: bool,
    /// Whether one batch at a time writes.
    pub serial: bool,
    /// Whether the select aggregates, so that a batch is taken or refused as a whole.
    pub whole: bool,
    /// The state.
    pub state: RouteState,
    /// The SQLSTATE and message for which it is or was last suspended.
    pub error: Option<(String, String)>,
    /// RFC 3339.
    pub suspended_at: Option<String>,
    /// The number of its changes; for `ETag`.
    pub version: i64,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// Rows written.
    pub rows: i64,
    /// Rows refused, including those that were taken later.
    pub refused: i64,
    /// Time in its functions, in microseconds.
    pub microseconds: i64,
    /// Batches taken.
    pub batches: i64,
    /// Events in `route_errors`.
    pub errors: i64,
    /// Events that wait until the route is live again.
    pub deferred: i64,
    /// The backfill.
    pub backfill: Option<Backfill>,
}

impl ListedRoute {
    /// The definition that it has.
    pub(super) fn definition(&self) -> Definition {
        Definition {
            into: self.into.clone(),
            sql: self.sql.clone(),
            key: self.key.clone(),
            on_conflict: self.on_conflict.clone(),
            role: Some(self.role.clone()),
            strict: self.strict,
            serial: self.serial,
        }
    }
}

/// The state of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backfill {
    /// Events read so far.
    pub events: i64,
    /// Whether it has reached the trigger's beginning.
    pub is_done: bool,
}

/// The schema and the name of a table that may not exist yet: two names with a dot between, quoted where they have to be.
pub(super) fn target_parts(into: &str) -> Result<(String, String), RouteError> {
    let wrong = || RouteError::invalid("into", "a target is named with its schema, as in app.signups");
    let mut parts = Vec::new();
    let mut rest = into.trim();
    loop {
        let (part, behind) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (part, behind) = rest.split_at(end);
                let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if !part.chars().all(is_plain) || part.starts_with(|c: char| c.is_ascii_digit()) {
                    return Err(wrong());
                }
                (part.to_ascii_lowercase(), behind)
            }
            Some(quoted) => {
                // A doubled quote is one of the name.
                let mut end = 0;
                let end = loop {
                    let quote = quoted.get(end..).and_then(|text| text.find('"')).ok_or_else(wrong)? + end;
                    match quoted.get(quote + 1..).is_some_and(|text| text.starts_with('"')) {
                        true => end = quote + 2,
                        false => break quote,
                    }
                };
                let (part, behind) = quoted.split_at(end);
                (part.replace("\"\"", "\""), behind.get(1..).unwrap_or_default())
            }
        };
        if part.is_empty() || part.len() > NAME_CHARS || part.contains('\0') {
            return Err(wrong());
        }
        parts.push(part);
        match behind.strip_prefix('.') {
            Some(next) => rest = next,
            None if behind.is_empty() => break,
            None => return Err(wrong()),
        }
    }
    match <[String; 2]>::try_from(parts) {
        Ok([schema, table]) => Ok((schema, table)),
        Err(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_some_are_reserved() {
        for name in ["a", "signups", "0-a_b", &"x".repeat(63)] {
            assert_eq!(RouteName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "A", "-a", "_a", "a.b", "a b", "ä", "check", "suggest", &"x".repeat(64)] {
            assert!(RouteName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_target_has_two_names() {
        let parts = |into: &str| target_parts(into).ok();
        let both = |schema: &str, table: &str| Some((schema.to_owned(), table.to_owned()));
        assert_eq!(parts("App.signups"), both("app", "signups"));
        assert_eq!(parts("\"A.b\".\"c\"\"d\""), both("A.b", "c\"d"));
        for bad in ["", "a", "a.", ".a", "a.b.c", "a b.c", "\"a.b", "\"a\"x.b", "1a.b", "\"\".b"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_clause_for_conflicts_updates_only_by_a_key() {
        let definition = |clause: &str, key: &[&str]| Definition {
            sql: "table batch".into(),
            on_conflict: Some(clause.into()),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            ..Definition::default()
        };
        assert!(definition("DO  NOTHING", &[]).check().is_ok());
        assert!(definition("do update set a = 1", &["a"]).check().is_ok());
        for bad in ["do update set a = 1", "(a) do nothing", "", "do", "; drop table x"] {
            assert!(definition(bad, &[]).check().is_err(), "{bad}");
        }
    }
}
