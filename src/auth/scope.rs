//! Scopes: the permissions of keys and of users.
//!
//! `realtime:read` and the scopes of streams may be limited to names with a prefix: `realtime:read:orders/` permits the topics
//! `topic/orders/…`, `streams:write:orders/` the streams `orders/…`. The prefix is compared, byte by byte, with the name behind `topic/` or
//! `table/`, without options, or with a stream's path below `/v1/stream/`, as it is after percent-decoding.

use std::fmt;
use std::sync::Arc;

/// A permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// Send events.
    EventsWrite,
    /// Read records.
    RecordsRead,
    /// Create, change and delete records.
    RecordsWrite,
    /// Read one's own conversations.
    ConversationsRead,
    /// Write one's own conversations.
    ConversationsWrite,
    /// Read one's own files.
    FilesRead,
    /// Upload and delete one's own files.
    FilesWrite,
    /// Read streams.
    StreamsRead,
    /// Append to streams.
    StreamsWrite,
    /// Create streams.
    StreamsCreate,
    /// Delete streams.
    StreamsDelete,
    /// Create subscriptions of streams, and claim their work.
    StreamsClaim,
    /// Subscribe to published topics.
    RealtimeRead,
    /// Read dead letters.
    DeadlettersRead,
    /// Redrive and discard dead letters.
    DeadlettersWrite,
    /// Read health, metrics, and the fate of events.
    OpsRead,
    /// Use the stress API, except for its records.
    Stress,
    /// All permissions.
    Admin,
}

/// Every scope, in the order of lists.
pub const ALL: [Scope; 18] = [
    Scope::EventsWrite,
    Scope::RecordsRead,
    Scope::RecordsWrite,
    Scope::ConversationsRead,
    Scope::ConversationsWrite,
    Scope::FilesRead,
    Scope::FilesWrite,
    Scope::StreamsRead,
    Scope::StreamsWrite,
    Scope::StreamsCreate,
    Scope::StreamsDelete,
    Scope::StreamsClaim,
    Scope::RealtimeRead,
    Scope::DeadlettersRead,
    Scope::DeadlettersWrite,
    Scope::OpsRead,
    Scope::Stress,
    Scope::Admin,
];

impl Scope {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::EventsWrite => "events:write",
            Self::RecordsRead => "records:read",
            Self::RecordsWrite => "records:write",
            Self::ConversationsRead => "conversations:read",
            Self::ConversationsWrite => "conversations:write",
            Self::FilesRead => "files:read",
            Self::FilesWrite => "files:write",
            Self::StreamsRead => "streams:read",
            Self::StreamsWrite => "streams:write",
            Self::StreamsCreate => "streams:create",
            Self::StreamsDelete => "streams:delete",
            Self::StreamsClaim => "streams:claim",
            Self::RealtimeRead => "realtime:read",
            Self::DeadlettersRead => "deadletters:read",
            Self::DeadlettersWrite => "deadletters:write",
            Self::OpsRead => "ops:read",
            Self::Stress => "stress",
            Self::Admin => "admin",
        }
    }

    /// The scope of a name.
    pub fn parse(word: &str) -> Option<Self> {
        ALL.into_iter().find(|scope| scope.name() == word)
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The scopes that may be limited to names with a prefix, which then follows a further colon.
const WITH_PREFIX: [Scope; 6] = [
    Scope::RealtimeRead,
    Scope::StreamsRead,
    Scope::StreamsWrite,
    Scope::StreamsCreate,
    Scope::StreamsDelete,
    Scope::StreamsClaim,
];
/// The most prefixes of a set; more are ignored.
const MAX_PREFIXES: usize = 100;
/// Bytes of a prefix: the longest name of a topic.
const MAX_PREFIX_BYTES: usize = 200;

/// A scope, and the prefix of the names that it is limited to.
type Limited = (Scope, Box<str>);

/// A set of scopes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Scopes {
    bits: u32,
    /// Scopes with prefixes of the names that they are limited to, sorted, none of which begins with another of its scope. `None`: there are none.
    prefixes: Option<Arc<[Limited]>>,
}

impl Scopes {
    /// All permissions.
    pub const ADMIN: Self = Self { bits: 1 << Scope::Admin as u8, prefixes: None };

    fn new(bits: u32, prefixes: impl IntoIterator<Item = Limited>) -> Self {
        // A scope of all names includes those with a prefix.
        let is_limited = |scope: Scope| bits & (scope.bit() | Scope::Admin.bit()) == 0;
        let mut prefixes: Vec<Limited> =
            prefixes.into_iter().filter(|(scope, _)| is_limited(*scope)).collect();
        prefixes.sort_unstable();
        // A longer prefix follows the shorter one that includes it.
        prefixes.dedup_by(|longer, shorter| longer.0 == shorter.0 && longer.1.starts_with(&*shorter.1));
        prefixes.truncate(MAX_PREFIXES);
        Self { bits, prefixes: (!prefixes.is_empty()).then(|| prefixes.into()) }
    }

    /// The permissions of a registered user: their own conversations and files.
    pub fn of_a_registered_user() -> Self {
        use Scope::{ConversationsRead, ConversationsWrite, FilesRead, FilesWrite};
        [ConversationsRead, ConversationsWrite, FilesRead, FilesWrite].into_iter().collect()
    }

    /// The set of the scope of one name; `None`: there is no such scope.
    pub fn parse(word: &str) -> Option<Self> {
        if let Some(scope) = Scope::parse(word) {
            return Some(Self::default().with(scope));
        }
        let with_prefix = |scope: Scope| Some((scope, word.strip_prefix(scope.name())?.strip_prefix(':')?));
        let (scope, prefix) = WITH_PREFIX.into_iter().find_map(with_prefix)?;
        let is_prefix = (1..=MAX_PREFIX_BYTES).contains(&prefix.len()) && !prefix.contains(char::is_control);
        is_prefix.then(|| Self::new(0, [(scope, prefix.into())]))
    }

    /// The scopes of these names; unknown names are ignored.
    pub fn known<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().filter_map(Self::parse).collect()
    }

    /// Whether the set permits a scope, without a limit.
    pub fn allow(&self, scope: Scope) -> bool {
        self.bits & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// Whether the set permits a scope for this name: that of a published topic, a table, or a stream's path.
    pub fn allow_name(&self, scope: Scope, name: &str) -> bool {
        self.allow(scope) || self.prefixes().any(|(of, prefix)| of == scope && name.starts_with(prefix))
    }

    /// Whether the set permits a scope for some name.
    pub fn allow_some_name(&self, scope: Scope) -> bool {
        self.allow(scope) || self.prefixes().any(|(of, _)| of == scope)
    }

    /// Whether the set permits everything that `others` does.
    pub fn cover(&self, others: &Self) -> bool {
        self.allow(Scope::Admin)
            || (others.bits & !self.bits == 0
                && others.prefixes().all(|(scope, prefix)| self.allow_name(scope, prefix)))
    }

    /// The intersection.
    pub fn within(&self, others: &Self) -> Self {
        match (self.allow(Scope::Admin), others.allow(Scope::Admin)) {
            (true, _) => others.clone(),
            (_, true) => self.clone(),
            _ => {
                let own = self.prefixes().filter(|(scope, prefix)| others.allow_name(*scope, prefix));
                let theirs = others.prefixes().filter(|(scope, prefix)| self.allow_name(*scope, prefix));
                Self::new(self.bits & others.bits, own.chain(theirs).map(owned))
            }
        }
    }

    /// The set with one more scope.
    pub fn with(&self, scope: Scope) -> Self {
        Self::new(self.bits | scope.bit(), self.prefixes().map(owned))
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The names of the scopes, in order.
    pub fn names(&self) -> Vec<String> {
        let whole = ALL.into_iter().filter(|scope| self.bits & scope.bit() != 0);
        let limited = self.prefixes().map(|(scope, prefix)| format!("{}:{prefix}", scope.name()));
        whole.map(|scope| scope.name().to_owned()).chain(limited).collect()
    }

    fn prefixes(&self) -> impl Iterator<Item = (Scope, &str)> {
        self.prefixes.iter().flat_map(|prefixes| prefixes.iter().map(|(scope, prefix)| (*scope, &**prefix)))
    }
}

fn owned((scope, prefix): (Scope, &str)) -> Limited {
    (scope, prefix.into())
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self::new(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()), [])
    }
}

impl FromIterator<Self> for Scopes {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        let (mut bits, mut prefixes) = (0, Vec::new());
        for set in sets {
            bits |= set.bits;
            // A token may have any number of them.
            prefixes.extend(set.prefixes().take(MAX_PREFIXES).map(owned));
        }
        Self::new(bits, prefixes)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_scope_reads_back_what_it_is_called() {
        for scope in ALL {
            assert_eq!(Scope::parse(scope.name()), Some(scope));
        }
        for word in ["", "Admin", "events", "events:write ", "records:read|write"] {
            assert_eq!(Scope::parse(word), None, "{word}");
            assert_eq!(Scopes::parse(word), None, "{word}");
        }
        let long = format!("realtime:read:{}", "x".repeat(MAX_PREFIX_BYTES + 1));
        for word in ["realtime:read:", "realtime:read:a\0", "records:read:a", "realtime:reads", &long] {
            assert_eq!(Scopes::parse(word), None, "{word}");
        }
    }

    #[test]
    fn a_prefix_permits_the_names_that_begin_with_it() {
        let set = Scopes::known(["realtime:read:orders/", "realtime:read:app.", "realtime:read:orders/eu/"]);
        assert_eq!(set.names(), ["realtime:read:app.", "realtime:read:orders/"], "one includes the other");
        for (name, is_permitted) in [
            ("orders/1", true),
            ("orders/", true),
            ("orders", false),
            ("Orders/1", false),
            ("app.users", true),
            ("old/orders/1", false),
        ] {
            assert_eq!(set.allow_name(Scope::RealtimeRead, name), is_permitted, "{name}");
        }
        assert!(!set.allow(Scope::RealtimeRead), "that is all names");
        let writes = Scopes::known(["streams:write:a/", "streams:read:b/"]);
        assert!(
            writes.allow_name(Scope::StreamsWrite, "a/1") && writes.allow_name(Scope::StreamsRead, "b/1")
        );
        assert!(
            !writes.allow_name(Scope::StreamsWrite, "b/1") && !writes.allow_name(Scope::StreamsDelete, "a/1")
        );
        let whole = Scopes::default().with(Scope::RealtimeRead);
        assert!(whole.cover(&set) && !set.cover(&whole) && whole.allow_name(Scope::RealtimeRead, "anything"));
        assert_eq!(set.with(Scope::RealtimeRead), whole);
        assert_eq!(whole.within(&set), set);
        let deeper = Scopes::known(["realtime:read:orders/eu/", "realtime:read:x"]);
        assert_eq!(deeper.within(&set).names(), ["realtime:read:orders/eu/"]);
        let words: Vec<String> = (0..1_000).map(|n| format!("realtime:read:{n}.")).collect();
        assert_eq!(Scopes::known(words.iter().map(String::as_str)).names().len(), MAX_PREFIXES);
    }

    #[test]
    fn admin_allows_and_covers_everything_and_nobody_else_covers_admin() {
        for scope in ALL {
            assert!(Scopes::ADMIN.allow(scope));
            assert_eq!(Scopes::default().with(scope).cover(&Scopes::ADMIN), scope == Scope::Admin);
        }
    }

    fn scopes() -> impl Strategy<Value = Scopes> {
        let limited = proptest::sample::select(WITH_PREFIX.to_vec());
        let prefixes = proptest::collection::vec((limited, "[ab]{1,3}"), 0..6);
        (0_u32..1 << ALL.len(), prefixes).prop_map(|(bits, prefixes)| {
            Scopes::new(bits, prefixes.into_iter().map(|(scope, prefix)| (scope, prefix.into_boxed_str())))
        })
    }

    proptest! {
        #[test]
        fn a_set_reads_back_from_its_words(set in scopes()) {
            let names = set.names();
            prop_assert_eq!(Scopes::known(names.iter().map(String::as_str)), set);
        }

        #[test]
        fn what_is_within_a_set_is_covered_by_both(one in scopes(), other in scopes(), name in "[ab]{1,4}") {
            let both = one.within(&other);
            prop_assert!(one.cover(&both) && other.cover(&both));
            for scope in ALL {
                let allows = |set: &Scopes| set.allow_name(scope, &name);
                prop_assert_eq!(allows(&both), allows(&one) && allows(&other));
                prop_assert_eq!(both.allow(scope), one.allow(scope) && other.allow(scope));
            }
        }
    }
}
