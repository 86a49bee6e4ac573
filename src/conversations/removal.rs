//! Conversations on their way out: what they have goes first, in lots, then they go themselves. Each lot is a transaction of its
//! own, so no statement takes longer the more there is, and what is cut short goes on where it stopped.

use std::time::Duration;

use uuid::Uuid;

use super::ConversationsError;
use super::place::Place;
use super::store::Store;
use crate::config::ConversationsConfig;
use crate::db::{Database, DbError};

/// Messages that one statement deletes, and as many of what belongs to them.
const MESSAGE_LOT: usize = 5_000;
/// Conversations that one statement deletes. Their locks are held together, of which Postgres has some thousands
/// (`max_locks_per_transaction` times `max_connections`).
const CONVERSATION_LOT: usize = 200;
/// How often a user's conversations are gone through: those that were made or written meanwhile are found in the next round.
const MOST_ROUNDS: usize = 10;

/// What was deleted of a user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Conversations.
    pub conversations: u64,
    /// Their messages.
    pub messages: u64,
}

/// Deletes the conversations of a user who is to be deleted, each statement within `CONVERSATIONS_TIMEOUT_MS`. After each `told`
/// is given what was deleted so far. Someone who may still write can have a few left at the end.
///
/// # Errors
///
/// [`ConversationsError::Database`]; it may be tried again, and goes on where it stopped.
pub async fn delete_all_of(
    user: Uuid,
    database: &Database,
    config: &ConversationsConfig,
    mut told: impl FnMut(Removed),
) -> Result<(), ConversationsError> {
    let store = Store::new(database, Duration::from_millis(config.conversations_timeout_ms));
    let mut removed = Removed::default();
    for _round in 0..MOST_ROUNDS {
        let mut place = Place::END;
        while let Some((ids, last)) = store.of_owner(user, place, CONVERSATION_LOT).await? {
            place = last;
            let conversations = remove(&store, Some(user), &ids, |messages| {
                removed.messages += messages;
                told(removed);
            })
            .await?;
            removed.conversations += conversations as u64;
            told(removed);
        }
        if place == Place::END {
            break;
        }
    }
    Ok(())
}

/// Deletes conversations of one owner with their messages, in batches; returns how many conversations were there. After each batch
/// `on_batch` gets the number of its messages.
pub(super) async fn remove(
    store: &Store,
    owner: Option<Uuid>,
    ids: &[Uuid],
    mut on_batch: impl FnMut(u64),
) -> Result<usize, DbError> {
    let mut is_first = true;
    loop {
        let batch = store.delete_batch(ids, owner, MESSAGE_LOT, is_first).await?;
        on_batch(batch.messages);
        if let Some(conversations) = batch.conversations {
            return Ok(conversations);
        }
        is_first = false;
    }
}
