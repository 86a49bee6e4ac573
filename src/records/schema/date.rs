//! Dates of fields: a text in UTC to the millisecond, `2026-11-30 08:00:00.000Z`, or `""`.

use std::fmt;

use time::{Date, Duration, Month, PrimitiveDateTime, Time, UtcOffset};

use crate::time::Millis;

/// A date as fields keep it; texts compare as the dates do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DateText(String);

/// The layouts that are read, in the order of trial. `%` codes: `Y` year, `y` its last two digits, `m` `d` `H` `M` digits, `S` seconds with an
/// optional fraction, `e` day with a space, `b` month name, `a` and `A` weekday, `k` hour of 12, `P` AM or PM, `Z` `Z` or an offset with a
/// colon, `X` `Z` or an offset without, `z` `C` an offset without and with a colon, `T` the name of a zone (always UTC).
const LAYOUTS: [&str; 21] = [
    "%Y-%m-%d %H:%M:%S%Z",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S%Z",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S %T",
    "%d %b %y %H:%M %z",
    "%d %b %y %H:%M %T",
    "%A, %d-%b-%y %H:%M:%S %T",
    "%Y-%m-%d %H:%M:%S %z %T",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%d %H:%M:%S%X",
    "%a %b %e %H:%M:%S %Y",
    "%a %b %e %H:%M:%S %T %Y",
    "%a %b %d %H:%M:%S %z %Y",
    "%d %b %Y",
    "%Y-%m-%d %H:%M:%S %C",
    "%Y-%m-%d %H:%M:%S %z",
    "%k:%M%P",
    "%b %e %H:%M:%S",
];

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl DateText {
    /// Reads a date in one of the layouts that PocketBase knows. `None`: it is none, or the beginning of the year 1, which counts as none.
    pub fn parse(text: &str) -> Option<Self> {
        let date = LAYOUTS.iter().find_map(|layout| Reader::new(text).date(layout))?;
        let first = Date::from_calendar_date(1, Month::January, 1).ok()?.midnight();
        let is_shown = date != first && (0..=9999).contains(&date.year());
        is_shown.then(|| Self::of(date))
    }

    /// The date of a time in UTC.
    pub fn of(date: PrimitiveDateTime) -> Self {
        let (day, time) = (date.date(), date.time());
        Self(format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}Z",
            day.year(),
            u8::from(day.month()),
            day.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond()
        ))
    }

    /// The date of a time.
    pub fn at(time: Millis) -> Self {
        Self(time.to_string().replacen('T', " ", 1))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As messages show it: `2020-01-01 00:00:00 +0000 UTC`.
    pub fn in_messages(&self) -> String {
        format!("{} +0000 UTC", self.without_zone())
    }

    /// RFC 3339, without a fraction that is zero.
    pub fn rfc3339(&self) -> String {
        format!("{}Z", self.without_zone().replacen(' ', "T", 1))
    }

    fn without_zone(&self) -> &str {
        let text = self.0.trim_end_matches('Z').trim_end_matches('0');
        text.strip_suffix('.').map_or(text, |_| self.0.split('.').next().unwrap_or_default())
    }
}

impl fmt::Display for DateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is being read.
struct Reader<'a> {
    rest: &'a str,
    year: i32,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    nanosecond: u32,
    is_afternoon: Option<bool>,
    offset: UtcOffset,
}

impl<'a> Reader<'a> {
    fn new(rest: &'a str) -> Self {
        Self {
            rest,
            year: 0,
            month: 1,
            day: 1,
            hour: 0,
            minute: 0,
            second: 0,
            nanosecond: 0,
            is_afternoon: None,
            offset: UtcOffset::UTC,
        }
    }

    fn date(mut self, layout: &str) -> Option<PrimitiveDateTime> {
        let mut codes = layout.chars();
        while let Some(literal) = codes.next() {
            match literal {
                '%' => self.code(codes.next()?)?,
                literal => self.rest = self.rest.strip_prefix(literal)?,
            }
        }
        if !self.rest.is_empty() {
            return None;
        }
        let hour = match self.is_afternoon {
            None => self.hour,
            Some(_) if !(1..=12).contains(&self.hour) => return None,
            Some(is_afternoon) => self.hour % 12 + if is_afternoon { 12 } else { 0 },
        };
        let date = Date::from_calendar_date(self.year, Month::try_from(self.month).ok()?, self.day).ok()?;
        let time = Time::from_hms_nano(hour, self.minute, self.second, self.nanosecond).ok()?;
        let offset = Duration::seconds(self.offset.whole_seconds().into());
        date.with_time(time).checked_sub(offset)
    }

    fn code(&mut self, code: char) -> Option<()> {
        match code {
            'Y' => self.year = self.digits(4)?.into(),
            'y' => {
                let year = i32::from(self.digits(2)?);
                self.year = if year >= 69 { 1900 + year } else { 2000 + year };
            }
            'm' => self.month = self.two()?,
            'd' => self.day = self.two()?,
            'e' => {
                self.day = match self.rest.strip_prefix(' ') {
                    Some(rest) => {
                        self.rest = rest;
                        u8::try_from(self.digits(1)?).ok()?
                    }
                    None => self.two()?,
                };
            }
            'H' => self.hour = self.two()?,
            'k' => {
                let length = self.rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
                self.hour = u8::try_from(self.digits(length)?).ok()?;
            }
            'M' => self.minute = self.two()?,
            'S' => {
                self.second = self.two()?;
                self.fraction()?;
            }
            'b' => {
                let month = MONTHS.iter().position(|name| self.take(name))?;
                self.month = u8::try_from(month).ok()? + 1;
            }
            'a' => drop(WEEKDAYS.iter().find(|name| self.take(name.get(..3).unwrap_or(name)))?),
            'A' => drop(WEEKDAYS.iter().find(|name| self.take(name))?),
            'P' => {
                let (morning, afternoon) = (self.take("AM"), self.take("PM"));
                self.is_afternoon = (morning != afternoon).then_some(afternoon);
                self.is_afternoon?;
            }
            'Z' => {
                if !self.take("Z") {
                    self.offset(true)?;
                }
            }
            'X' => {
                if !self.take("Z") {
                    self.offset(false)?;
                }
            }
            'C' => self.offset(true)?,
            'z' => self.offset(false)?,
            'T' => {
                let length = self.rest.bytes().take_while(u8::is_ascii_uppercase).count();
                if !(3..=4).contains(&length) {
                    return None;
                }
                self.rest = self.rest.get(length..)?;
            }
            _ => return None,
        }
        Some(())
    }

    /// A number of so many digits.
    fn digits(&mut self, length: usize) -> Option<u16> {
        let digits =
            self.rest.get(..length).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        self.rest = self.rest.get(length..)?;
        digits.parse().ok()
    }

    fn two(&mut self) -> Option<u8> {
        u8::try_from(self.digits(2)?).ok()
    }

    fn take(&mut self, word: &str) -> bool {
        let rest = self.rest.strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// A fraction of a second, if there is one.
    fn fraction(&mut self) -> Option<()> {
        let Some(rest) = self.rest.strip_prefix(['.', ',']) else { return Some(()) };
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let digits: String = rest.get(..length)?.chars().chain(std::iter::repeat('0')).take(9).collect();
        if length == 0 {
            return None;
        }
        self.nanosecond = digits.parse().ok()?;
        self.rest = rest.get(length..)?;
        Some(())
    }

    fn offset(&mut self, has_colon: bool) -> Option<()> {
        let is_east = match self.rest.as_bytes().first()? {
            b'+' => true,
            b'-' => false,
            _ => return None,
        };
        self.rest = self.rest.get(1..)?;
        let hours = i8::try_from(self.two()?).ok()?;
        if has_colon && !self.take(":") {
            return None;
        }
        let minutes = i8::try_from(self.two()?).ok()?;
        let sign = if is_east { 1 } else { -1 };
        self.offset = UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_and_parameters_show_a_date_without_an_empty_fraction() {
        let shown = |text| DateText::parse(text).map(|date| (date.in_messages(), date.rfc3339())).unwrap();
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!(shown("2020-01-01"), pair("2020-01-01 00:00:00 +0000 UTC", "2020-01-01T00:00:00Z"));
        assert_eq!(
            shown("2020-01-01 10:20:30.120Z"),
            pair("2020-01-01 10:20:30.12 +0000 UTC", "2020-01-01T10:20:30.12Z")
        );
    }

    proptest! {
        #[test]
        fn a_date_round_trips_and_no_text_makes_reading_panic(
            seconds in -62_000_000_000_i64..253_402_300_799, ms in 0_i64..1000, text in ".{0,40}", near in "[0-9TZ:+ .-]{0,30}"
        ) {
            let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap() + Duration::milliseconds(ms);
            let date = DateText::of(PrimitiveDateTime::new(time.date(), time.time()));
            prop_assert_eq!(DateText::parse(date.as_str()), Some(date.clone()));
            prop_assert_eq!(DateText::parse(&date.rfc3339()), Some(date));
            let _ = DateText::parse(&text);
            let _ = DateText::parse(&near);
        }
    }
}
