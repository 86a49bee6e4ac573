//! Dates and their parts: `@now`, `@todayStart`, `@year`.

use time::{Date, Month, OffsetDateTime, Time};

use super::value::Value;
use crate::time::Millis;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A date or a part of it, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DateMacro {
    Now,
    Yesterday,
    Tomorrow,
    TodayStart,
    TodayEnd,
    MonthStart,
    MonthEnd,
    YearStart,
    YearEnd,
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Weekday,
    Year,
}

impl DateMacro {
    /// The macro of a name without its `@`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "now" => Self::Now,
            "yesterday" => Self::Yesterday,
            "tomorrow" => Self::Tomorrow,
            "todayStart" => Self::TodayStart,
            "todayEnd" => Self::TodayEnd,
            "monthStart" => Self::MonthStart,
            "monthEnd" => Self::MonthEnd,
            "yearStart" => Self::YearStart,
            "yearEnd" => Self::YearEnd,
            "second" => Self::Second,
            "minute" => Self::Minute,
            "hour" => Self::Hour,
            "day" => Self::Day,
            "month" => Self::Month,
            "weekday" => Self::Weekday,
            "year" => Self::Year,
            _ => return None,
        })
    }

    /// Its value at a time: a date as records show theirs, or a number.
    pub(super) fn value(self, now: Millis) -> Value<'static> {
        let nanos = i128::from(now.0) * 1_000_000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let date = time.date();
        let day_of = |month, day| Date::from_calendar_date(date.year(), month, day).unwrap_or(date);
        let last_day = date.month().length(date.year());
        let text = |ms: i64| Value::Text(Millis(ms).to_string().into());
        let start = |date: Date| date.with_time(Time::MIDNIGHT).assume_utc().unix_timestamp() * 1000;
        let end = |date: Date| text(start(date) + DAY_MS - 1);
        let number = |number: i32| Value::Number(number.to_string().into());
        match self {
            Self::Now => text(now.0),
            Self::Yesterday => text(now.0 - DAY_MS),
            Self::Tomorrow => text(now.0 + DAY_MS),
            Self::TodayStart => text(start(date)),
            Self::TodayEnd => end(date),
            Self::MonthStart => text(start(day_of(date.month(), 1))),
            Self::MonthEnd => end(day_of(date.month(), last_day)),
            Self::YearStart => text(start(day_of(Month::January, 1))),
            Self::YearEnd => end(day_of(Month::December, 31)),
            Self::Second => number(time.second().into()),
            Self::Minute => number(time.minute().into()),
            Self::Hour => number(time.hour().into()),
            Self::Day => number(time.day().into()),
            Self::Month => number(u8::from(time.month()).into()),
            Self::Weekday => number(time.weekday().number_days_from_sunday().into()),
            Self::Year => number(time.year()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_their_parts_are_those_of_utc() {
        // A Sunday in a leap year.
        let now = Millis::parse("2028-02-27T23:59:58.120Z").unwrap();
        for (name, expected) in [
            ("now", "2028-02-27T23:59:58.120Z"),
            ("yesterday", "2028-02-26T23:59:58.120Z"),
            ("tomorrow", "2028-02-28T23:59:58.120Z"),
            ("todayStart", "2028-02-27T00:00:00.000Z"),
            ("todayEnd", "2028-02-27T23:59:59.999Z"),
            ("monthStart", "2028-02-01T00:00:00.000Z"),
            ("monthEnd", "2028-02-29T23:59:59.999Z"),
            ("yearStart", "2028-01-01T00:00:00.000Z"),
            ("yearEnd", "2028-12-31T23:59:59.999Z"),
            ("second", "58"),
            ("minute", "59"),
            ("hour", "23"),
            ("day", "27"),
            ("month", "2"),
            ("weekday", "0"),
            ("year", "2028"),
        ] {
            assert_eq!(DateMacro::parse(name).unwrap().value(now).text(), expected, "{name}");
        }
        assert_eq!(DateMacro::parse("Now"), None);
    }
}
