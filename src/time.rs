//! Times as integers of Unix time: microseconds, which Postgres keeps, and milliseconds, which records show.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A time in microseconds of Unix time, as fine as Postgres keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

impl Micros {
    /// The beginning of Unix time, before every stored time.
    pub const EARLIEST: Self = Self(0);
    /// The end of the year 9999, after every stored time.
    pub const LATEST: Self = Self(253_402_300_799_999_999);

    /// The time by the clock of this machine.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }
}

impl From<SystemTime> for Micros {
    fn from(time: SystemTime) -> Self {
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_micros() as i64,
            Err(before) => -(before.duration().as_micros() as i64),
        })
    }
}

impl From<Micros> for SystemTime {
    fn from(time: Micros) -> Self {
        unix_time(Duration::from_micros(time.0.unsigned_abs()), time.0 < 0)
    }
}

/// RFC 3339 in UTC, to the microsecond.
impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = utc(i128::from(self.0) * 1_000);
        write!(f, "{}.{:06}Z", Seconds(time), time.microsecond())
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A time in milliseconds of Unix time, as fine as records show it, so that a shown time can be compared with a stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub i64);

impl Millis {
    /// The years 1 to 9999.
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

    /// The time by the clock of this machine.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Reads RFC 3339 between the years 1 and 9999, which Postgres has too. Digits beyond the millisecond are cut off.
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
        unix_time(Duration::from_millis(time.0.unsigned_abs()), time.0 < 0)
    }
}

/// RFC 3339 in UTC, to the millisecond.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = utc(i128::from(self.0) * 1_000_000);
        write!(f, "{}.{:03}Z", Seconds(time), time.millisecond())
    }
}

fn unix_time(distance: Duration, is_before: bool) -> SystemTime {
    if is_before { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

fn utc(nanos: i128) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The date and the time of day, without a fraction and an offset.
struct Seconds(OffsetDateTime);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = (self.0.year(), u8::from(self.0.month()), self.0.day());
        let (hour, minute, second) = (self.0.hour(), self.0.minute(), self.0.second());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn milliseconds_are_read_within_the_years_of_postgres() {
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
        fn milliseconds_round_trip(ms in -62_135_596_800_000_i64..=253_402_300_799_999) {
            let time = Millis(ms);
            prop_assert_eq!(Millis::parse(&time.to_string()), Some(time));
            prop_assert_eq!(Millis::from(SystemTime::from(time)), time);
        }

        #[test]
        fn microseconds_round_trip(us in 0..Micros::LATEST.0) {
            let time = Micros(us);
            prop_assert_eq!(Micros::from(SystemTime::from(time)), time);
            let read = OffsetDateTime::parse(&time.to_string(), &Rfc3339).unwrap();
            prop_assert_eq!(read.unix_timestamp_nanos(), i128::from(us) * 1000);
        }
    }
}
