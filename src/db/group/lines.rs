//! Who is next: some lines, served in turns.
//!
//! A line has one turn at a time. So one whose table is locked holds one turn, and the others go round without it; and while
//! a group is under way, those that come for the same line gather for its next one. Lines whose turn it
//! could be are served in the order in which they became so.

use std::collections::{HashMap, VecDeque};

/// The lines, and the turns that are left.
#[derive(Debug)]
pub(super) struct Lines<T> {
    lines: HashMap<i32, Line<T>>,
    /// Lines in which somebody waits and that have no turn, first come first served.
    ready: VecDeque<i32>,
    turns: usize,
}

#[derive(Debug)]
struct Line<T> {
    waiting: VecDeque<T>,
    has_turn: bool,
}

impl<T> Lines<T> {
    pub(super) fn new(turns: usize) -> Self {
        Self { lines: HashMap::new(), ready: VecDeque::new(), turns }
    }

    /// Adds one to a line; those at its head that have `gone` leave it first.
    pub(super) fn push(&mut self, number: i32, one: T, gone: impl Fn(&T) -> bool) {
        let line = self.lines.entry(number).or_insert_with(|| {
            self.ready.push_back(number);
            Line { waiting: VecDeque::new(), has_turn: false }
        });
        while line.waiting.pop_front_if(|first| gone(first)).is_some() {}
        line.waiting.push_back(one);
    }

    /// Gives a turn to the line that is next, if there are both; `take` takes its group out of it.
    pub(super) fn next<G>(&mut self, take: impl FnOnce(&mut VecDeque<T>) -> G) -> Option<(i32, G)> {
        if self.turns == 0 {
            return None;
        }
        let number = self.ready.pop_front()?;
        let line = self.lines.get_mut(&number)?;
        self.turns -= 1;
        line.has_turn = true;
        Some((number, take(&mut line.waiting)))
    }

    /// Takes a line's turn back.
    pub(super) fn ended(&mut self, number: i32) {
        let Some(line) = self.lines.get_mut(&number).filter(|line| line.has_turn) else { return };
        self.turns += 1;
        line.has_turn = false;
        if line.waiting.is_empty() {
            self.lines.remove(&number);
        } else {
            self.ready.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_two(line: &mut VecDeque<u32>) -> Vec<u32> {
        line.drain(..line.len().min(2)).collect()
    }

    fn lines(turns: usize, waiting: &[(i32, u32)]) -> Lines<u32> {
        let mut lines = Lines::new(turns);
        for (line, one) in waiting {
            lines.push(*line, *one, |_| false);
        }
        lines
    }

    #[test]
    fn a_line_has_one_turn_at_a_time_and_leaves_the_others_theirs() {
        let mut lines = lines(3, &[(7, 1), (7, 2), (7, 3), (8, 4)]);
        assert_eq!(lines.next(take_two), Some((7, vec![1, 2])));
        assert_eq!(lines.next(take_two), Some((8, vec![4])));
        assert_eq!(lines.next(take_two), None, "there is a turn, but not for the same line");
        lines.ended(7);
        assert_eq!(lines.next(take_two), Some((7, vec![3])));
    }

    #[test]
    fn who_became_ready_first_is_served_first() {
        let mut lines = lines(1, &[(7, 1), (7, 2), (7, 3), (8, 4), (9, 5)]);
        let mut served = Vec::new();
        while let Some((line, group)) = lines.next(take_two) {
            served.push((line, group));
            lines.ended(line);
        }
        assert_eq!(served, [(7, vec![1, 2]), (8, vec![4]), (9, vec![5]), (7, vec![3])]);
        assert!(lines.lines.is_empty() && lines.ready.is_empty(), "nothing is kept of who was here");
    }

    #[test]
    fn an_end_without_a_turn_makes_none() {
        let mut lines = lines(1, &[(7, 1)]);
        lines.ended(7);
        lines.ended(8);
        assert!(lines.next(take_two).is_some());
        assert_eq!(lines.turns, 0);
    }

    #[test]
    fn who_has_gone_leaves_the_head_of_the_line() {
        let mut lines = lines(1, &[(7, 1), (7, 2), (7, 3)]);
        lines.push(7, 4, |one| *one < 3);
        assert_eq!(lines.next(take_two), Some((7, vec![3, 4])));
    }
}
