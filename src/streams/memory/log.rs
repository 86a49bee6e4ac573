//! The bytes of one stream, with the boundaries of its appends and messages.
//!
//! A compaction leaves gaps: ranges of offsets without bytes. They begin and end between messages.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use crate::streams::compaction::{self, CompactionPass};
use crate::streams::{AppendBody, Offset, RestOfAppend, Retention};
use crate::time::Micros;

/// Bytes of a chunk: appends are gathered until they have as many.
const CHUNK_BYTES: usize = 64 * 1024;
/// Memory for the boundaries of an append, and of a message.
const APPEND_BYTES: usize = size_of::<AppendEnd>();
const MESSAGE_BYTES: usize = size_of::<u64>();
/// Memory for a gap, and for the chunk that follows it.
const GAP_BYTES: usize = size_of::<(u64, u64)>() + size_of::<(Offset, Bytes)>();

/// The appends of a stream from a position on. A fork's begin where it differs from its source.
#[derive(Debug)]
pub(super) struct Log {
    /// The first position that is kept.
    start: Offset,
    /// Chunks that take no more, each with the position of its first byte.
    chunks: VecDeque<(Offset, Bytes)>,
    chunk_bytes: u64,
    /// The last chunk.
    open: Vec<u8>,
    open_start: Offset,
    appends: VecDeque<AppendEnd>,
    /// The ends of messages; `None`: it has bytes.
    messages: Option<VecDeque<u64>>,
    /// Ranges whose messages were removed, in order; no two of them touch.
    gaps: VecDeque<(u64, u64)>,
    /// The end of the last compaction.
    compacted: Offset,
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
            chunk_bytes: 0,
            open: Vec::new(),
            open_start: start,
            appends: VecDeque::new(),
            messages: is_json.then(VecDeque::new),
            gaps: VecDeque::new(),
            compacted: start,
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
        self.chunk_bytes + (self.open.len() + boundaries + self.gaps.len() * GAP_BYTES) as u64
    }

    /// Adds an append.
    pub(super) fn push(&mut self, body: &AppendBody, at: Micros) {
        let from = self.tail();
        if let (Some(messages), Some(ends)) = (&mut self.messages, body.message_ends()) {
            messages.extend(ends.iter().map(|end| from.0 + u64::from(*end)));
        }
        if self.open.is_empty() && body.bytes().len() >= CHUNK_BYTES {
            self.chunks.push_back((from, body.bytes().clone()));
            self.chunk_bytes += body.bytes().len() as u64;
            self.open_start = Offset(from.0 + body.bytes().len() as u64);
        } else {
            self.open.extend_from_slice(body.bytes());
            if self.open.len() >= CHUNK_BYTES {
                self.close_chunk();
            }
        }
        self.appends.push_back(AppendEnd { end: self.tail(), at });
    }

    /// Begins another chunk.
    fn close_chunk(&mut self) {
        let next = self.tail();
        let chunk = Bytes::from(std::mem::take(&mut self.open));
        self.chunk_bytes += chunk.len() as u64;
        self.chunks.push_back((std::mem::replace(&mut self.open_start, next), chunk));
    }

    /// The gap that a position is in, at the start of, or at the end of.
    fn gap_at(&self, offset: u64) -> Option<(u64, u64)> {
        let at = self.gaps.partition_point(|(_, end)| *end < offset);
        self.gaps.get(at).copied().filter(|(start, _)| *start <= offset)
    }

    /// The position at which `bytes` bytes from `from` on end.
    fn advanced(&self, from: u64, bytes: u64) -> u64 {
        let mut at = from.saturating_add(bytes);
        let first = self.gaps.partition_point(|(_, end)| *end <= from);
        for (start, end) in self.gaps.range(first..) {
            if *start >= at {
                break;
            }
            at = at.saturating_add(end - (*start).max(from));
        }
        at
    }

    /// Whether an answer can begin or end at a position of this log.
    pub(super) fn is_boundary(&self, offset: Offset) -> bool {
        match &self.messages {
            None => true,
            Some(messages) => {
                offset == self.start
                    || messages.binary_search(&offset.0).is_ok()
                    || self.gap_at(offset.0).is_some()
            }
        }
    }

    /// The position up to which an answer with `max_bytes` from `from` goes, before or at `end`: at least one byte or message.
    pub(super) fn cut(&self, from: Offset, end: Offset, max_bytes: usize) -> Offset {
        let limit = self.advanced(from.0, max_bytes.max(1) as u64).min(end.0);
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

    /// Moves the start behind appends that are older than the retention's age, or have as many bytes behind them as are kept, and drops what is before
    /// it. What forks share is held for them: the part before `inherited`, where the last one begins to differ.
    pub(super) fn retain(&mut self, retention: Retention, now: Micros, inherited: Option<Offset>) {
        let tail = self.tail();
        let oldest =
            retention.age_s.map(|age_s| now.0.saturating_sub_unsigned(age_s.saturating_mul(1_000_000)));
        let first = self.appends.partition_point(|append| append.end <= self.start);
        for append in self.appends.range(first..) {
            let is_old = oldest.is_some_and(|oldest| append.at.0 < oldest);
            let is_enough = retention.bytes.is_some_and(|bytes| tail.0 - append.end.0 >= bytes);
            if !(is_old || is_enough) {
                break;
            }
            self.start = append.end;
        }
        self.drop_unkept(inherited);
    }

    /// Drops what is between the part that forks share and the start.
    fn drop_unkept(&mut self, inherited: Option<Offset>) {
        let (start, shared) = (self.start.0, inherited.unwrap_or(Offset::START));
        let whole = self.appends.partition_point(|append| append.end <= shared);
        // The append that the shared part ends in is counted in by a fork of a fork.
        let ends_there =
            whole.checked_sub(1).and_then(|last| self.appends.get(last)).map(|append| append.end);
        let first = if inherited.is_none_or(|shared| ends_there == Some(shared)) { whole } else { whole + 1 };
        let last = self.appends.partition_point(|append| append.end.0 <= start);
        if first < last {
            self.appends.drain(first..last);
        }
        if let Some(messages) = &mut self.messages {
            let first = messages.partition_point(|message| *message <= shared.0);
            let last = messages.partition_point(|message| *message <= start);
            if first < last {
                messages.drain(first..last);
            }
        }
        let first = self.chunks.partition_point(|(begin, _)| *begin < shared);
        let last = self.chunks.partition_point(|(begin, chunk)| begin.0 + chunk.len() as u64 <= start);
        if first < last {
            for (_, chunk) in self.chunks.drain(first..last) {
                self.chunk_bytes -= chunk.len() as u64;
            }
        }
        self.gaps.retain(|(begin, end)| *end > start || *begin < shared.0);
    }

    /// Removes the messages of appends before a time that later ones of them replace, behind `protected`, if there are enough new ones. False: none was
    /// removed.
    pub(super) fn compact(&mut self, protected: Offset, before: Micros) -> bool {
        let start = protected.max(self.start);
        let old = self.appends.partition_point(|append| append.at < before);
        let Some(end) = old.checked_sub(1).and_then(|last| Some(self.appends.get(last)?.end)) else {
            return false;
        };
        let new = end.0.saturating_sub(self.compacted.max(start).0);
        if self.messages.is_none() || !compaction::is_worth(new, self.bytes_between(start, self.compacted)) {
            return false;
        }
        if self.open_start < end {
            self.close_chunk();
        }
        let removed = self.replaced(start, end);
        if !removed.is_empty() {
            self.remove(&removed);
        }
        self.compacted = end;
        !removed.is_empty()
    }

    /// The bytes between two positions, without gaps.
    fn bytes_between(&self, from: Offset, to: Offset) -> u64 {
        let gaps = self.gaps.iter().map(|(start, end)| (*end).min(to.0).saturating_sub((*start).max(from.0)));
        to.0.saturating_sub(from.0) - gaps.sum::<u64>()
    }

    /// The ranges of the messages between two positions that later ones of them replace, in order.
    fn replaced(&self, start: Offset, end: Offset) -> Vec<(u64, u64)> {
        let messages = self.messages.iter().flatten();
        let within = messages.copied().skip_while(|message| *message <= start.0);
        let mut from = start.0;
        let ranges: Vec<(u64, u64)> = within
            .take_while(|message| *message <= end.0)
            .map(|message| {
                let first = self.gap_at(from).map_or(from, |(_, end)| end);
                from = message;
                (first, message)
            })
            .collect();
        let mut pass = CompactionPass::default();
        let is_replaced = |range: &&(u64, u64)| {
            let mut parts = Vec::new();
            self.read(Offset(range.0), Offset(range.1), &mut parts);
            let mut json = parts.concat();
            // The comma.
            json.pop();
            pass.removes(&json)
        };
        let mut replaced: Vec<(u64, u64)> = ranges.iter().rev().filter(is_replaced).copied().collect();
        replaced.reverse();
        replaced
    }

    /// Makes gaps of the ranges of messages, which are in order.
    fn remove(&mut self, removed: &[(u64, u64)]) {
        let ends: HashSet<u64> = removed.iter().map(|(_, end)| *end).collect();
        if let Some(messages) = &mut self.messages {
            messages.retain(|message| !ends.contains(message));
        }
        let mut gaps: Vec<(u64, u64)> = self.gaps.iter().chain(removed).copied().collect();
        gaps.sort_unstable();
        self.gaps.clear();
        for (start, end) in gaps {
            match self.gaps.back_mut() {
                Some(last) if last.1 >= start => last.1 = last.1.max(end),
                _ => self.gaps.push_back((start, end)),
            }
        }
        for (start, chunk) in std::mem::take(&mut self.chunks) {
            let end = start.0 + chunk.len() as u64;
            let first = removed.partition_point(|(_, next)| *next <= start.0);
            let within =
                removed.get(first..).unwrap_or_default().iter().take_while(|(first, _)| *first < end);
            let mut kept: Vec<(u64, u64)> = Vec::new();
            let mut at = start.0;
            for (first, next) in within {
                kept.push((at, (*first).max(at)));
                at = (*next).min(end);
            }
            if kept.is_empty() {
                self.chunks.push_back((start, chunk));
                continue;
            }
            kept.push((at, end));
            kept.retain(|(first, next)| first < next);
            // In memory of their own: the chunk is freed.
            let place = |offset: u64| (offset - start.0) as usize;
            let parts: Vec<&[u8]> =
                kept.iter().filter_map(|(first, next)| chunk.get(place(*first)..place(*next))).collect();
            let mut bytes = Bytes::from(parts.concat());
            self.chunk_bytes -= chunk.len() as u64 - bytes.len() as u64;
            for (first, next) in kept {
                self.chunks.push_back((Offset(first), bytes.split_to((next - first) as usize)));
            }
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
        assert_eq!(kept(retention(Some(1), None), 9_000_000, Some(15)), 50);
        assert_eq!(kept(retention(Some(1), None), 9_000_000, Some(0)), 50);
    }

    #[test]
    fn retention_holds_what_forks_share_and_drops_the_rest() {
        let mut log = Log::new(Offset(0), true);
        let large = format!("\"{}\"", "x".repeat(CHUNK_BYTES - 3));
        for _ in 0..10 {
            log.push(&json(&large), Micros(0));
        }
        let chunk = CHUNK_BYTES as u64;
        let retention = Retention { age_s: None, bytes: Some(2 * chunk) };
        // A fork of the first two messages, and the two that are kept.
        log.retain(retention, Micros(0), Some(Offset(2 * chunk)));
        assert_eq!((log.start().0, log.chunk_bytes), (8 * chunk, 4 * chunk));
        assert_eq!(read(&log, chunk, 2 * chunk).len(), CHUNK_BYTES);
        assert_eq!(read(&log, 8 * chunk, 10 * chunk).len(), 2 * CHUNK_BYTES);
        assert!([0, 1, 2, 8, 9, 10].iter().all(|at| *at == 0 || log.is_boundary(Offset(at * chunk))));
        let rest = RestOfAppend { end: Offset(2 * chunk), message_ends: Some(vec![Offset(2 * chunk)]) };
        assert_eq!(log.rest_of_append(Offset(chunk), Offset(2 * chunk)), Some(rest));
        for _ in 0..3 {
            log.push(&json(&large), Micros(0));
        }
        log.retain(retention, Micros(0), Some(Offset(2 * chunk)));
        assert_eq!((log.start().0, log.chunk_bytes, log.appends.len()), (11 * chunk, 4 * chunk, 4));
        // The fork is gone.
        log.retain(retention, Micros(0), None);
        assert_eq!((log.start().0, log.chunk_bytes, log.appends.len()), (11 * chunk, 2 * chunk, 2));
        assert_eq!(read(&log, 11 * chunk, 13 * chunk).len(), 2 * CHUNK_BYTES);
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
