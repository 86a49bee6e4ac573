//! How the one pool is shared out, so that no use of it can starve another.
//!
//! What the event path needs is never part of this: its lanes, and [`WRITERS_COMPANY`] beside them, are kept.

/// Connections of the event path beside its lanes: the dead letters' writer, and one for the fence and the partitions,
/// which are short and wait for each other.
pub(super) const WRITERS_COMPANY: usize = 2;

/// One connection for each of the other uses.
pub(super) const LEAST_FOR_OTHERS: usize = 6;

/// The most connections that each use may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// What operators ask for: dead letters, reconcile.
    pub operations: usize,
    /// Commits of created records.
    pub record_commits: usize,
    /// All else that records need.
    pub records: usize,
    /// Large payloads.
    pub large: usize,
    /// Errors on demand, which hold theirs on purpose.
    pub errors: usize,
    /// Users, sessions and keys.
    pub auth: usize,
}

impl Shares {
    /// These shares in a room of `connections`: while they are too many, the largest gives one up. Each keeps one.
    pub(super) fn within(mut self, connections: usize) -> Self {
        loop {
            let mut all = [
                &mut self.records,
                &mut self.operations,
                &mut self.large,
                &mut self.errors,
                &mut self.record_commits,
                &mut self.auth,
            ];
            let sum: usize = all.iter().map(|share| **share).sum();
            match all.iter_mut().max_by_key(|share| ***share) {
                Some(largest) if sum > connections && **largest > 1 => **largest -= 1,
                _ => return self,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Shares =
        Shares { operations: 2, record_commits: 2, records: 6, large: 3, errors: 1, auth: 2 };

    #[test]
    fn shares_that_fit_are_left_alone() {
        assert_eq!(WANTED.within(18), WANTED);
        assert_eq!(WANTED.within(16), WANTED);
    }

    #[test]
    fn in_a_small_pool_the_largest_give_way_and_each_keeps_one() {
        for room in LEAST_FOR_OTHERS..16 {
            let shares = WANTED.within(room);
            let Shares { operations, record_commits, records, large, errors, auth } = shares;
            let all = [operations, record_commits, records, large, errors, auth];
            assert_eq!(all.iter().sum::<usize>(), room, "{shares:?}");
            assert!(all.iter().all(|share| *share >= 1), "{shares:?}");
        }
        let least = Shares { operations: 1, record_commits: 1, records: 1, large: 1, errors: 1, auth: 1 };
        assert_eq!(WANTED.within(6), least);
    }
}
