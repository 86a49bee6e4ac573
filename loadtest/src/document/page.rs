//! The page of a report.

use std::fmt::Write as _;

use super::chart::{Axis, Chart, Line, Scale, escaped};
use super::{Document, Latency};
use crate::live::Window;
use crate::report::{PERCENTILES, grouped, time};

const STYLE: &str = include_str!("page.css");

/// Renders the page.
pub(super) fn render(document: &Document) -> String {
    let verdict = if document.passed { "passed" } else { "failed" };
    let title = format!("{}: {verdict}", document.scenario);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} – Tidegate load test</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        title = escaped(&title)
    );
    let _infallible = write!(
        page,
        "<h1>{} <span class=\"{verdict}\">{verdict}</span></h1>\n<p>{}. Started {}.</p>\n",
        escaped(&document.scenario),
        escaped(
            &document.audit.as_ref().map_or_else(|| "audit: not done".to_owned(), |audit| audit.verdict())
        ),
        escaped(&date(document.started_at_ms)),
    );
    if document.interrupted {
        page.push_str("<p>The run was interrupted.</p>\n");
    }
    list(&mut page, "Failures", document.failures.iter().map(String::as_str));
    list(
        &mut page,
        "Findings",
        document.audit.iter().flat_map(|audit| audit.notes.iter().map(String::as_str)),
    );
    page.push_str("<h2>Results</h2>\n");
    findings_table(&mut page, document);
    let figures: Vec<(&str, &str)> =
        document.figures.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    rows(&mut page, "Figures of the scenario", &figures);
    latency_table(&mut page, &document.latencies);
    page.push_str("<h2>Charts</h2>\n<div class=\"charts\">\n");
    for chart in charts(document) {
        page.push_str(&chart.render());
    }
    page.push_str("</div>\n");
    list_owned(
        &mut page,
        "Events of the run",
        document.notes.iter().map(|note| format!("{:.1} s: {}", note.at_s, note.text)),
    );
    page.push_str("<h2>Environment</h2>\n");
    let machine = document.machine.rows();
    let machine: Vec<(&str, &str)> = machine.iter().map(|(name, value)| (*name, value.as_str())).collect();
    rows(&mut page, "Machine and versions", &machine);
    let _infallible = write!(
        page,
        "<h2>Command</h2>\n<pre tabindex=\"0\" aria-label=\"The command of the run\"><code>{}</code></pre>\n",
        escaped(&document.command)
    );
    window_table(&mut page, &document.windows);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn list<'a>(page: &mut String, title: &str, items: impl Iterator<Item = &'a str>) {
    list_owned(page, title, items.map(str::to_owned));
}

fn list_owned(page: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.map(|item| format!("<li>{}</li>", escaped(&item))).collect();
    if !items.is_empty() {
        let _infallible = write!(page, "<h2>{}</h2>\n<ul>{}</ul>\n", escaped(title), items.concat());
    }
}

/// A table of names and values.
fn rows(page: &mut String, caption: &str, rows: &[(&str, &str)]) {
    if rows.is_empty() {
        return;
    }
    let _infallible = write!(page, "<table class=\"pairs\"><caption>{}</caption><tbody>", escaped(caption));
    for (name, value) in rows {
        let _infallible =
            write!(page, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escaped(name), escaped(value));
    }
    page.push_str("</tbody></table>\n");
}

fn findings_table(page: &mut String, document: &Document) {
    let Some(audit) = &document.audit else { return };
    let counts = [
        ("checked", audit.checked),
        ("lost", audit.lost),
        ("doubled", audit.doubled),
        ("out of order", audit.out_of_order),
        ("unexpected", audit.unexpected),
        ("still pending", audit.pending),
    ];
    let counts: Vec<(&str, String)> = counts.iter().map(|(name, count)| (*name, grouped(*count))).collect();
    let counts: Vec<(&str, &str)> = counts.iter().map(|(name, count)| (*name, count.as_str())).collect();
    rows(page, &format!("Audit of {}", audit.of), &counts);
}

/// A table that scrolls within itself where it is too wide.
fn wide_table(page: &mut String, caption: &str, header: &[String], body: &[Vec<String>]) {
    let caption = escaped(caption);
    let _infallible = write!(
        page,
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table><caption>{caption}</caption><thead><tr>"
    );
    for cell in header {
        let _infallible = write!(page, "<th scope=\"col\">{}</th>", escaped(cell));
    }
    page.push_str("</tr></thead><tbody>");
    for row in body {
        page.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let cell = escaped(cell);
            page.push_str(&if index == 0 {
                format!("<th scope=\"row\">{cell}</th>")
            } else {
                format!("<td>{cell}</td>")
            });
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>\n");
}

fn latency_table(page: &mut String, latencies: &[Latency]) {
    if latencies.is_empty() {
        return;
    }
    let names = PERCENTILES.iter().map(|(_, name)| (*name).to_owned());
    let header: Vec<String> = ["operation".to_owned(), "count".to_owned()]
        .into_iter()
        .chain(names)
        .chain(["max".to_owned()])
        .collect();
    let body: Vec<Vec<String>> = latencies
        .iter()
        .map(|latency| {
            let at = |name: &str| time(latency.percentiles_us.get(name).copied().unwrap_or(0));
            let percentiles = PERCENTILES.iter().map(|(_, name)| at(name));
            [latency.name.clone(), grouped(latency.count)]
                .into_iter()
                .chain(percentiles)
                .chain([time(latency.max_us)])
                .collect()
        })
        .collect();
    wide_table(page, "Latency", &header, &body);
}

fn window_table(page: &mut String, windows: &[Window]) {
    if windows.is_empty() {
        return;
    }
    let header =
        ["from", "length", "asked/s", "reached/s", "p50", "p99", "errors", "queue", "pending", "memory"];
    let number = |number: Option<u64>| number.map_or("–".to_owned(), grouped);
    let body: Vec<Vec<String>> = windows
        .iter()
        .map(|window| {
            let times = window.times();
            let at = |percentile| match times.len() {
                0 => "–".to_owned(),
                _ => time(times.at(percentile).as_micros() as u64),
            };
            vec![
                format!("{:.1} s", window.at_s),
                format!("{:.1} s", window.seconds),
                window.asked.map_or("–".to_owned(), |asked| grouped(asked as u64)),
                if window.loaded { grouped(window.rate() as u64) } else { "settling".to_owned() },
                at(50.0),
                at(99.0),
                grouped(window.errors),
                number(window.queue),
                number(window.pending),
                window.resident_bytes.map_or("–".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
            ]
        })
        .collect();
    page.push_str("<details><summary>The course of the run as a table</summary>\n");
    wide_table(page, "Course of the run", &header.map(str::to_owned), &body);
    page.push_str("</details>\n");
}

/// The charts for which there is something to draw.
fn charts(document: &Document) -> Vec<Chart> {
    let windows = &document.windows;
    let marks: Vec<f64> = document.notes.iter().map(|note| note.at_s).collect();
    let middle = |window: &Window| window.at_s + window.seconds / 2.0;
    let seconds =
        || Axis { name: "seconds".to_owned(), scale: Scale::Linear, text: plain, ticks: Vec::new() };
    let loaded = || windows.iter().filter(|window| window.loaded);
    let mut charts = Vec::new();
    if document.latencies.iter().any(|latency| latency.count > 0) {
        charts.push(percentile_chart(&document.latencies));
    }
    if loaded().count() > 0 {
        let reached = loaded().map(|window| (middle(window), window.rate())).collect();
        let asked: Vec<(f64, f64)> =
            loaded().filter_map(|window| Some((middle(window), window.asked?))).collect();
        let mut lines = vec![Line { name: "reached".to_owned(), points: reached }];
        if !asked.is_empty() {
            lines.push(Line { name: "asked for".to_owned(), points: asked });
        }
        let rates: Vec<f64> = loaded().map(Window::rate).collect();
        charts.push(Chart {
            id: "throughput",
            title: "Throughput over time".to_owned(),
            description: format!("Operations done a second: {}.", span(&rates, |rate| grouped(rate as u64))),
            x: seconds(),
            y: Axis { name: "operations/s".to_owned(), scale: Scale::Linear, text: short, ticks: Vec::new() },
            lines,
            marks: marks.clone(),
        });
        let at = |percentile: f64| -> Vec<(f64, f64)> {
            let measured = loaded().filter(|window| window.done > 0);
            measured
                .map(|window| (middle(window), window.times().at(percentile).as_micros() as f64))
                .collect()
        };
        let p99: Vec<f64> = at(99.0).iter().map(|point| point.1).collect();
        charts.push(Chart {
            id: "p99",
            title: "Latency over time".to_owned(),
            description: format!("p99 of each window: {}.", span(&p99, |us| time(us as u64))),
            x: seconds(),
            y: Axis { name: "latency".to_owned(), scale: Scale::Logarithmic, text: tick, ticks: Vec::new() },
            lines: vec![
                Line { name: "p99".to_owned(), points: at(99.0) },
                Line { name: "p50".to_owned(), points: at(50.0) },
            ],
            marks: marks.clone(),
        });
    }
    let of = |value: fn(&Window) -> Option<u64>| -> Vec<(f64, f64)> {
        windows
            .iter()
            .filter_map(|window| Some((window.at_s + window.seconds, value(window)? as f64)))
            .collect()
    };
    let pending = of(|window| window.pending);
    if !pending.is_empty() {
        let values: Vec<f64> = pending.iter().map(|point| point.1).collect();
        charts.push(Chart {
            id: "queue",
            title: "The service's queue over time".to_owned(),
            description: format!(
                "Accepted events that are not committed: {}.",
                span(&values, |events| grouped(events as u64))
            ),
            x: seconds(),
            y: Axis { name: "events".to_owned(), scale: Scale::Linear, text: short, ticks: Vec::new() },
            lines: vec![
                Line { name: "pending".to_owned(), points: pending },
                Line { name: "in the queue".to_owned(), points: of(|window| window.queue) },
            ],
            marks,
        });
    }
    charts
}

/// Latency by percentile: x is the number of nines.
fn percentile_chart(latencies: &[Latency]) -> Chart {
    let measured: Vec<&Latency> = latencies.iter().filter(|latency| latency.count > 0).collect();
    let most = measured.iter().map(|latency| latency.count).max().unwrap_or(1);
    let nines = (most as f64).log10();
    let lines = measured.iter().map(|latency| {
        let mut below = 0;
        let points = latency.histogram.counted().map(|(us, count)| {
            // Half of a value's operations are below it: so the longest is drawn too.
            let part = (below as f64 + count as f64 / 2.0) / latency.count as f64;
            below += count;
            (-(1.0 - part).max(f64::MIN_POSITIVE).log10(), us as f64)
        });
        Line { name: latency.name.clone(), points: points.collect() }
    });
    let words: Vec<String> = measured
        .iter()
        .map(|latency| {
            let at = |name: &str| time(latency.percentiles_us.get(name).copied().unwrap_or(0));
            format!("{}: p50 {}, p99 {}, p99.9 {}", latency.name, at("p50"), at("p99"), at("p99.9"))
        })
        .collect();
    Chart {
        id: "percentiles",
        title: "Latency by percentile".to_owned(),
        description: format!("{}.", words.join("; ")),
        x: Axis {
            name: "percentile".to_owned(),
            scale: Scale::Linear,
            text: percentile,
            ticks: (0..=(nines.floor() as i32).clamp(1, 6)).map(f64::from).collect(),
        },
        y: Axis { name: "latency".to_owned(), scale: Scale::Logarithmic, text: tick, ticks: Vec::new() },
        lines: lines.collect(),
        marks: Vec::new(),
    }
}

/// The percentile with this many nines.
fn percentile(nines: f64) -> String {
    match nines.round() as usize {
        0 => "0".to_owned(),
        1 => "90".to_owned(),
        2 => "99".to_owned(),
        nines => format!("99.{}", "9".repeat(nines - 2)),
    }
}

fn plain(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A latency for an axis, without needless digits.
fn tick(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", plain(us / 1e6)),
        us if us >= 1e3 => format!("{} ms", plain(us / 1e3)),
        us => format!("{} µs", plain(us)),
    }
}

/// A count with a unit, for an axis.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", plain(value / 1e6)),
        value if value >= 1e3 => format!("{}k", plain(value / 1e3)),
        value => plain(value),
    }
}

/// The least and the greatest value in words.
fn span(values: &[f64], text: impl Fn(f64) -> String) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if least > most { "none".to_owned() } else { format!("from {} to {}", text(least), text(most)) }
}

/// Date and time in UTC (Howard Hinnant's civil_from_days).
fn date(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (days, in_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", in_day / 3_600, in_day / 60 % 60, in_day % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Machine, Outcome};
    use super::*;
    use crate::findings::Findings;
    use crate::live::Note;
    use crate::tally::Times;

    fn document() -> Document {
        let mut times = Times::empty();
        (1..=1_000).for_each(|n| times.record(Duration::from_micros(n * n)));
        let mut outcome = Outcome {
            audit: Some(Findings { lost: 2, ..Findings::of("events", 1_000) }),
            ..Outcome::default()
        };
        outcome.latency("accepted", times);
        outcome.figure("memory", "5 MiB <at most>");
        let window = |at_s: f64| Window {
            at_s,
            seconds: 1.0,
            loaded: true,
            asked: Some(500.0),
            done: 499,
            latencies: vec![(900, 400), (7_000, 99)],
            queue: Some(3),
            pending: Some(40),
            ..Window::default()
        };
        let notes = vec![Note { at_s: 1.5, text: "Postgres crashes".to_owned() }];
        let windows = (0..10).map(|n| window(f64::from(n))).collect();
        Document::new(
            "chaos",
            Machine::here("http://h".to_owned()),
            1_764_526_800_000,
            outcome,
            (windows, notes),
        )
    }

    #[test]
    fn a_page_holds_its_charts_and_tables_and_needs_nothing_else() {
        let page = render(&document());
        for part in [
            "Latency by percentile",
            "Throughput over time",
            "Latency over time",
            "The service&#39;s queue over time",
            "prefers-color-scheme",
            "2 lost",
            "1.5 s: Postgres crashes",
            "5 MiB &lt;at most&gt;",
            "2025-11-30 18:20:00 UTC",
            "<span class=\"failed\">failed</span>",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        for foreign in ["<script", "http-equiv=\"refresh\"", "src=", "@import", "url(", "href="] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.len() < 100_000, "{}", page.len());
    }

    #[test]
    fn a_document_is_read_back_as_it_was_written() {
        let folder = std::env::temp_dir().join(format!("loadtest-report-{}", std::process::id()));
        let written = document();
        written.write(&folder).unwrap();
        let read = Document::read(&folder).unwrap();
        assert_eq!(
            (&read.windows, &read.notes, &read.audit),
            (&written.windows, &written.notes, &written.audit)
        );
        assert_eq!(read.latencies[0].histogram, written.latencies[0].histogram);
        assert!(Document::read(&folder.join("report.html")).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(Document::read(&folder).is_err());
    }

    #[test]
    fn ticks_are_short() {
        let ticks = [10.0, 200.0, 1_000.0, 50_000.0, 2_500_000.0].map(tick);
        assert_eq!(ticks, ["10 µs", "200 µs", "1 ms", "50 ms", "2.5 s"]);
        assert_eq!([0.0, 500.0, 20_000.0, 1_500_000.0].map(short), ["0", "500", "20k", "1.5M"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let dates = [0, 951_782_400_000, 1_709_251_199_000].map(date);
        assert_eq!(dates, ["1970-01-01 00:00:00 UTC", "2000-02-29 00:00:00 UTC", "2024-02-29 23:59:59 UTC"]);
    }
}
