//! Whether the journal accepts events, checked for each request.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Refusal;

/// How long a full file system or a shortage is assumed to last.
pub(super) const TRANSIENT: Duration = Duration::from_secs(1);
/// Lifetime of a figure of free space.
const FREE_SPACE: Duration = Duration::from_millis(500);

/// Atomics only, since each request reads it.
#[derive(Debug)]
pub(super) struct Gate {
    poisoned: OnceLock<String>,
    full: AtomicBool,
    low: AtomicBool,
    gone: AtomicBool,
    free: AtomicU64,
    /// When `free` was read, in milliseconds since `started`, plus one; 0: never.
    free_read_at_ms: AtomicU64,
    /// Until when the file system is assumed to be full, in milliseconds since `started`; 0: an append succeeded since.
    no_space_until_ms: AtomicU64,
    /// The same for free space that the next segment would take below the minimum.
    no_segment_until_ms: AtomicU64,
    /// The same for a shortage of descriptors or memory.
    shortage_until_ms: AtomicU64,
    started: Instant,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            poisoned: OnceLock::new(),
            full: AtomicBool::new(false),
            low: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            free: AtomicU64::new(u64::MAX),
            free_read_at_ms: AtomicU64::new(0),
            no_space_until_ms: AtomicU64::new(0),
            no_segment_until_ms: AtomicU64::new(0),
            shortage_until_ms: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(super) fn accepting(&self) -> Result<(), Refusal> {
        self.refusal(|until_ms| until_ms != 0 && self.now_ms() < until_ms).map_or(Ok(()), Err)
    }

    /// The refusal to report: a full file system counts as full until an append succeeds.
    pub(super) fn refusal_until_append(&self) -> Option<Refusal> {
        self.refusal(|until_ms| until_ms != 0)
    }

    fn refusal(&self, is_assumed: impl Fn(u64) -> bool) -> Option<Refusal> {
        if self.poisoned.get().is_some() {
            return Some(Refusal::Poisoned);
        }
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let assumed = |until_ms: &AtomicU64| is_assumed(until_ms.load(Ordering::Relaxed));
        [
            (is(&self.gone), Refusal::Gone),
            (is(&self.full), Refusal::Full),
            (is(&self.low) || assumed(&self.no_segment_until_ms), Refusal::MinFree),
            (assumed(&self.no_space_until_ms), Refusal::NoSpace),
            (assumed(&self.shortage_until_ms), Refusal::Shortage),
        ]
        .into_iter()
        .find_map(|(refuses, refusal)| refuses.then_some(refusal))
    }

    /// Refuses everything from now on. The first reason stays.
    pub(super) fn poison(&self, reason: String) {
        let _first_reason_stays = self.poisoned.set(reason);
    }

    pub(super) fn poisoned(&self) -> Option<&str> {
        self.poisoned.get().map(String::as_str)
    }

    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Records whether the folder was removed or replaced.
    pub(super) fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::Relaxed);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn no_space(&self) {
        self.no_space_until_ms.store(self.transient_until_ms(), Ordering::Relaxed);
    }

    /// There is no free space for the next segment.
    pub(super) fn no_segment(&self) {
        self.no_segment_until_ms.store(self.transient_until_ms(), Ordering::Relaxed);
    }

    /// The next segment has its space.
    pub(super) fn segment_prepared(&self) {
        self.no_segment_until_ms.store(0, Ordering::Relaxed);
    }

    pub(super) fn shortage(&self) {
        self.shortage_until_ms.store(self.transient_until_ms(), Ordering::Relaxed);
    }

    fn transient_until_ms(&self) -> u64 {
        self.now_ms() + TRANSIENT.as_millis() as u64
    }

    /// An append succeeded.
    pub(super) fn append_succeeded(&self) {
        self.no_space_until_ms.store(0, Ordering::Relaxed);
        self.no_segment_until_ms.store(0, Ordering::Relaxed);
        self.shortage_until_ms.store(0, Ordering::Relaxed);
    }

    /// Whether the figure of free space has expired.
    pub(super) fn free_is_stale(&self) -> bool {
        let at = self.free_read_at_ms.load(Ordering::Relaxed);
        at == 0 || self.now_ms() >= at + FREE_SPACE.as_millis() as u64
    }

    pub(super) fn set_free(&self, free: u64, min_free: u64) {
        self.free.store(free, Ordering::Relaxed);
        self.low.store(free < min_free, Ordering::Relaxed);
        self.free_read_at_ms.store(self.now_ms() + 1, Ordering::Relaxed);
    }

    pub(super) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    pub(super) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }
}
