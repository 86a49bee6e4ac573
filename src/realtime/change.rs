//! A row of the feed, and the SQL that writes it beside what changed.
//!
//! # Order
//!
//! Rows are ordered by the transaction's id and, within it, by the change's number. A follower takes rows below
//! `pg_snapshot_xmin(pg_current_snapshot())` only: no transaction that is older than those can still commit, so nothing
//! is ever added before a row that was seen. Writers need no common lock for it. A transaction that changes a record that
//! may be there takes the record's advisory lock before it has an id of its own, so changes of one record are in the order
//! in which they happened. (A row's lock would not do: Postgres may give an id to who waits for one.)

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Create,
    /// It holds something else.
    Update,
    /// It is gone.
    Delete,
}

impl Action {
    /// The word in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// A statement that makes a change and leaves its row in the feed.
///
/// `changing` is a common table expression `changed` with the columns `id`, `version`, `created`, `updated` and `data`,
/// whose first parameter is the topic. The whole returns these columns, `data` as text.
pub fn feeding(changing: &str, action: Action) -> String {
    let fed = include_str!("../../sql/realtime/record_changes.sql").replace("{action}", action.name());
    changing.to_owned() + &fed
}
