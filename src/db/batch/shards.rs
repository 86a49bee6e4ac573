//! Shards and the slots for running batches.
//!
//! A shard has one slot, so that one with a locked table leaves the rest to the others; while its batch runs, new requests for it collect for
//! the next one. Ready shards are served in the order in which they became ready. Work that allows it has a second batch of a shard
//! once enough requests wait, if a slot is left for the others: one batch then waits for its commit while the other is executed.

use std::collections::{HashMap, VecDeque};

/// The shards, and the number of free slots.
#[derive(Debug)]
pub(super) struct Shards<T> {
    shards: HashMap<i32, Shard<T>>,
    /// Shards with waiting requests and no slot, in order of arrival.
    ready: VecDeque<i32>,
    free_slots: usize,
    /// The waiting requests that are worth a second batch. `None`: there is none.
    second_at: Option<usize>,
    /// A shard that may have these.
    crowded: Option<i32>,
}

#[derive(Debug)]
struct Shard<T> {
    waiting: VecDeque<T>,
    /// Its batches: at most two.
    running: usize,
}

impl<T> Shards<T> {
    pub(super) fn new(free_slots: usize, second_at: Option<usize>) -> Self {
        Self { shards: HashMap::new(), ready: VecDeque::new(), free_slots, second_at, crowded: None }
    }

    /// Adds a request to a shard, after removing those at its head that have `gone`.
    pub(super) fn push(&mut self, number: i32, one: T, gone: impl Fn(&T) -> bool) {
        let shard = self.shards.entry(number).or_insert_with(|| {
            self.ready.push_back(number);
            Shard { waiting: VecDeque::new(), running: 0 }
        });
        while shard.waiting.pop_front_if(|first| gone(first)).is_some() {}
        shard.waiting.push_back(one);
        if is_crowded(shard, self.second_at) {
            self.crowded = Some(number);
        }
    }

    /// Whether a further batch could begin.
    pub(super) fn has_free_slot(&self) -> bool {
        self.free_slots > 0
    }

    /// Gives a free slot to the next ready shard; `take` takes a batch out of it.
    pub(super) fn next<G>(&mut self, take: impl FnOnce(&mut VecDeque<T>) -> G) -> Option<(i32, G)> {
        if self.free_slots == 0 {
            return None;
        }
        let number = match self.ready.pop_front() {
            Some(number) => number,
            None if self.free_slots > 1 => self.crowded.take()?,
            None => return None,
        };
        let shard = self.shards.get_mut(&number)?;
        if shard.running > 0 && !is_crowded(shard, self.second_at) {
            return None;
        }
        self.free_slots -= 1;
        shard.running += 1;
        Some((number, take(&mut shard.waiting)))
    }

    /// Frees a shard's slot.
    pub(super) fn ended(&mut self, number: i32) {
        let Some(shard) = self.shards.get_mut(&number).filter(|shard| shard.running > 0) else { return };
        self.free_slots += 1;
        shard.running -= 1;
        match (shard.running, shard.waiting.is_empty()) {
            (0, true) => drop(self.shards.remove(&number)),
            (0, false) => self.ready.push_back(number),
            _ if is_crowded(shard, self.second_at) => self.crowded = Some(number),
            _ => {}
        }
    }
}

/// Whether a second batch of a shard is worth a slot.
fn is_crowded<T>(shard: &Shard<T>, second_at: Option<usize>) -> bool {
    shard.running == 1 && second_at.is_some_and(|least| shard.waiting.len() >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_two(shard: &mut VecDeque<u32>) -> Vec<u32> {
        shard.drain(..shard.len().min(2)).collect()
    }

    fn shards(free_slots: usize, waiting: &[(i32, u32)]) -> Shards<u32> {
        let mut shards = Shards::new(free_slots, None);
        for (shard, one) in waiting {
            shards.push(*shard, *one, |_| false);
        }
        shards
    }

    #[test]
    fn a_shard_has_one_slot_and_leaves_the_others_theirs() {
        let mut shards = shards(3, &[(7, 1), (7, 2), (7, 3), (8, 4)]);
        assert_eq!(shards.next(take_two), Some((7, vec![1, 2])));
        assert_eq!(shards.next(take_two), Some((8, vec![4])));
        assert_eq!(shards.next(take_two), None, "a slot is free, but not for the same shard");
        shards.ended(7);
        assert_eq!(shards.next(take_two), Some((7, vec![3])));
    }

    #[test]
    fn shards_are_served_in_the_order_in_which_they_became_ready() {
        let mut shards = shards(1, &[(7, 1), (7, 2), (7, 3), (8, 4), (9, 5)]);
        let mut served = Vec::new();
        while let Some((shard, group)) = shards.next(take_two) {
            served.push((shard, group));
            shards.ended(shard);
        }
        assert_eq!(served, [(7, vec![1, 2]), (8, vec![4]), (9, vec![5]), (7, vec![3])]);
        assert!(
            shards.shards.is_empty() && shards.ready.is_empty(),
            "nothing is kept of shards without requests"
        );
    }

    #[test]
    fn an_end_without_a_slot_frees_none() {
        let mut shards = shards(1, &[(7, 1)]);
        shards.ended(7);
        shards.ended(8);
        assert!(shards.next(take_two).is_some());
        assert_eq!(shards.free_slots, 0);
    }

    #[test]
    fn requests_whose_callers_left_leave_the_head_of_the_shard() {
        let mut shards = shards(1, &[(7, 1), (7, 2), (7, 3)]);
        shards.push(7, 4, |one| *one < 3);
        assert_eq!(shards.next(take_two), Some((7, vec![3, 4])));
    }

    #[test]
    fn a_crowded_shard_has_a_second_batch_if_a_slot_is_left_for_the_others() {
        let push_all = |shards: &mut Shards<u32>, number: i32, count: u32| {
            (0..count).for_each(|one| shards.push(number, one, |_| false));
        };
        let mut shards = Shards::new(3, Some(3));
        push_all(&mut shards, 7, 2);
        assert_eq!(shards.next(take_two), Some((7, vec![0, 1])));
        push_all(&mut shards, 7, 2);
        assert_eq!(shards.next(take_two), None, "they wait for the batch");
        push_all(&mut shards, 7, 4);
        assert_eq!(shards.next(take_two), Some((7, vec![0, 1])));
        assert_eq!(shards.next(take_two), None, "no third one");
        push_all(&mut shards, 8, 1);
        assert_eq!(shards.next(take_two), Some((8, vec![0])));
        shards.ended(8);
        shards.ended(7);
        assert_eq!(shards.next(take_two), Some((7, vec![0, 1])), "four wait");
        shards.ended(7);
        assert_eq!(shards.next(take_two), None, "two wait for the batch that runs");
        shards.ended(7);
        assert_eq!(shards.next(take_two), Some((7, vec![2, 3])));
        shards.ended(7);
        assert!(shards.shards.is_empty());

        let mut shards = Shards::new(2, Some(1));
        push_all(&mut shards, 7, 1);
        assert!(shards.next(take_two).is_some());
        push_all(&mut shards, 7, 9);
        assert_eq!(shards.next(take_two), None, "the last slot is for the others");
    }
}
