//! The live view on standard error: a bar and three lines on a terminal, otherwise a line now and then.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use console::{Term, measure_text_width, style, truncate_str};

use crate::report::{grouped, time};

/// The interval of plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(2);
/// The columns of the bar.
const BAR: usize = 40;

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
    screen: Option<Screen>,
    name: String,
    duration_s: Cell<Option<f64>>,
    last_line: Cell<Instant>,
}

impl View {
    /// Starts the display.
    pub(crate) fn start(name: &str, duration_s: Option<f64>) -> Self {
        Self {
            screen: std::io::stderr().is_terminal().then(|| Screen::new(Term::buffered_stderr())),
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
        let mut lines = lines(glance, self.duration_s.get());
        match &self.screen {
            Some(screen) => {
                let part = self.duration_s.get().map_or(0.0, |duration| glance.elapsed_s / duration);
                if let Some(first) = lines.first_mut() {
                    *first = format!("{} {} {first}", self.name, bar(part));
                }
                screen.draw(&[], &lines);
            }
            None if self.last_line.get().elapsed() >= PLAIN_EVERY => {
                self.last_line.set(Instant::now());
                eprintln!("{}: {}", self.name, lines.join("; "));
            }
            None => {}
        }
    }

    /// Shows a note above the state, which stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.screen {
            Some(screen) => {
                let lines = screen.lines();
                screen.draw(&[text], &lines);
            }
            None => eprintln!("{text}"),
        }
    }

    /// Removes the state.
    pub(crate) fn finish(&self) {
        if let Some(screen) = &self.screen {
            screen.draw(&[], &[]);
        }
    }
}

/// The lines at the end of a terminal that are drawn again and again. The cursor stays below them, so an echoed `^C` is beside none of them.
struct Screen {
    term: Term,
    drawn: RefCell<Vec<String>>,
}

impl Screen {
    fn new(term: Term) -> Self {
        Self { term, drawn: RefCell::default() }
    }

    /// The lines that are there.
    fn lines(&self) -> Vec<String> {
        self.drawn.borrow().clone()
    }

    /// Replaces the lines, and writes others above them, which stay. A terminal that is gone is no reason to end a run.
    fn draw(&self, above: &[&str], lines: &[String]) {
        let (height, width) = self.term.size();
        let (height, width) = (usize::from(height).max(2), usize::from(width).max(2));
        let old = rows(&self.drawn.borrow(), width).min(height - 1);
        // A line as wide as the terminal would be two rows in some.
        let lines: Vec<String> = lines
            .iter()
            .take(height - 1)
            .map(|line| truncate_str(line, width - 1, "…").into_owned())
            .collect();
        let written = (|| {
            self.term.clear_line()?;
            self.term.clear_last_lines(old)?;
            for line in above.iter().copied().chain(lines.iter().map(String::as_str)) {
                self.term.write_line(line)?;
            }
            self.term.flush()
        })();
        if written.is_ok() {
            *self.drawn.borrow_mut() = lines;
        }
    }
}

/// The rows that lines take on a terminal of this width. One that is narrower than before has wrapped them.
fn rows(lines: &[String], width: usize) -> usize {
    lines.iter().map(|line| measure_text_width(line).div_ceil(width).max(1)).sum()
}

/// A bar of which this part, from 0 to 1, is done.
fn bar(part: f64) -> String {
    let done = (part.clamp(0.0, 1.0) * BAR as f64) as usize;
    style(format!("{}{}", "█".repeat(done), "░".repeat(BAR - done))).for_stderr().cyan().to_string()
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

    #[test]
    fn lines_that_a_narrower_terminal_has_wrapped_count_with_all_their_rows() {
        let lines = [bar(0.5), "x".repeat(20), String::new()];
        assert_eq!([80, 40, 39, 19, 10].map(|width| rows(&lines, width)), [3, 3, 4, 6, 7]);
        assert_eq!(measure_text_width(&bar(2.0)), BAR);
    }
}
