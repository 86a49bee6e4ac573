//! Links between the pages of a list (RFC 8288).

use axum::response::Response;
use hyper::header::{HeaderValue, LINK};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::ApiError;

/// The parameters that say where a page is.
const PLACES: [&str; 3] = ["after", "before", "offset"];
/// All but what RFC 3986, section 2.3, calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Adds a link to the list at `path` as it was asked for by `parameters`, but from another place: a parameter and its value.
///
/// # Errors
///
/// An internal one, were the path to have what no header may have.
pub(in crate::http) fn add_link(
    response: &mut Response,
    path: &str,
    parameters: &[(String, String)],
    rel: &str,
    place: (&str, &str),
) -> Result<(), ApiError> {
    let link = HeaderValue::try_from(link(path, parameters, rel, place)).map_err(|_| ApiError::internal())?;
    response.headers_mut().append(LINK, link);
    Ok(())
}

fn link(path: &str, parameters: &[(String, String)], rel: &str, place: (&str, &str)) -> String {
    let kept = parameters.iter().filter(|(name, _)| !PLACES.contains(&name.as_str()));
    let encoded = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    let query: Vec<String> = kept
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .chain([format!("{}={}", place.0, encoded(place.1))])
        .collect();
    format!("<{path}?{}>; rel=\"{rel}\"", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_what_was_asked_for_but_for_the_place() {
        let parameters = [("limit", "2"), ("after", "x"), ("filter", "a>\"b\" & c"), ("offset", "7")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            link("/list", &parameters, "next", ("after", "1_a-b")),
            "</list?limit=2&filter=a%3E%22b%22%20%26%20c&after=1_a-b>; rel=\"next\""
        );
    }
}
