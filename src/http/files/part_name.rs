//! The name of a part's file, as clients write it into `Content-Disposition`.
//!
//! | form | sender |
//! |---|---|
//! | `filename="a%22b.txt"` | browsers: quotes and line breaks are percent-encoded, and nothing else (WHATWG HTML, section 4.10.22.8) |
//! | `filename="a\"b.txt"` | curl, older browsers |
//! | `filename="=?UTF-8?B?…?="` | mail libraries (RFC 2047) |
//! | `filename*=UTF-8''…` | HTTP libraries (RFC 8187); it takes precedence |

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use encoding_rs::Encoding;
use percent_encoding::percent_decode;

/// The kind of a part.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) enum PartName {
    /// A file of this name, which may be empty.
    File(String),
    /// A field of a form.
    Field,
    /// A file with an unreadable name. The field's name.
    Unreadable(String),
}

/// Parses a part's `Content-Disposition`.
pub(in crate::http) fn read(disposition: &[u8]) -> PartName {
    let (mut field, mut plain, mut extended) = (None, None, None);
    for (name, value) in Parameters(disposition) {
        let slot = match name.to_ascii_lowercase().as_slice() {
            b"name" => &mut field,
            b"filename" => &mut plain,
            b"filename*" => &mut extended,
            _ => continue,
        };
        // The first of two counts.
        slot.get_or_insert(value);
    }
    // A quote without its end: the rest of the name is lost.
    let name = match (extended, plain) {
        (None, None) => return PartName::Field,
        (Some(None), _) | (_, Some(None)) => None,
        (extended, plain) => extended
            .flatten()
            .and_then(|value| extended_value(&value))
            .or_else(|| file_name(&plain.flatten()?)),
    };
    let field = || String::from_utf8_lossy(&field.flatten().unwrap_or_else(|| b"file".to_vec())).into_owned();
    name.map_or_else(|| PartName::Unreadable(field()), PartName::File)
}

/// The parameters after the first `;`, unquoted; `None`: a quoted value without an end.
struct Parameters<'a>(&'a [u8]);

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a [u8], Option<Vec<u8>>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.0.iter().position(|byte| *byte == b';')?;
            let rest = self.0.get(start + 1..)?.trim_ascii_start();
            let end = rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let Some(rest) = rest.strip_prefix(b"=") else {
                self.0 = rest;
                continue;
            };
            let rest = rest.trim_ascii_start();
            let (value, rest) = match rest.strip_prefix(b"\"") {
                Some(quoted) => unquoted(quoted),
                None => {
                    let end = rest.iter().position(|byte| *byte == b';').unwrap_or(rest.len());
                    let (value, rest) = rest.split_at(end);
                    (Some(value.trim_ascii().to_vec()), rest)
                }
            };
            self.0 = rest;
            return Some((name.trim_ascii(), value));
        }
    }
}

/// The text up to the closing quote, and the rest. A backslash is literal unless a quote or another backslash follows: some
/// programs send whole paths.
fn unquoted(text: &[u8]) -> (Option<Vec<u8>>, &[u8]) {
    let mut value = Vec::new();
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (first, rest.first()) {
            (b'"', _) => return (Some(value), rest),
            (b'\\', Some(next @ (b'"' | b'\\'))) => {
                value.push(*next);
                rest = rest.get(1..).unwrap_or_default();
            }
            (byte, _) => value.push(*byte),
        }
    }
    (None, rest)
}

/// The value of `filename`: UTF-8, or encoded words (RFC 2047).
fn file_name(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    Some(encoded_words(text).unwrap_or_else(|| form_decoded(text)))
}

/// Removes the percent-encoding of forms. A line break becomes a space, as a name is one line.
fn form_decoded(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        name.push_str(before);
        let starts =
            |code: &str| behind.get(..code.len()).is_some_and(|start| start.eq_ignore_ascii_case(code));
        let (character, length) = match () {
            () if starts("22") => ('"', 2),
            () if starts("0D%0A") => (' ', 5),
            () if starts("0D") || starts("0A") => (' ', 2),
            () => ('%', 0),
        };
        name.push(character);
        rest = behind.get(length..).unwrap_or_default();
    }
    name + rest
}

/// The value of `filename*`: `charset'language'percent-encoded`.
fn extended_value(value: &[u8]) -> Option<String> {
    let mut parts = value.splitn(3, |byte| *byte == b'\'');
    let (charset, _language, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    decoded(charset, &Cow::from(percent_decode(encoded)))
}

/// A text of encoded words, without the white space between two of them; `None`: it has none.
fn encoded_words(text: &str) -> Option<String> {
    let (mut name, mut rest, mut behind_word) = (String::new(), text, false);
    while let Some((before, behind)) = rest.split_once("=?") {
        let Some((word, after)) = encoded_word(behind) else {
            name.push_str(rest.get(..before.len() + 2)?);
            (rest, behind_word) = (behind, false);
            continue;
        };
        if !behind_word || !before.trim().is_empty() {
            name.push_str(before);
        }
        name.push_str(&word);
        (rest, behind_word) = (after, true);
    }
    behind_word.then(|| name + rest)
}

/// An encoded word after its `=?`, and the rest.
fn encoded_word(text: &str) -> Option<(String, &str)> {
    let (charset, rest) = text.split_once('?')?;
    let (kind, rest) = rest.split_once('?')?;
    let (encoded, rest) = rest.split_once("?=")?;
    let bytes = match kind {
        "B" | "b" => STANDARD.decode(encoded).ok()?,
        "Q" | "q" => {
            percent_decode(encoded.replace('%', "%25").replace('=', "%").replace('_', " ").as_bytes())
                .collect()
        }
        _ => return None,
    };
    // A language may follow the charset (RFC 2231, section 5).
    let charset = charset.split('*').next().unwrap_or_default();
    Some((decoded(charset.as_bytes(), &bytes)?, rest))
}

fn decoded(charset: &[u8], bytes: &[u8]) -> Option<String> {
    let encoding = Encoding::for_label_no_replacement(charset)?;
    let text = encoding.decode_without_bom_handling_and_without_replacement(bytes)?;
    Some(text.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_read_as_clients_write_it() {
        for (disposition, name) in [
            (r#"form-data; name="file"; filename="a b;c.txt""#, "a b;c.txt"),
            (r#"form-data; NAME=file; FileName=a.txt"#, "a.txt"),
            (r#"form-data;filename = "a.txt" ; name=x"#, "a.txt"),
            (r#"form-data; name="file"; filename="a%22b.txt""#, "a\"b.txt"),
            (r#"form-data; filename="a%0D%0Ab%0ac%0Dd%41%zz%.txt""#, "a b c d%41%zz%.txt"),
            (r#"form-data; filename="a\"b\\c.txt""#, r#"a"b\c.txt"#),
            (r#"form-data; filename="C:\dir\a.txt""#, r"C:\dir\a.txt"),
            (r#"form-data; filename="é.txt""#, "é.txt"),
            (r#"form-data; filename="x"; filename*=UTF-8''%e2%82%ac%20rates.txt"#, "€ rates.txt"),
            (r#"form-data; filename*=iso-8859-1'en'%A3.txt; filename="x""#, "£.txt"),
            (r#"form-data; filename*=UTF-8''%ff; filename="x""#, "x"),
            (r#"form-data; filename*=nothing; filename="x""#, "x"),
            (r#"form-data; filename="=?UTF-8?B?w6kudHh0?=""#, "é.txt"),
            (r#"form-data; filename="=?utf-8?q?=C3=A9_1%?= =?ISO-8859-1?Q?=E9?=.txt""#, "é 1%é.txt"),
            (r#"form-data; filename="=?nope?Q?a?=""#, "=?nope?Q?a?="),
            (r#"form-data; filename="a=?b""#, "a=?b"),
            (r#"form-data; filename="""#, ""),
        ] {
            assert_eq!(read(disposition.as_bytes()), PartName::File(name.into()), "{disposition}");
        }
        for field in [
            "",
            "form-data",
            "form-data; name=x",
            r#"form-data; name="a; filename=b""#,
            "form-data; filename",
        ] {
            assert_eq!(read(field.as_bytes()), PartName::Field, "{field}");
        }
        assert_eq!(read(b"form-data; name=\"f\"; filename=\"\xff\""), PartName::Unreadable("f".into()));
        assert_eq!(read(b"form-data; filename*=UTF-8''%ff"), PartName::Unreadable("file".into()));
        assert_eq!(read(b"form-data; name=\"f\"; filename=\"a"), PartName::Unreadable("f".into()));
    }

    proptest! {
        #[test]
        fn no_disposition_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[;=\"\\\\ %?*'a-zQB0-9é]{0,60}") {
            let _ = read(&bytes);
            let _ = read(text.as_bytes());
            let _ = read(format!("form-data; filename=\"{text}\"; filename*=utf-8''{text}").as_bytes());
        }

        #[test]
        fn a_name_in_a_form_is_read_back(name in "[^\\\\\r\n%]{0,40}") {
            prop_assume!(!name.contains("=?"));
            let sent = format!("form-data; name=\"f\"; filename=\"{}\"", name.replace('"', "%22"));
            prop_assert_eq!(read(sent.as_bytes()), PartName::File(name));
        }
    }
}
