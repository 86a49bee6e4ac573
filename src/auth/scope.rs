//! Scopes: the permissions of keys and of users.

use std::fmt;

/// A permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
pub const ALL: [Scope; 17] = [
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

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u32);

impl Scopes {
    /// All permissions.
    pub const ADMIN: Self = Self(1 << Scope::Admin as u8);

    /// The permissions of a registered user: their own conversations and files.
    pub fn of_a_registered_user() -> Self {
        use Scope::{ConversationsRead, ConversationsWrite, FilesRead, FilesWrite};
        [ConversationsRead, ConversationsWrite, FilesRead, FilesWrite].into_iter().collect()
    }

    /// The scopes of these names; unknown names are ignored.
    pub fn known<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().filter_map(Scope::parse).collect()
    }

    /// Whether the set permits a scope.
    pub fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// Whether the set permits everything that `others` does.
    pub fn cover(self, others: Self) -> bool {
        self.allow(Scope::Admin) || others.0 & !self.0 == 0
    }

    /// The intersection.
    pub fn within(self, others: Self) -> Self {
        match (self.allow(Scope::Admin), others.allow(Scope::Admin)) {
            (true, _) => others,
            (_, true) => self,
            _ => Self(self.0 & others.0),
        }
    }

    /// The set with one more scope.
    pub fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of the scopes, in order.
    pub fn names(self) -> Vec<&'static str> {
        ALL.into_iter().filter(|scope| self.0 & scope.bit() != 0).map(Scope::name).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
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
        }
    }

    #[test]
    fn admin_allows_and_covers_everything_and_nobody_else_covers_admin() {
        for scope in ALL {
            assert!(Scopes::ADMIN.allow(scope));
            assert_eq!(Scopes::default().with(scope).cover(Scopes::ADMIN), scope == Scope::Admin);
        }
    }

    fn scopes() -> impl Strategy<Value = Scopes> {
        (0_u32..1 << ALL.len()).prop_map(Scopes)
    }

    proptest! {
        #[test]
        fn a_set_reads_back_from_its_words(set in scopes()) {
            prop_assert_eq!(Scopes::known(set.names()), set);
        }

        #[test]
        fn what_is_within_a_set_is_covered_by_both(one in scopes(), other in scopes()) {
            let both = one.within(other);
            prop_assert!(one.cover(both) && other.cover(both));
            for scope in ALL {
                prop_assert_eq!(both.allow(scope), one.allow(scope) && other.allow(scope));
            }
        }
    }
}
