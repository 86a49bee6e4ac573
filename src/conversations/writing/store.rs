//! Batched writes in Postgres.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::stages::{Stage, StageBatch, stages};
use super::{AddOutcome, Addition, Append, Creation, WriteRequest, WriteResponse};
use crate::conversations::chunk::AppendOutcome;
use crate::conversations::store::conversation;
use crate::db::{
    BY_INDEX, Database, DbError, JsonText, Parameter as Typed, Query, numbered, query_all_in_time, sql,
};

/// Writes to conversations, with a quota of the pool.
#[derive(Debug, Clone)]
pub(in crate::conversations) struct WriteStore {
    database: Database,
    timeout: Duration,
    /// `MAX_MESSAGE_BYTES`.
    max_message_bytes: i32,
}

/// Whether a write waits for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::conversations) enum Patience {
    /// It does not.
    None,
    /// It waits for the lock of its only conversation.
    Lock,
}

impl WriteStore {
    /// A store over `database`, whose statements may take up to `timeout`.
    pub(in crate::conversations) fn new(
        database: &Database,
        timeout: Duration,
        max_message_bytes: usize,
    ) -> Self {
        let max_message_bytes = i32::try_from(max_message_bytes).unwrap_or(i32::MAX);
        Self { database: database.clone(), timeout, max_message_bytes }
    }

    /// Writes in one transaction; returns the outcome of each write.
    pub(in crate::conversations) async fn write(
        &self,
        writes: &[WriteRequest],
        patience: Patience,
    ) -> Result<Vec<WriteResponse>, DbError> {
        let stages = stages(writes.iter().map(WriteRequest::step));
        let locks = Locks::of(writes);
        let columns: Vec<Columns<'_>> = stages.iter().map(|stage| Columns::of(writes, stage)).collect();
        let mut queries: Vec<Query<'_>> = Vec::with_capacity(2 + stages.len());
        queries.push((BY_INDEX, Vec::new()));
        queries.push(match patience {
            Patience::None => (sql!(self.database, "conversations/try_locks.sql"), locks.parameters()),
            Patience::Lock => (sql!(self.database, "conversations/wait_for_lock.sql"), locks.first()),
        });
        for ((stage, _), columns) in stages.iter().zip(&columns) {
            queries.push((stage.statement(&self.database), columns.parameters(&self.max_message_bytes)));
        }
        let connection = self.database.get().await?;
        let rows = query_all_in_time(&connection, self.timeout, &queries).await;
        outcomes(writes, &stages, connection.release(rows)?.get(1..).unwrap_or_default())
    }
}

impl Stage {
    fn statement(self, database: &Database) -> &'static str {
        let chunks = sql!("conversations/pieces.sql");
        match self {
            Self::Create => sql!(database, "conversations/create.sql"),
            Self::Add => sql!(database, "conversations/add_messages.sql"),
            Self::Append => sql!(database, "conversations/append.sql", pieces = chunks),
            Self::Finish => sql!(database, "conversations/finish.sql", pieces = chunks),
        }
    }
}

/// The conversations that have to be locked.
#[derive(Debug, Default)]
struct Locks {
    ids: Vec<Uuid>,
    /// Whether their rows are written.
    are_written: Vec<bool>,
}

impl Locks {
    fn of(writes: &[WriteRequest]) -> Self {
        let mut all: HashMap<Uuid, bool> = HashMap::new();
        for write in writes {
            let is_written = match write {
                // No other request can name it.
                WriteRequest::Create(_) => continue,
                WriteRequest::Add(_) => true,
                WriteRequest::Append(append) => append.chunk.done,
            };
            *all.entry(write.conversation()).or_default() |= is_written;
        }
        let (ids, are_written) = all.into_iter().unzip();
        Self { ids, are_written }
    }

    fn parameters(&self) -> Vec<Typed<'_>> {
        vec![(&self.ids, Type::UUID_ARRAY), (&self.are_written, Type::BOOL_ARRAY)]
    }

    fn first(&self) -> Vec<Typed<'_>> {
        self.ids.iter().take(1).map(|id| -> Typed<'_> { (id, Type::UUID) }).collect()
    }
}

/// The parameters of a statement, column by column.
enum Columns<'a> {
    Creations {
        ids: Vec<Uuid>,
        titles: Vec<&'a str>,
        metadata: Vec<JsonText<'a>>,
        owners: Vec<Option<Uuid>>,
    },
    Additions(Box<Additions<'a>>),
    Appends {
        conversations: Vec<Uuid>,
        owners: Vec<Option<Uuid>>,
        messages: Vec<Uuid>,
        starts: Vec<i32>,
        contents: Vec<&'a str>,
    },
}

/// Four columns of each request, eight of each message.
#[derive(Default)]
struct Additions<'a> {
    conversations: Vec<Uuid>,
    owners: Vec<Option<Uuid>>,
    keys: Vec<Option<&'a str>>,
    hashes: Vec<Option<&'a [u8]>>,
    requests: Vec<i32>,
    ids: Vec<Uuid>,
    roles: Vec<&'a str>,
    contents: Vec<&'a str>,
    counts: Vec<Option<i32>>,
    metadata: Vec<JsonText<'a>>,
    are_done: Vec<bool>,
    extras: Vec<Option<JsonText<'a>>>,
}

impl<'a> Columns<'a> {
    fn of(writes: &'a [WriteRequest], (stage, numbers): &StageBatch) -> Self {
        let of_stage = || numbers.iter().filter_map(|number| writes.get(*number));
        match stage {
            Stage::Create => {
                let new = |write: &'a WriteRequest| {
                    if let WriteRequest::Create(new) = write { Some(&**new) } else { None }
                };
                Self::creations(&of_stage().filter_map(new).collect::<Vec<_>>())
            }
            Stage::Add => {
                let addition = |write: &'a WriteRequest| {
                    if let WriteRequest::Add(addition) = write { Some(&**addition) } else { None }
                };
                let mut additions = Additions::default();
                for (request, addition) in (1..).zip(of_stage().filter_map(addition)) {
                    additions.push(request, addition);
                }
                Self::Additions(Box::new(additions))
            }
            Stage::Append | Stage::Finish => {
                let append = |write: &'a WriteRequest| {
                    if let WriteRequest::Append(append) = write { Some(&**append) } else { None }
                };
                Self::appends(&of_stage().filter_map(append).collect::<Vec<_>>())
            }
        }
    }

    fn creations(new: &[&'a Creation]) -> Self {
        Self::Creations {
            ids: new.iter().map(|new| new.id).collect(),
            titles: new.iter().map(|new| new.title.as_str()).collect(),
            metadata: new.iter().map(|new| JsonText(new.metadata.as_str().as_bytes())).collect(),
            owners: new.iter().map(|new| new.owner).collect(),
        }
    }

    fn appends(appends: &[&'a Append]) -> Self {
        Self::Appends {
            conversations: appends.iter().map(|append| append.conversation).collect(),
            owners: appends.iter().map(|append| append.owner).collect(),
            messages: appends.iter().map(|append| append.message).collect(),
            starts: appends.iter().map(|append| append.chunk.at).collect(),
            contents: appends.iter().map(|append| append.chunk.content.as_str()).collect(),
        }
    }

    fn parameters<'b>(&'b self, max_message_bytes: &'b i32) -> Vec<Typed<'b>> {
        match self {
            Self::Creations { ids, titles, metadata, owners } => vec![
                (ids, Type::UUID_ARRAY),
                (titles, Type::TEXT_ARRAY),
                (metadata, Type::JSONB_ARRAY),
                (owners, Type::UUID_ARRAY),
            ],
            Self::Additions(additions) => additions.parameters(),
            Self::Appends { conversations, owners, messages, starts, contents } => vec![
                (conversations, Type::UUID_ARRAY),
                (owners, Type::UUID_ARRAY),
                (messages, Type::UUID_ARRAY),
                (starts, Type::INT4_ARRAY),
                (contents, Type::TEXT_ARRAY),
                (max_message_bytes, Type::INT4),
            ],
        }
    }
}

impl<'a> Additions<'a> {
    fn push(&mut self, request: i32, addition: &'a Addition) {
        self.conversations.push(addition.conversation);
        self.owners.push(addition.owner);
        self.keys.push(addition.key.as_ref().map(|key| key.text.as_str()));
        self.hashes.push(addition.key.as_ref().map(|key| key.hash.as_slice()));
        self.ids.extend(&addition.ids);
        for message in &addition.messages {
            self.requests.push(request);
            self.roles.push(message.role.name());
            self.contents.push(&message.content.text);
            self.counts.push(message.token_count);
            self.metadata.push(JsonText(message.metadata.as_str().as_bytes()));
            self.are_done.push(message.done);
            let extra = message.content.extra.as_ref();
            self.extras.push(extra.map(|extra| JsonText(extra.as_str().as_bytes())));
        }
    }

    fn parameters(&self) -> Vec<Typed<'_>> {
        vec![
            (&self.conversations, Type::UUID_ARRAY),
            (&self.owners, Type::UUID_ARRAY),
            (&self.keys, Type::TEXT_ARRAY),
            (&self.hashes, Type::BYTEA_ARRAY),
            (&self.requests, Type::INT4_ARRAY),
            (&self.ids, Type::UUID_ARRAY),
            (&self.roles, Type::TEXT_ARRAY),
            (&self.contents, Type::TEXT_ARRAY),
            (&self.counts, Type::INT4_ARRAY),
            (&self.metadata, Type::JSONB_ARRAY),
            (&self.are_done, Type::BOOL_ARRAY),
            (&self.extras, Type::JSONB_ARRAY),
        ]
    }
}

/// The outcome of each write; `rows` are those of the locks, then of each stage.
fn outcomes(
    writes: &[WriteRequest],
    stages: &[StageBatch],
    rows: &[Vec<Row>],
) -> Result<Vec<WriteResponse>, DbError> {
    let Some((locks, rows)) = rows.split_first() else { return Ok(Vec::new()) };
    let locked: HashSet<Uuid> = match locks.first() {
        Some(row) => row.try_get::<_, Vec<Uuid>>("locked")?.into_iter().collect(),
        None => HashSet::new(),
    };
    let without_row = |write: &WriteRequest| match write {
        WriteRequest::Create(_) => WriteResponse::NotFound,
        write if locked.contains(&write.conversation()) => WriteResponse::NotFound,
        _ => WriteResponse::Locked,
    };
    let mut outcomes: Vec<WriteResponse> = writes.iter().map(without_row).collect();
    for ((stage, numbers), rows) in stages.iter().zip(rows) {
        // Conversations are matched by their ids, the others by their ordinals from 1 on.
        let created: HashMap<Uuid, usize> = match stage {
            Stage::Create => {
                let id = |number: &usize| Some((writes.get(*number)?.conversation(), *number));
                numbers.iter().filter_map(id).collect()
            }
            _ => HashMap::new(),
        };
        for row in rows {
            let (number, response) = match stage {
                Stage::Create => {
                    let conversation = conversation(row)?;
                    (created.get(&conversation.id).copied(), WriteResponse::Created(conversation))
                }
                Stage::Add => {
                    (numbered(numbers, row.try_get("request")?), WriteResponse::Added(add_outcome(row)?))
                }
                Stage::Append | Stage::Finish => {
                    (numbered(numbers, row.try_get("place")?), WriteResponse::Appended(append_outcome(row)?))
                }
            };
            if let Some(outcome) = number.and_then(|number| outcomes.get_mut(number)) {
                *outcome = response;
            }
        }
    }
    Ok(outcomes)
}

fn add_outcome(row: &Row) -> Result<AddOutcome, DbError> {
    let first = row.try_get::<_, SystemTime>("first")?.into();
    Ok(match row.try_get::<_, Option<Vec<u8>>>("known")? {
        None => AddOutcome::Added(first),
        Some(hash) => AddOutcome::Known { hash, ids: row.try_get("ids")?, first },
    })
}

fn append_outcome(row: &Row) -> Result<AppendOutcome, DbError> {
    let (length, bytes): (Option<i32>, Option<i32>) = (row.try_get("length")?, row.try_get("bytes")?);
    let whole = row.try_get::<_, Option<i32>>("whole")?.unwrap_or_default();
    Ok(AppendOutcome { so_far: length.zip(bytes), whole, is_added: row.try_get("is_added")? })
}
