//! The report of a run: `report.json`, and `report.html`, which needs neither scripts nor other files.

mod chart;
pub(crate) mod compare;
mod machine;
mod page;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::findings::{FAILED, Findings};
use crate::live::{Note, Window};
use crate::report::{PERCENTILES, time};
use crate::tally::Times;
pub(crate) use machine::{Machine, command_line};

/// The version of the format.
const FORMAT: u32 = 1;
const JSON: &str = "report.json";
const HTML: &str = "report.html";

/// The reason why a report cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be written.
    #[error("the report {} cannot be written", .0.display())]
    Unwritten(PathBuf, #[source] io::Error),
    /// It cannot be read.
    #[error("the report {} cannot be read", .0.display())]
    Unread(PathBuf, #[source] io::Error),
    /// It is no report of this program.
    #[error("{} is no report of `loadtest --report DIR`", .0.display())]
    Foreign(PathBuf, #[source] serde_json::Error),
}

/// A run and its results.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) format: u32,
    /// The scenario's name.
    pub(crate) scenario: String,
    /// The command line, without secrets.
    pub(crate) command: String,
    /// Unix time of the start, in milliseconds.
    pub(crate) started_at_ms: u64,
    pub(crate) machine: Machine,
    /// Whether the run was completed and its audit found nothing.
    pub(crate) passed: bool,
    pub(crate) exit_code: u8,
    pub(crate) interrupted: bool,
    /// Failures of the run itself, or of its audit.
    pub(crate) failures: Vec<String>,
    /// The scenario's own figures, by name.
    pub(crate) figures: Vec<(String, String)>,
    pub(crate) latencies: Vec<Latency>,
    /// `None`: there was no audit.
    pub(crate) audit: Option<Findings>,
    pub(crate) windows: Vec<Window>,
    pub(crate) notes: Vec<Note>,
    /// The scenario's own results.
    pub(crate) details: serde_json::Value,
}

/// The latencies of one kind of operation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Its name.
    pub(crate) name: String,
    pub(crate) count: u64,
    pub(crate) mean_us: u64,
    pub(crate) max_us: u64,
    pub(crate) percentiles_us: BTreeMap<String, u64>,
    /// The whole histogram (HdrHistogram V2, compressed, base64).
    pub(crate) histogram: Times,
}

impl Latency {
    fn new(name: String, times: Times) -> Self {
        let us = |time: std::time::Duration| time.as_micros() as u64;
        Self {
            name,
            count: times.len(),
            mean_us: us(times.mean()),
            max_us: us(times.max()),
            percentiles_us: PERCENTILES
                .iter()
                .map(|(at, name)| ((*name).to_owned(), us(times.at(*at))))
                .collect(),
            histogram: times,
        }
    }
}

/// The results of a scenario.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Figures, by name.
    pub(crate) figures: Vec<(String, String)>,
    /// Latencies, by the kind of operation.
    pub(crate) latencies: Vec<(String, Times)>,
    /// `None`: there was no audit.
    pub(crate) audit: Option<Findings>,
    /// Failures of the run.
    pub(crate) failures: Vec<String>,
    pub(crate) interrupted: bool,
    /// Tables to print instead of latencies, and the figures that they show: in a report these come first.
    pub(crate) tables: Option<String>,
    pub(crate) tabled: Vec<(String, String)>,
    /// The scenario's own results.
    pub(crate) details: serde_json::Value,
    /// What a report in one file has instead of the document.
    pub(crate) own_json: Option<serde_json::Value>,
}

impl Outcome {
    /// Adds a figure.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<String>) {
        self.figures.push((name.to_owned(), value.into()));
    }

    /// Adds the latencies of a kind of operation.
    pub(crate) fn latency(&mut self, name: &str, times: Times) {
        self.latencies.push((name.to_owned(), times));
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.audit.as_ref().map_or(0, Findings::exit_code) {
            0 if !self.failures.is_empty() => FAILED,
            code => code,
        }
    }

    /// The results as text.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        match &self.tables {
            Some(tables) => text.push_str(tables),
            None => {
                for (name, times) in &self.latencies {
                    text.push_str(&format!("{name:<12} {}\n", on_one_line(times)));
                }
            }
        }
        for (name, value) in &self.figures {
            text.push_str(&format!("{name:<12} {value}\n"));
        }
        if self.interrupted {
            text.push_str("The run was interrupted.\n");
        }
        for failure in &self.failures {
            text.push_str(&format!("failed: {failure}\n"));
        }
        match &self.audit {
            Some(findings) => {
                text.push_str(&findings.verdict());
                for note in &findings.notes {
                    text.push_str(&format!("\n       {note}"));
                }
            }
            None => text.push_str("audit: not done"),
        }
        text
    }
}

/// Latencies on one line.
pub(crate) fn on_one_line(times: &Times) -> String {
    let at = |percentile| time(times.at(percentile).as_micros() as u64);
    format!(
        "{} × p50 {}, p99 {}, p99.9 {}, max {}",
        crate::report::grouped(times.len()),
        at(50.0),
        at(99.0),
        at(99.9),
        time(times.max().as_micros() as u64)
    )
}

impl Document {
    /// The document of a run.
    pub(crate) fn new(
        scenario: &str,
        machine: Machine,
        started_at_ms: u64,
        outcome: Outcome,
        (windows, notes): (Vec<Window>, Vec<Note>),
    ) -> Self {
        let exit_code = outcome.exit_code();
        Self {
            format: FORMAT,
            scenario: scenario.to_owned(),
            command: command_line(std::env::args()),
            started_at_ms,
            machine,
            passed: exit_code == 0,
            exit_code,
            interrupted: outcome.interrupted,
            failures: outcome.failures,
            figures: outcome.tabled.into_iter().chain(outcome.figures).collect(),
            latencies: outcome.latencies.into_iter().map(|(name, times)| Latency::new(name, times)).collect(),
            audit: outcome.audit,
            windows,
            notes,
            details: outcome.details,
        }
    }

    /// Writes both files into a folder, which is created.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        let write = |path: &Path, bytes: &[u8]| {
            std::fs::write(path, bytes).map_err(|error| Error::Unwritten(path.to_path_buf(), error))
        };
        std::fs::create_dir_all(folder).map_err(|error| Error::Unwritten(folder.to_path_buf(), error))?;
        self.write_json(&folder.join(JSON))?;
        write(&folder.join(HTML), page::render(self).as_bytes())
    }

    /// Writes the JSON alone.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), Error> {
        let json = serde_json::to_vec(self).map_err(io::Error::from);
        json.and_then(|json| std::fs::write(path, json))
            .map_err(|error| Error::Unwritten(path.to_path_buf(), error))
    }

    /// Reads a report: its folder, or its JSON.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let path = if path.is_dir() { path.join(JSON) } else { path.to_path_buf() };
        let bytes = std::fs::read(&path).map_err(|error| Error::Unread(path.clone(), error))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Foreign(path, error))
    }
}
