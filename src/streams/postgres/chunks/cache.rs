//! The cache of recent chunks: for each stream a run of chunks without a gap, of which answers share the bytes.
//!
//! A run belongs to a generation of its stream: a compaction changes bytes, and an answer has those of one generation.
//!
//! All runs together are bounded in bytes; the streams used least recently go first. Small chunks that are read together are merged in memory
//! too, as an answer of ten thousand parts costs more than the copy.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;

use parking_lot::Mutex;

use super::chunk::Chunk;
use crate::streams::{Offset, StreamId};

/// Parts of one answer above which they are merged.
const MAX_PARTS: usize = 16;
/// The bytes that a chunk merged in memory has at most, about.
const MERGED_BYTES: usize = 256 * 1024;

/// The cache.
#[derive(Debug)]
pub(in crate::streams::postgres) struct ChunkCache {
    state: Mutex<State>,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    runs: HashMap<StreamId, Run>,
    /// The streams by their last use.
    uses: BTreeMap<u64, StreamId>,
    next_use: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Run {
    /// Each begins where the one before ends.
    chunks: VecDeque<Chunk>,
    /// The generation of the stream when they were read or written, at least.
    generation: u64,
    bytes: usize,
    used: u64,
}

impl Run {
    fn first(&self) -> Option<Offset> {
        self.chunks.front().map(|chunk| chunk.first)
    }

    fn next(&self) -> Option<Offset> {
        self.chunks.back().map(|chunk| chunk.next)
    }

    /// Forgets chunks of an earlier generation.
    fn begin(&mut self, generation: u64) {
        if self.generation < generation {
            self.chunks.clear();
            (self.bytes, self.generation) = (0, generation);
        }
    }

    /// Replaces runs of small chunks among those from `start` up to `end`.
    fn merge(&mut self, start: usize, end: usize) {
        let tail = self.chunks.split_off(end);
        let read: Vec<Chunk> = self.chunks.drain(start..).collect();
        let mut group: Vec<Chunk> = Vec::new();
        let mut bytes = 0;
        for chunk in read {
            let length = chunk.next.0 - group.first().map_or(chunk.first, |first| first.first).0;
            if bytes + chunk.bytes.len() > MERGED_BYTES || length > Chunk::MAX_LENGTH {
                self.chunks.extend(Chunk::merged(&group));
                group.clear();
                bytes = 0;
            }
            bytes += chunk.bytes.len();
            group.push(chunk);
        }
        self.chunks.extend(Chunk::merged(&group));
        self.chunks.extend(tail);
        self.bytes = self.chunks.iter().map(Chunk::held_bytes).sum();
    }
}

impl State {
    /// Changes a run, counts its bytes anew and notes its use.
    fn with_run<T>(&mut self, id: StreamId, change: impl FnOnce(&mut Run) -> T) -> T {
        self.next_use += 1;
        let run = self.runs.entry(id).or_default();
        let before = run.bytes;
        if run.used > 0 {
            self.uses.remove(&run.used);
        }
        run.used = self.next_use;
        self.uses.insert(run.used, id);
        let changed = change(run);
        self.bytes = self.bytes + run.bytes - before;
        changed
    }

    fn remove(&mut self, id: StreamId) {
        if let Some(run) = self.runs.remove(&id) {
            self.uses.remove(&run.used);
            self.bytes -= run.bytes;
        }
    }

    /// Drops the runs used least recently, and the beginning of the last one.
    fn shrink(&mut self, max_bytes: usize) {
        while self.bytes > max_bytes {
            let Some((_, id)) = self.uses.first_key_value() else { return };
            let id = *id;
            if self.runs.len() > 1 {
                self.remove(id);
                continue;
            }
            let Some(run) = self.runs.get_mut(&id) else { return };
            let Some(dropped) = run.chunks.pop_front() else { return self.remove(id) };
            run.bytes -= dropped.held_bytes();
            self.bytes -= dropped.held_bytes();
        }
    }
}

impl ChunkCache {
    /// A cache of at most `max_bytes`.
    pub(in crate::streams::postgres) fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), max_bytes }
    }

    /// The cached chunks from an offset on, up to `end` and about `max_bytes`; none if the one at the offset is not cached, or of another generation.
    pub(in crate::streams::postgres) fn get(
        &self,
        id: StreamId,
        generation: &RangeInclusive<u64>,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Vec<Chunk> {
        let mut state = self.state.lock();
        let is_cached = state.runs.get(&id).is_some_and(|run| {
            generation.contains(&run.generation) && run.first() <= Some(from) && run.next() > Some(from)
        });
        if !is_cached {
            return Vec::new();
        }
        state.with_run(id, |run| {
            let start = run.chunks.partition_point(|chunk| chunk.next <= from);
            let count = |run: &Run| {
                let (mut count, mut bytes) = (0, 0);
                for chunk in run.chunks.range(start..) {
                    if chunk.first >= end || bytes > max_bytes {
                        break;
                    }
                    count += 1;
                    bytes += chunk.bytes.len();
                }
                count
            };
            let mut found = count(run);
            if found > MAX_PARTS {
                run.merge(start, start + found);
                found = count(run);
            }
            run.chunks.range(start..start + found).cloned().collect()
        })
    }

    /// Adds a chunk that was committed. One that does not follow what is cached, or is of a later generation, replaces it, if it is behind.
    pub(in crate::streams::postgres) fn push(&self, id: StreamId, generation: u64, chunk: Chunk) {
        let mut state = self.state.lock();
        state.with_run(id, |run| {
            run.begin(generation);
            match run.next() {
                Some(next) if next > chunk.first => return,
                Some(next) if next == chunk.first => {}
                _ => {
                    run.chunks.clear();
                    run.bytes = 0;
                }
            }
            run.bytes += chunk.held_bytes();
            run.chunks.push_back(chunk);
        });
        state.shrink(self.max_bytes);
    }

    /// Adds chunks that were read, which follow each other: before or behind the cached ones if they meet, else in their place if they are longer.
    pub(in crate::streams::postgres) fn add(&self, id: StreamId, generation: u64, chunks: &[Chunk]) {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return };
        let mut state = self.state.lock();
        state.with_run(id, |run| {
            run.begin(generation);
            if generation < run.generation {
                return;
            }
            let (Some(run_first), Some(run_next)) = (run.first(), run.next()) else {
                run.chunks.extend(chunks.iter().cloned());
                run.bytes = run.chunks.iter().map(Chunk::held_bytes).sum();
                return;
            };
            if first.first < run_first && last.next >= run_first {
                let before = chunks.iter().filter(|chunk| chunk.first < run_first);
                let before: Vec<Chunk> = before.map(|chunk| chunk.clone().before(run_first)).collect();
                for chunk in before.into_iter().rev() {
                    run.chunks.push_front(chunk);
                }
            } else if first.first == run_next {
                run.chunks.extend(chunks.iter().cloned());
            } else if last.next < run_first || first.first > run_next {
                let bytes: usize = chunks.iter().map(Chunk::held_bytes).sum();
                if bytes > run.bytes {
                    run.chunks = chunks.iter().cloned().collect();
                }
            }
            run.bytes = run.chunks.iter().map(Chunk::held_bytes).sum();
        });
        state.shrink(self.max_bytes);
    }

    /// Forgets a stream.
    pub(in crate::streams::postgres) fn remove(&self, id: StreamId) {
        self.state.lock().remove(id);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::streams::AppendBody;

    fn chunk(first: u64, text: &'static str) -> Chunk {
        let body = AppendBody::of_bytes(Bytes::from_static(text.as_bytes())).unwrap();
        Chunk::of_appends(Offset(first), &[&body])
    }

    fn cached(cache: &ChunkCache, from: u64) -> String {
        let chunks = cache.get(StreamId(1), &(0..=0), Offset(from), Offset(u64::MAX), usize::MAX);
        String::from_utf8(chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect()).unwrap()
    }

    #[test]
    fn a_run_grows_at_both_ends_and_has_no_gap() {
        let cache = ChunkCache::new(1 << 20);
        cache.push(StreamId(1), 0, chunk(10, "ab"));
        cache.push(StreamId(1), 0, chunk(12, "cd"));
        assert_eq!(cached(&cache, 10), "abcd");
        assert_eq!(cached(&cache, 11), "abcd");
        assert_eq!((cached(&cache, 9), cached(&cache, 14)), (String::new(), String::new()));
        // Merged in the table meanwhile, so that it overlaps.
        cache.add(StreamId(1), 0, &[chunk(6, "wxyzab")]);
        assert_eq!(cached(&cache, 6), "wxyzabcd");
        cache.push(StreamId(1), 0, chunk(12, "cd"));
        assert_eq!(cached(&cache, 6), "wxyzabcd");
        cache.push(StreamId(1), 0, chunk(20, "z"));
        assert_eq!((cached(&cache, 6), cached(&cache, 20)), (String::new(), "z".into()));
        cache.remove(StreamId(1));
        assert_eq!((cached(&cache, 20), cache.state.lock().bytes), (String::new(), 0));
    }

    #[test]
    fn small_chunks_that_are_read_together_are_merged() {
        let cache = ChunkCache::new(1 << 20);
        for first in 0..100 {
            cache.push(StreamId(1), 0, chunk(first, "x"));
        }
        assert_eq!(cached(&cache, 0), "x".repeat(100));
        assert_eq!(cache.get(StreamId(1), &(0..=0), Offset(50), Offset(100), 1_000).len(), 1);
        cache.push(StreamId(1), 0, chunk(100, "y"));
        assert_eq!(cached(&cache, 0), "x".repeat(100) + "y");
    }

    #[test]
    fn a_run_has_chunks_of_one_generation() {
        let cache = ChunkCache::new(1 << 20);
        let count = |generation: u64| {
            cache.get(StreamId(1), &(generation..=generation), Offset(0), Offset(9), 100).len()
        };
        cache.add(StreamId(1), 0, &[chunk(0, "ab"), chunk(2, "cd")]);
        assert_eq!((count(0), count(1)), (2, 0));
        // What is at the tail is of each generation.
        cache.add(StreamId(1), 1, &[chunk(0, "AB")]);
        cache.push(StreamId(1), 0, chunk(2, "cd"));
        assert_eq!((count(0), count(1)), (0, 2));
        cache.add(StreamId(1), 0, &[chunk(4, "e")]);
        assert_eq!(count(1), 2);
        assert_eq!(cache.get(StreamId(1), &(0..=u64::MAX), Offset(0), Offset(9), 100).len(), 2);
        cache.push(StreamId(1), 2, chunk(4, "e"));
        assert_eq!((count(1), cache.state.lock().runs[&StreamId(1)].chunks.len()), (0, 1));
    }

    #[test]
    fn the_streams_used_least_recently_go_first_and_bytes_are_bounded() {
        let cache = ChunkCache::new(1_000);
        for id in 1..=5 {
            cache.push(StreamId(id), 0, chunk(0, "x"));
        }
        assert_eq!(cached(&cache, 0), "x");
        for id in 6..=10 {
            cache.push(StreamId(id), 0, chunk(0, "x"));
        }
        assert_eq!(cached(&cache, 0), "x");
        assert!(cache.get(StreamId(2), &(0..=0), Offset(0), Offset(1), 1).is_empty());
        for first in 1..100 {
            cache.push(StreamId(1), 0, chunk(first, "x"));
        }
        let state = cache.state.lock();
        assert!(state.bytes <= 1_000 && state.runs.len() == state.uses.len(), "{}", state.bytes);
        assert_eq!(state.bytes, state.runs.values().map(|run| run.bytes).sum::<usize>());
    }
}
