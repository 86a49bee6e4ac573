//! The live view on standard error: a bar and three lines on a terminal, otherwise a line now and then.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{grouped, time};

/// The interval of plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(2);
/// The steps of the bar.
const STEPS: u64 = 1_000;

/// What is shown at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Glance {
    /// Seconds since the load began.
    pub(crate) elapsed_s: f64,
    /// The rate asked for, a second; `None`: a closed loop.
    pub(crate) asked: Option<f64>,
    /// The rate reached, a second.
    pub(crate) reached: f64,
    /// Latencies of the last second.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Errors so far.
    pub(crate) errors: u64,
    /// What the service reports, if it does.
    pub(crate) service: Option<ServiceGlance>,
    /// What is going on, if it is not the load: `audit`.
    pub(crate) stage: Option<String>,
}

/// What the service reports of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ServiceGlance {
    /// Events in the queue.
    pub(crate) queue: u64,
    /// Accepted events that are not committed yet.
    pub(crate) pending: u64,
    /// Bytes of resident memory.
    pub(crate) resident_bytes: Option<u64>,
}

/// The view of one run.
pub(crate) struct View {
    bar: Option<ProgressBar>,
    name: String,
    duration_s: Cell<Option<f64>>,
    last_line: Cell<Instant>,
}

impl View {
    /// Starts the display.
    pub(crate) fn start(name: &str, duration_s: Option<f64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} {bar:40.cyan} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_owned());
            bar
        });
        Self {
            bar,
            name: name.to_owned(),
            duration_s: Cell::new(duration_s),
            last_line: Cell::new(Instant::now()),
        }
    }

    /// The duration is known now, or another one.
    pub(crate) fn lasts(&self, duration_s: Option<f64>) {
        self.duration_s.set(duration_s);
    }

    /// Shows the state.
    pub(crate) fn show(&self, glance: &Glance) {
        match &self.bar {
            Some(bar) => {
                let part = self.duration_s.get().map_or(0.0, |duration| glance.elapsed_s / duration);
                bar.set_position((part.clamp(0.0, 1.0) * STEPS as f64) as u64);
                bar.set_message(lines(glance, self.duration_s.get()).join("\n"));
            }
            None if self.last_line.get().elapsed() >= PLAIN_EVERY => {
                self.last_line.set(Instant::now());
                eprintln!("{}: {}", self.name, lines(glance, self.duration_s.get()).join("; "));
            }
            None => {}
        }
    }

    /// Shows a note above the bar, which stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The lines of a state.
fn lines(glance: &Glance, duration_s: Option<f64>) -> Vec<String> {
    let us = |time: Duration| time.as_micros() as u64;
    let elapsed = match (&glance.stage, duration_s) {
        (Some(stage), _) => stage.clone(),
        (None, Some(duration)) => format!("{:.0}/{duration:.0} s", glance.elapsed_s.min(duration)),
        (None, None) => format!("{:.0} s", glance.elapsed_s),
    };
    let mut lines = vec![elapsed];
    if glance.stage.is_none() {
        let reached = grouped(glance.reached.round() as u64);
        lines.push(match glance.asked {
            Some(asked) => format!("rate {reached}/s of {}/s", grouped(asked.round() as u64)),
            None => format!("rate {reached}/s, closed loop"),
        });
        lines.push(format!(
            "p50 {}, p99 {}, {} errors",
            time(us(glance.p50)),
            time(us(glance.p99)),
            grouped(glance.errors)
        ));
    }
    if let Some(service) = glance.service {
        let resident =
            service.resident_bytes.map(|bytes| format!(", resident {:.0} MiB", bytes as f64 / 1_048_576.0));
        lines.push(format!(
            "queue {}, pending {}{}",
            grouped(service.queue),
            grouped(service.pending),
            resident.unwrap_or_default()
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_shown_with_what_is_known() {
        let mut glance = Glance {
            elapsed_s: 3.2,
            asked: Some(20_000.0),
            reached: 19_998.4,
            p50: Duration::from_micros(900),
            p99: Duration::from_micros(4_500),
            errors: 2,
            service: Some(ServiceGlance { queue: 5, pending: 1_234, resident_bytes: Some(50 << 20) }),
            stage: None,
        };
        let text = lines(&glance, Some(10.0)).join("; ");
        assert_eq!(
            text,
            "3/10 s; rate 19,998/s of 20,000/s; p50 900 µs, p99 4.50 ms, 2 errors; queue 5, pending 1,234, resident 50 MiB"
        );
        glance.stage = Some("audit".to_owned());
        glance.service = None;
        assert_eq!(lines(&glance, Some(10.0)), ["audit"]);
    }
}
