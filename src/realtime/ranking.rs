//! The ranking of subscribers by the memory that they hold for the longest, from which the heaviest are dropped where memory runs out.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::buffer::{Buffer, Dropped};
use crate::waking::WakeBatch;

/// How long a ranking is used.
const RANKING_AGE: Duration = Duration::from_millis(100);

/// The subscribers that hold most for the longest, as of a moment.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    made: Option<Instant>,
    /// The heaviest last, each with its weight; none below a quarter of the heaviest.
    heaviest: Vec<(u128, Weak<Buffer>)>,
    /// How often subscribers were ranked.
    #[cfg(test)]
    pub(super) count: usize,
}

/// A subscriber's weight, and its buffer. `None`: it holds nothing.
pub(super) fn weighed(buffer: &Arc<Buffer>) -> Option<(u128, Weak<Buffer>)> {
    Some((buffer.weight()?, Arc::downgrade(buffer)))
}

impl Ranking {
    /// Drops subscribers that held `excess` bytes together, the heaviest first, or all that hold any; returns how many. `all` weighs those there are.
    pub(super) fn drop_heaviest(
        &mut self,
        mut excess: usize,
        all: impl Fn() -> Vec<(u128, Weak<Buffer>)>,
    ) -> usize {
        let (mut dropped, mut is_fresh, mut wakes) = (0, false, WakeBatch::default());
        if excess > 0 && self.made.is_none_or(|made| made.elapsed() > RANKING_AGE) {
            self.renew(all());
            is_fresh = true;
        }
        while excess > 0 {
            let Some((weight, buffer)) = self.heaviest.pop() else {
                // Dropped subscribers have left the ranking, so a second one that is empty ends it.
                if is_fresh && !self.renew(all()) {
                    break;
                }
                is_fresh = true;
                continue;
            };
            // One that took a chunk since then has become lighter.
            let Some(buffer) = buffer.upgrade().filter(|buffer| buffer.weight() >= Some(weight)) else {
                continue;
            };
            let held = buffer.holds().map_or(0, |(held, _)| held);
            if buffer.drop_with(Dropped::Slow, &mut wakes) {
                dropped += 1;
                excess = excess.saturating_sub(held);
            }
        }
        dropped
    }

    /// Ranks the subscribers anew; false if none holds anything. Sorting at each publish would cost N² log N where memory stays full.
    fn renew(&mut self, mut all: Vec<(u128, Weak<Buffer>)>) -> bool {
        let least = all.iter().map(|(weight, _)| *weight).max().unwrap_or_default() / 4;
        all.retain(|(weight, _)| *weight >= least);
        all.sort_unstable_by_key(|(weight, _)| *weight);
        (self.made, self.heaviest) = (Some(Instant::now()), all);
        #[cfg(test)]
        {
            self.count += 1;
        }
        !self.heaviest.is_empty()
    }
}
