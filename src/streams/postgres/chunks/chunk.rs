//! Chunks: the bytes of a stream between two offsets, with the boundaries of appends and messages in them.
//!
//! A compaction removes messages and leaves offsets as they are: of such a chunk `byte_ends` says where the messages are that are left.

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
    /// The ends of its messages in its bytes, where messages were removed; `None`: none were. `message_ends` has as many.
    pub(in crate::streams::postgres) byte_ends: Option<Box<[u32]>>,
}

impl Chunk {
    /// The longest one that is made of several, in offsets: ends are numbers of 31 bits in Postgres.
    pub(in crate::streams::postgres) const MAX_LENGTH: u64 = 1 << 30;

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
            byte_ends: None,
        }
    }

    /// One chunk of chunks that follow each other.
    pub(in crate::streams::postgres) fn merged(chunks: &[Self]) -> Option<Self> {
        let (first, last) = (chunks.first()?, chunks.last()?);
        let mut bytes = BytesMut::with_capacity(chunks.iter().map(|chunk| chunk.bytes.len()).sum());
        let (mut append_ends, mut message_ends, mut differs) = (Vec::new(), Vec::new(), false);
        let (mut byte_ends, mut has_gaps) = (Vec::new(), false);
        for chunk in chunks {
            let (base, byte_base) = ((chunk.first.0 - first.first.0) as u32, bytes.len() as u32);
            append_ends.extend(chunk.append_ends().iter().map(|end| base + end));
            message_ends.extend(chunk.message_ends().iter().map(|end| base + end));
            byte_ends.extend(chunk.byte_ends().iter().map(|end| byte_base + end));
            differs |= chunk.message_ends.is_some();
            has_gaps |= chunk.byte_ends.is_some();
            bytes.extend_from_slice(&chunk.bytes);
        }
        Some(Self {
            first: first.first,
            next: last.next,
            bytes: bytes.freeze(),
            append_ends: Some(append_ends.into()),
            message_ends: (differs || has_gaps).then(|| message_ends.into()),
            byte_ends: has_gaps.then(|| byte_ends.into()),
        })
    }

    /// Its bytes in memory, about.
    pub(in crate::streams::postgres) fn held_bytes(&self) -> usize {
        let ends = |ends: &Option<Box<[u32]>>| ends.as_ref().map_or(0, |ends| ends.len() * 4);
        128 + self.bytes.len() + ends(&self.append_ends) + ends(&self.message_ends) + ends(&self.byte_ends)
    }

    fn append_ends(&self) -> std::borrow::Cow<'_, [u32]> {
        match &self.append_ends {
            Some(ends) => (&**ends).into(),
            None => vec![self.length()].into(),
        }
    }

    /// Its length in offsets.
    pub(in crate::streams::postgres) fn length(&self) -> u32 {
        (self.next.0 - self.first.0) as u32
    }

    fn message_ends(&self) -> std::borrow::Cow<'_, [u32]> {
        match &self.message_ends {
            Some(ends) => (&**ends).into(),
            None => self.append_ends(),
        }
    }

    fn byte_ends(&self) -> std::borrow::Cow<'_, [u32]> {
        match &self.byte_ends {
            Some(ends) => (&**ends).into(),
            None => self.message_ends(),
        }
    }

    /// An offset as one within it.
    fn within(&self, offset: Offset) -> u32 {
        u32::try_from(offset.0.saturating_sub(self.first.0)).unwrap_or(u32::MAX).min(self.length())
    }

    /// A message by its number: where it begins and ends within the offsets of the chunk, and the end of its bytes.
    fn message(&self, number: usize) -> Option<(u32, u32, u32)> {
        let (end, byte_end) = (*self.message_ends().get(number)?, *self.byte_ends().get(number)?);
        Some((end - (byte_end - self.byte_end_before(number)), end, byte_end))
    }

    /// The bytes of the messages before one.
    fn byte_end_before(&self, number: usize) -> u32 {
        number.checked_sub(1).and_then(|before| self.byte_ends().get(before).copied()).unwrap_or(0)
    }

    /// The place in its bytes of an offset within it.
    fn place(&self, within: u32) -> usize {
        if self.byte_ends.is_none() {
            return within as usize;
        }
        let number = self.message_ends().partition_point(|end| *end <= within);
        let before = self.byte_end_before(number);
        // In a gap it is where the next message begins.
        let into = self.message(number).map_or(0, |(start, ..)| within.saturating_sub(start));
        (before + into) as usize
    }

    /// Whether an offset within it is between two messages.
    fn is_between_messages(&self, within: u32) -> bool {
        let ends = self.message_ends();
        let number = ends.partition_point(|end| *end < within);
        within == 0
            || ends.get(number) == Some(&within)
            // In a gap.
            || (self.byte_ends.is_some() && self.message(number).is_none_or(|(start, ..)| within <= start))
    }

    /// The bytes from an offset within it up to another one.
    fn part(&self, from: u32, to: u32) -> Bytes {
        let (from, to) = (self.place(from), self.place(to));
        self.bytes.slice(from.min(to)..to)
    }

    /// The messages in it, each with its first offset and its bytes without the comma.
    pub(in crate::streams::postgres) fn messages(&self) -> Vec<(Offset, &[u8])> {
        (0..self.message_ends().len())
            .filter_map(|number| {
                let ((start, _, byte_end), byte_start) =
                    (self.message(number)?, self.byte_end_before(number));
                let json = self.bytes.get(byte_start as usize..byte_end.checked_sub(1)? as usize)?;
                Some((Offset(self.first.0 + u64::from(start)), json))
            })
            .collect()
    }

    /// The same without some of its messages: `is_kept` says which are left.
    pub(in crate::streams::postgres) fn without(&self, is_kept: &[bool]) -> Self {
        let (mut bytes, mut message_ends, mut byte_ends) = (BytesMut::new(), Vec::new(), Vec::new());
        for (number, _) in is_kept.iter().enumerate().filter(|(_, is_kept)| **is_kept) {
            let Some((_, end, byte_end)) = self.message(number) else { continue };
            let start = self.byte_end_before(number) as usize;
            bytes.extend_from_slice(self.bytes.get(start..byte_end as usize).unwrap_or_default());
            message_ends.push(end);
            byte_ends.push(bytes.len() as u32);
        }
        Self {
            bytes: bytes.freeze(),
            message_ends: Some(message_ends.into()),
            byte_ends: Some(byte_ends.into()),
            ..self.clone()
        }
    }

    /// The same with one append in the place of several that follow each other and have no messages left. `times` are those of its appends.
    pub(in crate::streams::postgres) fn with_fewer_appends(mut self, times: &mut Vec<i64>) -> Self {
        let messages = self.message_ends();
        let (mut ends, mut kept_times): (Vec<u32>, Vec<i64>) = (Vec::new(), Vec::new());
        let (mut before, mut was_empty) = (0, false);
        for (end, time) in self.append_ends().iter().zip(times.iter()) {
            let first = messages.partition_point(|message| *message <= before);
            let is_empty = messages.get(first).is_none_or(|message| message > end);
            if is_empty && was_empty {
                ends.pop();
                kept_times.pop();
            }
            ends.push(*end);
            kept_times.push(*time);
            (before, was_empty) = (*end, is_empty);
        }
        *times = kept_times;
        self.append_ends = Some(ends.into());
        self
    }

    /// The part without what is behind an offset.
    pub(in crate::streams::postgres) fn before(mut self, end: Offset) -> Self {
        if end < self.next {
            let (within, place) = (self.within(end), self.place(self.within(end)));
            let cut = |ends: Option<Box<[u32]>>, last: u32| {
                ends.map(|ends| ends.iter().copied().filter(|end| *end <= last).collect())
            };
            self.bytes.truncate(place);
            self.append_ends = cut(self.append_ends, within);
            self.message_ends = cut(self.message_ends, within);
            self.byte_ends = cut(self.byte_ends, place as u32);
            self.next = end;
        }
        self
    }

    /// The rest of the append that an offset is in or at the start of: its end, and the ends of its messages behind the offset.
    pub(in crate::streams::postgres) fn rest_of_append(&self, offset: Offset) -> (Offset, Vec<Offset>) {
        let place = self.within(offset);
        let end = self.append_ends().iter().copied().find(|end| *end > place);
        let end = end.unwrap_or(self.length());
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
        let (from, so_far) = (chunk.within(self.next), self.len());
        if is_json && !chunk.is_between_messages(from) {
            return Err(StreamError::Offset);
        }
        let room = max.saturating_sub(so_far);
        let place = chunk.place(from);
        let to = if chunk.bytes.len().saturating_sub(place) <= room {
            chunk.length()
        } else if is_json {
            let ends = chunk.message_ends();
            let end_of = |number: usize| ends.get(number).map_or(0, |end| *end);
            let fitting = chunk.byte_ends().partition_point(|end| *end as usize <= place + room);
            match fitting.checked_sub(1).map(end_of).filter(|end| *end > from) {
                Some(end) => end,
                None if so_far == 0 => end_of(ends.partition_point(|end| *end <= from)),
                None => from,
            }
        } else {
            // Bytes have no gaps.
            let room = if so_far == 0 { room.max(1) } else { room };
            from.saturating_add(u32::try_from(room).unwrap_or(u32::MAX)).min(chunk.length())
        };
        if to > from {
            let bytes = chunk.part(from, to);
            if !bytes.is_empty() {
                self.bytes.push(bytes);
            }
            self.next = Offset(chunk.first.0 + u64::from(to));
        }
        Ok(to == chunk.length())
    }
}

/// Ends as the text of an array of Postgres.
pub(in crate::streams::postgres) fn array_text(ends: Option<&[u32]>) -> Option<String> {
    let ends = ends?;
    let mut text = String::with_capacity(2 + ends.len() * 5);
    let mut digits = itoa::Buffer::new();
    text.push('{');
    for (number, end) in ends.iter().enumerate() {
        if number > 0 {
            text.push(',');
        }
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
        assert_eq!((array_text(None), array_text(Some(&[])).as_deref()), (None, Some("{}")));
    }

    #[test]
    fn offsets_in_a_gap_are_positions_and_others_within_a_message_are_none() {
        // 1,2,"long",3, without the first, the second and the last message.
        let chunk = Chunk::of_appends(Offset(10), &[&json("[1,2]"), &json("\"long\""), &json("3")]);
        let chunk = chunk.without(&[false, false, true, false]);
        assert_eq!((&chunk.bytes[..], chunk.next), (&b"\"long\","[..], Offset(23)));
        assert_eq!(chunk.messages(), [(Offset(14), &b"\"long\""[..])]);
        let cut = |from: u64, max| {
            let mut cut = Cut::at(Offset(from));
            cut.add(&chunk, max, true).map(|is_whole| (cut.bytes.concat(), cut.next.0, is_whole)).ok()
        };
        for from in 10..=14 {
            assert_eq!(cut(from, 100), Some((b"\"long\",".to_vec(), 23, true)), "{from}");
            assert_eq!(cut(from, 1), Some((b"\"long\",".to_vec(), 21, false)), "{from}");
        }
        assert_eq!((cut(15, 100), cut(20, 100)), (None, None));
        for from in 21..=23 {
            assert_eq!(cut(from, 1), Some((Vec::new(), 23, true)), "{from}");
        }
        let before = chunk.clone().before(Offset(13));
        assert_eq!((before.bytes.len(), before.messages().len(), before.next), (0, 0, Offset(13)));
        assert_eq!(chunk.clone().before(Offset(22)).messages().len(), 1);
        let mut times = vec![1, 2, 3];
        let none = chunk.without(&[false]).with_fewer_appends(&mut times);
        assert_eq!((none.append_ends.as_deref(), &times[..]), (Some(&[13][..]), &[3][..]));
        let mut times = vec![1, 2, 3];
        let some = chunk.with_fewer_appends(&mut times);
        assert_eq!((some.append_ends.as_deref(), times), (Some(&[4, 11, 13][..]), vec![1, 2, 3]));
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

        #[test]
        fn what_a_compaction_left_is_read_from_every_offset(
            appends in prop::collection::vec(prop::collection::vec(("[a-z]{0,5}", any::<bool>()), 1..4), 1..8), max in 1..40_usize,
            groups in 1..4_usize, merges: bool
        ) {
            let mut at = Offset(5);
            let (mut chunks, mut left) = (Vec::new(), Vec::new());
            for group in appends.chunks(groups) {
                let bodies: Vec<AppendBody> = group.iter().map(|messages| {
                    let texts: Vec<&str> = messages.iter().map(|(text, _)| &**text).collect();
                    json(&serde_json::json!(texts).to_string())
                }).collect();
                let chunk = Chunk::of_appends(at, &bodies.iter().collect::<Vec<_>>());
                let is_kept: Vec<bool> = group.iter().flatten().map(|(_, is_kept)| *is_kept).collect();
                let messages = chunk.messages();
                left.extend(messages.iter().zip(&is_kept).filter(|(_, is_kept)| **is_kept)
                    .map(|((offset, json), _)| (*offset, json.to_vec())));
                at = chunk.next;
                chunks.push(if is_kept.iter().all(|is_kept| *is_kept) { chunk } else { chunk.without(&is_kept) });
            }
            let chunks = if merges { vec![Chunk::merged(&chunks).unwrap()] } else { chunks };
            let found: Vec<(Offset, Vec<u8>)> =
                chunks.iter().flat_map(|chunk| chunk.messages()).map(|(offset, json)| (offset, json.to_vec())).collect();
            prop_assert_eq!(&found, &left);
            for start in 5..=at.0 {
                let is_within = left.iter().any(|(offset, json)| start > offset.0 && start <= offset.0 + json.len() as u64);
                let expected: Vec<u8> = left.iter().filter(|(offset, _)| offset.0 >= start)
                    .flat_map(|(_, json)| [&json[..], b","].concat()).collect();
                let (mut from, mut read) = (Offset(start), Vec::new());
                while from < at {
                    let mut cut = Cut::at(from);
                    for chunk in chunks.iter().filter(|chunk| chunk.next > from) {
                        match cut.add(chunk, max, true) {
                            Ok(true) => {}
                            Ok(false) => break,
                            Err(_) => { prop_assert!(is_within && from == Offset(start)); break }
                        }
                    }
                    if is_within { break }
                    prop_assert!(cut.next > from && (!cut.bytes.is_empty() || cut.next == at), "never an empty page");
                    from = cut.next;
                    read.extend(cut.bytes.concat());
                }
                if is_within { prop_assert_eq!(from, Offset(start)) } else { prop_assert_eq!(read, expected) }
            }
        }
    }
}
