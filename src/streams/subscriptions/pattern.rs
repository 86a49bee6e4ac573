//! Patterns of paths: segments with `/` between, where `*` stands for one segment and `**` for any number of them.

use std::fmt;
use std::sync::Arc;

use super::super::path::{MAX_PATH_BYTES, RESERVED_SEGMENT, StreamPath};

const ONE: &str = "*";
const ANY: &str = "**";

/// A pattern of paths. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

/// A text that is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has no segment, or an empty one.
    #[error("takes segments with / between, none of them empty")]
    EmptySegment,
    /// `*` is a part of a segment.
    #[error("takes * and ** as whole segments")]
    PartialWildcard,
    /// A segment is `.` or `..`, or it has a control character.
    #[error("takes no segment . or .. and no control characters")]
    Malformed,
    /// It is longer than any path.
    #[error("takes at most {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// Its first segment is reserved, so that it matches nothing.
    #[error("takes another first segment than {RESERVED_SEGMENT}")]
    Reserved,
}

impl Pattern {
    /// Reads a pattern. A `/` at its beginning or end has no meaning.
    ///
    /// # Errors
    ///
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let text = text.trim_matches('/');
        if text.len() > MAX_PATH_BYTES {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::Malformed);
        }
        if text.split('/').next() == Some(RESERVED_SEGMENT) {
            return Err(PatternError::Reserved);
        }
        for segment in text.split('/') {
            match segment {
                "" => return Err(PatternError::EmptySegment),
                "." | ".." => return Err(PatternError::Malformed),
                ONE | ANY => {}
                other if other.contains('*') => return Err(PatternError::PartialWildcard),
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text that every matching path begins with.
    pub fn literal_prefix(&self) -> &str {
        let wildcard = self.0.find('*').unwrap_or(self.0.len());
        let before = &self.0[..wildcard];
        // `a/**` matches `a` too.
        if self.0[wildcard..].starts_with(ANY) { before.strip_suffix('/').unwrap_or(before) } else { before }
    }

    /// Whether a path matches it.
    pub fn matches(&self, path: &StreamPath) -> bool {
        let pattern: Vec<&str> = self.0.split('/').collect();
        let path: Vec<&str> = path.as_str().split('/').collect();
        let (mut at, mut segment) = (0, 0);
        // Behind the last `**`, and the first segment that it does not stand for. An earlier one need not be tried again: what it could take, the
        // last one can take too.
        let mut retry: Option<(usize, usize)> = None;
        while segment < path.len() {
            match pattern.get(at) {
                Some(&ANY) => {
                    at += 1;
                    retry = Some((at, segment));
                }
                Some(&wanted) if wanted == ONE || wanted == path[segment] => {
                    at += 1;
                    segment += 1;
                }
                _ => match &mut retry {
                    Some((behind, taken)) => {
                        *taken += 1;
                        (at, segment) = (*behind, *taken);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|rest| *rest == ANY)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_one_segment_and_two_are_any_number() {
        for (pattern, matching, others) in [
            ("events/*", &["events/a", "events/b"][..], &["events", "events/a/b", "event/a"][..]),
            ("events/**", &["events", "events/a", "events/a/b/c"], &["event", "a/events"]),
            ("**", &["a", "a/b/c"], &[]),
            ("**/log", &["log", "a/log", "a/log/log"], &["a/logs", "log/a"]),
            ("a/**/b/*/c", &["a/b/x/c", "a/x/y/b/z/c", "a/b/b/x/c"], &["a/b/c", "a/b/x/d"]),
            ("a/**/**/b", &["a/b", "a/x/b"], &["a", "a/x"]),
            ("exact/path", &["exact/path"], &["exact/path/x", "exact"]),
            ("/events/*/", &["events/a"], &["events"]),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            let is_match = |path: &&str| pattern.matches(&StreamPath::new(path).unwrap());
            assert!(matching.iter().all(is_match), "{pattern:?} {matching:?}");
            assert!(!others.iter().any(is_match), "{pattern:?} {others:?}");
        }
        for (text, error) in [
            ("", PatternError::EmptySegment),
            ("a//b", PatternError::EmptySegment),
            ("a*", PatternError::PartialWildcard),
            ("a/***", PatternError::PartialWildcard),
            ("a/../b", PatternError::Malformed),
            ("a\0", PatternError::Malformed),
            ("__ds/**", PatternError::Reserved),
            (&"a".repeat(MAX_PATH_BYTES + 1), PatternError::TooLong),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text}");
        }
        for (pattern, prefix) in [("a/b/*", "a/b/"), ("a/**", "a"), ("**", ""), ("*/a", ""), ("a", "a")] {
            assert_eq!(Pattern::parse(pattern).unwrap().literal_prefix(), prefix, "{pattern}");
        }
    }

    #[test]
    fn many_wildcards_do_not_take_exponential_time() {
        let pattern = Pattern::parse(&format!("{}x", "**/a/".repeat(100))).unwrap();
        let path = StreamPath::new(&vec!["a"; 500].join("/")).unwrap();
        assert!(!pattern.matches(&path));
    }

    /// The definition, tried segment by segment.
    fn by_definition(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.first(), path.first()) {
            (None, rest) => rest.is_none(),
            (Some(&ANY), _) => (0..=path.len()).any(|taken| by_definition(&pattern[1..], &path[taken..])),
            (Some(_), None) => false,
            (Some(wanted), Some(segment)) => {
                (*wanted == ONE || wanted == segment) && by_definition(&pattern[1..], &path[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_defined_and_matches_begin_with_the_prefix(
            pattern in proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*"), Just("**")], 1..7),
            path in proptest::collection::vec(prop_oneof![Just("a"), Just("b")], 1..9),
        ) {
            let read = Pattern::parse(&pattern.join("/")).unwrap();
            let found = StreamPath::new(&path.join("/")).unwrap();
            prop_assert_eq!(read.matches(&found), by_definition(&pattern, &path));
            prop_assert!(!read.matches(&found) || found.as_str().starts_with(read.literal_prefix()));
        }
    }
}
