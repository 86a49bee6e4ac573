//! Pages of a list of files.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::{FilesError, StoredFile};

/// Files of a page at most.
pub const MAX_LIMIT: i64 = 1_000;
/// The largest offset; a cursor costs the same everywhere.
pub const MAX_OFFSET: i64 = 100_000;
/// The latest time of a cursor: the end of the year 9999, in microseconds.
const LATEST_US: i64 = 253_402_300_799_999_999;

/// The page that a client requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub(super) limit: i64,
    pub(super) offset: i64,
    pub(super) after: Option<Cursor>,
}

/// Files, newest first, and the next page's cursor.
#[derive(Debug)]
pub struct ListedFile {
    /// The files.
    pub files: Vec<StoredFile>,
    /// A token for [`Page::parse`]; `None`: this is the last page.
    pub next: Option<String>,
}

impl Page {
    /// Parses the parameters of a query; 50 files by default.
    ///
    /// # Errors
    ///
    /// [`FilesError::Invalid`] names the parameter.
    pub fn parse(limit: Option<&str>, offset: Option<&str>, after: Option<&str>) -> Result<Self, FilesError> {
        let number = |text: Option<&str>, unset: i64, min: i64, max: i64| match text {
            None => Some(unset),
            Some(text) => text.parse().ok().filter(|number| (min..=max).contains(number)),
        };
        let invalid = |field, message| FilesError::Invalid { field, message };
        let limit = number(limit, 50, 1, MAX_LIMIT).ok_or(invalid("limit", "limit takes 1 to 1000"))?;
        let offset = number(offset, 0, 0, MAX_OFFSET).ok_or(invalid("offset", "offset takes 0 to 100000"))?;
        let after = match after {
            None => None,
            Some(token) => {
                let cursor = Cursor::parse(token);
                Some(cursor.ok_or(invalid("after", "after takes what a Link header gave"))?)
            }
        };
        Ok(Self { limit, offset, after })
    }
}

/// A position in the order of files. A forged one does no harm: it names a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Microseconds of Unix time.
    pub(super) uploaded_us: i64,
    pub(super) id: Uuid,
}

impl Cursor {
    fn parse(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let (uploaded_us, id) = text.split_once(' ')?;
        let uploaded_us = uploaded_us.parse().ok().filter(|us| (0..=LATEST_US).contains(us))?;
        Some(Self { uploaded_us, id: Uuid::try_parse(id).ok()? })
    }

    pub(super) fn token(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{} {}", self.uploaded_us, self.id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_out_of_bounds_are_named() {
        let field = |limit, offset, after| match Page::parse(limit, offset, after) {
            Err(FilesError::Invalid { field, .. }) => Some(field),
            _ => None,
        };
        assert_eq!(field(None, None, None), None);
        assert_eq!(field(Some("1000"), Some("100000"), None), None);
        for bad in ["0", "1001", "-1", "x", "", "99999999999999999999"] {
            assert_eq!(field(Some(bad), None, None), Some("limit"), "{bad}");
        }
        for bad in ["100001", "-1", "' or 1=1", ""] {
            assert_eq!(field(None, Some(bad), None), Some("offset"), "{bad}");
        }
        for bad in ["", "x", "MTIz", "\0"] {
            assert_eq!(field(None, None, Some(bad)), Some("after"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(uploaded_us in 0..=LATEST_US, id in any::<u128>(), other in "\\PC{0,60}") {
            let cursor = Cursor { uploaded_us, id: Uuid::from_u128(id) };
            prop_assert_eq!(Cursor::parse(&cursor.token()), Some(cursor));
            let _ = Cursor::parse(&other);
        }
    }
}
