//! The search for the highest rate that holds: doubled until one does not, then bisected.

/// The state of a search.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Search {
    /// The highest rate that held.
    low: Option<f64>,
    /// The lowest rate that did not hold.
    high: Option<f64>,
    from: f64,
    to: f64,
    /// The search ends when `high` is at most this many times `low`.
    precision: f64,
    /// Failures of the rate under test.
    failed: u32,
    /// Failures after which a rate does not hold.
    tries: u32,
}

impl Search {
    /// A search between two rates, to a precision in per cent. A rate does not hold if it failed `tries` times in a row.
    pub(crate) fn new(from: f64, to: f64, precision_percent: f64, tries: u32) -> Self {
        let precision = 1.0 + precision_percent / 100.0;
        Self { low: None, high: None, from, to: to.max(from), precision, failed: 0, tries: tries.max(1) }
    }

    /// The rate to test; `None`: the search is over.
    pub(crate) fn next(&self) -> Option<f64> {
        match (self.low, self.high) {
            (None, None) => Some(self.from),
            (Some(low), None) if low < self.to => Some((low * 2.0).min(self.to)),
            (Some(_), None) => None,
            // Not even the first rate held.
            (None, Some(_)) => None,
            (Some(low), Some(high)) if high / low > self.precision => Some((low + high) / 2.0),
            (Some(_), Some(_)) => None,
        }
    }

    /// Takes in whether the rate of [`Self::next`] held.
    pub(crate) fn tested(&mut self, held: bool) {
        let Some(rate) = self.next() else { return };
        if held {
            self.low = Some(rate);
            self.failed = 0;
            return;
        }
        self.failed += 1;
        if self.failed >= self.tries {
            self.high = Some(rate);
            self.failed = 0;
        }
    }

    /// The highest rate that held; `None`: none did.
    pub(crate) fn found(&self) -> Option<f64> {
        self.low
    }

    /// Whether even the highest rate of the search held.
    pub(crate) fn is_open(&self) -> bool {
        self.high.is_none() && self.low.is_some_and(|low| low >= self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(limit: f64, from: f64, to: f64) -> (Search, Vec<f64>) {
        let mut search = Search::new(from, to, 5.0, 1);
        let mut rates = Vec::new();
        while let Some(rate) = search.next() {
            rates.push(rate);
            search.tested(rate <= limit);
            assert!(rates.len() < 50, "{rates:?}");
        }
        (search, rates)
    }

    #[test]
    fn the_highest_rate_is_found_to_the_precision_in_few_steps() {
        for limit in [1_000.0, 1_001.0, 3_333.0, 17_500.0, 99_999.0] {
            let (search, rates) = search(limit, 1_000.0, 1_000_000.0);
            let found = search.found().unwrap();
            assert!(found <= limit && limit / found <= 1.05, "{limit}: {found}");
            assert!(rates.len() <= 14 && !search.is_open(), "{limit}: {rates:?}");
        }
    }

    #[test]
    fn a_search_ends_at_its_bounds() {
        let (open, rates) = search(1e9, 1_000.0, 6_000.0);
        assert_eq!(
            (open.found(), open.is_open(), rates),
            (Some(6_000.0), true, vec![1_000.0, 2_000.0, 4_000.0, 6_000.0])
        );
        let (none, rates) = search(1.0, 1_000.0, 6_000.0);
        assert_eq!((none.found(), none.is_open(), rates), (None, false, vec![1_000.0]));
    }

    #[test]
    fn a_rate_that_fails_once_is_tried_again() {
        let mut search = Search::new(100.0, 1_000.0, 5.0, 2);
        search.tested(true);
        assert_eq!(search.next(), Some(200.0));
        search.tested(false);
        assert_eq!(search.next(), Some(200.0));
        search.tested(true);
        assert_eq!(search.next(), Some(400.0));
        search.tested(false);
        search.tested(false);
        assert_eq!(search.next(), Some(300.0));
    }
}
