//! `ETag`, `If-Match` and `If-None-Match` (RFC 9110, sections 8.8.3, 13.1.1 and 13.1.2): a record's version, quoted, or any other tag.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};

use super::error::ApiError;
use crate::records::{Precondition, Version};

/// Tags of one header.
const MAX_TAGS: usize = 100;

/// The tag of a version: a strong one, as a version has one content.
pub(in crate::http) fn tag(version: Version) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", version.0)).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The precondition of `If-Match`. Tags are compared strongly: a weak one never matches.
pub(in crate::http) fn if_match(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    Ok(match tags(headers, &IF_MATCH)? {
        None | Some(Tags::Any) => Precondition::None,
        Some(Tags::Listed(tags)) => {
            let strong = tags.iter().filter(|tag| !tag.weak);
            Precondition::OneOf(strong.filter_map(|tag| tag.version).collect())
        }
    })
}

/// Whether the client already has this version. Tags are compared weakly.
pub(in crate::http) fn is_known(headers: &HeaderMap, version: Version) -> Result<bool, ApiError> {
    Ok(match tags(headers, &IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::Listed(tags)) => tags.iter().any(|tag| tag.version == Some(version)),
    })
}

/// Whether `If-None-Match` includes the tag, or any tag. Tags are compared weakly.
pub(in crate::http) fn is_known_tag(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    // The service's tags have no comma, so a fragment of another tag never equals one.
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|listed| listed == "*" || listed.strip_prefix("W/").unwrap_or(listed) == tag)
}

#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Any,
    Listed(Vec<Tag>),
}

#[derive(Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    /// `None`: not a tag of this service.
    version: Option<Version>,
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, ApiError> {
    let mut listed = Vec::new();
    let mut there = false;
    for value in headers.get_all(name) {
        there = true;
        let bytes = value.as_bytes().trim_ascii();
        if bytes == b"*" {
            return Ok(Some(Tags::Any));
        }
        read(bytes, &mut listed).ok_or_else(|| {
            let message = format!("{name} takes * or entity tags such as \"7\", at most {MAX_TAGS}");
            ApiError::invalid(message).field(name.as_str().to_owned())
        })?;
    }
    Ok(there.then_some(Tags::Listed(listed)))
}

/// Reads a list of entity tags; a tag may contain commas.
fn read(mut rest: &[u8], listed: &mut Vec<Tag>) -> Option<()> {
    loop {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        if rest.is_empty() {
            return (!listed.is_empty()).then_some(());
        }
        let (weak, after) = match rest.strip_prefix(b"W/") {
            Some(after) => (true, after),
            None => (false, rest),
        };
        let after = after.strip_prefix(b"\"")?;
        let end = after.iter().position(|byte| *byte == b'"')?;
        let (opaque, after) = after.split_at(end);
        let version = version(opaque);
        if listed.len() == MAX_TAGS {
            return None;
        }
        listed.push(Tag { weak, version });
        rest = after.get(1..)?.trim_ascii_start();
        if !rest.is_empty() && rest.first() != Some(&b',') {
            return None;
        }
    }
}

/// The version of a tag. Tags are compared byte by byte (RFC 9110, section 8.8.3.2), so `019` and `+19` match no version.
fn version(opaque: &[u8]) -> Option<Version> {
    let text = std::str::from_utf8(opaque).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(Version(number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn lists_are_read_and_weak_tags_match_only_weakly() {
        let precondition = |value| if_match(&headers(IF_MATCH, value)).ok();
        assert_eq!(precondition("*"), Some(Precondition::None));
        assert_eq!(precondition("\"7\""), Some(Precondition::OneOf(vec![Version(7)])));
        assert_eq!(precondition(" \"a,b\" ,W/\"6\", \"7\""), Some(Precondition::OneOf(vec![Version(7)])));
        for other in ["\"+7\"", "\"07\"", "\" 7\"", "\"-0\"", "\"7.0\""] {
            assert_eq!(precondition(other), Some(Precondition::OneOf(Vec::new())), "{other}");
            assert!(!is_known(&headers(IF_NONE_MATCH, other), Version(7)).unwrap(), "{other}");
        }
        for bad in ["", "7", "\"7", "\"7\" \"8\"", "w/\"7\"", "\"7\"x"] {
            assert_eq!(precondition(bad), None, "{bad}");
        }
        assert!(is_known(&headers(IF_NONE_MATCH, "W/\"7\""), Version(7)).unwrap());
        assert!(!is_known(&headers(IF_NONE_MATCH, "\"8\""), Version(7)).unwrap());
        assert!(!is_known(&HeaderMap::new(), Version(7)).unwrap());
    }

    #[test]
    fn a_known_tag_is_found_in_a_list() {
        let known = |value| is_known_tag(&headers(IF_NONE_MATCH, value), "\"t\"");
        assert!(["\"t\"", "W/\"t\"", "*", "\"a,b\", \"t\""].into_iter().all(known));
        assert!(!["", "t", "\"u\"", "\"t", "\"at\""].into_iter().any(known));
    }

    proptest! {
        #[test]
        fn no_header_makes_reading_panic(value in "[ -~]{0,60}") {
            let _ = if_match(&headers(IF_MATCH, &value));
        }
    }
}
