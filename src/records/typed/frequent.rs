//! Statements that are worth to be prepared.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

/// The statements that came several times, by their text. Beyond [`Self::MOST`] it begins anew.
#[derive(Debug, Clone, Default)]
pub(super) struct FrequentStatements(Arc<Mutex<HashMap<u64, u32>>>);

impl FrequentStatements {
    /// With their counts, fewer than a connection keeps prepared.
    const MOST: usize = 24;
    /// The requests after which a statement is frequent.
    const OFTEN: u32 = 5;

    /// Whether a statement is frequent, with this time.
    pub(super) fn is_frequent(&self, sql: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        sql.hash(&mut hasher);
        let mut seen = self.0.lock();
        if seen.len() >= Self::MOST && !seen.contains_key(&hasher.finish()) {
            seen.clear();
        }
        let times = seen.entry(hasher.finish()).or_default();
        *times = times.saturating_add(1);
        *times >= Self::OFTEN
    }
}
