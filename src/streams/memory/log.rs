//! The bytes of one stream, with the boundaries of its appends and messages.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::streams::{AppendBody, Offset, RestOfAppend, Retention};
use crate::time::Micros;

/// Bytes of a chunk: appends are gathered until they have as many.
const CHUNK_BYTES: usize = 64 * 1024;
/// Memory for the boundaries of an append, and of a message.
const APPEND_BYTES: usize = size_of::<AppendEnd>();
const MESSAGE_BYTES: usize = size_of::<u64>();

/// The appends of a stream from a position on. A fork's begin where it differs from its source.
#[derive(Debug)]
pub(super) struct Log {
    /// The first position that is kept.
    start: Offset,
    /// Chunks that take no more, each with the position of its first byte.
    chunks: VecDeque<(Offset, Bytes)>,
    /// The last chunk.
    open: Vec<u8>,
    open_start: Offset,
    appends: VecDeque<AppendEnd>,
    /// The ends of messages; `None`: it has bytes.
    messages: Option<VecDeque<u64>>,
}

#[derive(Debug, Clone, Copy)]
struct AppendEnd {
    end: Offset,
    at: Micros,
}

impl Log {
    pub(super) fn new(start: Offset, is_json: bool) -> Self {
        Self {
            start,
            chunks: VecDeque::new(),
            open: Vec::new(),
            open_start: start,
            appends: VecDeque::new(),
            messages: is_json.then(VecDeque::new),
        }
    }

    pub(super) fn start(&self) -> Offset {
        self.start
    }

    pub(super) fn tail(&self) -> Offset {
        Offset(self.open_start.0 + self.open.len() as u64)
    }

    /// The memory that a body takes here.
    pub(super) fn cost(body: &AppendBody) -> u64 {
        let messages = body.message_ends().map_or(0, <[u32]>::len);
        (body.bytes().len() + APPEND_BYTES + messages * MESSAGE_BYTES) as u64
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        let messages = self.messages.as_ref().map_or(0, VecDeque::len);
        let boundaries = self.appends.len() * APPEND_BYTES + messages * MESSAGE_BYTES;
        let first = self.chunks.front().map_or(self.open_start, |(start, _)| *start);
        self.tail().0 - first.0 + boundaries as u64
    }

    /// Adds an append.
    pub(super) fn push(&mut self, body: &AppendBody, at: Micros) {
        let from = self.tail();
        if let (Some(messages), Some(ends)) = (&mut self.messages, body.message_ends()) {
            messages.extend(ends.iter().map(|end| from.0 + u64::from(*end)));
        }
        if self.open.is_empty() && body.bytes().len() >= CHUNK_BYTES {
            self.chunks.push_back((from, body.bytes().clone()));
            self.open_start = Offset(from.0 + body.bytes().len() as u64);
        } else {
            self.open.extend_from_slice(body.bytes());
            if self.open.len() >= CHUNK_BYTES {
                let chunk = Bytes::from(std::mem::take(&mut self.open));
                let start =
                    std::mem::replace(&mut self.open_start, Offset(from.0 + body.bytes().len() as u64));
                self.chunks.push_back((start, chunk));
            }
        }
        self.appends.push_back(AppendEnd { end: self.tail(), at });
    }

    /// Whether an answer can begin or end at a position of this log.
    pub(super) fn is_boundary(&self, offset: Offset) -> bool {
        match &self.messages {
            None => true,
            Some(messages) => offset == self.start || messages.binary_search(&offset.0).is_ok(),
        }
    }

    /// The position up to which an answer with `max_bytes` from `from` goes, before or at `end`: at least one byte or message.
    pub(super) fn cut(&self, from: Offset, end: Offset, max_bytes: usize) -> Offset {
        let limit = from.0.saturating_add(max_bytes.max(1) as u64).min(end.0);
        let Some(messages) = &self.messages else { return Offset(limit) };
        let behind = messages.partition_point(|message| *message <= limit);
        let last = behind.checked_sub(1).and_then(|at| messages.get(at)).filter(|last| **last > from.0);
        // One larger message is whole.
        Offset(last.or_else(|| messages.get(behind)).map_or(end.0, |message| (*message).min(end.0)))
    }

    /// Adds the bytes between two positions.
    pub(super) fn read(&self, from: Offset, to: Offset, out: &mut Vec<Bytes>) {
        let first = self.chunks.partition_point(|(start, chunk)| start.0 + chunk.len() as u64 <= from.0);
        for (start, chunk) in self.chunks.range(first..) {
            if start.0 >= to.0 {
                return;
            }
            let (begin, end) =
                (from.0.max(start.0) - start.0, to.0.min(start.0 + chunk.len() as u64) - start.0);
            out.push(chunk.slice(begin as usize..end as usize));
        }
        let begin = from.0.max(self.open_start.0) - self.open_start.0;
        let end = to.0.saturating_sub(self.open_start.0);
        if let Some(bytes) = self.open.get(begin as usize..end as usize)
            && !bytes.is_empty()
        {
            out.push(Bytes::copy_from_slice(bytes));
        }
    }

    /// The rest of the append behind a position, of which nothing counts behind `cap`.
    pub(super) fn rest_of_append(&self, offset: Offset, cap: Offset) -> Option<RestOfAppend> {
        let at = self.appends.partition_point(|append| append.end <= offset);
        let end = self.appends.get(at)?.end.min(cap);
        let message_ends = self.messages.as_ref().map(|messages| {
            let first = messages.partition_point(|message| *message <= offset.0);
            messages
                .range(first..)
                .map(|message| Offset(*message))
                .take_while(|message| *message <= end)
                .collect()
        });
        (end > offset).then_some(RestOfAppend { end, message_ends })
    }

    /// Drops appends that are older than the retention's age, and those behind which it has as many bytes as are kept. Nothing is dropped before
    /// `inherited`, where the last fork begins to differ.
    pub(super) fn retain(&mut self, retention: Retention, now: Micros, inherited: Option<Offset>) {
        let tail = self.tail();
        let oldest =
            retention.age_s.map(|age_s| now.0.saturating_sub_unsigned(age_s.saturating_mul(1_000_000)));
        while let Some(append) = self.appends.front() {
            let is_old = oldest.is_some_and(|oldest| append.at.0 < oldest);
            let is_enough = retention.bytes.is_some_and(|bytes| tail.0 - append.end.0 >= bytes);
            if !(is_old || is_enough) || inherited.is_some_and(|inherited| self.start < inherited) {
                break;
            }
            self.start = append.end;
            self.appends.pop_front();
        }
        if let Some(messages) = &mut self.messages {
            let dropped = messages.partition_point(|message| *message <= self.start.0);
            messages.drain(..dropped);
        }
        while self.chunks.front().is_some_and(|(start, chunk)| start.0 + chunk.len() as u64 <= self.start.0) {
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> AppendBody {
        AppendBody::of_json(text.as_bytes()).unwrap().unwrap()
    }

    fn read(log: &Log, from: u64, to: u64) -> String {
        let mut parts = Vec::new();
        log.read(Offset(from), Offset(to), &mut parts);
        String::from_utf8(parts.concat()).unwrap()
    }

    #[test]
    fn json_is_cut_between_messages_and_a_large_one_is_whole() {
        let mut log = Log::new(Offset(0), true);
        log.push(&json("[1,22]"), Micros(0));
        log.push(&json("\"a long message\""), Micros(0));
        assert_eq!((log.tail(), read(&log, 0, 22)), (Offset(22), "1,22,\"a long message\",".into()));
        let cut = |from, max| log.cut(Offset(from), log.tail(), max).0;
        assert_eq!((cut(0, 1), cut(0, 2), cut(0, 4), cut(0, 5), cut(0, 22)), (2, 2, 2, 5, 22));
        assert_eq!((cut(5, 3), cut(22, 3)), (22, 22));
        assert!(log.is_boundary(Offset(2)) && log.is_boundary(Offset(0)) && !log.is_boundary(Offset(3)));
        let rest = log.rest_of_append(Offset(2), Offset(22)).unwrap();
        assert_eq!(rest, RestOfAppend { end: Offset(5), message_ends: Some(vec![Offset(5)]) });
        assert_eq!(log.rest_of_append(Offset(22), Offset(22)), None);
    }

    #[test]
    fn retention_drops_whole_appends_that_are_old_or_behind_enough_bytes() {
        let retention = |age_s, bytes| Retention { age_s, bytes };
        let filled = || {
            let mut log = Log::new(Offset(0), false);
            for at in 0..5 {
                let body = AppendBody::of_bytes(Bytes::from_static(b"0123456789")).unwrap();
                log.push(&body, Micros(at * 1_000_000));
            }
            log
        };
        let kept = |retention, now, inherited: Option<u64>| {
            let mut log = filled();
            log.retain(retention, Micros(now), inherited.map(Offset));
            log.start().0
        };
        assert_eq!(kept(retention(Some(2), None), 4_500_000, None), 30);
        assert_eq!(kept(retention(None, Some(20)), 0, None), 30);
        assert_eq!(kept(retention(None, Some(21)), 0, None), 20);
        assert_eq!(kept(retention(Some(1), Some(1)), 9_000_000, None), 50);
        assert_eq!(kept(retention(Some(1), None), 9_000_000, Some(15)), 0);
        assert_eq!(kept(retention(Some(1), None), 9_000_000, Some(0)), 50);
    }

    proptest! {
        #[test]
        fn any_range_is_read_back(lengths in proptest::collection::vec(1_usize..100_000, 1..8), a: u64, b: u64) {
            let mut log = Log::new(Offset(7), false);
            let mut all = Vec::new();
            for (at, length) in lengths.iter().enumerate() {
                let bytes = vec![at as u8; *length];
                all.extend_from_slice(&bytes);
                log.push(&AppendBody::of_bytes(bytes.into()).unwrap(), Micros(0));
            }
            let (a, b) = (a % (all.len() as u64 + 1), b % (all.len() as u64 + 1));
            let (from, to) = (a.min(b), a.max(b));
            let mut parts = Vec::new();
            log.read(Offset(7 + from), Offset(7 + to), &mut parts);
            prop_assert_eq!(parts.concat(), &all[from as usize..to as usize]);
        }
    }
}
