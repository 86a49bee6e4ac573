//! Two runs side by side: figures with their intervals, the ratio with its own, and what else differs.

use std::path::Path;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};

use super::Document;
use crate::findings::{FAILED, Findings};
use crate::report::{grouped, print, time};
use crate::statistics::{Estimate, FEWEST_WINDOWS, Figure, Sample};

/// The verdict on a figure whose interval excludes that there is no difference.
const DIFFERS: &str = "differs";
/// The figures that are compared.
const FIGURES: [(&str, Figure); 6] = [
    ("operations/s", Figure::Rate),
    ("p50", Figure::Latency(50.0)),
    ("p90", Figure::Latency(90.0)),
    ("p99", Figure::Latency(99.0)),
    ("p99.9", Figure::Latency(99.9)),
    ("errors, %", Figure::Errors),
];

/// Prints the comparison of two reports.
pub(crate) fn run(one: &Path, other: &Path) -> ExitCode {
    match (Document::read(one), Document::read(other)) {
        (Ok(one), Ok(other)) => {
            print(&render(&one, &other));
            ExitCode::SUCCESS
        }
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn render(a: &Document, b: &Document) -> String {
    let (one, other) = (Sample::new(&a.windows), Sample::new(&b.windows));
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(["95 % intervals", "A", "B", "B to A", ""]);
    let mut sentences = Vec::new();
    for (name, figure) in FIGURES {
        let (first, second) = (one.estimate(figure), other.estimate(figure));
        let ratio = one.ratio(&other, figure);
        let verdict = ratio.map_or_else(|| appears(second), verdict);
        table.add_row([
            name.to_owned(),
            shown(first, figure),
            shown(second, figure),
            ratio.map_or("–".to_owned(), ratio_text),
            verdict.to_owned(),
        ]);
        match ratio {
            Some(ratio) if verdict == DIFFERS => {
                let word = if ratio.value > 1.0 { "higher" } else { "lower" };
                sentences.push(format!("B's {name} is {word}: {} of A's", ratio_text(ratio)));
            }
            None if verdict == DIFFERS => {
                sentences.push(format!("B's {name} is {}, and A's is 0", shown(second, figure)));
            }
            _ => {}
        }
    }
    for column in table.column_iter_mut().skip(1).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("A  {}\nB  {}\n{table}\n", a.command, b.command);
    for (name, document) in [("A", a), ("B", b)] {
        let audit = document.audit.as_ref().map_or_else(|| "audit: not done".to_owned(), Findings::verdict);
        text.push_str(&format!("{name}  {audit}\n"));
    }
    for difference in settings(a, b) {
        text.push_str(&format!("differs: {difference}\n"));
    }
    if sentences.is_empty() {
        let loaded = |document: &Document| document.windows.iter().filter(|window| window.loaded).count();
        let few = loaded(a).min(loaded(b)) < FEWEST_WINDOWS;
        let why = if few {
            format!("a run has less than {FEWEST_WINDOWS} windows, too few for an interval")
        } else {
            "every interval of a ratio holds 1".to_owned()
        };
        text.push_str(&format!("no difference is shown: {why}"));
    } else {
        text.push_str(&sentences.join("\n"));
    }
    text
}

/// Whether a figure that is 0 in the other run is there for certain.
fn appears(estimate: Estimate) -> &'static str {
    match estimate.interval {
        Some((low, _)) if low > 0.0 => DIFFERS,
        _ => "",
    }
}

/// Whether the interval of a ratio excludes 1.
fn verdict(ratio: Estimate) -> &'static str {
    match ratio.interval {
        Some((low, high)) if low > 1.0 || high < 1.0 => DIFFERS,
        Some(_) => "no difference shown",
        None => "",
    }
}

fn ratio_text(ratio: Estimate) -> String {
    match ratio.interval {
        Some((low, high)) => format!("{:.2} ({low:.2} to {high:.2})", ratio.value),
        None => format!("{:.2}", ratio.value),
    }
}

fn shown(estimate: Estimate, figure: Figure) -> String {
    let text = |value: f64| match figure {
        Figure::Rate => grouped(value.round() as u64),
        Figure::Latency(_) => time(value as u64),
        Figure::Errors => format!("{value:.2}"),
    };
    match estimate.interval {
        Some((low, high)) => format!("{} ({} to {})", text(estimate.value), text(low), text(high)),
        None => text(estimate.value),
    }
}

/// What differs between the runs beside their figures.
fn settings(a: &Document, b: &Document) -> Vec<String> {
    let mut differences = Vec::new();
    if a.scenario != b.scenario {
        differences.push(format!("the scenario: {} and {}", a.scenario, b.scenario));
    }
    let (one, other) = (options(&a.command), options(&b.command));
    let only = |from: &[String], not: &[String]| {
        from.iter().filter(|word| !not.contains(word)).cloned().collect::<Vec<_>>().join(" ")
    };
    let (first, second) = (only(&one, &other), only(&other, &one));
    if !first.is_empty() || !second.is_empty() {
        let shown = |text: String| if text.is_empty() { "nothing".to_owned() } else { text };
        differences.push(format!("the command: A has {}, B has {}", shown(first), shown(second)));
    }
    for ((name, one), (_, other)) in a.machine.rows().into_iter().zip(b.machine.rows()) {
        if one != other && name != "load before" {
            differences.push(format!("{name}: {one} and {other}"));
        }
    }
    differences
}

/// The options of a command, each with its value; without those that say where results go.
fn options(command: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for word in command.split(' ').skip(2) {
        match options.last_mut() {
            Some(last) if !word.starts_with("--") && !last.contains('=') => {
                last.push_str(&format!("={word}"));
            }
            _ => options.push(word.to_owned()),
        }
    }
    options.retain(|option| !option.starts_with("--report"));
    options
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, Outcome};
    use super::*;
    use crate::live::Window;

    fn document(command: &str, us: u64) -> Document {
        let window = |n: u64| Window {
            at_s: n as f64,
            seconds: 1.0,
            loaded: true,
            done: 1_000 + n % 7,
            latencies: (0..20).map(|step| (us + step * 10 + n % 5, 50)).collect(),
            ..Window::default()
        };
        let windows = (0..20).map(window).collect();
        let outcome = Outcome { audit: Some(Findings::of("events", 20_000)), ..Outcome::default() };
        let mut document = Document::new("events", Machine::default(), 0, outcome, (windows, Vec::new()));
        command.clone_into(&mut document.command);
        document
    }

    #[test]
    fn what_differs_is_said_and_what_does_not_is_not() {
        let a = document("loadtest events --rate 1000 --connections 8 --report /tmp/a", 1_000);
        let b = document("loadtest events --rate 1000 --connections 32 --report /tmp/b", 2_000);
        let text = render(&a, &b);
        assert!(text.contains("the command: A has --connections=8, B has --connections=32"), "{text}");
        assert!(text.contains("B's p99 is higher: 1.8"), "{text}");
        assert!(!text.contains("operations/s is"), "{text}");
        let mut refused = document("loadtest events --rate 1000 --connections 8", 1_000);
        refused.windows.iter_mut().for_each(|window| window.errors = 10);
        let text = render(&a, &refused);
        assert!(text.contains("B's errors, % is 0.99 (0.99 to 0.99), and A's is 0"), "{text}");
        let same = render(&a, &a);
        assert!(same.contains("no difference is shown: every interval"), "{same}");
        assert!(!same.contains("differs"), "{same}");
    }

    #[test]
    fn short_runs_show_no_difference() {
        let (a, mut b) = (document("loadtest events", 1_000), document("loadtest events", 9_000));
        b.windows.truncate(2);
        let text = render(&a, &b);
        assert!(
            text.contains("too few for an interval") && text.contains("audit: all 20,000 events"),
            "{text}"
        );
    }
}
