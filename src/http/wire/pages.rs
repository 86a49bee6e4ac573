//! `Link` headers between the pages of a list.

use axum::response::Response;
use hyper::header::{HeaderValue, LINK};

use super::error::ApiError;
use crate::paging;

/// Adds the links of a page ([`paging::Page::links`]).
///
/// # Errors
///
/// An internal error if one has characters that no header has.
pub(in crate::http) fn add_links(
    response: &mut Response,
    links: impl IntoIterator<Item = String>,
) -> Result<(), ApiError> {
    for link in links {
        let link = HeaderValue::try_from(link).map_err(|_| ApiError::internal())?;
        response.headers_mut().append(LINK, link);
    }
    Ok(())
}

/// Adds one link: to the list at `path` with these parameters, but from another position, a parameter and its value.
///
/// # Errors
///
/// As [`add_links`].
pub(in crate::http) fn add_link(
    response: &mut Response,
    path: &str,
    parameters: &[(String, String)],
    rel: &str,
    position: (&str, &str),
) -> Result<(), ApiError> {
    add_links(response, [paging::link(path, parameters, rel, position)])
}
