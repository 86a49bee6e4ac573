//! Scalars, and their comparison by affinity.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::super::value::Value;
use crate::records::schema::parse_number;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    /// A whole number of a field.
    Integer(f64),
    /// Any other number.
    Real(f64),
    Text(Cow<'a, str>),
}

/// The type that an operand draws the other one to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Number,
    Text,
    None,
}

impl<'a> Scalar<'a> {
    /// A literal: its number is no integer.
    pub(super) fn of_literal(value: &Value<'a>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Number(number) => Self::Real(number.parse().unwrap_or_default()),
            Value::Text(text) => Self::Text(text.clone()),
        }
    }

    /// A number of a field.
    pub(super) fn of_number(number: f64) -> Self {
        match number.fract() == 0.0 && number.abs() < i64::MAX as f64 {
            true => Self::Integer(number),
            false => Self::Real(number),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) | Self::Real(number) => Some(*number),
            Self::Null | Self::Text(_) => None,
        }
    }

    /// Its text, `None` for null.
    pub(super) fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Null => None,
            Self::Integer(number) => Some(format!("{number:.0}").into()),
            Self::Real(number) => Some(real_text(*number).into()),
            Self::Text(text) => Some(Cow::Borrowed(&**text)),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 1,
            Self::Text(_) => 2,
        }
    }

    /// With the affinity of the other operand.
    fn drawn(&self, own: Affinity, other: Affinity) -> Scalar<'_> {
        match (self, own, other) {
            (Self::Text(text), Affinity::Text | Affinity::None, Affinity::Number) => {
                match parse_number(text.trim()).filter(|number| number.is_finite() && !text.contains('_')) {
                    Some(number) => Scalar::Real(number),
                    None => Scalar::Text(Cow::Borrowed(&**text)),
                }
            }
            (number, Affinity::None, Affinity::Text) => number.text().map_or(Scalar::Null, Scalar::Text),
            (Self::Null, ..) => Scalar::Null,
            (Self::Integer(number), ..) => Scalar::Integer(*number),
            (Self::Real(number), ..) => Scalar::Real(*number),
            (Self::Text(text), ..) => Scalar::Text(Cow::Borrowed(&**text)),
        }
    }
}

/// Compares two values; `None`: one is null.
pub(super) fn compare(one: (&Scalar<'_>, Affinity), other: (&Scalar<'_>, Affinity)) -> Option<Ordering> {
    if *one.0 == Scalar::Null || *other.0 == Scalar::Null {
        return None;
    }
    let (left, right) = (one.0.drawn(one.1, other.1), other.0.drawn(other.1, one.1));
    Some(match (&left, &right) {
        (Scalar::Text(left), Scalar::Text(right)) => left.as_bytes().cmp(right.as_bytes()),
        _ => match (left.number(), right.number()) {
            (Some(left), Some(right)) => left.partial_cmp(&right).unwrap_or(Ordering::Equal),
            _ => left.rank().cmp(&right.rank()),
        },
    })
}

/// The text of a number that is no integer: with a fraction, and an exponent from 1e15 on.
fn real_text(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return format!("{number:.1}");
    }
    if (1e-4..1e15).contains(&number.abs()) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let fraction = if digits.contains('.') { "" } else { ".0" };
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}{fraction}e-{exponent:0>2}"),
        None => format!("{digits}{fraction}e+{exponent:0>2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_numbers_are_those_of_sqlite() {
        assert_eq!(Scalar::of_literal(&Value::Number("5".into())).text().unwrap(), "5.0");
        for (number, text) in
            [(5.0, "5"), (-2.25, "-2.25"), (0.5, "0.5"), (1e21, "1.0e+21"), (1e-7, "1.0e-07")]
        {
            assert_eq!(Scalar::of_number(number).text().unwrap(), text);
        }
    }

    #[test]
    fn an_affinity_draws_the_other_side() {
        let text = |text: &'static str| Scalar::Text(text.into());
        let (number, words, none) = (Affinity::Number, Affinity::Text, Affinity::None);
        let five = Scalar::Integer(5.0);
        assert_eq!(compare((&five, number), (&text("5"), none)), Some(Ordering::Equal));
        assert_eq!(compare((&five, number), (&text("x"), none)), Some(Ordering::Less));
        assert_eq!(compare((&text("5"), words), (&Scalar::Real(5.0), none)), Some(Ordering::Less));
        assert_eq!(compare((&text("5.0"), words), (&Scalar::Real(5.0), none)), Some(Ordering::Equal));
        assert_eq!(compare((&Scalar::Real(10.0), none), (&text("9"), none)), Some(Ordering::Less));
        assert_eq!(compare((&Scalar::Null, words), (&text(""), none)), None);
    }
}
