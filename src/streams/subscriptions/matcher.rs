//! The patterns of all subscriptions, and the links by them that this node knows to exist.

use std::collections::{HashMap, HashSet};

use super::super::StreamPath;
use super::subscription::{Subscription, SubscriptionNumber};
use super::subscription_store::PatternSource;

/// Known links of a subscription; beyond them all are forgotten, and found again.
const MAX_KNOWN: usize = 20_000;

/// Matches changed streams with patterns.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    revision: u64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    subscription: Subscription,
    /// Streams that are linked.
    known: HashSet<StreamPath>,
}

impl Matcher {
    /// The revision of its subscriptions.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether there are no subscriptions.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a subscription has a pattern.
    pub(super) fn has_patterns(&self) -> bool {
        self.entries.iter().any(|entry| entry.subscription.config.pattern.is_some())
    }

    /// Takes over a changed set of subscriptions.
    pub(super) fn replace(&mut self, source: PatternSource) {
        let mut known: HashMap<SubscriptionNumber, HashSet<StreamPath>> =
            self.entries.drain(..).map(|entry| (entry.subscription.number, entry.known)).collect();
        self.revision = source.revision;
        self.entries = source
            .subscriptions
            .into_iter()
            .map(|subscription| {
                let known = known.remove(&subscription.number).unwrap_or_default();
                Entry { subscription, known }
            })
            .collect();
    }

    /// The streams that are to be linked, by subscription. The flag of a stream: it is a new one, so a known link may have been removed.
    pub(super) fn unlinked<'a>(
        &self,
        paths: &(impl Iterator<Item = (&'a StreamPath, bool)> + Clone),
    ) -> Vec<(SubscriptionNumber, Vec<StreamPath>)> {
        let mut found = Vec::new();
        for Entry { subscription, known } in &self.entries {
            let is_unlinked = |(path, is_new): &(&StreamPath, bool)| {
                (*is_new || !known.contains(*path)) && subscription.config.matches(path)
            };
            let unlinked: Vec<StreamPath> =
                paths.clone().filter(is_unlinked).map(|(path, _)| path.clone()).collect();
            if !unlinked.is_empty() {
                found.push((subscription.number, unlinked));
            }
        }
        found
    }

    /// Records that streams are linked.
    pub(super) fn linked(&mut self, number: SubscriptionNumber, paths: Vec<StreamPath>) {
        let entry = self.entries.iter_mut().find(|entry| entry.subscription.number == number);
        if let Some(Entry { known, .. }) = entry {
            if known.len() + paths.len() > MAX_KNOWN {
                known.clear();
            }
            known.extend(paths.into_iter().take(MAX_KNOWN));
        }
    }
}
