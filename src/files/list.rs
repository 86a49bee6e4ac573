//! The list of an owner's files.

use super::FilesError;
use crate::paging::{self, InvalidParameter, ListTag, SeenParameters, SortKey};

/// Files of a page by default.
const DEFAULT_LIMIT: usize = 50;
/// Files of a page at most.
const MAX_LIMIT: usize = 1_000;
/// The largest offset; a cursor costs the same everywhere.
const MAX_OFFSET: u32 = 100_000;
/// The tag of this list's cursors.
pub(super) const FILES: ListTag = b'f';

/// A query of the list of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileQuery {
    pub(super) limit: usize,
    pub(super) offset: u32,
    /// The key behind which the page begins; `None`: the list's beginning.
    pub(super) after: Option<SortKey>,
}

impl FileQuery {
    /// Reads a query's parameters.
    ///
    /// # Errors
    ///
    /// [`FilesError::Parameter`] names the first that is invalid.
    pub fn parse(parameters: &[(String, String)]) -> Result<Self, FilesError> {
        let mut query = Self { limit: DEFAULT_LIMIT, offset: 0, after: None };
        let mut seen = SeenParameters::default();
        for (name, value) in parameters {
            seen.add(name)?;
            match name.as_str() {
                "limit" => query.limit = paging::limit(value, MAX_LIMIT)?,
                "offset" => query.offset = paging::offset(value, MAX_OFFSET)?,
                "after" => query.after = Some(paging::cursor(name, value, FILES)?),
                _ => return Err(InvalidParameter::unknown(name).into()),
            }
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn parse(parameters: &[(&str, &str)]) -> Result<FileQuery, String> {
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        FileQuery::parse(&parameters).map_err(|error| match error {
            FilesError::Parameter(parameter) => parameter.field,
            error => panic!("{error}"),
        })
    }

    #[test]
    fn parameters_out_of_bounds_are_named() {
        assert_eq!(parse(&[]), Ok(FileQuery { limit: 50, offset: 0, after: None }));
        assert!(parse(&[("limit", "1000"), ("offset", "100000")]).is_ok());
        for bad in ["0", "1001", "-1", "x", "", "99999999999999999999"] {
            assert_eq!(parse(&[("limit", bad)]), Err("limit".into()), "{bad}");
        }
        for bad in ["100001", "-1", "' or 1=1", ""] {
            assert_eq!(parse(&[("offset", bad)]), Err("offset".into()), "{bad}");
        }
        // The last one is the form of earlier versions.
        let earlier = URL_SAFE_NO_PAD.encode("1700000000000000 6b1f3d5e-54a1-4d0e-8f0c-2a9d71c5e801");
        for bad in ["", "x", "MTIz", "\0", SortKey::END.cursor(b'c').as_str(), &earlier] {
            assert_eq!(parse(&[("after", bad)]), Err("after".into()), "{bad}");
        }
        assert_eq!(parse(&[("limit", "1"), ("limit", "2")]), Err("limit".into()));
        assert_eq!(parse(&[("sort", "size")]), Err("sort".into()));
    }

    #[test]
    fn a_cursor_of_this_list_is_read() {
        let cursor = SortKey::END.cursor(FILES);
        assert_eq!(parse(&[("after", cursor.as_str())]).unwrap().after, Some(SortKey::END));
    }
}
