//! Content types of streams.

use std::fmt;
use std::sync::Arc;

/// Bytes of a content type.
pub const MAX_CONTENT_TYPE_BYTES: usize = 256;

/// A media type as its client wrote it. Compared without its case and without `charset`. Cheap to clone.
#[derive(Clone)]
pub struct ContentType {
    text: Arc<str>,
    /// The form that is compared: type and subtype in lower case, then other parameters.
    compared: Arc<str>,
}

/// Not a media type (RFC 9110, section 8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "content-type takes a media type such as application/json, of at most {MAX_CONTENT_TYPE_BYTES} bytes"
)]
pub struct InvalidContentType;

/// The type of a stream that is created without one.
const OCTET_STREAM: &str = "application/octet-stream";
/// The type whose streams consist of messages (section 9.1 of the protocol).
const JSON: &str = "application/json";

impl ContentType {
    /// Parses a media type.
    ///
    /// # Errors
    ///
    /// It is none, or too long.
    pub fn parse(text: &str) -> Result<Self, InvalidContentType> {
        let text = text.trim_ascii();
        if text.len() > MAX_CONTENT_TYPE_BYTES || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(InvalidContentType);
        }
        let mut parts = text.split(';').map(str::trim_ascii);
        let essence = parts.next().unwrap_or_default();
        let (first, second) = essence.split_once('/').ok_or(InvalidContentType)?;
        if !is_token(first) || !is_token(second) {
            return Err(InvalidContentType);
        }
        let mut compared = essence.to_ascii_lowercase();
        for parameter in parts.filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or(InvalidContentType)?;
            let name = name.to_ascii_lowercase();
            if !is_token(&name) {
                return Err(InvalidContentType);
            }
            if name != "charset" {
                compared.extend([";", &name, "=", value]);
            }
        }
        let text: Arc<str> = text.into();
        let compared = if compared == *text { Arc::clone(&text) } else { compared.into() };
        Ok(Self { text, compared })
    }

    /// `application/octet-stream`.
    pub fn octet_stream() -> Self {
        let text: Arc<str> = OCTET_STREAM.into();
        Self { compared: Arc::clone(&text), text }
    }

    /// `application/json`.
    pub fn json() -> Self {
        let text: Arc<str> = JSON.into();
        Self { compared: Arc::clone(&text), text }
    }

    /// As the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the stream consists of JSON messages.
    pub fn is_json(&self) -> bool {
        self.essence() == JSON
    }

    /// Whether SSE carries the bytes as text; others are carried in base64 (section 5.8).
    pub fn is_text(&self) -> bool {
        self.is_json() || self.essence().starts_with("text/")
    }

    fn essence(&self) -> &str {
        self.compared.split(';').next().unwrap_or_default()
    }
}

/// Whether this is a token of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_in_token)
}

impl PartialEq for ContentType {
    fn eq(&self, other: &Self) -> bool {
        self.compared == other.compared
    }
}

impl Eq for ContentType {}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_compared_without_case_and_charset() {
        let of = |text: &str| ContentType::parse(text).unwrap();
        assert_eq!(of("Application/JSON; Charset=UTF-8"), of("application/json"));
        assert_eq!(of("text/plain;charset=latin1"), of("text/plain"));
        assert_ne!(of("text/plain"), of("text/html"));
        assert_ne!(of("multipart/mixed; boundary=a"), of("multipart/mixed; boundary=b"));
        assert_eq!(of(" text/plain ").as_str(), "text/plain");
        assert!(of("application/json;charset=utf-8").is_json());
        assert!(!of("application/vnd.api+json").is_json());
        assert!(of("TEXT/csv").is_text() && of("application/json").is_text());
        assert!(!of("application/octet-stream").is_text());
        assert_eq!(ContentType::octet_stream(), of("application/octet-stream"));
        let long = format!("text/{}", "a".repeat(MAX_CONTENT_TYPE_BYTES));
        for bad in ["", "text", "text/", "/plain", "text/pl ain", "text/plain; x", "text/plä", "a/b/c", &long]
        {
            assert_eq!(ContentType::parse(bad).unwrap_err(), InvalidContentType, "{bad}");
        }
    }
}
