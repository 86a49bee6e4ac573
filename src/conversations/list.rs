//! The queries of lists, and the pages that they return.

use super::ConversationsError;
use crate::paging::{self, InvalidParameter, ListTag, Page, SeenParameters, SortKey};

/// Conversations, by their last activity.
pub(super) const CONVERSATIONS: ListTag = b'c';
/// The messages of a conversation.
pub(super) const MESSAGES: ListTag = b'm';
const DEFAULT_LIMIT: usize = 50;
/// The most entries of a page.
const MAX_LIMIT: usize = 200;
/// The most conversations that `offset` skips; a cursor goes on behind them without reading them.
const MAX_OFFSET: u32 = 1_000_000;
/// The longest search, in bytes.
const MAX_WORDS_BYTES: usize = 1_000;
/// The word for the position behind the last message.
const END: &str = "end";

/// The query of a list of conversations, newest activity first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    pub(super) limit: usize,
    pub(super) offset: u32,
    pub(super) after: SortKey,
    /// Words that have to be in the title or in a message.
    pub(super) words: Option<String>,
}

/// The query of a list of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageQuery {
    pub(super) limit: usize,
    pub(super) from: Start,
}

/// The start and the direction of a page of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The messages behind this key, the nearest first.
    After(SortKey),
    /// The messages in front of this key, the nearest first.
    Before(SortKey),
}

impl ListQuery {
    /// Reads a query's parameters.
    ///
    /// # Errors
    ///
    /// [`ConversationsError::Invalid`] names the first that is invalid.
    pub fn parse(parameters: &[(String, String)]) -> Result<Self, ConversationsError> {
        let mut query = Self { limit: DEFAULT_LIMIT, offset: 0, after: SortKey::END, words: None };
        let mut seen = SeenParameters::default();
        for (name, value) in parameters {
            seen.add(name)?;
            match name.as_str() {
                "limit" => query.limit = paging::limit(value, MAX_LIMIT)?,
                "offset" => query.offset = paging::offset(value, MAX_OFFSET)?,
                "after" => query.after = paging::cursor(name, value, CONVERSATIONS)?,
                "q" => query.words = Some(words(value)?),
                _ => return Err(InvalidParameter::unknown(name).into()),
            }
        }
        if query.offset > 0 && query.after != SortKey::END {
            return Err(ConversationsError::invalid("offset", "offset does not go with after"));
        }
        Ok(query)
    }
}

impl MessageQuery {
    /// Reads a query's parameters.
    ///
    /// # Errors
    ///
    /// [`ConversationsError::Invalid`] names the first that is invalid.
    pub fn parse(parameters: &[(String, String)]) -> Result<Self, ConversationsError> {
        let mut query = Self { limit: DEFAULT_LIMIT, from: Start::After(SortKey::START) };
        let mut seen = SeenParameters::default();
        for (name, value) in parameters {
            seen.add(name)?;
            match name.as_str() {
                "limit" => query.limit = paging::limit(value, MAX_LIMIT)?,
                "after" => query.from = Start::After(paging::cursor(name, value, MESSAGES)?),
                "before" if value == END => query.from = Start::Before(SortKey::END),
                "before" => query.from = Start::Before(paging::cursor(name, value, MESSAGES)?),
                _ => return Err(InvalidParameter::unknown(name).into()),
            }
        }
        if seen.has("after") && seen.has("before") {
            return Err(ConversationsError::invalid("before", "before does not go with after"));
        }
        Ok(query)
    }

    /// The page of the entries that were found from its start on, nearest first.
    pub(super) fn page<T>(&self, found: Vec<T>, is_more: bool, key: impl Fn(&T) -> SortKey) -> Page<T> {
        let mut entries = found;
        let cursor = |entry: Option<&T>| entry.map(|entry| key(entry).cursor(MESSAGES));
        let (next, prev) = match self.from {
            Start::After(from) => {
                let next = if is_more { cursor(entries.last()) } else { None };
                (next, if from == SortKey::START { None } else { cursor(entries.first()) })
            }
            Start::Before(from) => {
                entries.reverse();
                let prev = if is_more { cursor(entries.first()) } else { None };
                (if from == SortKey::END { None } else { cursor(entries.last()) }, prev)
            }
        };
        Page { entries, next, prev, total: None }
    }
}

/// Reads the parameters `live` and `after` of a live subscription; returns the key behind which its messages start.
///
/// # Errors
///
/// [`ConversationsError::Invalid`] names the first that is invalid.
pub fn parse_live(parameters: &[(String, String)]) -> Result<SortKey, ConversationsError> {
    let mut start = SortKey::START;
    let mut seen = SeenParameters::default();
    for (name, value) in parameters {
        seen.add(name)?;
        match name.as_str() {
            "live" if value == "sse" => {}
            "live" => return Err(ConversationsError::invalid("live", "live takes sse")),
            "after" => start = paging::cursor(name, value, MESSAGES)?,
            "limit" | "before" => {
                return Err(ConversationsError::invalid(name, format!("{name} does not go with live")));
            }
            _ => return Err(InvalidParameter::unknown(name).into()),
        }
    }
    Ok(start)
}

fn words(value: &str) -> Result<String, InvalidParameter> {
    let message = format!("q takes 1 to {MAX_WORDS_BYTES} bytes of text without NUL");
    let is_text = (1..=MAX_WORDS_BYTES).contains(&value.len()) && !value.contains('\0');
    if is_text { Ok(value.to_owned()) } else { Err(InvalidParameter::new("q", message)) }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::time::Micros;

    fn pairs(parameters: &[(&str, &str)]) -> Vec<(String, String)> {
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_malformed_parameter_is_named() {
        for (name, value) in [
            ("limit", "0"),
            ("limit", "201"),
            ("limit", "x"),
            ("offset", "-1"),
            ("offset", "99999999999999999999"),
            ("after", "x"),
            ("after", "'; drop table conversations"),
            ("unknown", "1"),
        ] {
            let refused = ListQuery::parse(&pairs(&[(name, value)]));
            assert!(matches!(&refused, Err(ConversationsError::Invalid { field, .. }) if field == name));
        }
        for (name, value) in [("limit", ""), ("offset", "1"), ("after", ""), ("before", "start")] {
            let refused = MessageQuery::parse(&pairs(&[(name, value)]));
            assert!(matches!(&refused, Err(ConversationsError::Invalid { field, .. }) if field == name));
        }
        assert!(ListQuery::parse(&pairs(&[("limit", "1"), ("limit", "1")])).is_err());
        let cursor = SortKey { at: Micros(1), id: Uuid::nil() }.cursor(MESSAGES);
        let token = cursor.as_str();
        assert!(MessageQuery::parse(&pairs(&[("after", token), ("before", token)])).is_err());
    }

    #[test]
    fn a_page_names_its_neighbours_where_there_are_any() {
        let key = |n: &i64| SortKey { at: Micros(*n), id: Uuid::nil() };
        let cursor = |n: i64| Some(key(&n).cursor(MESSAGES));
        let ask = |from| MessageQuery { limit: 2, from };
        let first = ask(Start::After(SortKey::START)).page(vec![1, 2], true, key);
        assert_eq!((first.entries, first.next, first.prev), (vec![1, 2], cursor(2), None));
        let second = ask(Start::After(key(&2))).page(vec![3, 4], false, key);
        assert_eq!((second.next, second.prev), (None, cursor(3)));
        let last = ask(Start::Before(SortKey::END)).page(vec![4, 3], true, key);
        assert_eq!((last.entries, last.next, last.prev), (vec![3, 4], None, cursor(3)));
        let front = ask(Start::Before(key(&3))).page(vec![2, 1], false, key);
        assert_eq!((front.entries, front.next, front.prev), (vec![1, 2], cursor(2), None));
    }
}
