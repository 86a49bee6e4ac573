//! A row of the feed, and the SQL that writes it beside a change.
//!
//! # Order
//!
//! A poll delivers whole transactions, in the order of their last `number`, and the changes of each by `number`: a sequence, drawn while the
//! record is locked. So the changes of one record come as they happened, a transaction comes whole, and what was committed before another
//! transaction began comes first. Transactions that ran at the same time may come in another order on another node.
//!
//! The transaction's id would be no such order: a transaction may have one before it waits for a record's lock.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{MatchError, Members, Place, Poll, Position, State};
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
    /// JSON was published to a topic.
    Publish,
    /// A table was emptied.
    Truncate,
    /// More rows of a table were changed than are worth a change each; the data has their number.
    Many,
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
            Self::Publish => "publish",
            Self::Truncate => "truncate",
            Self::Many => "many",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        let changes = [Self::Create, Self::Update, Self::Delete, Self::Append];
        let others = [Self::Import, Self::Publish, Self::Truncate, Self::Many];
        changes.into_iter().chain(others).find(|action| action.name() == word)
    }
}

/// A row of the feed.
#[derive(Debug)]
pub struct Change {
    /// Its transaction's id.
    pub xid: u64,
    /// Its place in the poll.
    pub place: Place,
    /// The poll that read it.
    pub poll: Arc<Poll>,
    /// Whether it is the last one of the poll.
    pub is_last: bool,
    /// A collection's name, or one object (`conversation:…`).
    pub topic: Box<str>,
    /// The id of the changed record.
    pub record: Box<str>,
    /// The parts of a key of several columns; `record` is empty then.
    pub keys: Option<Vec<String>>,
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
    /// JSON of the state before an update, where it is known.
    pub old: Option<String>,
    /// Its forms, each made once for all subscribers.
    pub(super) forms: Forms,
}

impl Change {
    /// The bytes that it takes while it waits for subscribers, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.record.len() + self.json_len()
    }

    /// The bytes that it takes together with the event that its subscribers are sent, about.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes() + self.json_len()
    }

    fn json_len(&self) -> usize {
        self.data.len() + self.old.as_ref().map_or(0, String::len)
    }

    /// The position behind it.
    pub fn position(&self) -> Position {
        match self.is_last {
            true => Position::of(self.poll.origin, Arc::clone(&self.poll.end)),
            false => Position::within(&self.poll, self.place),
        }
    }

    /// The text of its position, made once for all subscribers.
    pub fn id(&self) -> &str {
        self.forms.id.get_or_init(|| self.position().to_string().into())
    }

    /// The change in a form of a domain: parsed for the first subscriber, shared with all others.
    ///
    /// # Errors
    ///
    /// That of `parse`.
    pub fn parsed<T, E>(&self, parse: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E>
    where
        T: Any + Send + Sync,
    {
        if let Some(known) = self.form() {
            return Ok(known);
        }
        // Without the lock: one form may be made of another.
        let form = Arc::new(parse()?);
        self.forms.parsed.lock().push(Arc::clone(&form) as Arc<dyn Any + Send + Sync>);
        Ok(form)
    }

    /// The index of a state's members, made once for all filters. `None`: the state is not known.
    pub fn members(&self, state: State) -> Option<(&str, &Members)> {
        let (json, index) = match state {
            State::Data => (self.data.as_str(), &self.forms.data),
            State::Old => (self.old.as_deref()?, &self.forms.old),
        };
        Some((json, index.get_or_init(|| Members::of(json))))
    }

    /// The verdict of a filter on a state, decided once for all subscribers that share it.
    pub(super) fn verdict(
        &self,
        filter: u64,
        state: State,
        decide: impl FnOnce() -> Result<bool, MatchError>,
    ) -> Result<bool, MatchError> {
        if let Some(known) = self.forms.verdicts.lock().get(&(filter, state)) {
            return known.clone();
        }
        // Without the lock: it may take long.
        let verdict = decide();
        self.forms.verdicts.lock().insert((filter, state), verdict.clone());
        verdict
    }

    fn form<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let parsed = self.forms.parsed.lock();
        parsed.iter().find_map(|form| Arc::clone(form).downcast().ok())
    }
}

/// What is made of a change once, for all subscribers.
#[derive(Debug, Default)]
pub(super) struct Forms {
    id: OnceLock<Box<str>>,
    /// One for each face.
    parsed: Mutex<Vec<Arc<dyn Any + Send + Sync>>>,
    /// Indexes of `data` and `old`.
    data: OnceLock<Members>,
    old: OnceLock<Members>,
    /// Verdicts of shared filters, by their numbers.
    verdicts: Mutex<HashMap<(u64, State), Result<bool, MatchError>>>,
}

/// A statement that makes a change and adds its row to the feed.
///
/// `changing` is a common table expression `changed` with the columns `id`, `version`, `created`, `updated` and `data`,
/// whose first parameter is the topic; that of an update has the column `old`, too: the state before it. The statement returns these columns, `data` as text, if the condition `checked` holds, which may raise
/// an error.
pub fn with_feed_row(changing: &str, action: Action, checked: &str) -> String {
    let checked = if checked.is_empty() { String::new() } else { format!(" and {checked}") };
    let old = if action == Action::Update { "old" } else { "null" };
    let fed = sql!("realtime/record_changes.sql").replace("{action}", action.name()).replace("{old}", old);
    changing.to_owned() + &fed.replace("{checked}", &checked)
}

#[cfg(test)]
impl Change {
    /// A creation.
    pub(super) fn of_test(number: i64, data: &str) -> Self {
        Self {
            xid: 1,
            place: Place { last: number, number },
            poll: Arc::new(Poll {
                origin: crate::db::ServerIdentity::default(),
                base: Arc::default(),
                end: Arc::default(),
            }),
            is_last: false,
            topic: "a:1".into(),
            record: "r".into(),
            keys: None,
            action: Action::Create,
            created_us: 0,
            updated_us: 0,
            at_us: 0,
            data: data.to_owned(),
            old: None,
            forms: Forms::default(),
        }
    }
}
