//! The course of a run: what scenarios record of their operations is cut into windows of a second, each with the rate asked for and reached, its
//! latencies, and the service's own queue. The view shows the last one, the report draws all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::health::Health;
use crate::schedule::{Phase, rate_at};
use crate::tally::Times;
use crate::view::{Glance, ServiceGlance, View};

/// The interval of windows at first. It doubles where a run has too many of them.
const WINDOW: Duration = Duration::from_secs(1);
/// The most windows that are kept: a chart has no more points, and a report stays small.
const MAX_WINDOWS: usize = 240;
/// Notes kept.
const MAX_NOTES: usize = 500;

/// A stretch of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Its beginning and its length, in seconds from the beginning of the load.
    pub(crate) at_s: f64,
    pub(crate) seconds: f64,
    /// Whether the load went on; otherwise the service settles.
    pub(crate) loaded: bool,
    /// Operations asked for a second; `None`: a closed loop.
    pub(crate) asked: Option<f64>,
    /// Operations done.
    pub(crate) done: u64,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// Their latencies in microseconds, each with its count.
    pub(crate) latencies: Vec<(u64, u64)>,
    /// Events in the service's queue at its end, accepted ones that are not committed, and bytes of memory, if the service reports them.
    pub(crate) queue: Option<u64>,
    pub(crate) pending: Option<u64>,
    pub(crate) resident_bytes: Option<u64>,
}

impl Window {
    /// The latencies as a histogram.
    pub(crate) fn times(&self) -> Times {
        let mut times = Times::empty();
        for (us, count) in &self.latencies {
            times.record_n(*us, *count);
        }
        times
    }

    /// Operations done a second.
    pub(crate) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.done as f64 / self.seconds } else { 0.0 }
    }

    /// Takes in the window after it.
    fn join(&mut self, next: &Self) {
        let mut times = self.times();
        times.add(&next.times());
        self.latencies = times.counted().collect();
        let asked = |window: &Self| window.asked.map(|asked| asked * window.seconds);
        self.asked =
            asked(self).zip(asked(next)).map(|(one, other)| (one + other) / (self.seconds + next.seconds));
        self.seconds += next.seconds;
        self.loaded &= next.loaded;
        self.done += next.done;
        self.errors += next.errors;
        self.queue = next.queue.or(self.queue);
        self.pending = next.pending.or(self.pending);
        self.resident_bytes = next.resident_bytes.or(self.resident_bytes);
    }
}

/// Something that happened at a time of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Seconds from the beginning of the load.
    pub(crate) at_s: f64,
    /// What.
    pub(crate) text: String,
}

/// The course of a run. Shared by all that records.
#[derive(Debug)]
pub(crate) struct Live {
    state: Mutex<State>,
    /// The number of interrupts so far.
    interrupts: watch::Sender<u32>,
}

impl Default for Live {
    fn default() -> Self {
        Self { state: Mutex::default(), interrupts: watch::channel(0).0 }
    }
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    is_loaded: bool,
    /// Loads that go on at the same time.
    loads: u32,
    phases: Vec<Phase>,
    duration_s: Option<f64>,
    stage: Option<String>,
    current: Times,
    done: u64,
    errors: u64,
    all_errors: u64,
    window_began: Instant,
    window: Duration,
    windows: Vec<Window>,
    notes: Vec<Note>,
    unshown: Vec<String>,
    service: Option<ServiceGlance>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            began: None,
            is_loaded: false,
            loads: 0,
            phases: Vec::new(),
            duration_s: None,
            stage: Some("preparing".to_owned()),
            current: Times::empty(),
            done: 0,
            errors: 0,
            all_errors: 0,
            window_began: Instant::now(),
            window: WINDOW,
            windows: Vec::new(),
            notes: Vec::new(),
            unshown: Vec::new(),
            service: None,
        }
    }
}

impl Live {
    /// The load begins, or goes on: for this time (0: unknown), with these rates of operations a second; without any it is a closed loop.
    pub(crate) fn begin(&self, duration_s: f64, phases: Vec<Phase>) {
        let mut state = self.state.lock();
        state.loads += 1;
        // One of several at the same time, whose rates do not add up.
        if state.loads > 1 {
            return;
        }
        let now = Instant::now();
        let elapsed_s = state.began.map_or(0.0, |began| (now - began).as_secs_f64());
        state.close(now);
        state.began.get_or_insert(now);
        state.window_began = now;
        state.is_loaded = true;
        // Rates are looked up by the time of the run, so a later load's begin there.
        state.phases = match phases.first() {
            Some(first) if elapsed_s > 0.0 => std::iter::once(Phase { seconds: elapsed_s, ..*first })
                .chain(phases.iter().copied())
                .collect(),
            _ => phases,
        };
        state.duration_s = (duration_s > 0.0).then_some(elapsed_s + duration_s);
        state.stage = None;
    }

    /// The load is over, and something else goes on: `audit`.
    pub(crate) fn end(&self, stage: &str) {
        let mut state = self.state.lock();
        state.loads = state.loads.saturating_sub(1);
        if state.loads > 0 {
            return;
        }
        state.close(Instant::now());
        state.is_loaded = false;
        state.stage = Some(stage.to_owned());
    }

    /// An operation was done.
    pub(crate) fn record(&self, latency: Duration) {
        let mut state = self.state.lock();
        state.current.record(latency);
        state.done += 1;
    }

    /// Operations were done elsewhere.
    pub(crate) fn add(&self, done: u64, errors: u64, latencies: &Times) {
        let mut state = self.state.lock();
        state.current.add(latencies);
        state.done += done;
        state.errors += errors;
        state.all_errors += errors;
    }

    /// An operation failed.
    pub(crate) fn fail(&self) {
        self.add(0, 1, &Times::empty());
    }

    /// Notes what happens now.
    pub(crate) fn note(&self, text: &str) {
        let mut state = self.state.lock();
        let at_s = state.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        if state.notes.len() < MAX_NOTES {
            state.notes.push(Note { at_s, text: text.to_owned() });
        }
        state.unshown.push(format!("{at_s:>6.1} s  {text}"));
    }

    /// The notes that the view has not shown yet.
    pub(crate) fn unshown(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unshown)
    }

    /// Makes loads end early; once more makes them end at once. Returns the number of times.
    pub(crate) fn interrupt(&self) -> u32 {
        self.interrupts.send_modify(|interrupts| *interrupts += 1);
        self.interrupts()
    }

    /// Whether loads end early.
    pub(crate) fn is_stopped(&self) -> bool {
        self.interrupts() > 0
    }

    /// The number of interrupts so far.
    pub(crate) fn interrupts(&self) -> u32 {
        *self.interrupts.borrow()
    }

    /// Waits until there are more interrupts than these: one that comes while nothing waits is not missed.
    pub(crate) async fn interrupted(&self, seen: u32) {
        let mut interrupts = self.interrupts.subscribe();
        // The sender lives as long as this value.
        if interrupts.wait_for(|interrupts| *interrupts > seen).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether a load that lasts until then goes on.
    pub(crate) fn goes_on(&self, until: Instant) -> bool {
        !self.is_stopped() && Instant::now() < until
    }

    /// The windows that are complete now.
    pub(crate) fn windows(&self) -> Vec<Window> {
        self.state.lock().windows.clone()
    }

    /// The windows and notes of the whole run.
    pub(crate) fn take(&self) -> (Vec<Window>, Vec<Note>) {
        let mut state = self.state.lock();
        state.close(Instant::now());
        (std::mem::take(&mut state.windows), std::mem::take(&mut state.notes))
    }

    /// Closes windows, asks the service, and keeps the view up to date. Never ends.
    pub(crate) async fn watch(self: Arc<Self>, health: Option<Health>, view: &View) {
        let mut every = tokio::time::interval(WINDOW / 2);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let service = match &health {
                // A service that does not answer has no figures, and windows keep their length.
                Some(health) => tokio::time::timeout(WINDOW / 2, health.glance()).await.ok().flatten(),
                None => None,
            };
            let (glance, notes) = {
                let mut state = self.state.lock();
                state.service = service;
                let now = Instant::now();
                if state.began.is_some() && now - state.window_began >= state.window.mul_f64(0.95) {
                    state.close(now);
                }
                view.lasts(state.duration_s);
                (state.glance(now), std::mem::take(&mut state.unshown))
            };
            notes.iter().for_each(|note| view.note(note));
            view.show(&glance);
        }
    }
}

impl State {
    /// Ends the current window.
    fn close(&mut self, now: Instant) {
        let Some(began) = self.began else { return };
        let seconds = (now - self.window_began).as_secs_f64();
        let at_s = (self.window_began - began).as_secs_f64();
        let is_empty = self.done == 0 && self.errors == 0;
        // A load that has just begun or ended leaves no window of its own.
        if seconds < 0.05 && is_empty {
            return;
        }
        let asked = if self.is_loaded { rate_at(&self.phases, at_s + seconds / 2.0) } else { None };
        let service = self.service;
        let window = Window {
            at_s,
            seconds,
            loaded: self.is_loaded,
            asked,
            done: self.done,
            errors: self.errors,
            latencies: self.current.counted().collect(),
            queue: service.map(|service| service.queue),
            pending: service.map(|service| service.pending),
            resident_bytes: service.and_then(|service| service.resident_bytes),
        };
        // The rest of a load is no window of its own: reports of workers come in steps, which would make it a peak.
        let is_rest = seconds < self.window.as_secs_f64() * 0.7;
        match self.windows.last_mut() {
            Some(last) if is_rest && last.loaded && window.loaded => last.join(&window),
            _ => self.windows.push(window),
        }
        self.current.clear();
        (self.done, self.errors, self.window_began) = (0, 0, now);
        if self.windows.len() > MAX_WINDOWS {
            self.widen();
        }
    }

    /// Joins windows in pairs.
    fn widen(&mut self) {
        self.window *= 2;
        let windows = std::mem::take(&mut self.windows);
        for window in windows {
            match self.windows.last_mut() {
                Some(last)
                    if last.loaded == window.loaded
                        && last.seconds + window.seconds < self.window.as_secs_f64() * 1.4 =>
                {
                    last.join(&window);
                }
                _ => self.windows.push(window),
            }
        }
    }

    fn glance(&self, now: Instant) -> Glance {
        let last = self.windows.iter().rev().find(|window| window.loaded);
        let times = last.map_or_else(Times::empty, Window::times);
        Glance {
            elapsed_s: self.began.map_or(0.0, |began| (now - began).as_secs_f64()),
            asked: last.and_then(|window| window.asked),
            reached: last.map_or(0.0, Window::rate),
            p50: times.at(50.0),
            p99: times.at(99.0),
            errors: self.all_errors,
            service: self.service,
            stage: self.stage.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(at_s: f64, done: u64, us: u64) -> Window {
        Window { at_s, seconds: 1.0, loaded: true, done, latencies: vec![(us, done)], ..Window::default() }
    }

    #[test]
    fn windows_keep_what_was_recorded_between_their_ends() {
        let live = Live::default();
        live.record(Duration::from_millis(1));
        live.begin(2.0, vec![Phase { per_second: 10.0, seconds: 2.0 }]);
        for ms in [1, 2, 3] {
            live.record(Duration::from_millis(ms));
        }
        live.fail();
        live.end("audit");
        let (windows, _) = live.take();
        let sum: u64 = windows.iter().map(|window| window.done).sum();
        assert_eq!((sum, windows[0].errors, windows[0].asked), (4, 1, Some(10.0)));
        assert!(windows[0].loaded);
        assert_eq!(windows[0].times().len(), 4);
    }

    #[test]
    fn the_rest_of_a_load_belongs_to_its_last_window() {
        let live = Live::default();
        live.begin(9.0, Vec::new());
        live.state.lock().windows.push(window(0.0, 10, 1_000));
        live.record(Duration::from_millis(5));
        live.end("audit");
        let (windows, _) = live.take();
        assert_eq!((windows[0].done, windows[0].times().len()), (11, 11));
        assert!(windows[0].seconds > 1.0 && windows[1..].iter().all(|window| !window.loaded), "{windows:?}");
    }

    #[test]
    fn a_long_run_has_wider_windows_and_loses_nothing() {
        let mut state = State {
            windows: (0..300).map(|n| window(f64::from(n), 10, 1_000)).collect(),
            ..State::default()
        };
        state.widen();
        assert_eq!((state.windows.len(), state.window), (150, WINDOW * 2));
        assert_eq!(state.windows.iter().map(|window| window.done).sum::<u64>(), 3_000);
        assert_eq!(state.windows[7].times().len(), 20);
        assert!((state.windows[7].rate() - 10.0).abs() < 1e-9);
    }

    #[tokio::test]
    async fn an_interrupt_is_not_missed_while_nothing_waits() {
        let live = Live::default();
        let seen = live.interrupts();
        live.interrupt();
        live.interrupted(seen).await;
        let next = tokio::time::timeout(Duration::from_millis(1), live.interrupted(live.interrupts()));
        assert!(next.await.is_err());
    }

    #[test]
    fn a_stopped_load_goes_on_no_more() {
        let live = Live::default();
        let until = Instant::now() + Duration::from_secs(60);
        assert!(live.goes_on(until) && !live.goes_on(Instant::now()));
        live.interrupt();
        assert!(!live.goes_on(until));
    }
}
