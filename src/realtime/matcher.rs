//! Filters of subscriptions: compiled once, shared by all subscriptions that ask for the same, and decided once for each change.
//!
//! A domain implements [`Matcher`]; this module knows none. [`Filters`] keeps a weak reference to each compiled filter by its key, so a filter
//! lives as long as a subscription has it. A change remembers the verdicts of shared filters. They are decided in the tasks of the
//! subscriptions, so one that takes long or fails delays no other.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Action, Change};

/// Decides which changes a subscription gets.
pub trait Matcher: fmt::Debug + Send + Sync {
    /// Whether a state of what changed matches.
    ///
    /// # Errors
    ///
    /// [`MatchError`] ends the subscription.
    fn matches(&self, change: &Change, state: State) -> Result<bool, MatchError>;
}

/// A state of what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The one in `data`: after the change, or before a deletion.
    Data,
    /// The one in `old`: before an update.
    Old,
}

/// A filter that failed for a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MatchError(pub Arc<str>);

/// What a subscription gets of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The change.
    Deliver,
    /// That it does not match any more.
    Leave,
    /// Nothing.
    Skip,
}

/// The key of a filter: equal ones decide alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilterKey {
    /// The domain's kind of objects.
    pub kind: &'static str,
    /// The text.
    pub text: String,
    /// What it knows of its client; empty for most.
    pub auth: Vec<(&'static str, String)>,
}

type Known = Mutex<HashMap<FilterKey, Weak<Filter>>>;

/// Numbers filters.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A compiled filter.
#[derive(Debug)]
pub struct Filter {
    /// By which changes remember its verdicts.
    number: u64,
    key: FilterKey,
    matcher: Box<dyn Matcher>,
    known: Weak<Known>,
}

impl Drop for Filter {
    fn drop(&mut self) {
        let Some(known) = self.known.upgrade() else { return };
        let mut known = known.lock();
        // A new one may have taken its place.
        if known.get(&self.key).is_some_and(|filter| filter.strong_count() == 0) {
            known.remove(&self.key);
        }
    }
}

/// The filters of all subscriptions. Cheap to clone. It is as large as the subscriptions' own filters.
#[derive(Debug, Clone, Default)]
pub struct Filters(Arc<Known>);

impl Filters {
    /// The filter of a key, compiled if no subscription has it.
    ///
    /// # Errors
    ///
    /// That of `compile`.
    pub fn get<E>(
        &self,
        key: FilterKey,
        compile: impl FnOnce() -> Result<Box<dyn Matcher>, E>,
    ) -> Result<Arc<Filter>, E> {
        if let Some(filter) = self.0.lock().get(&key).and_then(Weak::upgrade) {
            return Ok(filter);
        }
        // Without the lock; of two that compile the same, the later one is shared from then on.
        let (number, matcher) = (NUMBERS.fetch_add(1, Ordering::Relaxed), compile()?);
        let filter = Arc::new(Filter { number, key, matcher, known: Arc::downgrade(&self.0) });
        self.0.lock().insert(filter.key.clone(), Arc::downgrade(&filter));
        Ok(filter)
    }

    /// The number of known filters.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Filter {
    /// What a subscription with this filter gets of a change; `leaves`: it wants to know when something does not match any more.
    ///
    /// A creation and an update are judged by the new state, a deletion by the state before it. Where the state before an update is not known, it
    /// may have matched. A change of many objects is of no state, and that of a row that was too large to be fed of an unknown one: both are
    /// delivered.
    ///
    /// # Errors
    ///
    /// [`MatchError`].
    pub fn verdict(self: &Arc<Self>, change: &Change, leaves: bool) -> Result<Verdict, MatchError> {
        let matched = match change.action {
            Action::Import | Action::Truncate | Action::Many => true,
            Action::Create | Action::Update | Action::Delete if change.data == "null" => true,
            _ => self.matches(change, State::Data)?,
        };
        Ok(match matched {
            true => Verdict::Deliver,
            false if leaves && change.action == Action::Update && self.matched_before(change)? => {
                Verdict::Leave
            }
            false => Verdict::Skip,
        })
    }

    fn matched_before(self: &Arc<Self>, change: &Change) -> Result<bool, MatchError> {
        if change.old.is_some() { self.matches(change, State::Old) } else { Ok(true) }
    }

    fn matches(self: &Arc<Self>, change: &Change, state: State) -> Result<bool, MatchError> {
        // The verdict of an unshared filter is used once.
        if Arc::strong_count(self) == 1 {
            return self.matcher.matches(change, state);
        }
        change.verdict(self.number, state, || self.matcher.matches(change, state))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Matches changes of a record by its name; counts.
    #[derive(Debug)]
    struct Named(&'static str, Arc<AtomicUsize>);

    impl Matcher for Named {
        fn matches(&self, change: &Change, state: State) -> Result<bool, MatchError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            match state {
                State::Data => Ok(change.data == self.0),
                State::Old => Ok(change.old.as_deref() == Some(self.0)),
            }
        }
    }

    fn key(text: &str) -> FilterKey {
        FilterKey { kind: "a", text: text.to_owned(), auth: Vec::new() }
    }

    fn filter(filters: &Filters, text: &'static str, count: &Arc<AtomicUsize>) -> Arc<Filter> {
        let matcher = || Ok::<_, MatchError>(Box::new(Named(text, Arc::clone(count))) as Box<dyn Matcher>);
        filters.get(key(text), matcher).unwrap()
    }

    #[test]
    fn equal_filters_are_one_and_are_forgotten_with_their_last_subscription() {
        let (filters, count) = (Filters::default(), Arc::new(AtomicUsize::new(0)));
        let (one, two) = (filter(&filters, "x", &count), filter(&filters, "x", &count));
        let other = filter(&filters, "y", &count);
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        assert_eq!(filters.len(), 2);
        drop((one, other));
        assert_eq!(filters.len(), 1);
        drop(two);
        assert_eq!(filters.len(), 0);
        let refused = filters.get(key("z"), || Err(MatchError("no".into())));
        assert!(refused.is_err() && filters.len() == 0);
    }

    #[test]
    fn a_shared_filter_is_decided_once_for_each_state_of_a_change() {
        let (filters, count) = (Filters::default(), Arc::new(AtomicUsize::new(0)));
        let (one, two) = (filter(&filters, "x", &count), filter(&filters, "x", &count));
        let mut update = Change::of_test(1, "y");
        update.action = Action::Update;
        update.old = Some("x".to_owned());
        for filter in [&one, &two, &one] {
            assert_eq!(filter.verdict(&update, true).unwrap(), Verdict::Leave);
            assert_eq!(filter.verdict(&update, false).unwrap(), Verdict::Skip);
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
        for (action, data, old, expected) in [
            (Action::Update, "x", None, Verdict::Deliver),
            (Action::Update, "y", Some("z"), Verdict::Skip),
            (Action::Update, "y", None, Verdict::Leave),
            (Action::Create, "y", None, Verdict::Skip),
            (Action::Delete, "x", None, Verdict::Deliver),
            (Action::Delete, "y", None, Verdict::Skip),
            (Action::Many, "y", None, Verdict::Deliver),
            (Action::Truncate, "y", None, Verdict::Deliver),
            (Action::Update, "null", Some("y"), Verdict::Deliver),
        ] {
            let mut change = Change::of_test(1, data);
            (change.action, change.old) = (action, old.map(str::to_owned));
            assert_eq!(one.verdict(&change, true).unwrap(), expected, "{action:?} {data} {old:?}");
        }
    }
}
