//! Paths of streams, below `/v1/stream/`.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Bytes of a path, decoded.
pub const MAX_PATH_BYTES: usize = 1_024;
/// The first segment that is reserved for the protocol (its section 6).
pub const RESERVED_SEGMENT: &str = "__ds";

/// The path of a stream below `/v1/stream/`, decoded: segments with `/` between, none of them empty. Cheap to clone.
///
/// Two spellings of one path in a URL are one stream. An encoded `/` is refused, as it would be a second spelling of a separator.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamPath(Arc<str>);

/// A path that no stream can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It has no segment, or an empty one.
    #[error("a stream's path takes segments with / between, none of them empty")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("a stream's path takes no segment . or ..")]
    Dots,
    /// It is longer than [`MAX_PATH_BYTES`].
    #[error("a stream's path takes at most {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// It has a control character.
    #[error("a stream's path takes no control characters")]
    Control,
    /// It has an encoded `/`.
    #[error("a stream's path takes no encoded / (%2F)")]
    EncodedSlash,
    /// It is not UTF-8, or has a `%` without two digits.
    #[error("a stream's path takes UTF-8, percent-encoded")]
    Encoding,
    /// Its first segment is reserved.
    #[error("a stream's path takes another first segment than {RESERVED_SEGMENT}")]
    Reserved,
}

impl StreamPath {
    /// Checks a decoded path.
    ///
    /// # Errors
    ///
    /// [`PathError`]: no stream can have it.
    pub fn new(path: &str) -> Result<Self, PathError> {
        if path.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if path.chars().any(char::is_control) {
            return Err(PathError::Control);
        }
        for segment in path.split('/') {
            match segment {
                "" => return Err(PathError::EmptySegment),
                "." | ".." => return Err(PathError::Dots),
                _ => {}
            }
        }
        if path.split('/').next() == Some(RESERVED_SEGMENT) {
            return Err(PathError::Reserved);
        }
        Ok(Self(path.into()))
    }

    /// Decodes a percent-encoded path, without the `/` before it.
    ///
    /// # Errors
    ///
    /// [`PathError`]: no stream can have it.
    pub fn decode(encoded: &str) -> Result<Self, PathError> {
        // Each byte is encoded at most once, in three.
        if encoded.len() > 3 * MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        let bytes = encoded.as_bytes();
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
            match bytes.get(at + 1..at + 3) {
                Some(b"2f" | b"2F") => return Err(PathError::EncodedSlash),
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {}
                _ => return Err(PathError::Encoding),
            }
        }
        let decoded = percent_encoding::percent_decode(bytes).decode_utf8();
        Self::new(&decoded.map_err(|_| PathError::Encoding)?)
    }

    /// The decoded path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for StreamPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded_and_one_that_has_two_meanings_is_refused() {
        let decoded = |encoded: &str| StreamPath::decode(encoded).map(|path| path.to_string());
        assert_eq!(decoded("a/b%20c/%C3%A9"), Ok("a/b c/é".into()));
        assert_eq!(decoded("a/é"), Ok("a/é".into()));
        assert_eq!(decoded("__registry__"), Ok("__registry__".into()));
        assert_eq!(decoded("a/__ds"), Ok("a/__ds".into()));
        for (encoded, error) in [
            ("", PathError::EmptySegment),
            ("a//b", PathError::EmptySegment),
            ("a/", PathError::EmptySegment),
            ("/a", PathError::EmptySegment),
            ("a/../b", PathError::Dots),
            ("%2e%2E/b", PathError::Dots),
            ("a%2fb", PathError::EncodedSlash),
            ("a%2Fb", PathError::EncodedSlash),
            ("a%00", PathError::Control),
            ("a%0Ab", PathError::Control),
            ("a%", PathError::Encoding),
            ("a%4", PathError::Encoding),
            ("a%zz", PathError::Encoding),
            ("%ff", PathError::Encoding),
            ("__ds/x", PathError::Reserved),
            ("%5F_ds", PathError::Reserved),
        ] {
            assert_eq!(decoded(encoded), Err(error), "{encoded}");
        }
        assert!(StreamPath::decode(&"%61".repeat(MAX_PATH_BYTES)).is_ok());
        assert_eq!(decoded(&"a".repeat(MAX_PATH_BYTES + 1)), Err(PathError::TooLong));
        assert_eq!(decoded(&"%61".repeat(MAX_PATH_BYTES + 1)), Err(PathError::TooLong));
    }
}
