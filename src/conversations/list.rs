//! What a client may ask for of a list, and the page that it gets.

use super::ConversationsError;
use super::place::{Order, Place};

const DEFAULT_LIMIT: usize = 50;
/// The most entries of a page.
const MAX_LIMIT: usize = 200;
/// The most conversations that are passed over by `offset`; beyond it a cursor goes on without reading them.
const MAX_OFFSET: u32 = 1_000_000;
/// The longest search, in bytes.
const MAX_WORDS_BYTES: usize = 1_000;
/// The word for the place behind the last message.
const END: &str = "end";

/// A page.
#[derive(Debug)]
pub struct Page<T> {
    /// Its entries, in order.
    pub entries: Vec<T>,
    /// What the page behind it begins `after`, if there is one.
    pub next: Option<String>,
    /// What the page in front of it ends `before`, if there is one.
    pub prev: Option<String>,
}

/// Which conversations to list, newest activity first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    pub(super) limit: usize,
    pub(super) offset: u32,
    pub(super) after: Place,
    /// Words that have to be in the title or in a message.
    pub(super) words: Option<String>,
}

/// Which messages to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageQuery {
    pub(super) limit: usize,
    pub(super) from: From,
}

/// From where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Those behind this place, the nearest first.
    After(Place),
    /// Those in front of this place, as many as are nearest.
    Before(Place),
}

impl ListQuery {
    /// Reads a query's parameters.
    ///
    /// # Errors
    ///
    /// [`ConversationsError::Invalid`] names the first that cannot be taken.
    pub fn parse(parameters: &[(String, String)]) -> Result<Self, ConversationsError> {
        let mut query = Self { limit: DEFAULT_LIMIT, offset: 0, after: Place::END, words: None };
        let mut seen = Seen::default();
        for (name, value) in parameters {
            seen.add(name)?;
            match name.as_str() {
                "limit" => query.limit = limit(value)?,
                "offset" => query.offset = offset(value)?,
                "after" => query.after = place(name, value, Order::Conversations)?,
                "q" => query.words = Some(words(value)?),
                _ => return Err(unknown(name)),
            }
        }
        if query.offset > 0 && query.after != Place::END {
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
    /// [`ConversationsError::Invalid`] names the first that cannot be taken.
    pub fn parse(parameters: &[(String, String)]) -> Result<Self, ConversationsError> {
        let mut query = Self { limit: DEFAULT_LIMIT, from: From::After(Place::START) };
        let mut seen = Seen::default();
        for (name, value) in parameters {
            seen.add(name)?;
            match name.as_str() {
                "limit" => query.limit = limit(value)?,
                "after" => query.from = From::After(place(name, value, Order::Messages)?),
                "before" if value == END => query.from = From::Before(Place::END),
                "before" => query.from = From::Before(place(name, value, Order::Messages)?),
                _ => return Err(unknown(name)),
            }
        }
        if seen.0.contains(&"after") && seen.0.contains(&"before") {
            return Err(ConversationsError::invalid("before", "before does not go with after"));
        }
        Ok(query)
    }

    /// The page of what was found from its place on, nearest first: up to one entry more than the page has.
    pub(super) fn page<T>(&self, found: Vec<T>, is_more: bool, place: impl Fn(&T) -> Place) -> Page<T> {
        let mut entries = found;
        let token = |entry: Option<&T>| entry.map(|entry| place(entry).token(Order::Messages));
        match self.from {
            From::After(from) => {
                let next = if is_more { token(entries.last()) } else { None };
                let prev = if from == Place::START { None } else { token(entries.first()) };
                Page { entries, next, prev }
            }
            From::Before(from) => {
                entries.reverse();
                let next = if from == Place::END { None } else { token(entries.last()) };
                let prev = if is_more { token(entries.first()) } else { None };
                Page { entries, next, prev }
            }
        }
    }
}

/// The place behind which a follower is told of messages; other parameters than `live` and `after` are refused.
///
/// # Errors
///
/// [`ConversationsError::Invalid`] names the first that cannot be taken.
pub fn parse_live(parameters: &[(String, String)]) -> Result<Place, ConversationsError> {
    let mut start = Place::START;
    let mut seen = Seen::default();
    for (name, value) in parameters {
        seen.add(name)?;
        match name.as_str() {
            "live" if value == "sse" => {}
            "live" => return Err(ConversationsError::invalid("live", "live takes sse")),
            "after" => start = place(name, value, Order::Messages)?,
            "limit" | "before" => {
                return Err(ConversationsError::invalid(name, format!("{name} does not go with live")));
            }
            _ => return Err(unknown(name)),
        }
    }
    Ok(start)
}

/// The names that were there already.
#[derive(Default)]
struct Seen<'a>(Vec<&'a str>);

impl<'a> Seen<'a> {
    fn add(&mut self, name: &'a str) -> Result<(), ConversationsError> {
        if self.0.contains(&name) {
            return Err(ConversationsError::invalid(name, "a parameter is there twice"));
        }
        self.0.push(name);
        Ok(())
    }
}

fn unknown(name: &str) -> ConversationsError {
    ConversationsError::invalid(name, "there is no such parameter")
}

fn limit(value: &str) -> Result<usize, ConversationsError> {
    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| ConversationsError::invalid("limit", format!("limit takes 1 to {MAX_LIMIT}")))
}

fn offset(value: &str) -> Result<u32, ConversationsError> {
    let offset = value.parse().ok().filter(|offset| *offset <= MAX_OFFSET);
    offset.ok_or_else(|| ConversationsError::invalid("offset", format!("offset takes 0 to {MAX_OFFSET}")))
}

fn words(value: &str) -> Result<String, ConversationsError> {
    let message = format!("q takes 1 to {MAX_WORDS_BYTES} bytes of text without NUL");
    let is_text = (1..=MAX_WORDS_BYTES).contains(&value.len()) && !value.contains('\0');
    if is_text { Ok(value.to_owned()) } else { Err(ConversationsError::invalid("q", message)) }
}

fn place(name: &str, value: &str, order: Order) -> Result<Place, ConversationsError> {
    let message = || format!("{name} takes what a Link header of this list gave");
    Place::parse(value, order).ok_or_else(|| ConversationsError::invalid(name, message()))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::Micros;
    use super::*;

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
        let token = Place { at: Micros(1), id: Uuid::nil() }.token(Order::Messages);
        assert!(MessageQuery::parse(&pairs(&[("after", &token), ("before", &token)])).is_err());
    }

    #[test]
    fn a_page_names_its_neighbours_where_there_are_any() {
        let place = |n: &i64| Place { at: Micros(*n), id: Uuid::nil() };
        let token = |n: i64| Some(place(&n).token(Order::Messages));
        let ask = |from| MessageQuery { limit: 2, from };
        let first = ask(From::After(Place::START)).page(vec![1, 2], true, place);
        assert_eq!((first.entries, first.next, first.prev), (vec![1, 2], token(2), None));
        let second = ask(From::After(place(&2))).page(vec![3, 4], false, place);
        assert_eq!((second.next, second.prev), (None, token(3)));
        let last = ask(From::Before(Place::END)).page(vec![4, 3], true, place);
        assert_eq!((last.entries, last.next, last.prev), (vec![3, 4], None, token(3)));
        let front = ask(From::Before(place(&3))).page(vec![2, 1], false, place);
        assert_eq!((front.entries, front.next, front.prev), (vec![1, 2], token(2), None));
    }
}
