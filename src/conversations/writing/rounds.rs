//! Which writes of a group one statement can do, and which have to come after it.
//!
//! Of one conversation all is done in the order in which it came. In a round each statement is run once, in the order of
//! [`Stage`], and a key or a message is concerned once: so what follows sees what came of it.

use std::collections::HashMap;

use uuid::Uuid;

/// The statements of a round, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Conversations are made.
    Create,
    /// Messages are added.
    Add,
    /// Pieces are added to messages.
    Append,
    /// Last pieces are.
    Finish,
}

/// What a write has to itself in its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Once<'a> {
    /// A key of its conversation.
    Key(&'a str),
    /// A message.
    Message(Uuid),
}

/// One write of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) conversation: Uuid,
    pub(super) stage: Stage,
    pub(super) once: Option<Once<'a>>,
}

/// What one statement does: the numbers of its writes, in the order in which they came.
pub(super) type Lot = (Stage, Vec<usize>);

/// How far a conversation is.
struct Progress<'a> {
    round: usize,
    stage: Stage,
    taken: Vec<Once<'a>>,
}

/// The statements that do these steps, in order.
pub(super) fn lots<'a>(steps: impl Iterator<Item = Step<'a>>) -> Vec<Lot> {
    let mut conversations: HashMap<Uuid, Progress<'a>> = HashMap::new();
    let mut placed: Vec<(usize, Stage, usize)> = Vec::new();
    for (number, step) in steps.enumerate() {
        let at = conversations.entry(step.conversation).or_insert(Progress {
            round: 0,
            stage: step.stage,
            taken: Vec::new(),
        });
        if step.stage < at.stage || step.once.is_some_and(|once| at.taken.contains(&once)) {
            at.round += 1;
            at.taken.clear();
        }
        at.stage = step.stage;
        at.taken.extend(step.once);
        placed.push((at.round, step.stage, number));
    }
    placed.sort_unstable();
    let lots = placed.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
    lots.filter_map(|lot| Some((lot.first()?.1, lot.iter().map(|(_, _, number)| *number).collect())))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(conversation: u128, stage: Stage, once: Option<Once<'_>>) -> Step<'_> {
        Step { conversation: Uuid::from_u128(conversation), stage, once }
    }

    #[test]
    fn what_does_not_concern_each_other_is_one_statement_a_kind() {
        let message = |n| Some(Once::Message(Uuid::from_u128(n)));
        let steps = [
            step(1, Stage::Append, message(1)),
            step(2, Stage::Add, Some(Once::Key("k"))),
            step(3, Stage::Add, Some(Once::Key("k"))),
            step(2, Stage::Add, None),
            step(1, Stage::Append, message(2)),
        ];
        assert_eq!(lots(steps.into_iter()), [(Stage::Add, vec![1, 2, 3]), (Stage::Append, vec![0, 4])]);
    }

    #[test]
    fn a_key_or_a_message_that_comes_again_is_of_the_next_round() {
        let (key, message) = (Some(Once::Key("k")), Some(Once::Message(Uuid::from_u128(9))));
        let steps = [
            step(1, Stage::Add, key),
            step(1, Stage::Add, key),
            step(1, Stage::Add, None),
            step(2, Stage::Append, message),
            step(2, Stage::Finish, message),
        ];
        let expected = [
            (Stage::Add, vec![0]),
            (Stage::Append, vec![3]),
            (Stage::Add, vec![1, 2]),
            (Stage::Finish, vec![4]),
        ];
        assert_eq!(lots(steps.into_iter()), expected);
    }

    fn any_step() -> impl Strategy<Value = (u128, Stage, u128)> {
        (0..4_u128, prop::sample::select(vec![Stage::Add, Stage::Append, Stage::Finish]), 0..3_u128)
    }

    proptest! {
        #[test]
        fn each_is_done_once_and_in_the_order_of_its_conversation(
            given in prop::collection::vec(any_step(), 0..60)
        ) {
            let steps: Vec<Step<'_>> = given
                .iter()
                .map(|(c, stage, once)| step(*c, *stage, Some(Once::Message(Uuid::from_u128(*once)))))
                .collect();
            let lots = lots(steps.iter().copied());
            let done: Vec<usize> = lots.iter().flat_map(|(_, lot)| lot.clone()).collect();
            for conversation in 0..4 {
                let of_it: Vec<usize> =
                    done.iter().copied().filter(|n| given[*n].0 == conversation).collect();
                prop_assert!(of_it.is_sorted(), "{:?}", of_it);
            }
            let mut all = done;
            all.sort_unstable();
            prop_assert_eq!(all, (0..given.len()).collect::<Vec<_>>());
            for (stage, lot) in &lots {
                let mut seen = Vec::new();
                for n in lot {
                    prop_assert_eq!(given[*n].1, *stage);
                    prop_assert!(!seen.contains(&(given[*n].0, given[*n].2)));
                    seen.push((given[*n].0, given[*n].2));
                }
            }
        }
    }
}
