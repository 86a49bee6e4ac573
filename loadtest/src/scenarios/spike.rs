//! `spike`: a steady rate, a burst, and the steady rate again: latency before, within and after, and the time until it is as before.

use std::time::Duration;

use clap::Args;

use super::load::{self, LoadArgs, Mode};
use super::{Context, Error};
use crate::cli::positive;
use crate::document::{Outcome, on_one_line};
use crate::live::Window;
use crate::schedule::Phase;
use crate::tally::Times;

/// The whole run, unless `--duration` is given.
const DURATION_S: f64 = 30.0;
/// Windows in a row that have to be as before.
const CALM_WINDOWS: usize = 2;
/// How many times the latency before still counts as before.
const CALM_FACTOR: f64 = 2.0;
/// Latencies below are as before in any case: at that scale they scatter.
const CALM_US: f64 = 5_000.0;

/// The arguments of `spike`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SpikeArgs {
    /// Events per second before and after, on a fixed schedule
    #[arg(long, default_value = "1000", value_parser = positive)]
    pub(crate) rate: f64,
    /// Events per second of the burst
    #[arg(long, default_value = "10000", value_parser = positive)]
    pub(crate) burst: f64,
    /// Duration of the burst, in seconds [default: a fifth of the run]
    #[arg(long, value_parser = positive)]
    pub(crate) burst_duration: Option<f64>,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// Sends events with a burst in the middle.
pub(crate) async fn measure(context: &Context, args: &SpikeArgs) -> Result<Outcome, Error> {
    let duration = context.duration(DURATION_S);
    let all_s = duration.as_secs_f64();
    let burst_s = args.burst_duration.unwrap_or(all_s / 5.0);
    if burst_s >= all_s * 0.8 {
        return Err(Error::Usage(
            "--burst-duration leaves no time before and after: at most 0.8 of --duration".to_owned(),
        ));
    }
    // A third of the rest before, as recovery takes longer.
    let before_s = (all_s - burst_s) / 3.0;
    let phases = [
        Phase { per_second: args.rate, seconds: before_s },
        Phase { per_second: args.burst, seconds: burst_s },
        Phase { per_second: args.rate, seconds: all_s - burst_s - before_s },
    ];
    let sent = load::conduct(context, &args.load, Mode::Single, async |load| {
        let live = std::sync::Arc::clone(&context.live);
        let notes = tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_secs_f64(before_s)).await;
            live.note("the burst begins");
            tokio::time::sleep(Duration::from_secs_f64(burst_s)).await;
            live.note("the burst is over");
        });
        let sent = load.send(&phases, duration).await;
        notes.abort();
        sent
    });
    let (mut outcome, _) = sent.await?;
    let windows = context.live.windows();
    let (begin, end) = (before_s, before_s + burst_s);
    let within = |from: f64, to: f64| {
        let mut times = Times::empty();
        let inside = |window: &&Window| {
            window.loaded
                && window.at_s + window.seconds / 2.0 >= from
                && window.at_s + window.seconds / 2.0 < to
        };
        windows.iter().filter(inside).for_each(|window| times.add(&window.times()));
        times
    };
    let before = within(0.0, begin);
    outcome.figure("before", on_one_line(&before));
    outcome.figure("burst", on_one_line(&within(begin, end)));
    outcome.figure("after", on_one_line(&within(end, f64::INFINITY)));
    let calm_us = (before.at(99.0).as_micros() as f64 * CALM_FACTOR).max(CALM_US);
    outcome.figure(
        "recovered",
        match recovery(&windows, end, calm_us) {
            Some(seconds) => {
                format!("{seconds:.1} s after the burst: p99 is at most {:.1} ms", calm_us / 1e3)
            }
            None => format!("not within the run: p99 stays above {:.1} ms", calm_us / 1e3),
        },
    );
    Ok(outcome)
}

/// Seconds from the end of the burst to the first of some calm windows in a row.
fn recovery(windows: &[Window], end_s: f64, calm_us: f64) -> Option<f64> {
    let after: Vec<&Window> = windows
        .iter()
        .filter(|window| window.loaded && window.at_s + window.seconds > end_s && window.done > 0)
        .collect();
    let is_calm =
        |window: &&Window| window.errors == 0 && window.times().at(99.0).as_micros() as f64 <= calm_us;
    let wanted = CALM_WINDOWS.min(after.len().max(1));
    let calm = after.windows(wanted).find(|windows| windows.iter().all(is_calm))?;
    Some((calm.first()?.at_s - end_s).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_recovered_when_windows_in_a_row_are_calm() {
        let window = |at: u32, us: u64| Window {
            at_s: f64::from(at),
            seconds: 1.0,
            loaded: true,
            done: 10,
            latencies: vec![(us, 10)],
            ..Window::default()
        };
        let run: Vec<Window> = [1, 1, 90, 90, 80, 1, 70, 2, 1, 1]
            .iter()
            .zip(0..)
            .map(|(ms, at)| window(at, ms * 1_000))
            .collect();
        assert_eq!(recovery(&run, 4.0, 5_000.0), Some(3.0));
        assert_eq!(recovery(&run, 4.0, 100_000.0), Some(0.0));
        assert_eq!(recovery(&run[..7], 4.0, 5_000.0), None);
        assert_eq!(recovery(&[], 4.0, 5_000.0), None);
    }
}
