//! The statements of a batch: which writes share one, and in which order the statements run.
//!
//! The writes of one conversation are executed in their order of arrival. In a round each statement runs once, in the order of [`Stage`], and
//! concerns a key or a message once: so later writes see its outcome.

use std::collections::HashMap;

use uuid::Uuid;

/// The statements of a round, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Conversations are created.
    Create,
    /// Messages are added.
    Add,
    /// Chunks are appended.
    Append,
    /// Last chunks are appended.
    Finish,
}

/// The object that one write in a round may concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exclusive<'a> {
    /// A key of its conversation.
    Key(&'a str),
    /// A message.
    Message(Uuid),
}

/// A write of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) conversation: Uuid,
    pub(super) stage: Stage,
    pub(super) exclusive: Option<Exclusive<'a>>,
}

/// A statement: the numbers of its writes, in their order of arrival.
pub(super) type StageBatch = (Stage, Vec<usize>);

/// The progress of a conversation.
struct Progress<'a> {
    round: usize,
    stage: Stage,
    taken: Vec<Exclusive<'a>>,
}

/// The statements of these steps, in order.
pub(super) fn stages<'a>(steps: impl Iterator<Item = Step<'a>>) -> Vec<StageBatch> {
    let mut conversations: HashMap<Uuid, Progress<'a>> = HashMap::new();
    let mut placed: Vec<(usize, Stage, usize)> = Vec::new();
    for (number, step) in steps.enumerate() {
        let at = conversations.entry(step.conversation).or_insert(Progress {
            round: 0,
            stage: step.stage,
            taken: Vec::new(),
        });
        if step.stage < at.stage || step.exclusive.is_some_and(|object| at.taken.contains(&object)) {
            at.round += 1;
            at.taken.clear();
        }
        at.stage = step.stage;
        at.taken.extend(step.exclusive);
        placed.push((at.round, step.stage, number));
    }
    placed.sort_unstable();
    let stages = placed.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
    stages
        .filter_map(|stage| Some((stage.first()?.1, stage.iter().map(|(_, _, number)| *number).collect())))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(conversation: u128, stage: Stage, exclusive: Option<Exclusive<'_>>) -> Step<'_> {
        Step { conversation: Uuid::from_u128(conversation), stage, exclusive }
    }

    #[test]
    fn independent_writes_share_one_statement_a_stage() {
        let message = |n| Some(Exclusive::Message(Uuid::from_u128(n)));
        let steps = [
            step(1, Stage::Append, message(1)),
            step(2, Stage::Add, Some(Exclusive::Key("k"))),
            step(3, Stage::Add, Some(Exclusive::Key("k"))),
            step(2, Stage::Add, None),
            step(1, Stage::Append, message(2)),
        ];
        assert_eq!(stages(steps.into_iter()), [(Stage::Add, vec![1, 2, 3]), (Stage::Append, vec![0, 4])]);
    }

    #[test]
    fn a_repeated_key_or_message_belongs_to_the_next_round() {
        let (key, message) = (Some(Exclusive::Key("k")), Some(Exclusive::Message(Uuid::from_u128(9))));
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
        assert_eq!(stages(steps.into_iter()), expected);
    }

    fn any_step() -> impl Strategy<Value = (u128, Stage, u128)> {
        (0..4_u128, prop::sample::select(vec![Stage::Add, Stage::Append, Stage::Finish]), 0..3_u128)
    }

    proptest! {
        #[test]
        fn each_write_runs_once_and_in_the_order_of_its_conversation(
            given in prop::collection::vec(any_step(), 0..60)
        ) {
            let steps: Vec<Step<'_>> = given
                .iter()
                .map(|(c, stage, once)| step(*c, *stage, Some(Exclusive::Message(Uuid::from_u128(*once)))))
                .collect();
            let stages = stages(steps.iter().copied());
            let done: Vec<usize> = stages.iter().flat_map(|(_, numbers)| numbers.clone()).collect();
            for conversation in 0..4 {
                let of_it: Vec<usize> =
                    done.iter().copied().filter(|n| given[*n].0 == conversation).collect();
                prop_assert!(of_it.is_sorted(), "{:?}", of_it);
            }
            let mut all = done;
            all.sort_unstable();
            prop_assert_eq!(all, (0..given.len()).collect::<Vec<_>>());
            for (stage, numbers) in &stages {
                let mut seen = Vec::new();
                for n in numbers {
                    prop_assert_eq!(given[*n].1, *stage);
                    prop_assert!(!seen.contains(&(given[*n].0, given[*n].2)));
                    seen.push((given[*n].0, given[*n].2));
                }
            }
        }
    }
}
