//! Pages of lists, and the cursors and links between them.
//!
//! A cursor is opaque to a client: the sort key of an entry in base64 (RFC 4648, section 5). A client may make one up, so every part is
//! checked; it can only ever name a position in a list.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

use crate::time::Micros;

/// The parameters that name the position of a page.
const POSITION: [&str; 3] = ["after", "before", "offset"];
/// All characters but those that RFC 3986, section 2.3, calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A page of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// Its entries, in order.
    pub entries: Vec<T>,
    /// The cursor `after` which the next page begins.
    pub next: Option<Cursor>,
    /// The cursor `before` which the previous page ends.
    pub prev: Option<Cursor>,
    /// The number of entries of all pages, if the query asks for it.
    pub total: Option<i64>,
}

impl<T> Page<T> {
    /// A page that links to the next one only: behind its last entry, if there are more.
    pub fn forward(entries: Vec<T>, is_more: bool, cursor: impl Fn(&T) -> Cursor) -> Self {
        let next = entries.last().filter(|_| is_more).map(cursor);
        Self { entries, next, prev: None, total: None }
    }

    /// The page with other entries, one for each.
    pub fn map<U>(self, entry: impl FnMut(T) -> U) -> Page<U> {
        let Self { entries, next, prev, total } = self;
        Page { entries: entries.into_iter().map(entry).collect(), next, prev, total }
    }

    /// The links to its neighbours, as values of a `Link` header.
    pub fn links(&self, path: &str, parameters: &[(String, String)]) -> impl Iterator<Item = String> {
        let neighbours = [("next", "after", &self.next), ("prev", "before", &self.prev)];
        neighbours.into_iter().filter_map(move |(rel, name, cursor)| {
            Some(link(path, parameters, rel, (name, cursor.as_ref()?)))
        })
    }
}

/// The value of a `Link` header (RFC 8288): the list at `path` with these parameters, but from another position.
pub fn link(
    path: &str,
    parameters: &[(String, String)],
    rel: &str,
    (name, cursor): (&str, impl fmt::Display),
) -> String {
    let kept = parameters.iter().filter(|(name, _)| !POSITION.contains(&name.as_str()));
    let encoded = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    let query: Vec<String> = kept
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .chain([format!("{name}={}", encoded(&cursor.to_string()))])
        .collect();
    format!("<{path}?{}>; rel=\"{rel}\"", query.join("&"))
}

/// A position in a list, as a client holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor of a sort key's bytes.
    pub fn encode(sort_key: impl AsRef<[u8]>) -> Self {
        Self(URL_SAFE_NO_PAD.encode(sort_key))
    }

    /// The bytes of a sort key; `None`: the text is longer than `max_bytes`, or no cursor.
    pub fn decode(text: &str, max_bytes: usize) -> Option<Vec<u8>> {
        if text.len() > max_bytes { None } else { URL_SAFE_NO_PAD.decode(text).ok() }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The list that a cursor belongs to: one byte in front of the sort key.
pub type ListTag = u8;

/// The key of a list that is sorted by a time, and by an id where times are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey {
    /// The time.
    pub at: Micros,
    /// The id.
    pub id: Uuid,
}

impl SortKey {
    /// Before every entry.
    pub const START: Self = Self { at: Micros::EARLIEST, id: Uuid::nil() };
    /// After every entry.
    pub const END: Self = Self { at: Micros::LATEST, id: Uuid::max() };
    /// The longest cursor that is decoded, in bytes. Those of sort keys are shorter.
    const MAX_BYTES: usize = 64;

    /// The cursor of an entry with this key.
    pub fn cursor(self, list: ListTag) -> Cursor {
        let mut bytes = vec![list];
        bytes.extend_from_slice(&self.at.0.to_be_bytes());
        bytes.extend_from_slice(self.id.as_bytes());
        Cursor::encode(bytes)
    }

    /// Reads a cursor of this list.
    pub fn parse(text: &str, list: ListTag) -> Option<Self> {
        let bytes = Cursor::decode(text, Self::MAX_BYTES)?;
        let (tag, rest) = bytes.split_first()?;
        let (at, id) = rest.split_first_chunk::<8>()?;
        let at = Micros(i64::from_be_bytes(*at));
        let id = Uuid::from_slice(id).ok()?;
        (*tag == list && (Micros::EARLIEST..=Micros::LATEST).contains(&at)).then_some(Self { at, id })
    }
}

/// A parameter of a query that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidParameter {
    /// Its name, at most the first 100 characters.
    pub field: String,
    /// The reason.
    pub message: String,
}

impl InvalidParameter {
    /// A refusal of the parameter `field`.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.chars().take(100).collect(), message: message.into() }
    }

    /// A refusal of a parameter that the list does not have.
    pub fn unknown(field: &str) -> Self {
        Self::new(field, "there is no such parameter")
    }
}

/// The names of the parameters that were read, each of which may come once.
#[derive(Debug, Default)]
pub struct SeenParameters<'a>(Vec<&'a str>);

impl<'a> SeenParameters<'a> {
    /// Adds one.
    ///
    /// # Errors
    ///
    /// [`InvalidParameter`] if it was added before.
    pub fn add(&mut self, name: &'a str) -> Result<(), InvalidParameter> {
        if self.has(name) {
            return Err(InvalidParameter::new(name, "a parameter is there twice"));
        }
        self.0.push(name);
        Ok(())
    }

    /// Whether it was added.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }
}

/// Reads `limit`, the number of a page's entries.
///
/// # Errors
///
/// [`InvalidParameter`] unless it is between 1 and `max`.
pub fn limit(value: &str, max: usize) -> Result<usize, InvalidParameter> {
    let limit = value.parse().ok().filter(|limit| (1..=max).contains(limit));
    limit.ok_or_else(|| InvalidParameter::new("limit", format!("limit takes 1 to {max}")))
}

/// Reads `offset`, the number of entries that are skipped. Beyond `max` a cursor costs less.
///
/// # Errors
///
/// [`InvalidParameter`] unless it is between 0 and `max`.
pub fn offset(value: &str, max: u32) -> Result<u32, InvalidParameter> {
    let offset = value.parse().ok().filter(|offset| *offset <= max);
    offset.ok_or_else(|| InvalidParameter::new("offset", format!("offset takes 0 to {max}")))
}

/// Reads a cursor of a list that is sorted by [`SortKey`].
///
/// # Errors
///
/// [`InvalidParameter`] if it is none of this list.
pub fn cursor(name: &str, value: &str, list: ListTag) -> Result<SortKey, InvalidParameter> {
    let message = || format!("{name} takes what a Link header of this list gave");
    SortKey::parse(value, list).ok_or_else(|| InvalidParameter::new(name, message()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_link_keeps_all_parameters_but_the_position() {
        let parameters = [("limit", "2"), ("after", "x"), ("filter", "a>\"b\" & c"), ("offset", "7")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = "</list?limit=2&filter=a%3E%22b%22%20%26%20c&after=1_a-b>; rel=\"next\"";
        assert_eq!(link("/list", &parameters, "next", ("after", "1_a-b")), expected);
        let next = Some(Cursor("1_a-b".into()));
        let page = Page { entries: vec![()], next, prev: None, total: None };
        assert_eq!(page.links("/list", &parameters).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn parameters_out_of_bounds_are_named() {
        for bad in ["0", "201", "-1", "x", "", "99999999999999999999"] {
            assert_eq!(limit(bad, 200).unwrap_err().field, "limit", "{bad}");
        }
        for bad in ["101", "-1", "' or 1=1", ""] {
            assert_eq!(offset(bad, 100).unwrap_err().field, "offset", "{bad}");
        }
        assert_eq!((limit("200", 200), offset("100", 100)), (Ok(200), Ok(100)));
        let mut seen = SeenParameters::default();
        assert!(seen.add("a").is_ok() && seen.add("a").is_err() && seen.has("a") && !seen.has("b"));
    }

    proptest! {
        #[test]
        fn a_sort_key_round_trips_in_its_own_list_only(us in 0..Micros::LATEST.0, id: u128) {
            let key = SortKey { at: Micros(us), id: Uuid::from_u128(id) };
            let cursor = key.cursor(b'm');
            prop_assert_eq!(SortKey::parse(cursor.as_str(), b'm'), Some(key));
            prop_assert_eq!(SortKey::parse(cursor.as_str(), b'c'), None);
        }

        #[test]
        fn no_text_makes_reading_panic(text in ".{0,100}", bytes: Vec<u8>) {
            let _ = SortKey::parse(&text, b'm');
            let _ = SortKey::parse(Cursor::encode(bytes).as_str(), b'm');
        }
    }
}
