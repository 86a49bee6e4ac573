//! Bytes of streams: rows of chunks, and the cache of recent ones.

mod cache;
mod chunk;
mod store;

pub(super) use cache::ChunkCache;
pub(super) use chunk::{Chunk, Cut, array_text};
pub(super) use store::{ChunkStore, chunk};
