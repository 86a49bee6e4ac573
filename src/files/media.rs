//! The media type of a file: the declared type, checked against the first bytes.
//!
//! The check is not a defence: a file is only ever sent as an attachment, in a sandbox, and no browser may guess its type. It
//! rejects mistakes that would surprise later readers of the file.
//!
//! Files of records have the type of their content alone: [`detect`].

use mime::Mime;

use super::FilesError;

/// Bytes of a file's beginning that are checked.
pub(super) const LOOKED_AT_BYTES: usize = 8 * 1024;
/// The longest type in bytes.
const MAX_TYPE_BYTES: usize = 255;
/// The type of an unknown format.
const UNKNOWN: &str = "application/octet-stream";
/// Types whose files always begin with their signature.
const ALWAYS_KNOWN: &[&str] = &[
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "application/pdf",
    "application/zip",
    "application/gzip",
];

/// Parses a declared type.
///
/// # Errors
///
/// [`FilesError::Invalid`] if it is malformed.
pub(super) fn declared(text: &str) -> Result<Mime, FilesError> {
    let invalid =
        FilesError::Invalid { field: "content-type", message: "a file's type is one such as text/csv" };
    if text.len() > MAX_TYPE_BYTES || !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(invalid);
    }
    let names_one = |mime: &Mime| mime.type_() != mime::STAR && !mime.subtype().as_str().is_empty();
    text.parse().ok().filter(names_one).ok_or(invalid)
}

/// The type of a file that begins with `head`.
///
/// # Errors
///
/// [`FilesError::TypeMismatch`] if the file is clearly not of the declared type.
pub(super) fn judge(declared: Option<&Mime>, head: &[u8]) -> Result<String, FilesError> {
    let found = infer::get(head).map(|found| found.mime_type());
    let Some(declared) = declared.filter(|declared| declared.essence_str() != UNKNOWN) else {
        return Ok(found.unwrap_or(UNKNOWN).to_owned());
    };
    if suits(declared, found, head) {
        return Ok(declared.to_string());
    }
    Err(FilesError::TypeMismatch {
        declared: declared.essence_str().to_owned(),
        found: found.unwrap_or("something else"),
    })
}

/// The type of a content that begins with `head`, whatever its sender says: by its signature, else of a text by its first characters, else that of
/// bytes.
pub(super) fn detect(head: &[u8]) -> String {
    // The head may end within a character.
    let text = match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok(),
        Err(_) => None,
    };
    let text = text.filter(|text| !has_binary(text.as_bytes()));
    let found = infer::get(head).map(|found| found.mime_type());
    match (found, text) {
        // A text may begin with "BM", the signature of a bitmap.
        (Some(found), text) if !found.starts_with("text/") && (found != "image/bmp" || text.is_none()) => {
            plain_type(found)
        }
        (found, Some(text)) => {
            let found = found.filter(|found| found.starts_with("text/"));
            of_text(text, head.len() >= LOOKED_AT_BYTES).or(found).unwrap_or("text/plain").to_owned()
        }
        (_, None) => UNKNOWN.to_owned(),
    }
}

/// A type by its registered name.
fn plain_type(found: &str) -> String {
    match found.split_once("/x-") {
        Some((kind @ ("audio" | "video" | "image"), subtype)) if !matches!(subtype, "icon") => {
            format!("{kind}/{subtype}")
        }
        _ => found.to_owned(),
    }
}

/// The type of a text, if it is another one than plain. `is_cut`: more of it follows.
fn of_text(text: &str, is_cut: bool) -> Option<&'static str> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let is_json = |text: &str| match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => true,
        Err(error) => is_cut && error.is_eof(),
    };
    let head: String = text.chars().take(1024).collect::<String>().to_ascii_lowercase();
    if head.starts_with('<') {
        return match () {
            () if head.contains("<svg") && !head.contains("<html") => Some("image/svg+xml"),
            () if head.starts_with("<?xml") => Some("text/xml"),
            () if ["<!doctype html", "<html", "<head", "<body", "<script"]
                .iter()
                .any(|tag| head.starts_with(tag)) =>
            {
                Some("text/html")
            }
            () => None,
        };
    }
    if text.starts_with(['{', '[']) {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        return match is_json(text) {
            true => Some("application/json"),
            // The last line may be cut.
            false if text.starts_with('{') => {
                let whole = text.lines().count().saturating_sub(usize::from(is_cut));
                (whole > 1
                    && lines
                        .by_ref()
                        .take(whole)
                        .all(|line| serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok()))
                .then_some("application/x-ndjson")
            }
            false => None,
        };
    }
    [(',', "text/csv"), ('\t', "text/tab-separated-values")]
        .into_iter()
        .find(|(separator, _)| is_table(text, *separator, is_cut))
        .map(|(_, name)| name)
}

/// Whether each line has the same number of cells, at least two, and there are two lines.
fn is_table(text: &str, separator: char, is_cut: bool) -> bool {
    let (mut counts, mut cells, mut is_quoted) = (Vec::new(), 1, false);
    for character in text.chars() {
        match character {
            '"' => is_quoted = !is_quoted,
            '\n' if !is_quoted => {
                counts.push(cells);
                cells = 1;
            }
            other if other == separator && !is_quoted => cells += 1,
            _ => {}
        }
    }
    if !is_cut && !text.ends_with('\n') {
        counts.push(cells);
    }
    counts.len() >= 2 && counts[0] >= 2 && counts.iter().all(|count| *count == counts[0])
}

fn suits(declared: &Mime, found: Option<&str>, head: &[u8]) -> bool {
    let essence = declared.essence_str();
    if is_text(declared) {
        // A text may begin with any word, also with "BM", the signature of a bitmap.
        return found.is_none_or(|found| found.starts_with("text/")) || !has_binary(head);
    }
    let Some(found) = found else { return head.is_empty() || !ALWAYS_KNOWN.contains(&essence) };
    let Some((kind, subtype)) = found.split_once('/') else { return false };
    let same_kind = declared.type_() == kind;
    let same = same_kind && plain(declared.subtype().as_str()) == plain(subtype);
    // One container format is used for both.
    let both_are_media = is_media(declared.type_().as_str()) && is_media(kind);
    // A format based on another one, as many documents are on zip.
    same || both_are_media || (same_kind && !infer::is_mime_supported(essence))
}

/// Subtypes have an `x-` before they are registered.
fn plain(subtype: &str) -> &str {
    subtype.strip_prefix("x-").unwrap_or(subtype)
}

fn is_media(kind: &str) -> bool {
    matches!(kind, "audio" | "video")
}

fn is_text(mime: &Mime) -> bool {
    let (subtype, suffix) = (mime.subtype().as_str(), mime.suffix().map(|suffix| suffix.as_str()));
    let is_written = |word: &str| {
        matches!(
            plain(word),
            "json" | "xml" | "yaml" | "javascript" | "ndjson" | "jsonl" | "jsonlines" | "sh" | "sql"
        )
    };
    mime.type_() == mime::TEXT || is_written(subtype) || suffix.is_some_and(is_written)
}

/// Whether the bytes include some that no text has (WHATWG, MIME Sniffing, section 3: binary data bytes).
pub fn has_binary(head: &[u8]) -> bool {
    head.iter().any(|byte| matches!(byte, 0..=8 | 11 | 14..=26 | 28..=31))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const ZIP: &[u8] = b"PK\x03\x04\x14\0\0\0\x08\0";
    const OGG: &[u8] = b"OggS\0\x02\0\0\0\0";

    #[test]
    fn a_declared_type_stands_unless_the_content_is_plainly_another() {
        let judged =
            |declared_type: &str, head: &[u8]| judge(Some(&declared(declared_type).unwrap()), head).ok();
        for (declared_type, head, kept) in [
            ("image/png", PNG, "image/png"),
            ("application/octet-stream", PNG, "image/png"),
            ("application/octet-stream", b"?", "application/octet-stream"),
            ("text/csv; charset=utf-8", b"a,b\n", "text/csv; charset=utf-8"),
            ("text/plain", b"BM is not always a bitmap", "text/plain"),
            ("text/plain", b"<p>some markdown</p>", "text/plain"),
            ("application/x-ndjson", b"{}\n", "application/x-ndjson"),
            ("image/svg+xml", b"<?xml version=\"1.0\"?><svg/>", "image/svg+xml"),
            (
                "application/vnd.oasis.opendocument.text-flat",
                ZIP,
                "application/vnd.oasis.opendocument.text-flat",
            ),
            ("application/x-zip-compressed", ZIP, "application/x-zip-compressed"),
            ("audio/ogg", OGG, "audio/ogg"),
            ("video/ogg", OGG, "video/ogg"),
            ("image/png", b"", "image/png"),
            ("model/gltf-binary", b"glTF", "model/gltf-binary"),
        ] {
            assert_eq!(judged(declared_type, head).as_deref(), Some(kept), "{declared_type}");
        }
        for (declared_type, head) in [
            ("image/png", &b"<html><script>alert(1)</script>"[..]),
            ("image/png", b"just text"),
            ("image/jpeg", PNG),
            ("application/pdf", ZIP),
            ("text/plain", PNG),
            ("application/json", ZIP),
            ("image/x-anything", b"<html >"),
        ] {
            assert_eq!(judged(declared_type, head), None, "{declared_type}");
        }
        assert_eq!(judge(None, PNG).unwrap(), "image/png");
        assert_eq!(judge(None, b"").unwrap(), "application/octet-stream");
    }

    #[test]
    fn a_content_has_a_type_whatever_its_sender_says() {
        for (head, expected) in [
            (PNG, "image/png"),
            (&PNG[..9], "image/png"),
            (ZIP, "application/zip"),
            (b"", "text/plain"),
            (b"hello", "text/plain"),
            ("caf\u{e9}".as_bytes().split_last().unwrap().1, "text/plain"),
            (b"BM is text", "text/plain"),
            (b"\0\x01\x02", "application/octet-stream"),
            (b"\xff\xfe\xfd", "application/octet-stream"),
            (b"{\"a\":1}", "application/json"),
            (b"{\"a\":1}\n{\"a\":2}\n", "application/x-ndjson"),
            (b"{not json", "text/plain"),
            (b"a,b\n1,\"2,3\"\n", "text/csv"),
            (b"a,b\nonly one\n", "text/plain"),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "image/svg+xml"),
            (b"<?xml version=\"1.0\"?>\n<svg/>", "image/svg+xml"),
            (b"<?xml version=\"1.0\"?><a/>", "text/xml"),
            (b"<html><body>x</body></html>", "text/html"),
            (b"%PDF-1.4\n", "application/pdf"),
            (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav"),
        ] {
            assert_eq!(detect(head), expected, "{head:?}");
        }
    }

    #[test]
    fn what_is_no_type_is_refused() {
        for bad in
            ["", "text", "text/", "*/*", "text/html\r\nx: y", "text/ü", &format!("text/{}", "x".repeat(300))]
        {
            assert!(declared(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_panic(text in "\\PC{0,80}", head in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = judge(declared(&text).ok().as_ref(), &head);
            let _ = (detect(&head), detect(text.as_bytes()));
        }
    }
}
