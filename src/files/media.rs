//! Which media type a file has: what its sender declared, held against what its first bytes say.
//!
//! Nothing is believed that could harm: a file is only ever sent back as an attachment, in a sandbox, and no browser may
//! guess its type. What is refused here is a mistake or a lie that whoever reads the file later would stumble over.

use mime::Mime;

use super::FilesError;

/// So many of a file's first bytes are looked at.
pub(super) const LOOKED_AT_BYTES: usize = 8 * 1024;
/// The longest type that is taken, in bytes.
const MAX_TYPE_BYTES: usize = 255;
/// What a file is of which nothing is known.
const UNKNOWN: &str = "application/octet-stream";
/// Types whose files always begin as they should.
const ALWAYS_KNOWN: &[&str] = &[
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "application/pdf",
    "application/zip",
    "application/gzip",
];

/// Reads a type that was declared.
///
/// # Errors
///
/// [`FilesError::Invalid`] if it is none.
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
/// [`FilesError::TypeMismatch`] if the file is plainly another one than was declared.
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

fn suits(declared: &Mime, found: Option<&str>, head: &[u8]) -> bool {
    let essence = declared.essence_str();
    if is_text(declared) {
        // A text may begin with any word, "BM" too, which would be a bitmap.
        return found.is_none_or(|found| found.starts_with("text/")) || !has_binary(head);
    }
    let Some(found) = found else { return head.is_empty() || !ALWAYS_KNOWN.contains(&essence) };
    let Some((kind, subtype)) = found.split_once('/') else { return false };
    let same_kind = declared.type_() == kind;
    let same = same_kind && plain(declared.subtype().as_str()) == plain(subtype);
    // One container is used for both.
    let both_are_media = is_media(declared.type_().as_str()) && is_media(kind);
    // A format that is made of another one, as many documents are of zip.
    same || both_are_media || (same_kind && !infer::is_mime_supported(essence))
}

/// A subtype before it was registered has an `x-`.
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

/// Whether there are bytes that no text has (WHATWG, MIME Sniffing, section 3: binary data bytes).
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
        let judged = |said: &str, head: &[u8]| judge(Some(&declared(said).unwrap()), head).ok();
        for (said, head, kept) in [
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
            assert_eq!(judged(said, head).as_deref(), Some(kept), "{said}");
        }
        for (said, head) in [
            ("image/png", &b"<html><script>alert(1)</script>"[..]),
            ("image/png", b"just text"),
            ("image/jpeg", PNG),
            ("application/pdf", ZIP),
            ("text/plain", PNG),
            ("application/json", ZIP),
            ("image/x-anything", b"<html >"),
        ] {
            assert_eq!(judged(said, head), None, "{said}");
        }
        assert_eq!(judge(None, PNG).unwrap(), "image/png");
        assert_eq!(judge(None, b"").unwrap(), "application/octet-stream");
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
        }
    }
}
