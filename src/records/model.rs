//! What a record is made of.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// A record's id: 15 characters of `a` to `z` and `0` to `9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId([u8; RecordId::LENGTH]);

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Digits of a made id that tell the millisecond; eight are enough until the year 2059, and start over then.
const TIME_DIGITS: usize = 8;

impl RecordId {
    const LENGTH: usize = 15;

    /// The id, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; Self::LENGTH] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()).then_some(Self(bytes))
    }

    /// An id of no record, for a look-up that must find nothing: `_` is in no id.
    pub fn impossible() -> Self {
        Self([b'_'; Self::LENGTH])
    }

    /// A new id. It begins with the time, so that new records lie beside each other in the index; the rest is random.
    pub fn make(now: Millis) -> Self {
        let mut id = [0; Self::LENGTH];
        let mut rest = now.0.unsigned_abs();
        let (time, random) = id.split_at_mut(TIME_DIGITS);
        for digit in time.iter_mut().rev() {
            *digit = DIGITS[(rest % 36) as usize];
            rest /= 36;
        }
        for digit in random {
            *digit = DIGITS[fastrand::usize(..DIGITS.len())];
        }
        Self(id)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A record's version: the number of the change that it is the outcome of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i64);

/// A time in milliseconds of Unix time: as fine as records show it, so that what is shown can be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub i64);

impl Millis {
    /// The years 1 to 9999.
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

    /// The time.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// A time of RFC 3339 between the years 1 and 9999, which Postgres has too; what is finer than a millisecond is cut off.
    pub fn parse(text: &str) -> Option<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        // An offset may move it out of those years, where `time` has no date for it in UTC.
        let ms = i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).ok()?;
        Self::YEARS.contains(&ms).then_some(Self(ms))
    }
}

impl From<SystemTime> for Millis {
    fn from(time: SystemTime) -> Self {
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(before) => -(before.duration().as_micros().div_ceil(1000) as i64),
        })
    }
}

impl From<Millis> for SystemTime {
    fn from(time: Millis) -> Self {
        let size = Duration::from_millis(time.0.unsigned_abs());
        if time.0 < 0 { UNIX_EPOCH - size } else { UNIX_EPOCH + size }
    }
}

/// RFC 3339 in UTC, to the millisecond.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        let milli = time.millisecond();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: RecordId,
    /// Its version.
    pub version: Version,
    /// When it was made.
    pub created: Millis,
    /// When it was changed last.
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

    /// About how long that is, in bytes.
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_ids_have_their_form() {
        for good in ["a", "_", "A1_b", &"x".repeat(63)] {
            assert!(Name::parse(good).is_some(), "{good}");
        }
        for bad in ["", "1a", "a-b", "a.b", "..", "a\"b", "a;b", "a\0b", "ä", &"x".repeat(64)] {
            assert!(Name::parse(bad).is_none(), "{bad:?}");
        }
        assert!(RecordId::parse("abcdefghij01234").is_some());
        for bad in
            ["", "abcdefghij0123", "abcdefghij012345", "ABCDEFGHIJ01234", "abcdefghij0123_", "ääääääää"]
        {
            assert!(RecordId::parse(bad).is_none(), "{bad:?}");
        }
        assert!(RecordId::parse(RecordId::impossible().as_str()).is_none());
    }

    #[test]
    fn made_ids_are_ids_and_lie_in_the_order_of_time() {
        let ids: Vec<RecordId> = (0..100).map(|n| RecordId::make(Millis(1_790_000_000_000 + n))).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| RecordId::parse(id.as_str()) == Some(*id)));
    }

    #[test]
    fn times_are_rfc_3339_to_the_millisecond() {
        assert_eq!(Millis(1_790_000_000_007).to_string(), "2026-09-21T14:13:20.007Z");
        assert_eq!(Millis(-1).to_string(), "1969-12-31T23:59:59.999Z");
        assert_eq!(Millis::parse("2026-09-21T16:13:20.0079+02:00"), Some(Millis(1_790_000_000_007)));
        for bad in
            ["yesterday", "9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01", "0000-12-31T00:00:00Z"]
        {
            assert_eq!(Millis::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_read_as_it_is_written(ms in -62_135_596_800_000_i64..=253_402_300_799_999) {
            let time = Millis(ms);
            prop_assert_eq!(Millis::parse(&time.to_string()), Some(time));
            prop_assert_eq!(Millis::from(SystemTime::from(time)), time);
        }
    }
}
