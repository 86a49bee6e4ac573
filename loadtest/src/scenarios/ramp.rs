//! `ramp`: the highest rate that keeps p99 under a bound, by bisection.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::load::{self, Load, LoadArgs, Mode, steady};
use super::{Context, Error};
use crate::bisect::Search;
use crate::cli::positive;
use crate::collect::Collected;
use crate::document::Outcome;
use crate::report::{grouped, per_second};

/// Each step, unless `--duration` is given.
const STEP_S: f64 = 5.0;
/// The part of the rate asked for that has to be reached.
const REACHED: f64 = 0.98;

/// The arguments of `ramp`. `--duration` is that of each step.
#[derive(Debug, Clone, Args)]
pub(crate) struct RampArgs {
    /// The bound of p99, in milliseconds, from the time at which a request is due
    #[arg(long, default_value = "50", value_parser = positive)]
    pub(crate) p99_ms: f64,
    /// The first rate, in events per second
    #[arg(long, default_value = "1000", value_parser = positive)]
    pub(crate) from: f64,
    /// The highest rate
    #[arg(long, default_value = "1000000", value_parser = positive)]
    pub(crate) to: f64,
    /// The precision of the result, in per cent
    #[arg(long, default_value = "5", value_parser = positive)]
    pub(crate) precision: f64,
    /// A rate does not hold if it fails this many times in a row
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) tries: u32,
    /// Form of the requests
    #[arg(long, value_enum, default_value = "single")]
    pub(crate) mode: Mode,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// A tested rate.
struct Step {
    rate: f64,
    reached: f64,
    p99_ms: f64,
    errors: u64,
    holds: bool,
}

/// Searches the rate.
pub(crate) async fn measure(context: &Context, args: &RampArgs) -> Result<Outcome, Error> {
    let mut search = Search::new(args.from, args.to, args.precision, args.tries);
    let done = load::conduct(context, &args.load, args.mode, async |load| {
        let mut steps = Vec::new();
        while let Some(rate) = search.next() {
            let step = test(context, load, args, rate).await?;
            search.tested(step.holds);
            steps.push(step);
            if context.live.is_stopped() {
                break;
            }
        }
        Ok(steps)
    });
    let (mut outcome, steps) = done.await?;
    for step in &steps {
        outcome.figure(&format!("{}/s", grouped(step.rate as u64)), step.text(args));
    }
    let bound = format!("p99 of at most {} ms", args.p99_ms);
    outcome.figure(
        "highest rate",
        match search.found() {
            Some(rate) if search.is_open() => {
                format!("{}/s, the highest of this search, keeps a {bound}", grouped(rate as u64))
            }
            Some(rate) => format!("{}/s keeps a {bound}", grouped(rate as u64)),
            None => format!("none: not even {}/s keeps a {bound}", grouped(args.from as u64)),
        },
    );
    outcome.details = json!({
        "highest_rate": search.found(),
        "bound_p99_ms": args.p99_ms,
        "steps": steps.iter().map(Step::json).collect::<Vec<_>>(),
    });
    Ok(outcome)
}

async fn test(context: &Context, load: &mut Load<'_>, args: &RampArgs, rate: f64) -> Result<Step, Error> {
    let duration = context.duration(STEP_S);
    let collected = load.send(&steady(rate, duration), duration).await?;
    let step = judge(rate, duration, &collected, args.p99_ms);
    context.live.note(&format!("{}/s: {}", grouped(rate as u64), step.text(args)));
    // What one rate leaves behind is not the next one's.
    if !load.settle(Duration::from_secs_f64(args.load.database.settle_timeout)).await
        && !context.live.is_stopped()
    {
        context.live.note("events of this rate are still pending");
    }
    Ok(step)
}

fn judge(rate: f64, duration: Duration, collected: &Collected, bound_ms: f64) -> Step {
    let tally = &collected.tally;
    let errors = tally.counts.errors();
    let reached = per_second(tally.counts.accepted, duration.as_secs_f64());
    let p99_ms = tally.accepted.at(99.0).as_secs_f64() * 1e3;
    // A schedule of few requests is not a whole number of them.
    let lacking = rate * duration.as_secs_f64() - tally.counts.accepted as f64;
    let reaches = reached >= rate * REACHED || lacking <= 1.0;
    let holds = errors == 0 && reaches && p99_ms <= bound_ms && collected.failures.is_empty();
    Step { rate, reached, p99_ms, errors, holds }
}

impl Step {
    fn text(&self, args: &RampArgs) -> String {
        let Self { reached, p99_ms, errors, holds, .. } = self;
        let verdict = match holds {
            true => "holds",
            false if *errors > 0 => "does not hold: errors",
            false if *p99_ms > args.p99_ms => "does not hold: p99",
            false => "does not hold: not reached",
        };
        format!(
            "reached {}/s, p99 {p99_ms:.2} ms, {} errors; {verdict}",
            grouped(*reached as u64),
            grouped(*errors)
        )
    }

    fn json(&self) -> serde_json::Value {
        let Self { rate, reached, p99_ms, errors, holds } = self;
        json!({ "rate": rate, "reached": reached, "p99_ms": p99_ms, "errors": errors, "holds": holds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tally;

    #[test]
    fn a_rate_holds_only_without_errors_in_time_and_reached() {
        let judged = |accepted: u64, refused: u64, ms: u64| {
            let mut tally = Tally::default();
            tally.counts.accepted = accepted;
            tally.counts.refused.insert(503, refused);
            (0..100).for_each(|_| tally.accepted.record(Duration::from_millis(ms)));
            let collected = Collected { tally, failures: Vec::new(), interrupted: false };
            judge(100.0, Duration::from_secs(10), &collected, 50.0).holds
        };
        assert!(judged(1_000, 0, 49));
        assert!(judged(985, 0, 10));
        assert!(!judged(970, 0, 10), "not reached");
        assert!(!judged(1_000, 1, 10), "refused");
        assert!(!judged(1_000, 0, 51), "late");
    }
}
