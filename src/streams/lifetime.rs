//! Lifetimes of streams, and how much of them is kept.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::time::Micros;

/// Seconds of the longest `Stream-TTL`: some 300 years, so that its end is a time that Postgres has.
pub const MAX_TTL_S: u64 = 9_999_999_999;

/// The time at which a stream ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// This number of seconds after the last read or write (`Stream-TTL`).
    Ttl(u64),
    /// At a time (`Stream-Expires-At`).
    ExpiresAt(Micros),
}

impl Lifetime {
    /// Reads the value of `Stream-TTL`: digits without leading zeros.
    ///
    /// # Errors
    ///
    /// It is malformed, or longer than [`MAX_TTL_S`].
    pub fn ttl(text: &str) -> Result<Self, InvalidLifetime> {
        let seconds = whole_number(text).ok_or(InvalidLifetime::Ttl)?;
        if seconds > MAX_TTL_S { Err(InvalidLifetime::LongTtl) } else { Ok(Self::Ttl(seconds)) }
    }

    /// Reads the value of `Stream-Expires-At`: a time of RFC 3339.
    ///
    /// # Errors
    ///
    /// It is malformed.
    pub fn expires_at(text: &str) -> Result<Self, InvalidLifetime> {
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidLifetime::ExpiresAt)?;
        let us = i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000));
        let time = Micros(us.map_err(|_| InvalidLifetime::ExpiresAt)?);
        if time > Micros::LATEST { Err(InvalidLifetime::ExpiresAt) } else { Ok(Self::ExpiresAt(time)) }
    }

    /// The end of a stream that is read or written now.
    pub fn end(self, now: Micros) -> Micros {
        match self {
            Self::Ttl(seconds) => Micros(now.0.saturating_add_unsigned(seconds.saturating_mul(1_000_000))),
            Self::ExpiresAt(time) => time,
        }
    }
}

/// A number of `^(0|[1-9]\d*)$`; a larger one than `u64` holds is the largest.
pub fn whole_number(text: &str) -> Option<u64> {
    let is_whole = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_whole || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// An invalid lifetime or retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLifetime {
    /// `Stream-TTL` is malformed.
    #[error("Stream-TTL takes a whole number of seconds, without sign, fraction or leading zeros")]
    Ttl,
    /// `Stream-TTL` is too long.
    #[error("Stream-TTL takes at most {MAX_TTL_S} seconds")]
    LongTtl,
    /// `Stream-Expires-At` is malformed.
    #[error("Stream-Expires-At takes a time such as 2026-01-31T12:00:00Z (RFC 3339)")]
    ExpiresAt,
    /// `Stream-Retention` is malformed.
    #[error("Stream-Retention takes age=<seconds>, bytes=<number>, or one of them, each at least 1")]
    Retention,
}

/// How much of a stream is kept (`Stream-Retention`, an extension). At least one limit is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Seconds for which an append is kept.
    pub age_s: Option<u64>,
    /// Bytes of the stored form that are kept.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Reads `age=<s>, bytes=<n>`, in any order, or one of them.
    ///
    /// # Errors
    ///
    /// It is malformed.
    pub fn parse(text: &str) -> Result<Self, InvalidLifetime> {
        let mut retention = Self { age_s: None, bytes: None };
        for part in text.split(',') {
            let (name, value) = part.trim_ascii().split_once('=').ok_or(InvalidLifetime::Retention)?;
            let value = whole_number(value).filter(|value| *value > 0).ok_or(InvalidLifetime::Retention)?;
            let former = match name {
                "age" => retention.age_s.replace(value.min(MAX_TTL_S)),
                "bytes" => retention.bytes.replace(value.min(i64::MAX as u64)),
                _ => return Err(InvalidLifetime::Retention),
            };
            if former.is_some() {
                return Err(InvalidLifetime::Retention);
            }
        }
        Ok(retention)
    }
}

impl std::fmt::Display for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.age_s, self.bytes) {
            (Some(age_s), Some(bytes)) => write!(f, "age={age_s}, bytes={bytes}"),
            (Some(age_s), None) => write!(f, "age={age_s}"),
            (None, Some(bytes)) => write!(f, "bytes={bytes}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_a_plain_number_and_a_huge_one_is_refused() {
        assert_eq!(Lifetime::ttl("0"), Ok(Lifetime::Ttl(0)));
        assert_eq!(Lifetime::ttl("9999999999"), Ok(Lifetime::Ttl(MAX_TTL_S)));
        for bad in ["", "01", "+1", "-1", "1.0", "1e3", " 1", "1 ", "\u{661}"] {
            assert_eq!(Lifetime::ttl(bad), Err(InvalidLifetime::Ttl), "{bad}");
        }
        assert_eq!(Lifetime::ttl(&"9".repeat(400)), Err(InvalidLifetime::LongTtl));
        assert_eq!(Lifetime::Ttl(2).end(Micros(5)), Micros(2_000_005));
        assert!(Lifetime::Ttl(MAX_TTL_S).end(Micros::now()) < Micros::LATEST);
    }

    #[test]
    fn expires_at_is_rfc_3339_and_nothing_else() {
        let utc = Lifetime::expires_at("2030-01-01T00:00:00Z").unwrap();
        assert_eq!(Lifetime::expires_at("2030-01-01T02:00:00.000+02:00"), Ok(utc));
        for bad in
            ["", "Jan 1 2030", "2030-01-01", "2030-01-01T00:00:00", "1893456000", "2030-13-01T00:00:00Z"]
        {
            assert_eq!(Lifetime::expires_at(bad), Err(InvalidLifetime::ExpiresAt), "{bad}");
        }
    }

    #[test]
    fn retention_takes_each_limit_once() {
        let both = Retention { age_s: Some(60), bytes: Some(1_000) };
        assert_eq!(Retention::parse("age=60, bytes=1000"), Ok(both));
        assert_eq!(Retention::parse("bytes=1000,age=60"), Ok(both));
        assert_eq!(both.to_string(), "age=60, bytes=1000");
        assert_eq!(Retention::parse("age=60"), Ok(Retention { age_s: Some(60), bytes: None }));
        for bad in ["", "age", "age=", "age=0", "age=-1", "age=1,age=2", "size=1", "age=1;bytes=2", "age=01"]
        {
            assert_eq!(Retention::parse(bad), Err(InvalidLifetime::Retention), "{bad}");
        }
    }
}
