//! Numbers: 64-bit floats, read from text as Go reads them and written as JavaScript writes them.

/// A number in a text, as Go's `strconv.ParseFloat` reads decimal numbers. `None`: no number. It may be infinite or not a number where
/// the text says so.
pub fn parse_number(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if ["inf", "infinity", "nan"].iter().any(|word| unsigned.eq_ignore_ascii_case(word)) {
        return text.parse().ok().or(Some(f64::NAN));
    }
    let is_of_number = |byte: u8| byte.is_ascii_digit() || b"+-.eE_".contains(&byte);
    if !text.bytes().all(is_of_number) {
        return None;
    }
    // `_` separates digits.
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let separates = |at: usize| is_digit(at.checked_sub(1)) && is_digit(at.checked_add(1));
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'_' && !separates(at)) {
        return None;
    }
    // Beyond the range is no number.
    text.replace('_', "").parse().ok().filter(|number: &f64| number.is_finite())
}

/// The text of a number, as JavaScript writes it: an exponent from 1e21 on and below 1e-6, no fraction for whole numbers, no −0.
pub fn number_text(number: f64) -> String {
    let size = number.abs();
    if number == 0.0 {
        return "0".into();
    }
    if (1e-6..1e21).contains(&size) {
        return format!("{number}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        for (number, text) in [
            (5.0, "5"),
            (0.1, "0.1"),
            (-0.0, "0"),
            (1e15, "1000000000000000"),
            (123_456_789_012_345_680.0, "123456789012345680"),
            (1e21, "1e+21"),
            (-1.5e300, "-1.5e+300"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
        ] {
            assert_eq!(number_text(number), text);
        }
    }

    #[test]
    fn texts_are_read_as_go_reads_them() {
        for (text, number) in
            [("1e3", 1000.0), ("007", 7.0), ("+5", 5.0), (".5", 0.5), ("5.", 5.0), ("1_000", 1000.0)]
        {
            assert_eq!(parse_number(text), Some(number), "{text}");
        }
        for text in ["", " 5", "0x10", "1e999", "_1", "1_", "1__0", "1_.0", ".", "e5", "--1", "1,2", "infin"]
        {
            assert_eq!(parse_number(text), None, "{text}");
        }
        assert!(parse_number("NaN").unwrap().is_nan() && parse_number("-Infinity").unwrap().is_infinite());
    }

    proptest! {
        #[test]
        fn every_number_round_trips(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            prop_assert_eq!(parse_number(&number_text(number)), Some(number + 0.0));
        }

        #[test]
        fn no_text_makes_reading_panic(text in ".{0,30}", digits in "[0-9eE_.+-]{0,12}") {
            let _ = parse_number(&text);
            let _ = parse_number(&digits);
        }
    }
}
