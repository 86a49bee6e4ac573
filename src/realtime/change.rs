//! A row of the feed, and the SQL that writes it beside a change.
//!
//! # Order
//!
//! Rows are ordered by the transaction's id and, within it, by the change's number. A reader takes rows below
//! `pg_snapshot_xmin(pg_current_snapshot())` only: no older transaction can still commit, so no row is ever added before one that was read.
//! Writers need no common lock for it. A transaction that changes a record takes the record's advisory lock before it has an id of its own,
//! so changes of one record are in the order in which they happened. (A row's lock would not do: Postgres may assign an id to a transaction
//! that waits for one.)

use std::any::Any;
use std::sync::{Arc, OnceLock};

use super::Position;
use super::memory::MemoryPermit;
use crate::db::sql;

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A record was created.
    Create,
    /// A record was updated.
    Update,
    /// A record was deleted.
    Delete,
    /// Text was appended to a record.
    Append,
    /// Many records were added: those with ids from `first` to `last` of the change's data.
    Import,
}

impl Action {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Append => "append",
            Self::Import => "import",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        let all = [Self::Create, Self::Update, Self::Delete, Self::Append, Self::Import];
        all.into_iter().find(|action| action.name() == word)
    }
}

/// A row of the feed.
#[derive(Debug)]
pub struct Change {
    /// Its position.
    pub position: Position,
    /// A collection's name, or one object (`conversation:…`).
    pub topic: Box<str>,
    /// The id of the changed record.
    pub record: Box<str>,
    /// Its kind.
    pub action: Action,
    /// The creation of the record, in microseconds of Unix time.
    pub created_us: i64,
    /// The update of the record, in microseconds of Unix time.
    pub updated_us: i64,
    /// The begin of the transaction, in microseconds of Unix time.
    pub at_us: i64,
    /// JSON, depending on the action.
    pub data: String,
    /// Its domain's form.
    pub(super) parsed: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// The memory that it takes while it waits for subscribers.
    pub(super) held: Option<MemoryPermit>,
}

impl Change {
    /// The bytes that it takes while it waits for subscribers, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.record.len() + self.data.len()
    }

    /// The bytes that it takes together with the event that its subscribers are sent, about.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes() + self.data.len()
    }

    /// The change in the form of its domain: parsed for the first subscriber, shared with all others.
    ///
    /// # Errors
    ///
    /// That of `parse`.
    pub fn parsed<T, E>(&self, parse: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E>
    where
        T: Any + Send + Sync,
    {
        if let Some(parsed) = self.parsed.get()
            && let Ok(parsed) = Arc::clone(parsed).downcast()
        {
            return Ok(parsed);
        }
        let parsed = Arc::new(parse()?);
        // Of several forms, which no topic has, the first is kept.
        let _first = self.parsed.set(Arc::clone(&parsed) as Arc<dyn Any + Send + Sync>);
        Ok(parsed)
    }
}

/// A statement that makes a change and adds its row to the feed.
///
/// `changing` is a common table expression `changed` with the columns `id`, `version`, `created`, `updated` and `data`,
/// whose first parameter is the topic. The statement returns these columns, `data` as text, if the condition `checked` holds, which may raise
/// an error.
pub fn with_feed_row(changing: &str, action: Action, checked: &str) -> String {
    let checked = if checked.is_empty() { String::new() } else { format!(" and {checked}") };
    let fed = sql!("realtime/record_changes.sql").replace("{action}", action.name());
    changing.to_owned() + &fed.replace("{checked}", &checked)
}
