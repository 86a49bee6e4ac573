//! Positions in streams.

use std::fmt;

/// A position in a stream: the number of bytes of its stored form that are before it. A fork counts on from its source.
///
/// It is written as two numbers of 16 digits, the first always 0, so that positions sort as texts and the beginning of every stream is
/// `0000000000000000_0000000000000000`. Clients must not read meaning into it (section 8 of the protocol).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The beginning of every stream.
    pub const START: Self = Self(0);
    /// The last position that can be written: the end of a stream that takes no more.
    pub const LAST: Self = Self(9_999_999_999_999_999);
    /// A well-formed position beyond the end of every stream.
    pub const BEYOND: Self = Self(u64::MAX);

    /// Reads two numbers of 16 digits. A first number above 0 is a position beyond the end of every stream.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, second) = text.split_once('_')?;
        let number = |digits: &str| {
            let is_number = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u64>().ok()).flatten()
        };
        let (first, second) = (number(first)?, number(second)?);
        Some(if first == 0 { Self(second) } else { Self::BEYOND })
    }

    /// The position `bytes` further on; `None`: no stream is that long.
    pub fn plus(self, bytes: usize) -> Option<Self> {
        let sum = Self(self.0.checked_add(bytes as u64)?);
        (sum <= Self::LAST).then_some(sum)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0000000000000000_{:016}", self.0.min(Self::LAST.0))
    }
}

/// The place where a read begins, as a request names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// `-1`, or none: the first byte that is kept.
    Start,
    /// `now`: the end.
    Now,
    /// A position.
    At(Offset),
}

impl ReadFrom {
    /// Reads the value of `offset`; `None`: it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "-1" => Some(Self::Start),
            "now" => Some(Self::Now),
            _ => Offset::parse(text).map(Self::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_offset_has_one_spelling_and_any_other_is_malformed() {
        assert_eq!(Offset::parse("0000000000000000_0000000000000042"), Some(Offset(42)));
        assert_eq!(Offset::parse("9999999999999999_9999999999999999"), Some(Offset::BEYOND));
        assert_eq!(Offset::parse("0000000000000001_0000000000000000"), Some(Offset::BEYOND));
        for text in [
            "",
            "0",
            "_",
            "0_0",
            "-1",
            "now",
            "0000000000000000_000000000000004",
            "0000000000000000_00000000000000042",
            "0000000000000000_+000000000000042",
            "0000000000000000-0000000000000042",
            "0000000000000000_0000000000000042_",
            " 0000000000000000_0000000000000042",
            "0000000000000000_000000000000004\u{661}",
        ] {
            assert_eq!(Offset::parse(text), None, "{text}");
        }
        assert_eq!(ReadFrom::parse("-1"), Some(ReadFrom::Start));
        assert_eq!(ReadFrom::parse("now"), Some(ReadFrom::Now));
        assert_eq!(ReadFrom::parse("NOW"), None);
        assert_eq!(Offset::LAST.plus(1), None);
        assert_eq!(Offset(1).plus(2), Some(Offset(3)));
    }

    proptest! {
        #[test]
        fn offsets_are_read_back_and_sort_as_texts(one in 0..=Offset::LAST.0, other in 0..=Offset::LAST.0) {
            let (one, other) = (Offset(one), Offset(other));
            prop_assert_eq!(Offset::parse(&one.to_string()), Some(one));
            prop_assert_eq!(one.to_string().cmp(&other.to_string()), one.cmp(&other));
        }
    }
}
