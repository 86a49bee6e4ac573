//! The result of an audit, in the same words for every scenario, and the exit codes.

use serde::{Deserialize, Serialize};

use crate::report::grouped;

/// The run could not be made or completed.
pub(crate) const FAILED: u8 = 1;
/// The arguments make no sense.
pub(crate) const USAGE: u8 = 2;

/// What `--help` says of the exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  everything acknowledged is there, once and in order
  1  the run or its audit could not be completed
  2  usage error
  3  lost: something acknowledged is not there
  4  doubled: something is there more than once
  5  out of order
  6  still pending: accepted, not stored yet, and no progress
  7  unexpected: something is there that was not sent, or was refused, or is damaged
Of several findings the first of 3, 4, 5, 7, 6 counts; 1 only without any.";

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// What was audited, in the plural: `accepted events`.
    pub(crate) of: String,
    /// Their number.
    pub(crate) checked: u64,
    /// Acknowledged, and not there.
    pub(crate) lost: u64,
    /// There again.
    pub(crate) doubled: u64,
    /// There, behind one that had to come after it.
    pub(crate) out_of_order: u64,
    /// Acknowledged, and not there yet.
    pub(crate) pending: u64,
    /// There without having been sent or accepted, or damaged.
    pub(crate) unexpected: u64,
    /// Examples and explanations.
    pub(crate) notes: Vec<String>,
}

impl Findings {
    /// No findings among `checked` of these.
    pub(crate) fn of(what: &str, checked: u64) -> Self {
        Self { of: what.to_owned(), checked, ..Self::default() }
    }

    /// Adds another audit's findings.
    pub(crate) fn add(&mut self, other: &Self) {
        if self.of.is_empty() {
            other.of.clone_into(&mut self.of);
        } else if !other.of.is_empty() && !self.of.split(", ").any(|of| of == other.of) {
            self.of = format!("{}, {}", self.of, other.of);
        }
        self.checked += other.checked;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.pending += other.pending;
        self.unexpected += other.unexpected;
        self.notes.extend(other.notes.iter().cloned());
    }

    /// Whether everything is there, once and in order.
    pub(crate) fn balances(&self) -> bool {
        self.exit_code() == 0
    }

    /// The code of the gravest finding.
    pub(crate) fn exit_code(&self) -> u8 {
        let by_gravity = [
            (self.lost, 3),
            (self.doubled, 4),
            (self.out_of_order, 5),
            (self.unexpected, 7),
            (self.pending, 6),
        ];
        by_gravity.into_iter().find(|(found, _)| *found > 0).map_or(0, |(_, code)| code)
    }

    /// The verdict in a sentence.
    pub(crate) fn verdict(&self) -> String {
        let Self { of, checked, lost, doubled, out_of_order, pending, unexpected, .. } = self;
        if self.balances() {
            return format!("audit: all {} {of} are there, once and in order", grouped(*checked));
        }
        let counts = [
            (lost, "lost"),
            (doubled, "doubled"),
            (out_of_order, "out of order"),
            (unexpected, "unexpected"),
            (pending, "still pending"),
        ]
        .map(|(found, name)| format!("{} {name}", grouped(*found)));
        let is_open = self.exit_code() == 6;
        let word = if is_open { "NOT FINISHED" } else { "DIFFERENCE" };
        format!("audit: {word} in {} {of}: {}", grouped(*checked), counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_a_code_and_the_gravest_counts() {
        let none = Findings::of("events", 10);
        assert_eq!((none.exit_code(), none.balances()), (0, true));
        let mut found = Findings { pending: 1, ..none };
        assert_eq!(found.exit_code(), 6);
        assert!(
            found.verdict().starts_with("audit: NOT FINISHED in 10 events: 0 lost"),
            "{}",
            found.verdict()
        );
        found.unexpected = 1;
        assert_eq!(found.exit_code(), 7);
        found.out_of_order = 1;
        assert_eq!(found.exit_code(), 5);
        found.doubled = 1;
        assert_eq!(found.exit_code(), 4);
        found.lost = 1_000;
        assert_eq!(found.exit_code(), 3);
        let text = "1,000 lost, 1 doubled, 1 out of order, 1 unexpected, 1 still pending";
        assert!(found.verdict().ends_with(text), "{}", found.verdict());
    }

    #[test]
    fn audits_of_several_kinds_add_up() {
        let mut sum = Findings::default();
        sum.add(&Findings { lost: 1, ..Findings::of("events", 5) });
        sum.add(&Findings { doubled: 2, ..Findings::of("records", 7) });
        sum.add(&Findings { doubled: 2, ..Findings::of("events", 1) });
        sum.add(&Findings::default());
        assert_eq!((sum.of.as_str(), sum.checked, sum.lost, sum.doubled), ("events, records", 13, 1, 4));
    }
}
