//! What a JSON number becomes as a Postgres `numeric`: whether there is room for it, and how long its text is.
//!
//! `numeric` has no exponent. `1e1000` is stored in a few bytes, and written as a 1 with a thousand zeros.

/// Digits before the decimal point.
const MAX_INTEGER_DIGITS: i64 = 131_072;
/// Digits after the decimal point (`NUMERIC_MAX_DISPLAY_SCALE`'s mask).
const MAX_FRACTION_DIGITS: i64 = 16_383;
/// `numeric_in` refuses exponents from `INT_MAX / 2` on, whatever the digits are.
pub(super) const EXPONENT_LIMIT: i64 = (i32::MAX / 2) as i64;

/// A JSON number, taken apart.
pub(super) struct Number<'a> {
    pub(super) negative: bool,
    /// The digits before the exponent, and the point among them if there is one.
    pub(super) mantissa: &'a [u8],
    pub(super) integer_digits: usize,
    pub(super) fraction_digits: usize,
    /// At most [`EXPONENT_LIMIT`] in size.
    pub(super) exponent: i64,
}

impl Number<'_> {
    /// Whether `numeric` holds it.
    pub(super) fn fits(&self) -> bool {
        self.exponent.abs() < EXPONENT_LIMIT
            && self.fraction() <= MAX_FRACTION_DIGITS
            // Zero has no weight, whatever its exponent is.
            && self.weight().is_none_or(|weight| weight <= MAX_INTEGER_DIGITS)
    }

    /// Bytes of the text that `numeric_out` makes of it, if it fits.
    pub(super) fn text_len(&self) -> usize {
        let weight = self.weight();
        // There is no negative zero.
        let sign = self.negative && weight.is_some();
        let integer = weight.unwrap_or(1).max(1);
        let point = self.fraction() > 0;
        usize::from(sign) + integer as usize + usize::from(point) + self.fraction() as usize
    }

    /// Digits behind the point once there is no exponent any more; trailing zeros are kept.
    fn fraction(&self) -> i64 {
        (self.fraction_digits as i64 - self.exponent).max(0)
    }

    /// The place of the first digit that is not zero, counted to the left of the point; none for zero.
    fn weight(&self) -> Option<i64> {
        let mut digits = self.mantissa.iter().filter(|&&byte| byte != b'.');
        let zeros = digits.position(|&byte| byte != b'0')?;
        Some(self.integer_digits as i64 + self.exponent - zeros as i64)
    }
}
