//! Values of operands.

use std::borrow::Cow;
use std::cmp::Ordering;

/// A value: lists and objects are their JSON text, booleans are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    /// A decimal number without an exponent, as `numeric` writes it.
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// The value of a JSON text as `jsonb` writes it.
    pub(super) fn of_json(json: &'a str) -> Self {
        match json.as_bytes().first() {
            None | Some(b'n') => Self::Null,
            Some(b't') => Self::Number("1".into()),
            Some(b'f') => Self::Number("0".into()),
            Some(b'[' | b'{') => Self::Text(json.into()),
            Some(b'"') => match json.get(1..json.len() - 1) {
                Some(inner) if !inner.contains('\\') => Self::Text(inner.into()),
                _ => serde_json::from_str(json).map_or(Self::Null, |text: String| Self::Text(text.into())),
            },
            Some(_) => Self::Number(json.into()),
        }
    }

    /// A boolean, which is a number.
    pub(super) fn of_flag(flag: bool) -> Self {
        Self::Number(if flag { "1" } else { "0" }.into())
    }

    /// Its text, `""` for null.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Number(text) | Self::Text(text) => text,
        }
    }

    /// Whether it is null, or the empty text, which is alike.
    fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Number(_) => false,
            Self::Text(text) => text.is_empty(),
        }
    }

    /// Equality, as of `=`.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => compare_decimals(one, other) == Some(Ordering::Equal),
            (Self::Text(one), Self::Text(other)) => one == other,
            _ => self.is_empty() && other.is_empty(),
        }
    }

    /// The order, as of `<`; `None` between different types.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => compare_decimals(one, other),
            (Self::Text(one), Self::Text(other)) => Some(one.as_bytes().cmp(other.as_bytes())),
            _ => None,
        }
    }
}

/// Compares two decimal numbers digit by digit: none is lost, as in `numeric`. `None`: one has an exponent, which `jsonb` does not write.
fn compare_decimals(one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (Decimal::read(one)?, Decimal::read(other)?);
    Some(match (one.is_negative, other.is_negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => one.compare_size(&other),
        (true, true) => other.compare_size(&one),
    })
}

struct Decimal<'a> {
    is_negative: bool,
    /// Without zeros at the beginning.
    whole: &'a str,
    /// Without zeros at the end.
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return None;
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Self { is_negative: is_negative && !is_zero, whole, fraction })
    }

    fn compare_size(&self, other: &Self) -> Ordering {
        let by_length = self.whole.len().cmp(&other.whole.len());
        // Zeros at the end are cut off, so the longer of two equal beginnings is the larger one.
        by_length.then_with(|| self.whole.cmp(other.whole)).then_with(|| self.fraction.cmp(other.fraction))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_compared_to_the_last_digit() {
        for (one, order, other) in [
            ("10", Ordering::Equal, "10.00"),
            ("-0", Ordering::Equal, "0.0"),
            ("9", Ordering::Less, "10"),
            ("-9", Ordering::Greater, "-10"),
            ("0.10", Ordering::Greater, "0.09"),
            ("0.1", Ordering::Less, "0.11"),
            ("12345678901234567890.1", Ordering::Less, "12345678901234567890.2"),
        ] {
            assert_eq!(compare_decimals(one, other), Some(order), "{one} {other}");
        }
        assert_eq!(compare_decimals("1e5", "1"), None);
    }

    #[test]
    fn null_and_no_text_are_alike_and_types_are_not() {
        let value = Value::of_json;
        assert!(value("null").equals(&value("\"\"")) && value("\"\"").equals(&value("null")));
        assert!(!value("null").equals(&value("0")) && !value("1").equals(&value("\"1\"")));
        assert!(value("true").equals(&value("1.0")) && value("[1, 2]").equals(&value("\"[1, 2]\"")));
        assert_eq!(value("null").compare(&value("null")), None);
        assert_eq!(value(r#""a\"b\u00e9""#).text(), "a\"bé");
    }

    proptest! {
        #[test]
        fn decimals_are_in_the_order_of_numbers(one in -2000_i64..2000, other in -2000_i64..2000) {
            let text = |n: i64| format!("{}{}.{:02}", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100);
            prop_assert_eq!(compare_decimals(&text(one), &text(other)), Some(one.cmp(&other)));
        }
    }
}
