//! How the one pool is shared out, so that no use of it can starve another.
//!
//! What the event path needs is never part of this: its lanes, and [`WRITERS_COMPANY`] beside them, are kept. Of the rest
//! each use has one connection to itself; what is left then is lent to whoever comes first, up to that use's share.

/// Connections of the event path beside its lanes: the dead letters' writer, and one for the fence and the partitions,
/// which are short and wait for each other.
pub(super) const WRITERS_COMPANY: usize = 2;

/// One connection for each of the other uses.
pub(super) const LEAST_FOR_OTHERS: usize = 10;

/// The most connections that each use may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolQuotas {
    /// What operators ask for: dead letters, reconcile.
    pub operations: usize,
    /// Commits of created records.
    pub record_commits: usize,
    /// All else that records need.
    pub records: usize,
    /// Large payloads.
    pub large: usize,
    /// Errors on demand, which hold theirs on purpose.
    pub errors: usize,
    /// Users, sessions and keys.
    pub auth: usize,
    /// Commits of conversations, messages and pieces.
    pub conversation_commits: usize,
    /// All else that conversations need.
    pub conversations: usize,
    /// Files.
    pub files: usize,
    /// Lines of files on their way into tables.
    pub imports: usize,
    /// What all of them together may hold beyond one for each.
    pub spare: usize,
}
