//! Range requests and conditional requests (RFC 9110, sections 13 and 14).

use std::ops::Range;

use http_range_header::{EndPosition, StartPosition, parse_range_header};
use hyper::HeaderMap;
use hyper::header::{IF_RANGE, RANGE};

/// The requested part of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum RangeSelection {
    /// The whole content.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// No byte of the content is in the range.
    Unsatisfiable,
}

/// The part of a content of `size` bytes, with the strong tag `tag`, that a request asks for. A header that is malformed, or
/// names another unit or several ranges, is ignored, as section 14.2 permits; so is one for another version (`If-Range`,
/// compared strongly).
pub(in crate::http) fn part(headers: &HeaderMap, tag: &str, size: u64) -> RangeSelection {
    let mut ranges = headers.get_all(RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return RangeSelection::Whole };
    let is_meant = headers.get(IF_RANGE).is_none_or(|condition| condition.as_bytes() == tag.as_bytes());
    let parsed = range.to_str().ok().and_then(|text| parse_range_header(text.trim()).ok());
    let Some(parsed) = parsed.filter(|_| is_meant) else { return RangeSelection::Whole };
    let [range] = &parsed.ranges[..] else { return RangeSelection::Whole };
    let last = match range.end {
        EndPosition::Index(last) => last,
        EndPosition::LastByte => u64::MAX,
    };
    let first = match range.start {
        StartPosition::Index(first) if first > last => return RangeSelection::Whole,
        StartPosition::Index(first) => first,
        // More than the size: the whole content.
        StartPosition::FromLast(bytes) => size.saturating_sub(bytes),
    };
    if first >= size {
        return RangeSelection::Unsatisfiable;
    }
    RangeSelection::Bytes(first..last.saturating_add(1).min(size))
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_range_is_what_rfc_9110_says() {
        let of = |range: &str, size| part(&headers(&[(RANGE, range)]), "\"t\"", size);
        for (range, expected) in [
            ("bytes=0-0", RangeSelection::Bytes(0..1)),
            ("bytes=0-", RangeSelection::Bytes(0..10)),
            ("bytes=3-5", RangeSelection::Bytes(3..6)),
            ("bytes=3-500", RangeSelection::Bytes(3..10)),
            ("bytes=-4", RangeSelection::Bytes(6..10)),
            ("bytes=-400", RangeSelection::Bytes(0..10)),
            ("bytes=9-18446744073709551615", RangeSelection::Bytes(9..10)),
            ("bytes=10-", RangeSelection::Unsatisfiable),
            ("bytes=10-20", RangeSelection::Unsatisfiable),
            ("bytes=5-3", RangeSelection::Whole),
            ("bytes=0-1,3-4", RangeSelection::Whole),
            ("bytes=", RangeSelection::Whole),
            ("bytes=a-b", RangeSelection::Whole),
            ("bytes=99999999999999999999-", RangeSelection::Whole),
            ("lines=0-1", RangeSelection::Whole),
            ("0-1", RangeSelection::Whole),
        ] {
            assert_eq!(of(range, 10), expected, "{range}");
        }
        assert_eq!(of("bytes=0-", 0), RangeSelection::Unsatisfiable);
        assert_eq!(
            part(&headers(&[(RANGE, "bytes=0-0"), (RANGE, "bytes=1-1")]), "\"t\"", 10),
            RangeSelection::Whole
        );
    }

    #[test]
    fn a_range_of_another_version_is_passed_over() {
        let of = |condition| part(&headers(&[(RANGE, "bytes=0-0"), (IF_RANGE, condition)]), "\"t\"", 10);
        assert_eq!(of("\"t\""), RangeSelection::Bytes(0..1));
        for other in ["\"u\"", "W/\"t\"", "Wed, 21 Oct 2015 07:28:00 GMT", ""] {
            assert_eq!(of(other), RangeSelection::Whole, "{other}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_lies_within(range in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in 0..1000_u64) {
            if let RangeSelection::Bytes(bytes) = part(&headers(&[(RANGE, &range)]), "\"t\"", size) {
                prop_assert!(bytes.start < bytes.end && bytes.end <= size);
            }
        }
    }
}
