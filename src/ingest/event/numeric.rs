//! JSON numbers as Postgres `numeric`: whether one fits, and the length of its text.
//!
//! `numeric` has no exponent. `1e1000` is stored in a few bytes, and written as a 1 with a thousand zeros.

/// Digits before the decimal point.
const MAX_INTEGER_DIGITS: i64 = 131_072;
/// Digits after the decimal point (`NUMERIC_MAX_DISPLAY_SCALE`'s mask).
const MAX_FRACTION_DIGITS: i64 = 16_383;
/// `numeric_in` rejects exponents from `INT_MAX / 2` on, whatever the digits.
pub(super) const EXPONENT_LIMIT: i64 = (i32::MAX / 2) as i64;

/// A parsed JSON number.
pub(super) struct Number<'a> {
    pub(super) negative: bool,
    /// The digits before the exponent, including the point if there is one.
    pub(super) mantissa: &'a [u8],
    pub(super) integer_digits: usize,
    pub(super) fraction_digits: usize,
    /// At most [`EXPONENT_LIMIT`] in size.
    pub(super) exponent: i64,
}

impl Number<'_> {
    /// Whether it fits into a `numeric`.
    pub(super) fn fits(&self) -> bool {
        self.exponent.abs() < EXPONENT_LIMIT
            && self.fraction() <= MAX_FRACTION_DIGITS
            // Zero has no weight, whatever its exponent.
            && self.weight().is_none_or(|weight| weight <= MAX_INTEGER_DIGITS)
    }

    /// The length of its text as written by `numeric_out`, if it fits.
    pub(super) fn text_len(&self) -> usize {
        let weight = self.weight();
        // There is no negative zero.
        let sign = self.negative && weight.is_some();
        let integer = weight.unwrap_or(1).max(1);
        let point = self.fraction() > 0;
        usize::from(sign) + integer as usize + usize::from(point) + self.fraction() as usize
    }

    /// The digits after the point when written without an exponent, including trailing zeros.
    fn fraction(&self) -> i64 {
        (self.fraction_digits as i64 - self.exponent).max(0)
    }

    /// The position of the first non-zero digit, counted to the left of the point; `None` for zero.
    fn weight(&self) -> Option<i64> {
        let mut digits = self.mantissa.iter().filter(|&&byte| byte != b'.');
        let zeros = digits.position(|&byte| byte != b'0')?;
        Some(self.integer_digits as i64 + self.exponent - zeros as i64)
    }
}
