//! Whether the journal takes events, as request threads may ask at each request.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::Refusal;

/// How long a full file system is believed to be full.
const NO_SPACE: Duration = Duration::from_secs(1);
/// How long a figure of free space is believed.
const FREE_SPACE: Duration = Duration::from_millis(500);

/// Only atomics: asked at each request.
#[derive(Debug)]
pub(super) struct Gate {
    poisoned: OnceLock<String>,
    full: AtomicBool,
    low: AtomicBool,
    free: AtomicU64,
    /// Milliseconds since `started` at which `free` was read, plus one; 0 if it never was.
    free_read_at_ms: AtomicU64,
    /// Milliseconds since `started` until which the file system is believed to be full.
    no_space_until_ms: AtomicU64,
    started: Instant,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            poisoned: OnceLock::new(),
            full: AtomicBool::new(false),
            low: AtomicBool::new(false),
            free: AtomicU64::new(u64::MAX),
            free_read_at_ms: AtomicU64::new(0),
            no_space_until_ms: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(super) fn accepting(&self) -> Result<(), Refusal> {
        if self.poisoned.get().is_some() {
            return Err(Refusal::Poisoned);
        }
        if self.full.load(Ordering::Relaxed) {
            return Err(Refusal::Full);
        }
        if self.low.load(Ordering::Relaxed) {
            return Err(Refusal::MinFree);
        }
        let until = self.no_space_until_ms.load(Ordering::Relaxed);
        if until != 0 && self.now_ms() < until {
            return Err(Refusal::NoSpace);
        }
        Ok(())
    }

    /// The first reason stays.
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

    pub(super) fn no_space(&self) {
        self.no_space_until_ms.store(self.now_ms() + NO_SPACE.as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn has_space(&self) {
        self.no_space_until_ms.store(0, Ordering::Relaxed);
    }

    /// Whether the figure of free space is too old to go by.
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
