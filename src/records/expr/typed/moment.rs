//! `strftime` in SQL, as SQLite has it: the format and the modifiers are constants, the time is any operand.
//!
//! Nothing fails: a text that is no time, a modifier that SQLite does not know, and a time outside of the years 1 to 9999 are null. Steps of more than
//! 4,000 years are null too, which they are only here.

/// The most arguments.
pub(in crate::records::expr) const MAX_ARGUMENTS: usize = 10;
/// A time of SQLite. Its parts are the groups.
const TIME: &str = r"^\s*(?!0000)([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])([ T]+([01][0-9]|2[0-3]):([0-5][0-9])(:([0-5][0-9](\.[0-9]+)?))?)?\s*(Z|z|([+-])(0[0-9]|1[0-4]):([0-5][0-9]))?\s*$";
/// A time without a date, which is of the year 2000.
const CLOCK: &str = r"^\s*([01][0-9]|2[0-3]):([0-5][0-9])(:([0-5][0-9](\.[0-9]+)?))?\s*Z?\s*$";
/// The most years of a step.
const MAX_YEARS: f64 = 4_000.0;

/// A call of `strftime` but for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::records) struct Format {
    /// Texts, and SQL over `t`.
    parts: Vec<Part>,
    steps: Vec<Step>,
    /// How a number is read.
    numbers: Numbers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Sql(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Days of Julian's calendar; texts are dates.
    Days,
    /// The same, and dates are null.
    DaysAlone,
    /// Seconds since 1970, and dates are null.
    SecondsAlone,
    /// The one or the other, by its size.
    Auto,
}

/// A step from a time to another one: SQL over `t`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step(String);

impl Format {
    /// The format and the modifiers of a call. `None`: it is null.
    pub(in crate::records) fn parse(format: &str, modifiers: &[String]) -> Option<Self> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            match characters.next()? {
                '%' => text.push('%'),
                code => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(Part::Sql(code_sql(code)?));
                }
            }
        }
        if !text.is_empty() || parts.is_empty() {
            parts.push(Part::Text(text));
        }
        let (mut steps, mut numbers) = (Vec::new(), Numbers::Days);
        let modifiers: Vec<String> =
            modifiers.iter().map(|modifier| modifier.trim().to_ascii_lowercase()).collect();
        for (at, modifier) in modifiers.iter().enumerate() {
            let is_floor = modifiers.get(at + 1).is_some_and(|next| next == "floor");
            match modifier.as_str() {
                "unixepoch" if at == 0 => numbers = Numbers::SecondsAlone,
                "auto" if at == 0 => numbers = Numbers::Auto,
                "julianday" if at == 0 => numbers = Numbers::DaysAlone,
                "floor" | "ceiling" if at > 0 => {}
                // All times are UTC here, and fractions of seconds are shown by %f alone.
                "utc" | "localtime" | "subsec" | "subsecond" => {}
                modifier => steps.push(Step(step_sql(modifier, is_floor)?)),
            }
        }
        Some(Self { parts, steps, numbers })
    }

    /// The text in SQL, of a time that is an SQL number or an SQL text; `bind` binds a constant.
    pub(in crate::records) fn sql(
        &self,
        number: Option<&str>,
        text: Option<&str>,
        bind: &mut dyn FnMut(String) -> String,
    ) -> String {
        let days = |n: &str| {
            format!(
                "case when {n} between 1721425.5 and 5373484 then timestamp '1970-01-01' + ({n} - 2440587.5)::float8 * interval '1 day' end"
            )
        };
        let seconds = |n: &str| {
            format!(
                "case when {n} between -62135596800 and 253402300799 then timestamp '1970-01-01' + ({n})::float8 * interval '1 second' end"
            )
        };
        let of_number = |n: &str| match self.numbers {
            Numbers::Days | Numbers::DaysAlone => days(n),
            Numbers::SecondsAlone => seconds(n),
            Numbers::Auto => {
                format!("case when {n} between 0 and 5373484 then ({}) else ({}) end", days(n), seconds(n))
            }
        };
        let of_text = |text: &str| {
            let number = of_number(&format!("(case when {text} ~ {NUMBER} then {text}::numeric end)"));
            let date = match self.numbers {
                Numbers::DaysAlone | Numbers::SecondsAlone => "null::timestamp".to_owned(),
                Numbers::Days | Numbers::Auto => format!(
                    "case lower({text}) when 'now' then now() at time zone 'UTC' else coalesce(\
                     (select make_date(p[1]::int, p[2]::int, 1) + (p[3]::int - 1) \
                        + make_interval(hours => coalesce(p[5], '0')::int, mins => coalesce(p[6], '0')::int, secs => coalesce(p[8], '0')::float8) \
                        - make_interval(hours => coalesce(p[11] || p[12], '0')::int, mins => coalesce(p[11] || p[13], '0')::int) \
                      from regexp_match({text}, '{TIME}') as p where p is not null), \
                     (select timestamp '2000-01-01' \
                        + make_interval(hours => p[1]::int, mins => p[2]::int, secs => coalesce(p[4], '0')::float8) \
                      from regexp_match({text}, '{CLOCK}') as p where p is not null)) end"
                ),
            };
            format!("case when {text} ~ {NUMBER} then ({number}) else ({date}) end")
        };
        let mut time = match (number, text) {
            (Some(number), Some(text)) => {
                format!(
                    "case when {number} is not null then ({}) else ({}) end",
                    of_number(number),
                    of_text(text)
                )
            }
            (Some(number), None) => of_number(number),
            (None, Some(text)) => of_text(text),
            (None, None) => "null::timestamp".into(),
        };
        for Step(step) in &self.steps {
            time = format!(
                "(select case when {IN_RANGE} then {step} end from (select ({time})::timestamp as t) as before)"
            );
        }
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => format!("{}::text", bind(text.clone())),
                Part::Sql(sql) => (*sql).to_owned(),
            })
            .collect();
        format!(
            "(select case when {IN_RANGE} then {} end from (select ({time})::timestamp as t) as moment)",
            parts.join(" || ")
        )
    }
}

/// A text that is a number, a day or a second.
const NUMBER: &str = r"'^\s*[+-]?[0-9]{1,12}(\.[0-9]{1,9})?\s*$'";
/// The times that have a text.
const IN_RANGE: &str = "t >= timestamp '0001-01-01' and t < timestamp '10000-01-01'";

/// A part of a format, as SQL over `t`.
fn code_sql(code: char) -> Option<&'static str> {
    Some(match code {
        'd' => "to_char(t, 'DD')",
        'e' => "lpad(extract(day from t)::text, 2)",
        'f' => "to_char(t, 'SS.MS')",
        'F' => "to_char(t, 'YYYY-MM-DD')",
        'G' => "to_char(t, 'IYYY')",
        'g' => "to_char(t, 'IY')",
        'H' => "to_char(t, 'HH24')",
        'I' => "to_char(t, 'HH12')",
        'j' => "to_char(t, 'DDD')",
        'J' => "trim_scale(round(extract(epoch from t)::numeric / 86400 + 2440587.5, 9))::text",
        'k' => "lpad(extract(hour from t)::text, 2)",
        'l' => "lpad(ltrim(to_char(t, 'HH12'), '0'), 2)",
        'm' => "to_char(t, 'MM')",
        'M' => "to_char(t, 'MI')",
        'p' => "to_char(t, 'AM')",
        'P' => "to_char(t, 'am')",
        'R' => "to_char(t, 'HH24:MI')",
        's' => "floor(extract(epoch from t))::bigint::text",
        'S' => "to_char(t, 'SS')",
        'T' => "to_char(t, 'HH24:MI:SS')",
        'u' => "extract(isodow from t)::int::text",
        'U' => "lpad(((extract(doy from t)::int + 6 - extract(dow from t)::int) / 7)::text, 2, '0')",
        'V' => "to_char(t, 'IW')",
        'w' => "extract(dow from t)::int::text",
        'W' => "lpad(((extract(doy from t)::int + 7 - extract(isodow from t)::int) / 7)::text, 2, '0')",
        'Y' => "to_char(t, 'YYYY')",
        _ => return None,
    })
}

/// A shift such as `0001-02-03 04:05`: years, months and days, and seconds.
fn shifted(text: &str) -> Option<([f64; 3], f64)> {
    let (date, clock) = text.split_once(' ').unwrap_or((text, "00:00"));
    let digits = |text: &str, count: usize, below: f64| {
        let is_number = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<f64>().ok().filter(|number| is_number && *number < below)
    };
    let mut parts = date.split('-');
    let date = [
        digits(parts.next()?, 4, MAX_YEARS)?,
        digits(parts.next()?, 2, 12.0)?,
        digits(parts.next()?, 2, 31.0)?,
    ];
    let mut clock = clock.split(':');
    let hours = digits(clock.next()?, 2, 25.0)?;
    let minutes = digits(clock.next()?, 2, 60.0)?;
    let seconds = clock.next().map_or(Some(0.0), |seconds| digits(seconds, 2, 60.0))?;
    (parts.next().is_none() && clock.next().is_none())
        .then_some((date, hours * 3_600.0 + minutes * 60.0 + seconds))
}

/// A modifier, as SQL over `t`.
fn step_sql(modifier: &str, is_floor: bool) -> Option<String> {
    if let Some(unit) = modifier.strip_prefix("start of ") {
        let unit = ["year", "month", "day"].into_iter().find(|known| *known == unit.trim())?;
        return Some(format!("date_trunc('{unit}', t)"));
    }
    if let Some(day) = modifier.strip_prefix("weekday ") {
        let day: u8 = day.trim().parse().ok().filter(|day| *day < 7)?;
        return Some(format!("t + ((7 + {day} - extract(dow from t)::int) % 7) * interval '1 day'"));
    }
    let (sign, rest) = match modifier.as_bytes().first()? {
        b'-' => (-1.0, modifier.get(1..)?),
        b'+' => (1.0, modifier.get(1..)?),
        _ => (1.0, modifier),
    };
    // The 31st of a shorter month is a day of the next one, or with `floor` its last day.
    let months = |whole: f64, rest: String| match is_floor {
        true => format!("t + {whole} * interval '1 month'{rest}"),
        false => format!(
            "date_trunc('month', t) + {whole} * interval '1 month' + (t - date_trunc('month', t)){rest}"
        ),
    };
    if let Some((date, clock)) = shifted(rest) {
        let [years, of_year, days] = date;
        return Some(months(
            sign * (years * 12.0 + of_year),
            format!(" + {} * interval '1 day' + {} * interval '1 second'", sign * days, sign * clock),
        ));
    }
    if let Some((hours, rest)) = rest.split_once(':') {
        let (minutes, seconds) = rest.split_once(':').unwrap_or((rest, "0"));
        let part = |text: &str, most: f64| text.parse::<f64>().ok().filter(|part| (0.0..most).contains(part));
        let seconds = part(hours, 25.0)? * 3_600.0 + part(minutes, 60.0)? * 60.0 + part(seconds, 60.0)?;
        return Some(format!("t + {} * interval '1 second'", sign * seconds));
    }
    let (number, unit) = rest.split_once(' ')?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = number.parse::<f64>().ok().filter(|number| is_number && number.is_finite())?;
    let unit = unit.trim();
    let unit = unit.strip_suffix('s').unwrap_or(unit);
    let of_year = match unit {
        "second" => 31_557_600.0,
        "minute" => 525_960.0,
        "hour" => 8_766.0,
        "day" => 365.25,
        "month" => 12.0,
        "year" => 1.0,
        _ => return None,
    };
    if number / of_year > MAX_YEARS {
        return Some("null::timestamp".into());
    }
    let number = sign * number;
    let rest = |days: f64| match days {
        0.0 => String::new(),
        days => format!(" + {days} * interval '1 day'"),
    };
    Some(match unit {
        "month" => months(number.trunc(), rest(number.fract() * 30.0)),
        "year" => months(number.trunc() * 12.0, rest(number.fract() * 365.0)),
        unit => format!("t + {number} * interval '1 {unit}'"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqlite_does_not_know_is_null() {
        let parse = |format: &str, modifiers: &[&str]| {
            let modifiers: Vec<String> = modifiers.iter().map(|text| (*text).to_owned()).collect();
            Format::parse(format, &modifiers).is_some()
        };
        assert!(parse("%Y-%m-%d %%", &["+1 day", "start of month", "weekday 6", "-01:30", "unixepoch"][..4]));
        assert!(parse("", &["unixepoch", "2 months", "-1.5 hours", " Start of Year "]));
        for (format, modifier) in [
            ("%q", None),
            ("%", None),
            ("%Y", Some("")),
            ("%Y", Some("tomorrow")),
            ("%Y", Some("1day")),
            ("%Y", Some("1e3 days")),
            ("%Y", Some("nan days")),
            ("%Y", Some("weekday 7")),
            ("%Y", Some("start of week")),
            ("%Y", Some("25:61")),
            ("%Y", Some("+é day")),
        ] {
            assert!(!parse(format, modifier.as_slice()), "{format} {modifier:?}");
        }
    }
}
