//! The phase of a connection, its time limit, and its end.
//!
//! | phase | begins with | limit |
//! |---|---|---|
//! | idle | a complete answer, or the end of a streamed one | `IDLE_TIMEOUT_S`, for the client to read it and to send another request |
//! | head | a request's first byte | a third of `BODY_TIMEOUT_S` |
//! | busy | a request's head | none here: its body and its handler have limits of their own |
//! | answering | a streamed answer | none while the client reads; `IDLE_TIMEOUT_S` while it does not, or an earlier time that the stream sets |

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::connection::ConnectionLimits;

/// The interval between two checks of a streamed answer.
const STREAM_CHECK: Duration = Duration::from_secs(1);
/// No time.
const NEVER: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Idle,
    Head,
    Busy,
    Answering,
}

/// An early end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ending {
    /// No early end.
    None,
    /// Reset at once; unsent data is dropped (RFC 9293, section 3.9.1: ABORT).
    Reset,
    /// Closed once the kernel has all data written so far.
    CloseAfterFlush,
    /// Reset once the kernel has all data written so far.
    ResetAfterFlush,
}

/// A connection's phase and times, in milliseconds since `origin`.
#[derive(Debug)]
pub(super) struct ConnectionTimer {
    phase: AtomicU8,
    since_ms: AtomicU64,
    /// When the socket's send buffer became full.
    blocked_since_ms: AtomicU64,
    /// The send buffer was full at some time since [`Self::forget_blocked`].
    was_blocked: AtomicBool,
    /// When a client that does not read is cut off.
    read_by_ms: AtomicU64,
    ending: AtomicU8,
    /// Of a stream that leaves hyper.
    head: AtomicU8,
    origin: Instant,
}

/// The head of a stream that leaves hyper.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Head {
    /// hyper has not written it.
    None,
    /// It is in hyper's buffer.
    Written,
    /// The socket has it.
    Sent,
}

/// The inputs of the decision on a connection's time.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    phase: u8,
    now_ms: u64,
    since_ms: u64,
    blocked_since_ms: u64,
    read_by_ms: u64,
}

impl Deadline {
    /// The remaining milliseconds; `None`: the time is up.
    fn left_ms(self, header_ms: u64, idle_ms: u64) -> Option<u64> {
        let end_ms = match self.phase {
            phase if phase == Phase::Idle as u8 => self.since_ms.saturating_add(idle_ms),
            phase if phase == Phase::Head as u8 => self.since_ms.saturating_add(header_ms),
            phase if phase == Phase::Answering as u8 && self.blocked_since_ms != NEVER => {
                self.blocked_since_ms.saturating_add(idle_ms).min(self.read_by_ms)
            }
            _busy_or_the_client_reads => NEVER,
        };
        end_ms.checked_sub(self.now_ms).filter(|left| *left > 0)
    }
}

impl ConnectionTimer {
    pub(super) fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Idle as u8),
            since_ms: AtomicU64::new(0),
            blocked_since_ms: AtomicU64::new(NEVER),
            was_blocked: AtomicBool::new(false),
            read_by_ms: AtomicU64::new(NEVER),
            ending: AtomicU8::new(Ending::None as u8),
            head: AtomicU8::new(Head::None as u8),
            origin: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    pub(super) fn enter(&self, phase: Phase) {
        if phase == Phase::Answering {
            // The state of the connection's previous answer does not apply.
            self.blocked_since_ms.store(NEVER, Ordering::Relaxed);
            self.read_by_ms.store(NEVER, Ordering::Relaxed);
            self.forget_blocked();
        }
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    pub(super) fn bytes_came(&self) {
        if self.is_in(Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// Records that the socket accepted bytes, or that its send buffer is full.
    pub(super) fn wrote(&self, took: bool) {
        if !self.is_in(Phase::Answering) {
            return;
        }
        if took {
            self.blocked_since_ms.store(NEVER, Ordering::Relaxed);
            return;
        }
        self.was_blocked.store(true, Ordering::Relaxed);
        if self.blocked_since_ms.load(Ordering::Relaxed) == NEVER {
            self.blocked_since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// hyper has written the head of a stream that leaves it.
    pub(super) fn wrote_head(&self) {
        if self.head.load(Ordering::Relaxed) == Head::None as u8 {
            self.head.store(Head::Written as u8, Ordering::Relaxed);
        }
    }

    /// hyper's buffer is empty.
    pub(super) fn flushed(&self) {
        if self.head.load(Ordering::Relaxed) == Head::Written as u8 {
            self.head.store(Head::Sent as u8, Ordering::Relaxed);
        }
    }

    /// Whether the head of a stream that leaves hyper was sent.
    pub(super) fn has_sent_head(&self) -> bool {
        self.head.load(Ordering::Relaxed) == Head::Sent as u8
    }

    /// Sets the time at which a client that does not read is cut off.
    pub(super) fn read_by(&self, deadline: Instant) {
        let ms = deadline.saturating_duration_since(self.origin).as_millis() as u64;
        self.read_by_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether the client is not reading, or was not at some time since [`Self::forget_blocked`].
    pub(super) fn was_blocked(&self) -> bool {
        self.was_blocked.load(Ordering::Relaxed) || self.blocked_since_ms.load(Ordering::Relaxed) != NEVER
    }

    pub(super) fn forget_blocked(&self) {
        self.was_blocked.store(false, Ordering::Relaxed);
    }

    pub(super) fn end(&self, ending: Ending) {
        self.ending.store(ending as u8, Ordering::Relaxed);
    }

    pub(super) fn ends_at_once(&self) -> bool {
        self.ending.load(Ordering::Relaxed) == Ending::Reset as u8
    }

    pub(super) fn ends_after_flush(&self) -> bool {
        let ending = self.ending.load(Ordering::Relaxed);
        ending == Ending::CloseAfterFlush as u8 || ending == Ending::ResetAfterFlush as u8
    }

    pub(super) fn ends_by_reset(&self) -> bool {
        let ending = self.ending.load(Ordering::Relaxed);
        ending == Ending::Reset as u8 || ending == Ending::ResetAfterFlush as u8
    }

    /// Resolves when the connection has exceeded the limit of its phase.
    pub(super) async fn overdue(&self, limits: &ConnectionLimits) {
        let (header_ms, idle_ms) =
            (limits.header_timeout.as_millis() as u64, limits.idle_timeout.as_millis() as u64);
        loop {
            let deadline = Deadline {
                phase: self.phase.load(Ordering::Relaxed),
                now_ms: self.now_ms(),
                since_ms: self.since_ms.load(Ordering::Relaxed),
                blocked_since_ms: self.blocked_since_ms.load(Ordering::Relaxed),
                read_by_ms: self.read_by_ms.load(Ordering::Relaxed),
            };
            let Some(left_ms) = deadline.left_ms(header_ms, idle_ms) else { break };
            let streams = deadline.phase == Phase::Answering as u8;
            // A head may begin right after this check, so the next one comes no later than a head's limit.
            let longest = if streams { STREAM_CHECK } else { limits.header_timeout };
            let mut pause = pin!(tokio::time::sleep(Duration::from_millis(left_ms).min(longest)));
            poll_fn(|cx| {
                if !streams && self.is_in(Phase::Answering) {
                    return Poll::Ready(());
                }
                pause.as_mut().poll(cx)
            })
            .await;
        }
        // The kernel would keep unread data for minutes.
        if self.is_in(Phase::Answering) {
            self.end(Ending::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(phase: Phase, since_ms: u64, blocked_since_ms: u64, read_by_ms: u64) -> Option<u64> {
        let deadline = Deadline { phase: phase as u8, now_ms: 1_000, since_ms, blocked_since_ms, read_by_ms };
        deadline.left_ms(100, 500)
    }

    #[test]
    fn each_phase_has_its_limit() {
        assert_eq!(left(Phase::Idle, 900, NEVER, NEVER), Some(400));
        assert_eq!(left(Phase::Idle, 500, NEVER, NEVER), None);
        assert_eq!(left(Phase::Head, 950, NEVER, NEVER), Some(50));
        assert_eq!(left(Phase::Head, 900, NEVER, NEVER), None);
        assert!(left(Phase::Busy, 0, NEVER, NEVER).is_some());
    }

    #[test]
    fn a_client_that_does_not_read_counts_as_blocked_until_it_reads() {
        let timer = ConnectionTimer::new();
        timer.wrote(false);
        assert!(!timer.was_blocked(), "nothing is streamed");
        timer.enter(Phase::Answering);
        timer.wrote(false);
        timer.forget_blocked();
        assert!(timer.was_blocked());
        timer.wrote(true);
        assert!(!timer.was_blocked());
        timer.wrote(false);
        timer.wrote(true);
        assert!(timer.was_blocked(), "it was, since the last reset");
        timer.enter(Phase::Answering);
        assert!(!timer.was_blocked(), "another answer");
    }

    #[test]
    fn a_stream_lasts_while_its_client_reads() {
        assert!(left(Phase::Answering, 0, NEVER, NEVER).is_some());
        assert!(left(Phase::Answering, 0, NEVER, 10).is_some(), "the client is not late");
        assert_eq!(left(Phase::Answering, 0, 800, NEVER), Some(300));
        assert_eq!(left(Phase::Answering, 0, 500, NEVER), None);
        assert_eq!(left(Phase::Answering, 0, 800, 1_010), Some(10));
        assert_eq!(left(Phase::Answering, 0, 999, 1_000), None);
    }
}
