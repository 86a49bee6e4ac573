//! Server-sent events (WHATWG HTML, section 9.2).
//!
//! Events are written into one buffer, so that all events that are due at once are sent as one chunk.
//! axum's `response::sse` allocates a body frame for each event, and panics on a name or id with a line end in it.

use bytes::{BufMut, BytesMut};
use memchr::memchr2;

/// The media type of a stream of events.
pub(in crate::http) const MEDIA_TYPE: &str = "text/event-stream";

/// Bytes of an event beside its id, its name and its data, if that is one line.
const FIELDS_BYTES: usize = 32;

/// The fields of an event before its data.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::http) struct Fields<'a> {
    /// The position that a client sends when it reconnects.
    pub(in crate::http) id: Option<&'a str>,
    /// The event's name; without one it is a `message`.
    pub(in crate::http) event: Option<&'a str>,
    /// Milliseconds that a client waits before it reconnects.
    pub(in crate::http) retry_ms: Option<u64>,
}

/// Writes one event. Each line end in `data`, be it CR, LF or both, reaches the client as LF: the standard does not
/// distinguish them.
pub(in crate::http) fn write_event(out: &mut BytesMut, fields: Fields<'_>, data: &[u8]) {
    // At once: most chunks are one event, in a buffer that begins empty.
    let [id, event] = [fields.id, fields.event].map(|text| text.map_or(0, str::len));
    out.reserve(id + event + data.len() + FIELDS_BYTES);
    if let Some(retry_ms) = fields.retry_ms {
        write_field(out, b"retry: ", itoa::Buffer::new().format(retry_ms).as_bytes());
    }
    if let Some(id) = fields.id {
        write_field(out, b"id: ", id.as_bytes());
    }
    if let Some(event) = fields.event {
        write_field(out, b"event: ", event.as_bytes());
    }
    write_data(out, b"data: ", data);
    out.put_u8(b'\n');
}

/// Writes one event without a space before its data, as readers of Durable Streams look for it. To others it is the same.
pub(in crate::http) fn write_plain_event(out: &mut BytesMut, event: &str, data: &[u8]) {
    write_field(out, b"event: ", event.as_bytes());
    write_data(out, b"data:", data);
    out.put_u8(b'\n');
}

/// Writes the id of the event that follows.
pub(in crate::http) fn write_id_field(out: &mut BytesMut, id: &str) {
    write_field(out, b"id: ", id.as_bytes());
}

/// Writes data, a field for each line.
fn write_data(out: &mut BytesMut, name: &[u8], data: &[u8]) {
    let mut rest = data;
    while let Some(end) = memchr2(b'\r', b'\n', rest) {
        let (line, tail) = rest.split_at(end);
        write_field(out, name, line);
        rest = tail.strip_prefix(b"\r\n").or_else(|| tail.get(1..)).unwrap_or_default();
    }
    write_field(out, name, rest);
}

/// Writes a comment, which keeps a connection alive and which clients ignore.
pub(in crate::http) fn write_comment(out: &mut BytesMut) {
    out.put_slice(b":\n\n");
}

/// Writes an id without an event: clients only record it as the last one received (section 9.2.6).
pub(in crate::http) fn write_id(out: &mut BytesMut, id: &str) {
    write_field(out, b"id: ", id.as_bytes());
    out.put_u8(b'\n');
}

/// Writes the milliseconds that a client waits before it reconnects; this alone is no event.
pub(in crate::http) fn write_retry(out: &mut BytesMut, retry_ms: u64) {
    write_field(out, b"retry: ", itoa::Buffer::new().format(retry_ms).as_bytes());
    out.put_u8(b'\n');
}

/// Whether `text` can be an event's name or id: neither contains a line end, and clients ignore an id with a NUL.
pub(in crate::http) fn is_one_line(text: &str) -> bool {
    !text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// Writes a field. Names and ids were checked before; here they end with their line in any case.
fn write_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    let end = memchr2(b'\r', b'\n', value).unwrap_or(value.len());
    out.reserve(name.len() + end + 1);
    out.put_slice(name);
    out.put_slice(value.get(..end).unwrap_or_default());
    out.put_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use eventsource_stream::Eventsource;
    use futures_util::StreamExt;
    use proptest::prelude::*;

    use super::*;

    /// The events that an independent parser reads.
    fn parsed(bytes: &BytesMut) -> Vec<eventsource_stream::Event> {
        let pieces = futures_util::stream::iter(bytes.chunks(7).map(Ok::<_, std::convert::Infallible>));
        let events = pieces.eventsource().map(Result::unwrap).collect::<Vec<_>>();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(events)
    }

    #[test]
    fn an_event_has_its_fields_a_line_each() {
        let mut out = BytesMut::new();
        let fields = Fields { id: Some("7"), event: Some("tick"), retry_ms: Some(1500) };
        write_event(&mut out, fields, b"a\nb");
        write_comment(&mut out);
        write_id(&mut out, "8");
        write_event(&mut out, Fields::default(), b"");
        assert_eq!(out, "retry: 1500\nid: 7\nevent: tick\ndata: a\ndata: b\n\n:\n\nid: 8\n\ndata: \n\n");
    }

    #[test]
    fn a_plain_event_has_no_space_before_its_data() {
        let mut out = BytesMut::new();
        write_plain_event(&mut out, "data", b"a\r\n\rb\n");
        assert_eq!(out, "event: data\ndata:a\ndata:\ndata:b\ndata:\n\n");
    }

    #[test]
    fn an_id_alone_is_no_event_and_counts() {
        let mut out = BytesMut::new();
        write_id(&mut out, "8");
        write_event(&mut out, Fields::default(), b"a");
        let events = parsed(&out);
        assert_eq!((events.len(), events[0].id.as_str(), events[0].data.as_str()), (1, "8", "a"));
    }

    #[test]
    fn what_is_not_one_line_forges_no_field() {
        let mut out = BytesMut::new();
        let fields = Fields { id: Some("1\nevent: forged"), event: Some("a\r\ndata: b"), retry_ms: None };
        write_event(&mut out, fields, b"c");
        assert_eq!(out, "id: 1\nevent: a\ndata: c\n\n");
    }

    proptest! {
        #[test]
        fn any_data_is_read_back(data in "(\\PC|\r|\n){0,40}", id in "[^\r\n\0]{0,10}", name in "[^\r\n\0]{1,10}") {
            let mut out = BytesMut::new();
            write_event(&mut out, Fields { id: Some(&id), event: Some(&name), retry_ms: Some(9) }, data.as_bytes());
            write_event(&mut out, Fields::default(), b"end");
            let events = parsed(&out);
            let wanted = data.replace("\r\n", "\n").replace('\r', "\n");
            // Events without data, or with one empty line of data, are not dispatched.
            let events: Vec<_> = events.iter().filter(|event| !event.data.is_empty()).collect();
            if !wanted.is_empty() {
                prop_assert_eq!(&events[0].data, &wanted);
                prop_assert_eq!(&events[0].id, &id);
                prop_assert_eq!(&events[0].event, &name);
            }
            prop_assert_eq!(&events.last().unwrap().data, "end");
        }
    }
}
