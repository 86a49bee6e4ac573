//! The results: a table, and JSON.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::audit::Audit;
use crate::payload::now_ms;
use crate::protocol::Plan;
use crate::tally::{Counts, Tally, Times};

/// The percentiles in the table, and their names in JSON.
pub(crate) const PERCENTILES: [(f64, &str); 6] =
    [(50.0, "p50"), (75.0, "p75"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (99.99, "p99.99")];

/// The parameters of the run.
#[derive(Debug, Serialize)]
pub(crate) struct Setup {
    /// The first part of every trace id.
    pub(crate) run: String,
    /// Unix time of the start, in milliseconds.
    pub(crate) started_at_ms: u64,
    /// The service.
    pub(crate) url: String,
    /// `single` or `batch`.
    pub(crate) mode: &'static str,
    /// Lines of a batch.
    pub(crate) batch_size: Option<usize>,
    /// Worker processes.
    pub(crate) workers: u32,
    /// Connections of each worker.
    pub(crate) connections: usize,
    /// The requested rate in events per second; `None`: a closed loop.
    pub(crate) rate: Option<f64>,
    /// The duration in seconds.
    pub(crate) duration_s: f64,
    /// The percentage of events that Postgres rejected on purpose.
    pub(crate) bad_percent: Option<f64>,
}

/// The results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The parameters.
    pub(crate) setup: Setup,
    /// Whether every accepted event is stored exactly once and every worker reported.
    pub(crate) passed: bool,
    /// Failures of the run itself, or of its audit.
    pub(crate) failures: Vec<String>,
    /// Whether it was interrupted.
    pub(crate) interrupted: bool,
    /// The counts.
    pub(crate) counts: Counts,
    /// From the start to the last answer, in seconds.
    pub(crate) elapsed_s: f64,
    /// Accepted events per second.
    pub(crate) accepted_per_s: f64,
    /// CPU time of the workers in seconds.
    pub(crate) generator_cpu_s: f64,
    /// From the due time to the answer, of accepted requests.
    pub(crate) latency: Summary,
    /// The same of all others; unanswered and unsent ones count until they were given up.
    pub(crate) latency_other: Summary,
    /// From the due time to the sending of a request.
    pub(crate) send_lag: Summary,
    /// The audit; `None`: it was skipped or failed.
    pub(crate) audit: Option<Audit>,
}

/// The main points of a histogram, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Requests.
    pub(crate) count: u64,
    /// The mean.
    pub(crate) mean_us: u64,
    /// The percentiles by name.
    pub(crate) percentiles_us: BTreeMap<&'static str, u64>,
    /// The maximum.
    pub(crate) max_us: u64,
}

impl Summary {
    fn new(times: &Times) -> Self {
        let us = |time: Duration| time.as_micros() as u64;
        Self {
            count: times.len(),
            mean_us: us(times.mean()),
            percentiles_us: PERCENTILES.into_iter().map(|(at, name)| (name, us(times.at(at)))).collect(),
            max_us: us(times.max()),
        }
    }
}

impl Setup {
    /// That of a plan which is about to run.
    pub(crate) fn of(plan: &Plan) -> Self {
        let events = plan.events() as f64;
        Self {
            run: plan.run.clone(),
            started_at_ms: now_ms(),
            url: plan.target.url(""),
            mode: if plan.batch.is_some() { "batch" } else { "single" },
            batch_size: plan.batch,
            workers: plan.workers,
            connections: plan.connections,
            rate: plan.phases.first().map(|phase| phase.per_second * events),
            duration_s: plan.duration_s,
            bad_percent: plan.bad_percent,
        }
    }
}

impl Report {
    /// Combines the workers' sum and the audit. The run passes if nothing failed and the audit, if there is one, balances.
    pub(crate) fn new(
        setup: Setup,
        tally: &Tally,
        audit: Option<Audit>,
        failures: Vec<String>,
        interrupted: bool,
    ) -> Self {
        Self {
            setup,
            passed: failures.is_empty() && audit.as_ref().is_none_or(Audit::balances),
            failures,
            interrupted,
            counts: tally.counts.clone(),
            elapsed_s: tally.elapsed_s,
            accepted_per_s: per_second(tally.counts.accepted, tally.elapsed_s),
            generator_cpu_s: tally.cpu_s,
            latency: Summary::new(&tally.accepted),
            latency_other: Summary::new(&tally.other),
            send_lag: Summary::new(&tally.lag),
            audit,
        }
    }

    /// The tables.
    pub(crate) fn tables(&self) -> String {
        format!("{}\n{}\n", self.counts_table(), self.latency_table())
    }

    fn counts_table(&self) -> Table {
        let Setup { run, mode, rate, duration_s, workers, connections, .. } = &self.setup;
        let mut table = table();
        let pace = rate.map_or("closed loop".to_owned(), |rate| format!("{} events/s", grouped(rate as u64)));
        table.set_header(vec![
            format!("{run} · {mode}"),
            format!("{pace}, {duration_s} s, {workers} × {connections}"),
        ]);
        for (name, value) in self.figures() {
            table.add_row(vec![name, value]);
        }
        align(&mut table);
        table
    }

    /// The counts, by name.
    pub(crate) fn figures(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        let counts = &self.counts;
        let rate = |events| {
            format!("{} ({}/s)", grouped(events), grouped(per_second(events, self.elapsed_s) as u64))
        };
        row("sent", rate(counts.sent));
        row("accepted", rate(counts.accepted));
        let mut refused = counts.refused.iter().peekable();
        if refused.peek().is_none() {
            row("refused", "0".to_owned());
        }
        for (status, events) in refused {
            row(&format!("refused, {status}"), grouped(*events));
        }
        for (code, events) in &counts.rejected {
            row(&format!("rejected, {code}"), grouped(*events));
        }
        for (name, events) in [
            ("unknown (no answer)", counts.unknown),
            ("unsent (no connection free)", counts.unsent),
            ("reconnects", counts.reconnects),
        ] {
            if events > 0 {
                row(name, grouped(events));
            }
        }
        if let Some(audit) = &self.audit {
            row("stored", grouped(audit.stored));
            row("lost", grouped(audit.lost));
            for (name, events) in [
                ("dead letters", audit.dead),
                ("stored without an answer", audit.stored_unanswered),
                ("doubled", audit.doubled),
                ("surplus", audit.surplus),
                ("not settled", audit.unsettled),
                ("still pending", audit.pending.unwrap_or(0)),
            ] {
                if events > 0 {
                    row(name, grouped(events));
                }
            }
        }
        row("generator's CPU", format!("{:.2} s", self.generator_cpu_s));
        rows
    }

    fn latency_table(&self) -> Table {
        let mut columns = vec![("accepted", &self.latency)];
        if self.latency_other.count > 0 {
            columns.push(("others", &self.latency_other));
        }
        columns.push(("send lag", &self.send_lag));
        let mut table = table();
        let unit =
            self.setup.batch_size.map_or("latency".to_owned(), |lines| format!("latency, {lines} a request"));
        let cells = |first: &str, value: &dyn Fn(&Summary) -> String| {
            let values = columns.iter().map(|(_, summary)| value(summary));
            std::iter::once(first.to_owned()).chain(values).collect::<Vec<_>>()
        };
        let names = columns.iter().map(|(name, _)| (*name).to_owned());
        table.set_header(std::iter::once(unit).chain(names).collect::<Vec<_>>());
        for (_, name) in PERCENTILES {
            table.add_row(cells(name, &|summary| {
                time(summary.percentiles_us.get(name).copied().unwrap_or(0))
            }));
        }
        table.add_row(cells("max", &|summary| time(summary.max_us)));
        align(&mut table);
        table
    }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table
}

fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// Events per second.
pub(crate) fn per_second(events: u64, elapsed_s: f64) -> f64 {
    if elapsed_s > 0.0 { events as f64 / elapsed_s } else { 0.0 }
}

/// Prints results. A reader of standard output that left changes neither them nor the exit code.
pub(crate) fn print(text: &str) {
    let _left = writeln!(std::io::stdout(), "{text}");
}

/// A time in a suitable unit.
pub(crate) fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// A number with separated thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(audit: Option<Audit>, failures: Vec<String>) -> Report {
        let setup = Setup {
            run: "lt-x".to_owned(),
            started_at_ms: 0,
            url: "http://h".to_owned(),
            mode: "single",
            batch_size: None,
            workers: 1,
            connections: 64,
            rate: Some(20_000.0),
            duration_s: 20.0,
            bad_percent: None,
        };
        let mut tally = Tally { elapsed_s: 2.0, ..Tally::default() };
        tally.counts.accepted = 1_000;
        tally.counts.refused.insert(503, 7);
        tally.accepted.record(Duration::from_micros(1_500));
        Report::new(setup, &tally, audit, failures, false)
    }

    #[test]
    fn a_run_passes_only_when_nothing_failed_and_the_audit_balances() {
        assert!(report(None, vec![]).passed);
        assert!(report(Some(Audit::default()), vec![]).passed);
        assert!(!report(Some(Audit { lost: 1, ..Audit::default() }), vec![]).passed);
        assert!(!report(Some(Audit::default()), vec!["worker 1 was killed".to_owned()]).passed);
    }

    #[test]
    fn the_tables_name_refusals_losses_and_percentiles() {
        let text = report(Some(Audit { lost: 3, ..Audit::default() }), vec![]).tables();
        for expected in ["1,000 (500/s)", "refused, 503", "p99.99", "1.50 ms"] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
