//! The numbers of records that lists have counted, for the next list with the same conditions.
//!
//! A total is used as long as nothing of its collection has changed, which the statement of the next list decides in its own snapshot: the feed has a
//! row for each change of a record. Statements of others that write to a collection's table leave no such row, so a total is used for
//! [`LONGEST`] at most.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::records::expression::{Parameter, Parameters};

/// The time for which a total is used.
const LONGEST: Duration = Duration::from_secs(5);
/// The most totals of a catalogue, and the most bytes of the conditions of one.
const MOST: usize = 2_000;
const MOST_BYTES: usize = 2_000;

/// What a list counts: the records of a collection for which conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Counted {
    number: i32,
    conditions: String,
    parameters: Vec<String>,
}

/// A total, and the snapshot that it was counted in, as Postgres writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownTotal {
    pub(super) total: i64,
    pub(super) snapshot: String,
}

impl KnownTotal {
    /// The oldest transaction that the snapshot may not have seen.
    pub(super) fn since(&self) -> &str {
        self.snapshot.split(':').next().unwrap_or_default()
    }
}

/// The totals of a catalogue.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<HashMap<Counted, (KnownTotal, Instant)>>);

impl Counted {
    /// `None`: the conditions are too long to be kept.
    pub(super) fn new(number: i32, conditions: &str, parameters: &Parameters) -> Option<Self> {
        let texts = parameters.0.iter().map(|parameter| match parameter {
            Parameter::Text(text) => Some(text.clone()),
            _ => None,
        });
        let parameters: Vec<String> = texts.collect::<Option<_>>()?;
        let bytes = conditions.len() + parameters.iter().map(String::len).sum::<usize>();
        (bytes <= MOST_BYTES).then(|| Self { number, conditions: conditions.to_owned(), parameters })
    }
}

impl Totals {
    /// A total that is not too old.
    pub(super) fn get(&self, counted: &Counted) -> Option<KnownTotal> {
        let totals = self.0.lock();
        let (known, at) = totals.get(counted)?;
        (at.elapsed() < LONGEST).then(|| known.clone())
    }

    /// Keeps a total that was counted in the snapshot of a statement that began at `at`.
    pub(super) fn keep(&self, counted: Counted, known: KnownTotal, at: Instant) {
        let mut totals = self.0.lock();
        if totals.len() >= MOST {
            totals.retain(|_, (_, at)| at.elapsed() < LONGEST);
            if totals.len() >= MOST {
                totals.clear();
            }
        }
        totals.insert(counted, (known, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> Counted {
        let mut parameters = Parameters::default();
        parameters.bind(Parameter::Text(text.into()));
        Counted::new(1, "title = $1", &parameters).unwrap()
    }

    #[test]
    fn totals_are_those_of_the_same_conditions_and_parameters_and_bounded_in_number_and_bytes() {
        let (totals, known) = (Totals::default(), KnownTotal { total: 3, snapshot: "7:9:8".into() });
        assert_eq!(known.since(), "7");
        let now = Instant::now();
        totals.keep(counted("a"), known.clone(), now);
        assert_eq!(totals.get(&counted("a")), Some(known.clone()));
        assert_eq!(totals.get(&counted("b")), None);
        for n in 0..3 * MOST {
            totals.keep(counted(&n.to_string()), known.clone(), now);
            assert!(totals.0.lock().len() <= MOST);
        }
        assert!(Counted::new(1, &"x".repeat(MOST_BYTES + 1), &Parameters::default()).is_none());
    }

    #[test]
    fn a_total_is_not_used_for_long() {
        let (totals, known) = (Totals::default(), KnownTotal { total: 3, snapshot: "7:9:8".into() });
        let Some(old) = Instant::now().checked_sub(LONGEST) else { return };
        totals.keep(counted("a"), known, old);
        assert_eq!(totals.get(&counted("a")), None);
    }
}
