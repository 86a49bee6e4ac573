//! A row of the feed, and the SQL that writes it beside what changed.
//!
//! # Order
//!
//! Rows are ordered by the transaction's id and, within it, by the change's number. A follower takes rows below
//! `pg_snapshot_xmin(pg_current_snapshot())` only: no transaction that is older than those can still commit, so nothing
//! is ever added before a row that was seen. Writers need no common lock for it. A transaction that changes a record that
//! may be there takes the record's advisory lock before it has an id of its own, so changes of one record are in the order
//! in which they happened. (A row's lock would not do: Postgres may give an id to who waits for one.)

use std::sync::OnceLock;

use bytes::Bytes;

use super::Position;
use super::budget::MemoryPermit;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Create,
    /// It holds something else.
    Update,
    /// It is gone.
    Delete,
    /// Something was added to it.
    Append,
    /// Many were added: those whose ids are between `first` and `last` of the change's data.
    Import,
}

impl Action {
    /// The word in the table.
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
    /// Its place.
    pub position: Position,
    /// What it belongs to: a collection's name, or what somebody follows alone (`conversation:…`).
    pub topic: Box<str>,
    /// What was changed.
    pub record: Box<str>,
    /// What became of it.
    pub action: Action,
    /// When that was made, in microseconds of Unix time.
    pub created_us: i64,
    /// When it was changed, in microseconds of Unix time.
    pub updated_us: i64,
    /// When the transaction began, in microseconds of Unix time.
    pub at_us: i64,
    /// JSON, as its action says.
    pub data: String,
    pub(super) encoded: OnceLock<Bytes>,
    /// What it takes of the memory for subscribers, while it waits for them.
    pub(super) held: Option<MemoryPermit>,
}

impl Change {
    /// Bytes that it takes while it waits for followers, or nearly so.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.record.len() + self.data.len()
    }

    /// Bytes that it takes together with what its followers are sent, or nearly so.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes() + self.data.len()
    }

    /// The event that its subscribers get: encoded for the first, shared by all others.
    ///
    /// # Errors
    ///
    /// That of `encode`.
    pub fn encoded<E>(&self, encode: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(encoded) = self.encoded.get() {
            return Ok(encoded.clone());
        }
        let encoded = encode()?;
        Ok(self.encoded.get_or_init(|| encoded).clone())
    }
}

/// A statement that makes a change and leaves its row in the feed.
///
/// `changing` is a common table expression `changed` with the columns `id`, `version`, `created`, `updated` and `data`,
/// whose first parameter is the topic. The whole returns these columns, `data` as text.
/// Nothing comes of it unless the condition `checked` holds, which may raise an error.
pub fn feeding(changing: &str, action: Action, checked: &str) -> String {
    let checked = if checked.is_empty() { String::new() } else { format!(" and {checked}") };
    let fed = include_str!("../../sql/realtime/record_changes.sql").replace("{action}", action.name());
    changing.to_owned() + &fed.replace("{checked}", &checked)
}
