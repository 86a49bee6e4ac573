//! Byte-order marks and charsets: UTF-8 under other names, and other encodings.

/// The byte-order mark in UTF-8, with which some programs begin a text (RFC 3629, section 6).
pub const MARK: &[u8] = b"\xef\xbb\xbf";

/// The text without a leading byte-order mark.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// Whether JSON or NDJSON that begins with these bytes is UTF-16 or UTF-32: it has a byte-order mark, or a NUL among its first
/// two bytes, since JSON begins with ASCII (RFC 4627, section 3).
pub fn is_utf_16_or_32(start: &[u8]) -> bool {
    matches!(start, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..])
}

/// The names of UTF-8 and ASCII without separators: the labels of the WHATWG Encoding Standard and of the IANA registry, and
/// the names in programming languages. ASCII is a subset of UTF-8.
const UTF_8: [&str; 20] = [
    "utf8",
    "utf8mb4",
    "utf8sig",
    "utf8bom",
    "cp65001",
    "csutf8",
    "unicode11utf8",
    "unicode20utf8",
    "xunicode20utf8",
    "ascii",
    "usascii",
    "csascii",
    "ansix3.41968",
    "ansix3.41986",
    "iso646us",
    "iso646.irv:1991",
    "isoir6",
    "ibm367",
    "cp367",
    "us",
];

/// Whether a charset is UTF-8 or a subset of it, in any spelling.
pub fn is_utf_8(charset: &str) -> bool {
    let plain: String =
        charset.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).map(|c| c.to_ascii_lowercase()).collect();
    UTF_8.contains(&plain.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf_8_and_ascii_are_known_in_all_spellings_and_no_other_charset_is() {
        for good in
            ["utf-8", "UTF8", "utf_8", "Utf-8", "x-unicode20utf8", "US-ASCII", "ANSI_X3.4-1968", "ascii"]
        {
            assert!(is_utf_8(good), "{good}");
        }
        for bad in [
            "",
            "utf",
            "utf-16",
            "utf-16le",
            "utf-32",
            "utf-7",
            "latin1",
            "iso-8859-1",
            "windows-1252",
            "utf-88",
        ] {
            assert!(!is_utf_8(bad), "{bad}");
        }
    }

    #[test]
    fn other_unicode_forms_are_recognised_by_their_first_bytes() {
        let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        assert!(is_utf_16_or_32(&utf_16("{}")) && is_utf_16_or_32(&utf_16("\u{feff}{}")));
        assert!(
            is_utf_16_or_32(b"\0{\0}") && is_utf_16_or_32(b"\0\0\xfe\xff") && is_utf_16_or_32(b"\xfe\xff\0{")
        );
        for utf_8 in ["", "{", "{}", "1", "\u{feff}{}", "é"] {
            assert!(!is_utf_16_or_32(utf_8.as_bytes()), "{utf_8}");
        }
        assert_eq!(without_mark("\u{feff}{}".as_bytes()), b"{}");
        assert_eq!(without_mark(b"\xef\xbb"), b"\xef\xbb");
    }
}
