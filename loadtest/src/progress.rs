//! Progress on standard error: a bar on a terminal, otherwise a line now and then.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::grouped;
use crate::tally::Counts;

/// The interval of plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// The minimum span of the live rate: shorter ones only show when workers report.
const RATE_OVER: Duration = Duration::from_millis(900);

/// The progress of one run.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    duration: Duration,
    sample: (Instant, u64),
    rate: f64,
    last_line: Instant,
}

impl Progress {
    /// Starts the display for a run of `duration`.
    pub(crate) fn start(duration: Duration) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(duration.as_millis() as u64), target);
            let style = ProgressStyle::with_template("{bar:30.cyan} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let now = Instant::now();
        Self { bar, started: now, duration, sample: (now, 0), rate: 0.0, last_line: now }
    }

    /// Shows the counts of all workers.
    pub(crate) fn update(&mut self, counts: &Counts) {
        let now = Instant::now();
        let (since, accepted) = self.sample;
        let over = now - since;
        if over >= RATE_OVER {
            self.rate = counts.accepted.saturating_sub(accepted) as f64 / over.as_secs_f64();
            self.sample = (now, counts.accepted);
        }
        let elapsed = now - self.started;
        let mut line = format!(
            "{:.0}/{:.0} s, {} events/s, {} accepted, {} refused",
            elapsed.as_secs_f64().min(self.duration.as_secs_f64()),
            self.duration.as_secs_f64(),
            grouped(self.rate as u64),
            grouped(counts.accepted),
            grouped(counts.all_refused()),
        );
        if counts.unknown > 0 {
            line.push_str(&format!(", {} unknown", grouped(counts.unknown)));
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(elapsed.as_millis() as u64);
                bar.set_message(line);
            }
            None if now - self.last_line >= PLAIN_EVERY => {
                self.last_line = now;
                eprintln!("{line}");
            }
            None => {}
        }
    }

    /// Shows a note.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
