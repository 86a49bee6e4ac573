//! Deletes conversations: first their messages, in batches, then the conversations. Each batch is a transaction of its own, so no
//! statement takes longer the more there is, and an interrupted deletion continues where it stopped.

use uuid::Uuid;

use super::ConversationsError;
use super::store::ConversationStore;
use crate::db::{Database, DbError};
use crate::paging::SortKey;

/// The messages that one statement deletes, and as many search documents and keys.
const MESSAGE_BATCH: usize = 5_000;
/// The conversations that one statement deletes. It holds all their locks, of which Postgres has some thousands
/// (`max_locks_per_transaction` times `max_connections`).
const CONVERSATION_BATCH: usize = 200;
/// The most passes over a user's conversations: each finds those that were created or written during the one before.
const MAX_PASSES: usize = 10;

/// The progress of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Conversations.
    pub conversations: u64,
    /// Their messages.
    pub messages: u64,
}

/// Deletes the conversations of a user who is to be deleted, each statement within `STATEMENT_TIMEOUT_MS`. `on_progress` gets the
/// sums after each batch. A user who can still write may have a few conversations left.
///
/// # Errors
///
/// [`ConversationsError::Database`]; a repetition continues where it stopped.
pub async fn delete_all_of(
    user: Uuid,
    database: &Database,
    mut on_progress: impl FnMut(Removed),
) -> Result<(), ConversationsError> {
    let store = ConversationStore::new(database, database.statement_timeout());
    let mut removed = Removed::default();
    for _pass in 0..MAX_PASSES {
        let mut last = SortKey::END;
        while let Some((ids, key)) = store.of_owner(user, last, CONVERSATION_BATCH).await? {
            last = key;
            let conversations = remove(&store, Some(user), &ids, |messages| {
                removed.messages += messages;
                on_progress(removed);
            })
            .await?;
            removed.conversations += conversations as u64;
            on_progress(removed);
        }
        if last == SortKey::END {
            break;
        }
    }
    Ok(())
}

/// Deletes conversations of one owner with their messages, in batches; returns how many conversations were there. After each batch
/// `on_batch` gets the number of its messages.
pub(super) async fn remove(
    store: &ConversationStore,
    owner: Option<Uuid>,
    ids: &[Uuid],
    mut on_batch: impl FnMut(u64),
) -> Result<usize, DbError> {
    let mut is_first = true;
    loop {
        let batch = store.delete_batch(ids, owner, MESSAGE_BATCH, is_first).await?;
        on_batch(batch.messages);
        if let Some(conversations) = batch.conversations {
            return Ok(conversations);
        }
        is_first = false;
    }
}
