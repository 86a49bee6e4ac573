//! The creation of streams and of forks, and the decisions on it.

use std::sync::Arc;

use super::StreamError;
use super::body::AppendBody;
use super::content_type::ContentType;
use super::lifetime::{Lifetime, Retention};
use super::offset::Offset;
use super::path::StreamPath;
use super::stream_store::StreamHead;

/// A request to create a stream.
#[derive(Debug, Clone, Default)]
pub struct CreateStream {
    /// Its type; `None`: that of the fork's source, else `application/octet-stream`.
    pub content_type: Option<ContentType>,
    /// When it ends by itself; `None`: as the fork's source does, else never.
    pub lifetime: Option<Lifetime>,
    /// Whether it is closed from the start, behind its body.
    pub closed: bool,
    /// Its first append.
    pub body: Option<AppendBody>,
    /// The stream whose beginning it shares.
    pub fork: Option<Fork>,
    /// How much of it is kept (an extension).
    pub retention: Option<Retention>,
    /// Whether older messages of a key are removed (an extension, `Stream-Compaction: key`).
    pub compacts_by_key: bool,
}

/// The part of a stream that a new one shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The source.
    pub source: StreamPath,
    /// The position up to which it is shared; `None`: its end.
    pub offset: Option<Offset>,
    /// The number of bytes, or of JSON messages, of the append behind that position that are shared too.
    pub sub_offset: u64,
}

/// The origin of a fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkOrigin {
    /// The path of the source, as it was forked.
    pub source: StreamPath,
    /// The position that was named, or else the source's end at that time; without the sub-offset.
    pub offset: Offset,
    /// The sub-offset, as it was named.
    pub sub_offset: u64,
    /// Whether its lifetime is that of the source, as its request named none.
    pub inherits_lifetime: bool,
}

/// The outcome of a creation that is not refused.
#[derive(Debug, Clone)]
pub enum Created {
    /// The stream is new.
    New(StreamHead),
    /// There was one of the same configuration.
    Existing(StreamHead),
}

/// Compares a request with the living stream at its path.
///
/// # Errors
///
/// [`StreamError::Exists`]: they differ.
pub fn compare(existing: &StreamHead, request: &CreateStream) -> Result<(), StreamError> {
    let origin = existing.origin.as_deref();
    let is_same_type = match &request.content_type {
        Some(content_type) => *content_type == existing.content_type,
        None => origin.is_some() || existing.content_type == ContentType::octet_stream(),
    };
    let inherits_lifetime = origin.is_some_and(|origin| origin.inherits_lifetime);
    let is_same_lifetime = match (request.lifetime, existing.lifetime) {
        (None, lifetime) => lifetime.is_none() || inherits_lifetime,
        (requested, lifetime) => !inherits_lifetime && requested == lifetime,
    };
    let is_same_fork = match (&request.fork, origin) {
        (None, None) => true,
        (Some(fork), Some(origin)) => {
            fork.source == origin.source
                && fork.offset.is_none_or(|offset| offset == origin.offset)
                && fork.sub_offset == origin.sub_offset
        }
        _ => false,
    };
    let is_same = is_same_type
        && is_same_lifetime
        && is_same_fork
        && request.closed == existing.closed
        && request.retention == existing.retention
        && request.compacts_by_key == existing.compacts_by_key;
    if is_same { Ok(()) } else { Err(StreamError::Exists) }
}

/// What a new stream is, apart from its place and its bytes.
#[derive(Debug, Clone)]
pub struct NewStream {
    /// Its type.
    pub content_type: ContentType,
    /// When it ends by itself.
    pub lifetime: Option<Lifetime>,
    /// Its origin, if it is a fork.
    pub origin: Option<Arc<ForkOrigin>>,
}

/// Decides on a new stream, or on a fork of the living stream `source`. The position in the origin still has to be checked by [`fork_end`].
///
/// # Errors
///
/// The fork has another type, or begins beyond the end of its source; a stream of bytes is to be compacted by key.
pub fn plan(request: &CreateStream, source: Option<&StreamHead>) -> Result<NewStream, StreamError> {
    let content_type = match (&request.content_type, source) {
        (Some(content_type), Some(source)) if *content_type != source.content_type => {
            return Err(StreamError::ForkContentType);
        }
        (Some(content_type), _) => content_type.clone(),
        (None, Some(source)) => source.content_type.clone(),
        (None, None) => ContentType::octet_stream(),
    };
    if let Some(body) = &request.body
        && body.is_json() != content_type.is_json()
    {
        return Err(StreamError::ContentType);
    }
    if request.compacts_by_key && !content_type.is_json() {
        return Err(StreamError::Compaction);
    }
    let origin = match (&request.fork, source) {
        (Some(fork), Some(source)) => {
            let offset = fork.offset.unwrap_or(source.tail);
            if offset > source.tail || offset < source.kept_from {
                return Err(StreamError::ForkOffset);
            }
            Some(Arc::new(ForkOrigin {
                source: fork.source.clone(),
                offset,
                sub_offset: fork.sub_offset,
                inherits_lifetime: request.lifetime.is_none(),
            }))
        }
        _ => None,
    };
    let lifetime = request.lifetime.or_else(|| source.and_then(|source| source.lifetime));
    Ok(NewStream { content_type, lifetime, origin })
}

/// The position in its source at which a fork begins to differ: `sub_offset` behind `offset`, which is a boundary of the source. `append` has the rest
/// of the append behind `offset`; `None`: the source ends there.
///
/// # Errors
///
/// [`StreamError::ForkSubOffset`]: the append ends before.
pub fn fork_end(
    offset: Offset,
    sub_offset: u64,
    append: Option<&RestOfAppend>,
) -> Result<Offset, StreamError> {
    if sub_offset == 0 {
        return Ok(offset);
    }
    let append = append.ok_or(StreamError::ForkSubOffset)?;
    let end = match &append.message_ends {
        None => Offset(offset.0.checked_add(sub_offset).ok_or(StreamError::ForkSubOffset)?),
        Some(ends) => {
            let nth = usize::try_from(sub_offset - 1).map_err(|_| StreamError::ForkSubOffset)?;
            *ends.get(nth).ok_or(StreamError::ForkSubOffset)?
        }
    };
    if end > append.end { Err(StreamError::ForkSubOffset) } else { Ok(end) }
}

/// The part of one append behind a position in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestOfAppend {
    /// The end of the append.
    pub end: Offset,
    /// The ends of its JSON messages behind the position; `None`: it consists of bytes.
    pub message_ends: Option<Vec<Offset>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::stream_store::StreamId;
    use crate::time::Micros;

    fn head(content_type: &str, tail: u64) -> StreamHead {
        StreamHead {
            id: StreamId(1),
            content_type: ContentType::parse(content_type).unwrap(),
            tail: Offset(tail),
            closed: false,
            lifetime: None,
            expires_at: None,
            ends: None,
            created_at: Micros(0),
            kept_from: Offset::START,
            retention: None,
            compacts_by_key: false,
            generation: 0,
            origin: None,
        }
    }

    fn of_type(content_type: &str) -> CreateStream {
        CreateStream {
            content_type: Some(ContentType::parse(content_type).unwrap()),
            ..CreateStream::default()
        }
    }

    fn fork(source: &str, offset: Option<u64>, sub_offset: u64) -> CreateStream {
        let source = StreamPath::new(source).unwrap();
        CreateStream {
            fork: Some(Fork { source, offset: offset.map(Offset), sub_offset }),
            ..CreateStream::default()
        }
    }

    #[test]
    fn an_existing_stream_is_compared_by_its_configuration() {
        let text = head("text/plain", 5);
        let same = |existing: &StreamHead, request: &CreateStream| compare(existing, request).is_ok();
        assert!(same(&text, &of_type("TEXT/plain; charset=utf-8")));
        assert!(!same(&text, &CreateStream::default()));
        assert!(same(&head("application/octet-stream", 0), &CreateStream::default()));
        assert!(!same(&text, &CreateStream { closed: true, ..of_type("text/plain") }));
        let ttl = CreateStream { lifetime: Some(Lifetime::Ttl(5)), ..of_type("text/plain") };
        assert!(!same(&text, &ttl));
        let with_ttl = StreamHead { lifetime: Some(Lifetime::Ttl(5)), ..text.clone() };
        assert!(same(&with_ttl, &ttl) && !same(&with_ttl, &of_type("text/plain")));
        let retention = Retention { age_s: Some(1), bytes: None };
        assert!(!same(&text, &CreateStream { retention: Some(retention), ..of_type("text/plain") }));
        assert!(!same(&text, &CreateStream { compacts_by_key: true, ..of_type("text/plain") }));
        assert!(!same(&text, &fork("a", None, 0)));
    }

    #[test]
    fn an_existing_fork_is_compared_by_its_origin() {
        let source = StreamHead { lifetime: Some(Lifetime::Ttl(5)), ..head("text/plain", 10) };
        let NewStream { content_type, lifetime, origin } =
            plan(&fork("a", Some(4), 2), Some(&source)).unwrap();
        let existing = StreamHead { content_type, lifetime, origin, ..source };
        let same = |request: &CreateStream| compare(&existing, request).is_ok();
        assert!(same(&fork("a", Some(4), 2)) && same(&fork("a", None, 2)));
        for other in
            [fork("b", Some(4), 2), fork("a", Some(5), 2), fork("a", Some(4), 0), of_type("text/plain")]
        {
            assert!(!same(&other), "{other:?}");
        }
        // The TTL is the source's, and was not asked for.
        assert!(!same(&CreateStream { lifetime: Some(Lifetime::Ttl(5)), ..fork("a", Some(4), 2) }));
    }

    #[test]
    fn a_fork_has_the_type_and_the_lifetime_of_its_source_unless_it_names_one() {
        let source = StreamHead { lifetime: Some(Lifetime::Ttl(5)), ..head("text/plain", 10) };
        let plain = plan(&fork("a", None, 0), Some(&source)).unwrap();
        assert_eq!(
            (plain.content_type, plain.lifetime),
            (source.content_type.clone(), Some(Lifetime::Ttl(5)))
        );
        assert_eq!(plain.origin.unwrap().offset, Offset(10));
        let own = CreateStream { lifetime: Some(Lifetime::Ttl(9)), ..fork("a", Some(0), 0) };
        assert_eq!(plan(&own, Some(&source)).unwrap().lifetime, Some(Lifetime::Ttl(9)));
        let other = CreateStream { content_type: of_type("text/html").content_type, ..fork("a", None, 0) };
        assert!(matches!(plan(&other, Some(&source)), Err(StreamError::ForkContentType)));
        for beyond in [11, u64::MAX] {
            assert!(matches!(plan(&fork("a", Some(beyond), 0), Some(&source)), Err(StreamError::ForkOffset)));
        }
    }

    #[test]
    fn a_sub_offset_counts_within_one_append() {
        let bytes = RestOfAppend { end: Offset(20), message_ends: None };
        let of_bytes = |sub_offset| fork_end(Offset(10), sub_offset, Some(&bytes)).ok();
        assert_eq!(
            (of_bytes(0), of_bytes(1), of_bytes(10)),
            (Some(Offset(10)), Some(Offset(11)), Some(Offset(20)))
        );
        assert_eq!((of_bytes(11), of_bytes(u64::MAX)), (None, None));
        let json = RestOfAppend { end: Offset(20), message_ends: Some(vec![Offset(14), Offset(20)]) };
        let of_json = |sub_offset| fork_end(Offset(10), sub_offset, Some(&json)).ok();
        assert_eq!((of_json(1), of_json(2), of_json(3)), (Some(Offset(14)), Some(Offset(20)), None));
        assert_eq!(of_json(u64::MAX), None);
        assert!(fork_end(Offset(10), 0, None).is_ok() && fork_end(Offset(10), 1, None).is_err());
    }
}
