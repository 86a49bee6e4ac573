//! The form of a stream's bytes in events.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::wire::sse;
use crate::streams::{Offset, Slice, StreamHead, StreamPath};

/// Characters that an id cannot have as they are: it is a value of a query.
const IN_ID: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The form of data in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http::streams) enum Form {
    /// An array of messages.
    Json,
    /// UTF-8. A character that is not whole yet is kept for the next event. CR, LF, and CR with LF are one line end each, also where the two come in
    /// different appends: then the CR has ended the line, and the LF adds nothing.
    Text,
    /// Base64 of bytes.
    Base64,
}

/// What was written of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// The bytes at its end that have to wait.
    pub(super) waiting: usize,
    /// Of text: the last one that was written is CR.
    pub(super) after_cr: bool,
}

impl Form {
    pub(super) fn of(stream: &StreamHead) -> Self {
        match (stream.content_type.is_json(), stream.content_type.is_text()) {
            (true, _) => Self::Json,
            (false, true) => Self::Text,
            (false, false) => Self::Base64,
        }
    }

    /// Writes the bytes of a slice as the data of an event, which names its stream if there are several. `after_cr`: the byte before it is CR.
    pub(super) fn write(
        self,
        out: &mut BytesMut,
        slice: &Slice,
        name: Option<&StreamPath>,
        after_cr: bool,
    ) -> Written {
        let data = slice.bytes.concat();
        let write = |out: &mut BytesMut, next: Offset, data: &[u8]| {
            if let Some(path) = name {
                let id = format!("{}@{next}", utf8_percent_encode(path.as_str(), IN_ID));
                sse::write_id_field(out, &id);
            }
            sse::write_plain_event(out, "data", data);
        };
        match self {
            Self::Json => {
                let mut array = Vec::with_capacity(data.len() + 1);
                array.push(b'[');
                // In the place of the last comma.
                array.extend_from_slice(data.get(..data.len().saturating_sub(1)).unwrap_or_default());
                array.push(b']');
                write(out, slice.next, &array);
                Written { waiting: 0, after_cr: false }
            }
            Self::Base64 => {
                write(out, slice.next, STANDARD.encode(&data).as_bytes());
                Written { waiting: 0, after_cr: false }
            }
            Self::Text => {
                let is_end = slice.is_tail && slice.head.closed;
                let waiting = if is_end { 0 } else { incomplete(&data) };
                let whole = data.get(..data.len() - waiting).unwrap_or_default();
                let rest = whole.strip_prefix(b"\n").filter(|_| after_cr).unwrap_or(whole);
                if !rest.is_empty() {
                    let next = Offset(slice.next.0 - waiting as u64);
                    write(out, next, String::from_utf8_lossy(rest).as_bytes());
                }
                Written { waiting, after_cr: whole.last().map_or(after_cr, |last| *last == b'\r') }
            }
        }
    }

    /// Whether the byte before a slice decides on how it is written.
    pub(super) fn depends_on_before(self, slice: &Slice) -> bool {
        self == Self::Text && slice.bytes.iter().find_map(|part| part.first()) == Some(&b'\n')
    }
}

/// The number of bytes at the end that begin a character and do not complete it.
fn incomplete(data: &[u8]) -> usize {
    for length in 1..=data.len().min(3) {
        let tail = data.get(data.len() - length..).unwrap_or_default();
        match std::str::from_utf8(tail) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => return length,
            _ => {}
        }
    }
    0
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use eventsource_stream::Eventsource;
    use futures_util::StreamExt;
    use proptest::prelude::*;

    use super::*;
    use crate::streams::memory::MemoryStore;
    use crate::streams::{ContentType, CreateStream, Created, StreamStore};

    /// A stream of text.
    pub(in crate::http::streams::sse) fn text_stream() -> StreamHead {
        let content_type = Some(ContentType::parse("text/plain").unwrap());
        let (store, path) = (MemoryStore::new(1 << 20), StreamPath::new("a").unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let created = store.create(&path, CreateStream { content_type, ..CreateStream::default() });
        let (Created::New(head) | Created::Existing(head)) = runtime.block_on(created).unwrap();
        head
    }

    #[test]
    fn a_character_that_is_not_whole_waits_and_other_bytes_do_not() {
        let euro = "€".as_bytes();
        assert_eq!(incomplete(b""), 0);
        assert_eq!(incomplete(b"a"), 0);
        assert_eq!((incomplete(euro), incomplete(&euro[..2]), incomplete(&euro[..1])), (0, 2, 1));
        assert_eq!(incomplete(&[b"a", &"😀".as_bytes()[..3]].concat()), 3);
        // No character begins so.
        assert_eq!((incomplete(b"\xff"), incomplete(b"\x80"), incomplete(b"\xc3a")), (0, 0, 0));
    }

    /// The data of the events of slices, as a client puts them together.
    fn received(head: &StreamHead, slices: &[&[u8]]) -> String {
        let (mut out, mut at, mut after_cr, mut waiting) = (BytesMut::new(), 0, false, Vec::new());
        for slice in slices {
            let data = [&waiting[..], slice].concat();
            let (start, next) = (Offset(at), Offset(at + data.len() as u64));
            let bytes = vec![Bytes::copy_from_slice(&data)];
            let slice = Slice { head: head.clone(), start, bytes, next, is_tail: true };
            let written = Form::Text.write(&mut out, &slice, None, after_cr);
            (at, after_cr) = (next.0 - written.waiting as u64, written.after_cr);
            waiting = data[data.len() - written.waiting..].to_vec();
        }
        let pieces = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(&out[..])]);
        let events = pieces.eventsource().map(|event| event.unwrap().data).collect::<Vec<_>>();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(events).concat()
    }

    #[test]
    fn a_line_end_of_two_appends_is_one() {
        let head = text_stream();
        assert_eq!(received(&head, &[b"a\r", b"\nb"]), "a\nb");
        assert_eq!(received(&head, &[b"a\r", b"\n", b"\nb"]), "a\n\nb");
        assert_eq!(received(&head, &[b"a\r", b"\r\n", b"b"]), "a\n\nb");
        assert_eq!(received(&head, &[b"a", b"\nb"]), "a\nb");
    }

    proptest! {
        #[test]
        fn text_is_received_as_one_however_it_is_split(
            text in "([ab€😀]|\r|\n){0,30}", cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let slices: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            let wanted = text.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(received(&text_stream(), &slices), wanted);
        }
    }
}
