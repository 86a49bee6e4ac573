//! Who is next: some shards, served in concurrency.
//!
//! A shard has one lock at a time. So one whose table is locked holds one lock, and the others go round without it; and while
//! a group is under way, those that come for the same shard gather for its next one. Shards whose lock it
//! could be are served in the order in which they became so.

use std::collections::{HashMap, VecDeque};

/// The shards, and the concurrency that are left.
#[derive(Debug)]
pub(super) struct Shards<T> {
    shards: HashMap<i32, Shard<T>>,
    /// Shards in which somebody waits and that have no lock, first come first served.
    ready: VecDeque<i32>,
    concurrency: usize,
}

#[derive(Debug)]
struct Shard<T> {
    waiting: VecDeque<T>,
    is_running: bool,
}

impl<T> Shards<T> {
    pub(super) fn new(concurrency: usize) -> Self {
        Self { shards: HashMap::new(), ready: VecDeque::new(), concurrency }
    }

    /// Adds one to a shard; those at its head that have `gone` leave it first.
    pub(super) fn push(&mut self, number: i32, one: T, gone: impl Fn(&T) -> bool) {
        let shard = self.shards.entry(number).or_insert_with(|| {
            self.ready.push_back(number);
            Shard { waiting: VecDeque::new(), is_running: false }
        });
        while shard.waiting.pop_front_if(|first| gone(first)).is_some() {}
        shard.waiting.push_back(one);
    }

    /// Gives a lock to the shard that is next, if there are both; `take` takes its group out of it.
    pub(super) fn next<G>(&mut self, take: impl FnOnce(&mut VecDeque<T>) -> G) -> Option<(i32, G)> {
        if self.concurrency == 0 {
            return None;
        }
        let number = self.ready.pop_front()?;
        let shard = self.shards.get_mut(&number)?;
        self.concurrency -= 1;
        shard.is_running = true;
        Some((number, take(&mut shard.waiting)))
    }

    /// Takes a shard's lock back.
    pub(super) fn ended(&mut self, number: i32) {
        let Some(shard) = self.shards.get_mut(&number).filter(|shard| shard.is_running) else { return };
        self.concurrency += 1;
        shard.is_running = false;
        if shard.waiting.is_empty() {
            self.shards.remove(&number);
        } else {
            self.ready.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_two(shard: &mut VecDeque<u32>) -> Vec<u32> {
        shard.drain(..shard.len().min(2)).collect()
    }

    fn shards(concurrency: usize, waiting: &[(i32, u32)]) -> Shards<u32> {
        let mut shards = Shards::new(concurrency);
        for (shard, one) in waiting {
            shards.push(*shard, *one, |_| false);
        }
        shards
    }

    #[test]
    fn a_line_has_one_turn_at_a_time_and_leaves_the_others_theirs() {
        let mut shards = shards(3, &[(7, 1), (7, 2), (7, 3), (8, 4)]);
        assert_eq!(shards.next(take_two), Some((7, vec![1, 2])));
        assert_eq!(shards.next(take_two), Some((8, vec![4])));
        assert_eq!(shards.next(take_two), None, "there is a lock, but not for the same shard");
        shards.ended(7);
        assert_eq!(shards.next(take_two), Some((7, vec![3])));
    }

    #[test]
    fn who_became_ready_first_is_served_first() {
        let mut shards = shards(1, &[(7, 1), (7, 2), (7, 3), (8, 4), (9, 5)]);
        let mut served = Vec::new();
        while let Some((shard, group)) = shards.next(take_two) {
            served.push((shard, group));
            shards.ended(shard);
        }
        assert_eq!(served, [(7, vec![1, 2]), (8, vec![4]), (9, vec![5]), (7, vec![3])]);
        assert!(shards.shards.is_empty() && shards.ready.is_empty(), "nothing is kept of who was here");
    }

    #[test]
    fn an_end_without_a_turn_makes_none() {
        let mut shards = shards(1, &[(7, 1)]);
        shards.ended(7);
        shards.ended(8);
        assert!(shards.next(take_two).is_some());
        assert_eq!(shards.concurrency, 0);
    }

    #[test]
    fn who_has_gone_leaves_the_head_of_the_line() {
        let mut shards = shards(1, &[(7, 1), (7, 2), (7, 3)]);
        shards.push(7, 4, |one| *one < 3);
        assert_eq!(shards.next(take_two), Some((7, vec![3, 4])));
    }
}
