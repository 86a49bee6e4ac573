//! A timer finer than tokio's.
//!
//! tokio rounds every sleep up to a whole millisecond. At 20,000 requests a second that would send them in bursts of twenty,
//! and add up to a millisecond of the generator's own lateness to every latency. A `timerfd` in the same epoll is exact to
//! microseconds.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

/// A reusable timer of the current runtime.
pub(crate) struct FineTimer {
    timer: TimerFd,
    // The same timer. To the runtime it is a readable descriptor like a pipe's.
    expirations: pipe::Receiver,
}

impl FineTimer {
    /// Creates the timer, within a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let expirations = pipe::Receiver::from_owned_fd_unchecked(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { timer, expirations })
    }

    /// Sleeps for `pause`; zero returns at once.
    pub(crate) async fn sleep(&mut self, pause: Duration) -> io::Result<()> {
        if pause.is_zero() {
            return Ok(());
        }
        self.timer.set(Expiration::OneShot(TimeSpec::from_duration(pause)), TimerSetTimeFlags::empty())?;
        // A read returns eight bytes. A larger buffer shows the runtime that nothing is left to read.
        self.expirations.read(&mut [0; 16]).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn sleeps_are_not_rounded_up_to_milliseconds() {
        let mut timer = FineTimer::new().unwrap();
        let pause = Duration::from_micros(100);
        let mut shortest = Duration::MAX;
        for _ in 0..50 {
            let started = Instant::now();
            timer.sleep(pause).await.unwrap();
            shortest = shortest.min(started.elapsed());
        }
        assert!((pause..Duration::from_millis(1)).contains(&shortest), "{shortest:?}");
    }
}
