//! A file, its name, and its content's hash.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::FilesError;

/// The longest name of a file in bytes: the maximum of file systems.
const MAX_NAME_BYTES: usize = 255;

/// A stored file; its bytes are in the folder of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its id.
    pub id: Uuid,
    /// The name.
    pub filename: String,
    /// Bytes.
    pub size: u64,
    /// The media type (RFC 9110, section 8.3.1), declared or detected.
    pub mime_type: String,
    /// The hash of its content.
    pub sha256: ContentHash,
    /// RFC 3339, in UTC.
    pub uploaded_at: String,
    /// Whether its lines were imported.
    pub processed: bool,
}

/// The SHA-256 of a content, its name in the folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub(super) [u8; 32]);

impl ContentHash {
    pub(super) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// From 32 bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From 64 digits in the format of [`fmt::Display`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [digit(pair[0])?, digit(pair[1])?];
            *byte = high << 4 | low;
        }
        Some(Self(bytes))
    }

    /// Its folder: the first two digits, so that no folder has too many entries.
    pub(super) fn folder(&self) -> String {
        format!("{:02x}", self.0[0])
    }

    /// Its path below the folder of contents.
    pub(super) fn path(&self) -> String {
        format!("{}/{self}", self.folder())
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// 64 lowercase hexadecimal digits.
impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Parses a file's name: the last component, as some clients send a whole path (RFC 7578, section 4.2). It is data, and never
/// used as a path.
///
/// # Errors
///
/// [`FilesError::Invalid`] for a name that is empty, has control characters, or is longer than 255 bytes.
pub(super) fn file_name(text: &str) -> Result<String, FilesError> {
    let name = text.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let refuse = |message: &'static str| Err(FilesError::Invalid { field: "filename", message });
    match name {
        "" | "." | ".." => Err(FilesError::nameless()),
        name if name.len() > MAX_NAME_BYTES => refuse("a file's name takes at most 255 bytes"),
        _ if text.chars().any(char::is_control) => refuse("a file's name has no control characters"),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_the_last_part_of_what_was_sent_and_has_no_control_characters() {
        let name = |text| file_name(text).ok();
        for (text, kept) in [
            ("a.txt", "a.txt"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\x\\Ünïcode ü.pdf", "Ünïcode ü.pdf"),
            (" q\"uo'te.txt ", "q\"uo'te.txt"),
            ("'; drop table files; --", "'; drop table files; --"),
        ] {
            assert_eq!(name(text).as_deref(), Some(kept));
        }
        let [longest, too_long] = ["x".repeat(255), "x".repeat(256)];
        for bad in ["", "/", "..", "a/..", " ", "a\0b", "a\r\nb", "a\n/b", "\u{7f}", &too_long] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
        assert!(name(&longest).is_some());
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_folder(text in "\\PC{0,300}") {
            if let Ok(name) = file_name(&text) {
                prop_assert!(!name.contains(['/', '\\', '\0']) && name != ".." && name.len() <= 255);
            }
        }

        #[test]
        fn a_hash_is_read_as_it_was_written_and_nothing_else_is_one(bytes in any::<[u8; 32]>(), other in "[0-9a-fA-F]{0,70}") {
            let hash = ContentHash(bytes);
            prop_assert_eq!(ContentHash::parse(&hash.to_string()), Some(hash));
            prop_assert_eq!(hash.path(), format!("{}/{}", &hash.to_string()[..2], hash));
            if let Some(parsed) = ContentHash::parse(&other) {
                prop_assert_eq!(parsed.to_string(), other);
            }
        }
    }
}
