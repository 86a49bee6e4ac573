//! `soak`: a moderate rate for a long time. Latency and memory of the quarters are compared, so that what grows is seen.

use clap::Args;

use super::load::{self, LoadArgs, Mode, steady};
use super::{Context, Error};
use crate::cli::positive;
use crate::document::{Outcome, on_one_line};
use crate::live::Window;
use crate::tally::Times;

/// Unless `--duration` is given: an hour.
const DURATION_S: f64 = 3_600.0;
/// The parts of the run that are compared.
const PARTS: usize = 4;
/// The first part in which memory counts: before, caches and pools fill.
const WARM: usize = 1;

/// The arguments of `soak`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SoakArgs {
    /// Events per second over all workers, on a fixed schedule
    #[arg(long, default_value = "1000", value_parser = positive)]
    pub(crate) rate: f64,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// Sends events for a long time.
pub(crate) async fn measure(context: &Context, args: &SoakArgs) -> Result<Outcome, Error> {
    let duration = context.duration(DURATION_S);
    let phases = steady(args.rate, duration);
    let sent =
        load::conduct(context, &args.load, Mode::Single, async |load| load.send(&phases, duration).await)
            .await;
    let (mut outcome, _) = sent?;
    let windows: Vec<Window> = context.live.windows().into_iter().filter(|window| window.loaded).collect();
    for (number, part) in windows.chunks(windows.len().div_ceil(PARTS).max(1)).enumerate() {
        let mut times = Times::empty();
        part.iter().for_each(|window| times.add(&window.times()));
        let memory = part.iter().rev().find_map(|window| window.resident_bytes);
        let memory =
            memory.map_or(String::new(), |bytes| format!("; memory at its end {:.1} MiB", mib(bytes as f64)));
        outcome.figure(&format!("quarter {}", number + 1), format!("{}{memory}", on_one_line(&times)));
    }
    if let Some(growth) = growth_per_hour(&windows) {
        outcome
            .figure("growth", format!("{:+.1} MiB of memory an hour, after the first quarter", mib(growth)));
    }
    Ok(outcome)
}

fn mib(bytes: f64) -> f64 {
    bytes / 1_048_576.0
}

/// The slope of memory by least squares, in bytes an hour, without the first quarter. `None`: memory is unknown.
fn growth_per_hour(windows: &[Window]) -> Option<f64> {
    let warm = windows.get(windows.len() * WARM / PARTS..)?;
    let points: Vec<(f64, f64)> =
        warm.iter().filter_map(|window| Some((window.at_s, window.resident_bytes? as f64))).collect();
    if points.len() < 2 {
        return None;
    }
    let count = points.len() as f64;
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    slope.is_finite().then_some(slope * 3_600.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_slope_after_the_first_quarter() {
        let window = |at: u32| {
            let bytes = if at < 25 { 1_000 * u64::from(at) } else { 100_000 + 10 * u64::from(at) };
            Window { at_s: f64::from(at), resident_bytes: Some(bytes), ..Window::default() }
        };
        let windows: Vec<Window> = (0..100).map(window).collect();
        assert!((growth_per_hour(&windows).unwrap() - 36_000.0).abs() < 1.0);
        assert_eq!(growth_per_hour(&windows[..1]), None);
        assert_eq!(growth_per_hour(&[]), None);
    }
}
