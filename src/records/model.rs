//! Records and their parts.

use std::fmt;

use crate::time::Millis;

/// A collection's name: a letter or `_`, then letters, digits or `_`, at most 63.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The name, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let is_name = begins_well
            && text.len() <= 63
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then(|| Self(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A collection in a list.
#[derive(Debug, Clone)]
pub struct ListedCollection {
    /// Its name.
    pub name: String,
    /// About how many records it has; `None`: Postgres has not counted them yet.
    pub records: Option<i64>,
}

/// A record's id. Those that the service makes have 15 characters of `a` to `z` and `0` to `9`; a typed collection may describe others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId {
    /// Its bytes, and zeros after them.
    bytes: [u8; RecordId::MAX_BYTES],
    length: u8,
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// The digits of a made id for the millisecond; eight suffice until the year 2059, and start over then.
const TIME_DIGITS: usize = 8;
/// The length of a made id.
const MADE: usize = 15;
/// PocketBase's `forbiddenPKCharacters`. No id has a control character either.
const FORBIDDEN: &[char] = &['.', '/', '\\', '|', '\'', '"', '`', '<', '>', ':', '?', '*', '%', '$', ' '];

impl RecordId {
    /// The longest id.
    pub const MAX_BYTES: usize = 100;

    /// The id, if it is one: 1 to 100 bytes without [`Self::forbidden`] characters.
    pub fn parse(text: &str) -> Option<Self> {
        Self::forbidden(text).is_none().then_some(text).and_then(Self::of)
    }

    /// The id, if it is one as the service makes them.
    pub fn parse_plain(text: &str) -> Option<Self> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        (is_plain && text.len() == MADE).then_some(text).and_then(Self::of)
    }

    /// The first character that is in no id.
    pub fn forbidden(text: &str) -> Option<char> {
        text.chars().find(|character| FORBIDDEN.contains(character) || character.is_ascii_control())
    }

    /// An id of no record, for a look-up without a result.
    pub fn impossible() -> Self {
        Self::of(".").unwrap_or(Self { bytes: [0; Self::MAX_BYTES], length: 0 })
    }

    fn of(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::MAX_BYTES];
        let length = u8::try_from(text.len()).ok().filter(|length| *length > 0)?;
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { bytes, length })
    }

    /// A new id. It begins with the time, so that new records are neighbours in the index; the rest is random.
    pub fn make(now: Millis) -> Self {
        let mut bytes = [0; Self::MAX_BYTES];
        let (id, _) = bytes.split_at_mut(MADE);
        let mut rest = now.0.unsigned_abs();
        let (time, random) = id.split_at_mut(TIME_DIGITS);
        for digit in time.iter_mut().rev() {
            *digit = DIGITS[(rest % 36) as usize];
            rest /= 36;
        }
        for digit in random {
            *digit = DIGITS[fastrand::usize(..DIGITS.len())];
        }
        Self { bytes, length: MADE as u8 }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({:?})", self.as_str())
    }
}

/// A record's version: the number of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i64);

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: RecordId,
    /// Its version.
    pub version: Version,
    /// The time of its creation.
    pub created: Millis,
    /// The time of its last change.
    pub updated: Millis,
    /// Its own members: the text of a JSON object.
    pub data: String,
}

impl Record {
    /// Appends the record as clients see it: `id`, `created` and `updated`, then its own members.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        write_head(out, &self.id, self.created, self.updated);
        write_rest(out, &self.data);
    }

    /// The length of that, about.
    pub fn json_len(&self) -> usize {
        self.data.len() + 100
    }
}

/// Appends the members that the service makes, without the object's end.
pub(super) fn write_head(out: &mut Vec<u8>, id: &RecordId, created: Millis, updated: Millis) {
    use std::io::Write;
    let id = id.as_str();
    let _never_fails = write!(out, r#"{{"id":"{id}","created":"{created}","updated":"{updated}""#);
}

/// Appends an object's members and its end behind other members.
fn write_rest(out: &mut Vec<u8>, object: &str) {
    match object.strip_prefix('{').map(str::trim_start) {
        Some(rest) if !rest.starts_with('}') => {
            out.push(b',');
            out.extend_from_slice(rest.as_bytes());
        }
        _ => out.push(b'}'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_validated() {
        for good in ["a", "_", "A1_b", &"x".repeat(63)] {
            assert!(Name::parse(good).is_some(), "{good}");
        }
        for bad in ["", "1a", "a-b", "a.b", "..", "a\"b", "a;b", "a\0b", "ä", &"x".repeat(64)] {
            assert!(Name::parse(bad).is_none(), "{bad:?}");
        }
        assert!(RecordId::parse_plain("abcdefghij01234").is_some());
        for bad in
            ["", "abcdefghij0123", "abcdefghij012345", "ABCDEFGHIJ01234", "abcdefghij0123_", "ääääääää"]
        {
            assert!(RecordId::parse_plain(bad).is_none(), "{bad:?}");
        }
        for good in ["a", "A_b-c", "ä@#+,;~!(){}[]=&^", &"x".repeat(100)] {
            assert_eq!(RecordId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "a b", "a/b", "a\0", "\u{1}", "a\tb", &"x".repeat(101), &"x".repeat(300)] {
            assert!(RecordId::parse(bad).is_none(), "{bad:?}");
        }
        assert!(RecordId::parse(RecordId::impossible().as_str()).is_none());
    }

    #[test]
    fn made_ids_are_valid_and_in_the_order_of_time() {
        let ids: Vec<RecordId> = (0..100).map(|n| RecordId::make(Millis(1_790_000_000_000 + n))).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| RecordId::parse(id.as_str()) == Some(*id)));
    }
}
