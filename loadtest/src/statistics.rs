//! Confidence intervals by the bootstrap over windows: windows of a run are drawn with replacement, and the figure is taken of all their operations
//! together. Operations of a second depend on each other, and seconds hardly; a formula for independent operations would report intervals that are
//! far too narrow.

use fastrand::Rng;

use crate::live::Window;

/// Draws of each bootstrap. Their 2.5th and 97.5th percentiles move by less than a tenth of the interval from seed to seed.
const DRAWS: usize = 1_000;
/// The same runs always give the same intervals.
const SEED: u64 = 7;
/// Windows below which no interval is reported.
pub(crate) const FEWEST_WINDOWS: usize = 5;

/// A figure with its interval at 95 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    /// The figure of the whole run.
    pub(crate) value: f64,
    /// The interval; `None`: too few windows.
    pub(crate) interval: Option<(f64, f64)>,
}

/// A figure of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Figure {
    /// Operations done a second.
    Rate,
    /// A percentile of latency, in microseconds.
    Latency(f64),
    /// Errors among all operations, in per cent.
    Errors,
}

/// The windows of a run, prepared for draws.
pub(crate) struct Sample {
    /// The distinct latencies, in order.
    values: Vec<u64>,
    windows: Vec<Prepared>,
}

struct Prepared {
    seconds: f64,
    done: u64,
    errors: u64,
    /// Indexes of `values`, each with its count.
    latencies: Vec<(usize, u64)>,
}

impl Sample {
    /// The loaded windows of a run.
    pub(crate) fn new(windows: &[Window]) -> Self {
        let loaded = || windows.iter().filter(|window| window.loaded);
        let mut values: Vec<u64> =
            loaded().flat_map(|window| window.latencies.iter().map(|(us, _)| *us)).collect();
        values.sort_unstable();
        values.dedup();
        let windows = loaded().map(|window| Prepared {
            seconds: window.seconds,
            done: window.done,
            errors: window.errors,
            latencies: window
                .latencies
                .iter()
                .filter_map(|(us, count)| Some((values.binary_search(us).ok()?, *count)))
                .collect(),
        });
        let windows = windows.collect();
        Self { values, windows }
    }

    /// A figure with its interval.
    pub(crate) fn estimate(&self, figure: Figure) -> Estimate {
        let mut rng = Rng::with_seed(SEED);
        let value = self.figure(figure, self.windows.iter());
        let interval = (self.windows.len() >= FEWEST_WINDOWS)
            .then(|| middle((0..DRAWS).map(|_| self.draw(figure, &mut rng)).collect()));
        Estimate { value, interval }
    }

    /// The ratio of another run's figure to this one's, with its interval; `None`: this one's is zero.
    pub(crate) fn ratio(&self, other: &Self, figure: Figure) -> Option<Estimate> {
        let ratio = |other: f64, own: f64| (own > 0.0).then(|| other / own);
        let value = ratio(other.estimate_value(figure), self.estimate_value(figure))?;
        let mut rng = Rng::with_seed(SEED);
        let is_enough = self.windows.len().min(other.windows.len()) >= FEWEST_WINDOWS;
        let interval = is_enough.then(|| {
            let drawn =
                (0..DRAWS).filter_map(|_| ratio(other.draw(figure, &mut rng), self.draw(figure, &mut rng)));
            middle(drawn.collect())
        });
        Some(Estimate { value, interval })
    }

    fn estimate_value(&self, figure: Figure) -> f64 {
        self.figure(figure, self.windows.iter())
    }

    fn draw(&self, figure: Figure, rng: &mut Rng) -> f64 {
        let drawn: Vec<&Prepared> = (0..self.windows.len())
            .filter_map(|_| self.windows.get(rng.usize(..self.windows.len())))
            .collect();
        self.figure(figure, drawn.into_iter())
    }

    fn figure<'a>(&self, figure: Figure, windows: impl Iterator<Item = &'a Prepared> + Clone) -> f64 {
        let done = || windows.clone().map(|window| window.done).sum::<u64>() as f64;
        match figure {
            Figure::Rate => {
                let seconds: f64 = windows.clone().map(|window| window.seconds).sum();
                if seconds > 0.0 { done() / seconds } else { 0.0 }
            }
            Figure::Errors => {
                let errors = windows.clone().map(|window| window.errors).sum::<u64>() as f64;
                if done() + errors > 0.0 { errors / (done() + errors) * 100.0 } else { 0.0 }
            }
            Figure::Latency(percentile) => {
                let mut counts = vec![0_u64; self.values.len()];
                for (index, count) in windows.flat_map(|window| &window.latencies) {
                    counts[*index] += count;
                }
                let all: u64 = counts.iter().sum();
                let wanted = (all as f64 * percentile / 100.0).ceil().max(1.0) as u64;
                let mut below = 0;
                let found = counts.iter().position(|count| {
                    below += count;
                    below >= wanted
                });
                found.and_then(|index| self.values.get(index)).map_or(0.0, |us| *us as f64)
            }
        }
    }
}

/// The 2.5th and the 97.5th percentile.
fn middle(mut drawn: Vec<f64>) -> (f64, f64) {
    drawn.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| {
        let index = (part * drawn.len().saturating_sub(1) as f64).round() as usize;
        drawn.get(index).copied().unwrap_or(f64::NAN)
    };
    (at(0.025), at(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rng: &mut Rng, windows: usize, rate: u64, us: u64) -> Vec<Window> {
        let window = |n: usize, rng: &mut Rng| {
            let done = rate + rng.u64(..rate / 10);
            let latencies =
                (0..50).map(|step| (us + step * us / 50 + rng.u64(..us / 5), done / 50)).collect();
            Window { at_s: n as f64, seconds: 1.0, loaded: true, done, latencies, ..Window::default() }
        };
        (0..windows).map(|n| window(n, rng)).collect()
    }

    #[test]
    fn an_interval_holds_its_figure_and_narrows_with_more_windows() {
        let mut rng = Rng::with_seed(1);
        let mut widths = Vec::new();
        for windows in [10, 200] {
            let sample = Sample::new(&run(&mut rng, windows, 1_000, 1_000));
            for figure in [Figure::Rate, Figure::Latency(50.0), Figure::Latency(99.0)] {
                let Estimate { value, interval } = sample.estimate(figure);
                let (low, high) = interval.unwrap();
                assert!(low <= value && value <= high && low > 0.0, "{figure:?}: {low} {value} {high}");
                if figure == Figure::Rate {
                    widths.push(high - low);
                }
            }
        }
        assert!(widths[0] > 2.0 * widths[1], "{widths:?}");
    }

    #[test]
    fn equal_runs_do_not_differ_and_others_do() {
        let mut rng = Rng::with_seed(2);
        let one = Sample::new(&run(&mut rng, 30, 1_000, 1_000));
        let same = Sample::new(&run(&mut rng, 30, 1_000, 1_000));
        let slower = Sample::new(&run(&mut rng, 30, 1_000, 1_300));
        for figure in [Figure::Rate, Figure::Latency(50.0)] {
            let (low, high) = one.ratio(&same, figure).unwrap().interval.unwrap();
            assert!(low < 1.0 && high > 1.0, "{figure:?}: {low} {high}");
        }
        let Estimate { value, interval } = one.ratio(&slower, Figure::Latency(50.0)).unwrap();
        let (low, high) = interval.unwrap();
        assert!(low > 1.2 && high < 1.4 && (low..=high).contains(&value), "{low} {value} {high}");
    }

    #[test]
    fn few_windows_have_a_figure_and_no_interval() {
        let sample = Sample::new(&run(&mut Rng::with_seed(3), FEWEST_WINDOWS - 1, 100, 100));
        let estimate = sample.estimate(Figure::Rate);
        assert!(estimate.value > 0.0 && estimate.interval.is_none());
        let none = Sample::new(&[]);
        assert_eq!(none.estimate(Figure::Latency(99.0)).value, 0.0);
        assert_eq!(none.ratio(&sample, Figure::Rate), None);
    }

    #[test]
    fn percentiles_are_those_of_all_operations_together() {
        let mut window = Window { seconds: 1.0, loaded: true, done: 100, ..Window::default() };
        window.latencies = (1..=100).map(|us| (us, 1)).collect();
        let settling = Window { loaded: false, done: 7, ..window.clone() };
        let sample = Sample::new(&[window, settling]);
        let figures =
            [(Figure::Latency(50.0), 50.0), (Figure::Latency(99.0), 99.0), (Figure::Latency(100.0), 100.0)];
        for (figure, expected) in figures {
            assert_eq!(sample.estimate(figure).value, expected);
        }
        assert_eq!(sample.estimate(Figure::Rate).value, 100.0);
    }
}
