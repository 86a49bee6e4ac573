//! The write path of a part: one transaction into the tables of events, conversations and messages.

mod store;

/// The outcome of a part's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartOutcome {
    /// The part is stored.
    Stored {
        /// Lines stored.
        stored: u64,
        /// Lines rejected.
        rejected: u64,
    },
    /// The part was stored before.
    AlreadyStored,
    /// It names missing conversations, which an earlier part may still create.
    Early,
    /// The import's row is gone: its file is deleted.
    Gone,
}
