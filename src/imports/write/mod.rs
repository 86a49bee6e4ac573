//! The write path of a part: one transaction into the tables of events, conversations and messages.

mod store;

use std::ops::Range;

/// The outcome of a part's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartOutcome {
    /// The part is stored.
    Stored {
        /// Lines stored.
        stored: u64,
        /// Lines rejected.
        rejected: u64,
    },
    /// The part was stored before.
    AlreadyStored,
    /// It names missing conversations, which an earlier part may still create.
    Early,
    /// The import's row is gone: its file is deleted.
    Gone,
}

/// The first `count` tuples of the runs, and the rest.
fn halves(runs: Vec<Range<usize>>, count: usize) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
    let (mut first, mut second, mut left) = (Vec::new(), Vec::new(), count);
    for run in runs {
        let middle = run.start + left.min(run.len());
        left -= middle - run.start;
        if middle > run.start {
            first.push(run.start..middle);
        }
        if middle < run.end {
            second.push(middle..run.end);
        }
    }
    (first, second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn halves_are_all_that_was_there_in_order(lengths in prop::collection::vec((0_usize..3, 1_usize..5), 1..6), at in 0_usize..30) {
            let mut next = 0;
            let runs: Vec<Range<usize>> = lengths.iter().map(|(gap, length)| {
                let run = next + gap..next + gap + length;
                next = run.end;
                run
            }).collect();
            let all: Vec<usize> = runs.iter().cloned().flatten().collect();
            let (first, second) = halves(runs, at);
            let first: Vec<usize> = first.into_iter().flatten().collect();
            prop_assert_eq!(first.len(), at.min(all.len()));
            prop_assert_eq!([first, second.into_iter().flatten().collect()].concat(), all);
        }
    }
}
