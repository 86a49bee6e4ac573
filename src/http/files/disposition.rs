//! `Content-Disposition` (RFC 6266): an attachment with the file's own name.

use hyper::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All characters but those allowed unencoded in an extended value (RFC 5987, section 3.2.1: attr-char).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// An attachment of this name.
pub(in crate::http) fn attachment(filename: &str) -> HeaderValue {
    disposition("attachment", filename)
}

/// A content of this name that is shown.
pub(in crate::http) fn inline(filename: &str) -> HeaderValue {
    disposition("inline", filename)
}

/// The name: a quoted string if that represents it exactly, else an approximation and the full name.
fn disposition(kind: &'static str, filename: &str) -> HeaderValue {
    let plain = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%');
    let quoted: String = filename.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let value = if filename.chars().all(plain) {
        format!("{kind}; filename=\"{quoted}\"")
    } else {
        let encoded = utf8_percent_encode(filename, ENCODED);
        format!("{kind}; filename=\"{quoted}\"; filename*=UTF-8''{encoded}")
    };
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(kind))
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_are_quoted_and_others_are_encoded_beside_it() {
        assert_eq!(attachment("a b.txt"), "attachment; filename=\"a b.txt\"");
        assert_eq!(
            attachment("ü\"1%.txt"),
            "attachment; filename=\"__1_.txt\"; filename*=UTF-8''%C3%BC%221%25.txt"
        );
        assert_eq!(attachment("'*'"), "attachment; filename=\"'*'\"");
    }

    proptest! {
        #[test]
        fn any_name_comes_back_and_nothing_escapes_its_quotes(name in "\\PC{1,80}") {
            let value = attachment(&name);
            let value = value.to_str().unwrap();
            prop_assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            match value.split_once("; filename*=UTF-8''") {
                Some((before, encoded)) => {
                    prop_assert_eq!(before.matches('"').count(), 2);
                    prop_assert_eq!(percent_decode_str(encoded).decode_utf8().unwrap(), name);
                }
                None => prop_assert_eq!(value, format!("attachment; filename=\"{name}\"")),
            }
        }
    }
}
