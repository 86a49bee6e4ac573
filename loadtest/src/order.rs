//! The order of numbered messages: what is missing, what came again, and what came behind a later one.

use std::collections::BTreeSet;

use crate::findings::Findings;

/// Missing numbers that are remembered; further ones, if they come late, count as doubled.
const MAX_MISSING: usize = 100_000;

/// What a reader found of numbered messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// The number of the next message.
    pub(crate) next: u64,
    /// Messages that came again.
    pub(crate) doubled: u64,
    /// Messages that came behind a later one.
    pub(crate) out_of_order: u64,
    /// Numbers below `next` that did not come.
    missing: BTreeSet<u64>,
    /// Those that are not remembered.
    unremembered: u64,
}

impl Order {
    /// A message arrives.
    pub(crate) fn take(&mut self, number: u64) {
        if number < self.next {
            match self.missing.remove(&number) {
                true => self.out_of_order += 1,
                false => self.doubled += 1,
            }
            return;
        }
        let room = (MAX_MISSING.saturating_sub(self.missing.len())) as u64;
        let kept = (number - self.next).min(room);
        self.missing.extend(self.next..self.next + kept);
        self.unremembered += number - self.next - kept;
        self.next = number + 1;
    }

    /// Messages below `next` that did not come.
    pub(crate) fn missed(&self) -> u64 {
        self.missing.len() as u64 + self.unremembered
    }

    /// Adds what is wrong with the messages so far to findings.
    pub(crate) fn add_to(&self, findings: &mut Findings) {
        findings.lost += self.missed();
        findings.doubled += self.doubled;
        findings.out_of_order += self.out_of_order;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_repetitions_and_swaps_are_told_apart() {
        let mut order = Order::default();
        for number in [0, 1, 1, 4, 3, 3, 5] {
            order.take(number);
        }
        assert_eq!((order.next, order.missed(), order.doubled, order.out_of_order), (6, 1, 2, 1));
        let mut findings = Findings::default();
        order.add_to(&mut findings);
        assert_eq!((findings.lost, findings.doubled, findings.out_of_order), (1, 2, 1));
    }

    #[test]
    fn a_huge_gap_takes_little_memory() {
        let mut order = Order::default();
        order.take(u64::MAX / 2);
        assert_eq!(order.missed(), u64::MAX / 2);
        assert_eq!(order.missing.len(), MAX_MISSING);
    }
}
