//! Chunks: the bytes of a stream between two offsets, with the boundaries of appends and messages in them.

use bytes::{Bytes, BytesMut};

use crate::streams::{AppendBody, Offset, StreamError};

/// Bytes of a stream as a row has them. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::streams::postgres) struct Chunk {
    /// The offset of its first byte.
    pub(in crate::streams::postgres) first: Offset,
    /// The offset behind its last byte.
    pub(in crate::streams::postgres) next: Offset,
    pub(in crate::streams::postgres) bytes: Bytes,
    /// The ends of its appends, counted from its first byte; `None`: it is one append.
    pub(in crate::streams::postgres) append_ends: Option<Box<[u32]>>,
    /// The ends of its JSON messages; `None`: each append is one message.
    pub(in crate::streams::postgres) message_ends: Option<Box<[u32]>>,
}

impl Chunk {
    /// The chunk of appends that follow each other from `first` on.
    pub(in crate::streams::postgres) fn of_appends(first: Offset, bodies: &[&AppendBody]) -> Self {
        let length: usize = bodies.iter().map(|body| body.bytes().len()).sum();
        // Also one body is copied: it may share the buffer of a connection, which a cached chunk would hold.
        let mut bytes = BytesMut::with_capacity(length);
        for body in bodies {
            bytes.extend_from_slice(body.bytes());
        }
        let (mut append_ends, mut message_ends, mut end) = (Vec::new(), Vec::new(), 0_u32);
        for body in bodies {
            if let Some(ends) = body.message_ends() {
                message_ends.extend(ends.iter().map(|within| end + within));
            }
            // A batch is far smaller than 4 GiB.
            end += body.bytes().len() as u32;
            append_ends.push(end);
        }
        let is_one_each = message_ends.is_empty() || message_ends == append_ends;
        Self {
            first,
            next: Offset(first.0 + length as u64),
            bytes: bytes.freeze(),
            append_ends: (append_ends.len() > 1).then(|| append_ends.into()),
            message_ends: (!is_one_each).then(|| message_ends.into()),
        }
    }

    /// One chunk of chunks that follow each other.
    pub(in crate::streams::postgres) fn merged(chunks: &[Self]) -> Option<Self> {
        let (first, last) = (chunks.first()?, chunks.last()?);
        let mut bytes = BytesMut::with_capacity((last.next.0 - first.first.0) as usize);
        let (mut append_ends, mut message_ends, mut differs) = (Vec::new(), Vec::new(), false);
        for chunk in chunks {
            let base = bytes.len() as u32;
            append_ends.extend(chunk.append_ends().iter().map(|end| base + end));
            message_ends.extend(chunk.message_ends().iter().map(|end| base + end));
            differs |= chunk.message_ends.is_some();
            bytes.extend_from_slice(&chunk.bytes);
        }
        Some(Self {
            first: first.first,
            next: last.next,
            bytes: bytes.freeze(),
            append_ends: Some(append_ends.into()),
            message_ends: differs.then(|| message_ends.into()),
        })
    }

    /// Its bytes in memory, about.
    pub(in crate::streams::postgres) fn held_bytes(&self) -> usize {
        let ends = |ends: &Option<Box<[u32]>>| ends.as_ref().map_or(0, |ends| ends.len() * 4);
        128 + self.bytes.len() + ends(&self.append_ends) + ends(&self.message_ends)
    }

    fn append_ends(&self) -> std::borrow::Cow<'_, [u32]> {
        match &self.append_ends {
            Some(ends) => (&**ends).into(),
            None => vec![self.bytes.len() as u32].into(),
        }
    }

    fn message_ends(&self) -> std::borrow::Cow<'_, [u32]> {
        match &self.message_ends {
            Some(ends) => (&**ends).into(),
            None => self.append_ends(),
        }
    }

    /// The place of an offset in its bytes.
    fn place(&self, offset: Offset) -> usize {
        let within = usize::try_from(offset.0.saturating_sub(self.first.0)).unwrap_or(usize::MAX);
        within.min(self.bytes.len())
    }

    /// Whether an offset in it is between two messages.
    fn is_between_messages(&self, place: usize) -> bool {
        place == 0 || self.message_ends().binary_search(&(place as u32)).is_ok()
    }

    /// The bytes from an offset up to another one.
    fn part(&self, from: Offset, to: Offset) -> Bytes {
        let (from, to) = (self.place(from), self.place(to));
        self.bytes.slice(from.min(to)..to)
    }

    /// The part without what is behind an offset.
    pub(in crate::streams::postgres) fn before(mut self, end: Offset) -> Self {
        if end < self.next {
            let place = self.place(end);
            let cut = |ends: Option<Box<[u32]>>| {
                ends.map(|ends| ends.iter().copied().filter(|end| *end as usize <= place).collect())
            };
            self.bytes.truncate(place);
            self.append_ends = cut(self.append_ends);
            self.message_ends = cut(self.message_ends);
            self.next = end;
        }
        self
    }

    /// The rest of the append that an offset is in or at the start of: its end, and the ends of its messages behind the offset.
    pub(in crate::streams::postgres) fn rest_of_append(&self, offset: Offset) -> (Offset, Vec<Offset>) {
        let place = self.place(offset) as u32;
        let end = self.append_ends().iter().copied().find(|end| *end > place);
        let end = end.unwrap_or(self.bytes.len() as u32);
        let of = |end: u32| Offset(self.first.0 + u64::from(end));
        let messages = self.message_ends();
        let messages = messages.iter().copied().filter(|message| *message > place && *message <= end);
        (of(end), messages.map(of).collect())
    }
}

/// Bytes for an answer, and the offset behind them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::streams::postgres) struct Cut {
    pub(in crate::streams::postgres) bytes: Vec<Bytes>,
    pub(in crate::streams::postgres) next: Offset,
}

impl Cut {
    /// An answer that begins at an offset.
    pub(in crate::streams::postgres) fn at(from: Offset) -> Self {
        Self { bytes: Vec::new(), next: from }
    }

    /// The bytes so far.
    pub(in crate::streams::postgres) fn len(&self) -> usize {
        self.bytes.iter().map(Bytes::len).sum()
    }

    /// Adds what follows, up to `max` bytes altogether, and at least one byte, or message, if there is none yet. False: it is full.
    ///
    /// # Errors
    ///
    /// [`StreamError::Offset`]: the answer would begin within a JSON message.
    pub(in crate::streams::postgres) fn add(
        &mut self,
        chunk: &Chunk,
        max: usize,
        is_json: bool,
    ) -> Result<bool, StreamError> {
        let (from, so_far) = (chunk.place(self.next), self.len());
        if is_json && !chunk.is_between_messages(from) {
            return Err(StreamError::Offset);
        }
        let room = max.saturating_sub(so_far);
        let whole = chunk.bytes.len().saturating_sub(from);
        let to = if whole <= room {
            chunk.bytes.len()
        } else if is_json {
            let ends = chunk.message_ends();
            let end_of = |place: usize| ends.get(place).map_or(0, |end| *end as usize);
            let fitting = ends.partition_point(|end| *end as usize <= from + room);
            match fitting.checked_sub(1).map(end_of).filter(|end| *end > from) {
                Some(end) => end,
                None if so_far == 0 => end_of(ends.partition_point(|end| *end as usize <= from)),
                None => from,
            }
        } else {
            from + if so_far == 0 { room.max(1) } else { room }
        };
        if to > from {
            let end = Offset(chunk.first.0 + to as u64);
            self.bytes.push(chunk.part(self.next, end));
            self.next = end;
        }
        Ok(to == chunk.bytes.len())
    }
}

/// Ends as the text of an array of Postgres.
pub(in crate::streams::postgres) fn array_text(ends: Option<&[u32]>) -> Option<String> {
    let ends = ends?;
    let mut text = String::with_capacity(2 + ends.len() * 5);
    let mut digits = itoa::Buffer::new();
    for end in ends {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(digits.format(*end));
    }
    text.push('}');
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> AppendBody {
        AppendBody::of_bytes(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn json(text: &str) -> AppendBody {
        AppendBody::of_json(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_chunk_shares_no_buffer_with_the_connections_of_its_appends() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let body = AppendBody::of_bytes(buffer.slice(100..200)).unwrap();
        let chunk = Chunk::of_appends(Offset::START, &[&body]);
        assert_eq!(chunk.bytes, body.bytes());
        assert_ne!(chunk.bytes.as_ptr(), body.bytes().as_ptr());
    }

    #[test]
    fn boundaries_of_appends_and_messages_are_kept_where_they_say_something() {
        let one = Chunk::of_appends(Offset(7), &[&bytes("abc")]);
        assert_eq!((one.next, &one.append_ends, &one.message_ends), (Offset(10), &None, &None));
        let two = Chunk::of_appends(Offset(0), &[&json("1"), &json("22")]);
        assert_eq!((two.append_ends.as_deref(), two.message_ends.as_deref()), (Some(&[2, 5][..]), None));
        let many = Chunk::of_appends(Offset(10), &[&json("[1,2]"), &json("3")]);
        assert_eq!(many.append_ends.as_deref(), Some(&[4, 6][..]));
        assert_eq!(many.message_ends.as_deref(), Some(&[2, 4, 6][..]));
        assert_eq!(many.rest_of_append(Offset(10)), (Offset(14), vec![Offset(12), Offset(14)]));
        assert_eq!(many.rest_of_append(Offset(12)), (Offset(14), vec![Offset(14)]));
        assert_eq!(many.rest_of_append(Offset(14)), (Offset(16), vec![Offset(16)]));
        let before = many.clone().before(Offset(12));
        assert_eq!((&before.bytes[..], before.message_ends.as_deref()), (&b"1,"[..], Some(&[2][..])));
        assert_eq!(array_text(many.message_ends.as_deref()).unwrap(), "{2,4,6}");
        assert_eq!(array_text(None), None);
    }

    #[test]
    fn an_answer_is_cut_between_messages_and_is_never_empty() {
        let chunk = Chunk::of_appends(Offset(10), &[&json("[1,2]"), &json("\"long\"")]);
        let cut = |from: u64, max| {
            let mut cut = Cut::at(Offset(from));
            cut.add(&chunk, max, true).map(|is_whole| (cut.bytes.concat(), cut.next.0, is_whole))
        };
        assert_eq!(cut(10, 100).unwrap(), (b"1,2,\"long\",".to_vec(), 21, true));
        assert_eq!(cut(10, 3).unwrap(), (b"1,".to_vec(), 12, false));
        assert_eq!(cut(10, 1).unwrap(), (b"1,".to_vec(), 12, false));
        assert_eq!(cut(14, 1).unwrap(), (b"\"long\",".to_vec(), 21, true));
        assert!(matches!(cut(11, 100), Err(StreamError::Offset)));
        let chunk = Chunk::of_appends(Offset(0), &[&bytes("abc")]);
        let mut cut = Cut::at(Offset(1));
        assert!(!cut.add(&chunk, 0, false).unwrap());
        assert_eq!((cut.bytes.concat(), cut.next), (b"b".to_vec(), Offset(2)));
        assert!(!cut.add(&chunk, 1, false).unwrap());
        assert_eq!(cut.next, Offset(2), "full");
    }

    proptest! {
        #[test]
        fn merged_chunks_read_as_before(
            appends in prop::collection::vec(prop::collection::vec("[a-z]{0,5}", 1..4), 1..8), max in 1..40_usize, groups in 1..4_usize
        ) {
            let bodies: Vec<AppendBody> = appends.iter().map(|messages| json(&serde_json::json!(messages).to_string())).collect();
            let mut chunks = Vec::new();
            let mut at = Offset(5);
            for group in bodies.chunks(groups) {
                let chunk = Chunk::of_appends(at, &group.iter().collect::<Vec<_>>());
                at = chunk.next;
                chunks.push(chunk);
            }
            let merged = Chunk::merged(&chunks).unwrap();
            let read = |chunks: &[Chunk]| {
                let (mut from, mut pages) = (Offset(5), Vec::new());
                while from < at {
                    let mut cut = Cut::at(from);
                    for chunk in chunks.iter().filter(|chunk| chunk.next > from) {
                        if !cut.add(chunk, max, true).unwrap() {
                            break;
                        }
                    }
                    prop_assert!(cut.next > from);
                    from = cut.next;
                    pages.push(cut.bytes.concat());
                }
                Ok(pages)
            };
            prop_assert_eq!(read(&chunks)?, read(std::slice::from_ref(&merged))?);
            for chunk in &chunks {
                prop_assert_eq!(chunk.rest_of_append(chunk.first), merged.rest_of_append(chunk.first));
            }
        }
    }
}
