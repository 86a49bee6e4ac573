//! Bisection of a batch that failed as a whole: its halves are tried by themselves, down to the single items that fail.
//!
//! Pure functions over ranges of indices. What a try is, and what a failure means, is the caller's.

use std::ops::Range;

/// The halves of `range`, the first one first; `None` if it holds a single item or none.
pub fn halves(range: &Range<u64>) -> Option<[Range<u64>; 2]> {
    let length = range.end.saturating_sub(range.start);
    let middle = range.start + length / 2;
    (length > 1).then_some([range.start..middle, middle..range.end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_reaches_each_item_once_and_in_order() {
        for length in 0..100_u64 {
            let mut pending: Vec<Range<u64>> = std::iter::once(7..7 + length).collect();
            let mut single = Vec::new();
            while let Some(range) = pending.pop() {
                match halves(&range) {
                    Some([left, right]) => {
                        assert!(!left.is_empty() && left.end == right.start && !right.is_empty());
                        pending.extend([right, left]);
                    }
                    None => single.extend(range),
                }
            }
            assert_eq!(single, (7..7 + length).collect::<Vec<_>>());
        }
    }
}
