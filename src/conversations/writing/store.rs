//! Groups of writes in Postgres.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::rounds::{Lot, Stage, lots};
use super::{Addition, Creation, Done, Entered, Growth, Write};
use crate::conversations::pieces::Written;
use crate::conversations::store::conversation;
use crate::db::{
    BY_INDEX, Database, DbError, JsonText, Parameter as Typed, Query, numbered, query_all_in_time,
};

/// Writes to conversations, over a share of the pool.
#[derive(Debug, Clone)]
pub(in crate::conversations) struct WriteStore {
    database: Database,
    timeout: Duration,
    /// What a message takes.
    max_message_bytes: i32,
    sql: Arc<Statements>,
}

#[derive(Debug)]
struct Statements {
    try_locks: String,
    wait_for_lock: String,
    create: String,
    add: String,
    append: String,
    finish: String,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::conversations) enum Patience {
    /// Nobody.
    None,
    /// Who holds the conversation, which has to be one.
    Lock,
}

impl WriteStore {
    /// Over `database`, whose statements may take up to `timeout`.
    pub(in crate::conversations) fn new(
        database: &Database,
        timeout: Duration,
        max_message_bytes: usize,
    ) -> Self {
        let pieces = include_str!("../../../sql/conversations/pieces.sql");
        let of_pieces = |statement: &str| database.sql(&statement.replace("{pieces}", pieces));
        let sql = Statements {
            try_locks: database.sql(include_str!("../../../sql/conversations/try_locks.sql")),
            wait_for_lock: database.sql(include_str!("../../../sql/conversations/wait_for_lock.sql")),
            create: database.sql(include_str!("../../../sql/conversations/create.sql")),
            add: database.sql(include_str!("../../../sql/conversations/add_messages.sql")),
            append: of_pieces(include_str!("../../../sql/conversations/append.sql")),
            finish: of_pieces(include_str!("../../../sql/conversations/finish.sql")),
        };
        let max_message_bytes = i32::try_from(max_message_bytes).unwrap_or(i32::MAX);
        Self { database: database.clone(), timeout, max_message_bytes, sql: Arc::new(sql) }
    }

    /// Writes, all in one transaction; what became of each.
    pub(in crate::conversations) async fn write(
        &self,
        writes: &[Write],
        patience: Patience,
    ) -> Result<Vec<Done>, DbError> {
        let lots = lots(writes.iter().map(Write::step));
        let locks = Locks::of(writes);
        let columns: Vec<Columns<'_>> = lots.iter().map(|lot| Columns::of(writes, lot)).collect();
        let mut queries: Vec<Query<'_>> = Vec::with_capacity(2 + lots.len());
        queries.push((BY_INDEX, Vec::new()));
        queries.push(match patience {
            Patience::None => (&self.sql.try_locks, locks.parameters()),
            Patience::Lock => (&self.sql.wait_for_lock, locks.first()),
        });
        for ((stage, _), columns) in lots.iter().zip(&columns) {
            queries.push((self.sql.of(*stage), columns.parameters(&self.max_message_bytes)));
        }
        let connection = self.database.get().await?;
        let rows = query_all_in_time(&connection, self.timeout, &queries).await;
        outcomes(writes, &lots, connection.release(rows)?.get(1..).unwrap_or_default())
    }
}

impl Statements {
    fn of(&self, stage: Stage) -> &str {
        match stage {
            Stage::Create => &self.create,
            Stage::Add => &self.add,
            Stage::Append => &self.append,
            Stage::Finish => &self.finish,
        }
    }
}

/// The conversations that have to be locked.
#[derive(Debug, Default)]
struct Locks {
    ids: Vec<Uuid>,
    /// Whether their rows will be written.
    are_written: Vec<bool>,
}

impl Locks {
    fn of(writes: &[Write]) -> Self {
        let mut all: HashMap<Uuid, bool> = HashMap::new();
        for write in writes {
            let is_written = match write {
                // Nobody else can know it.
                Write::Create(_) => continue,
                Write::Add(_) => true,
                Write::Append(growth) => growth.piece.done,
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

/// What a statement is given, column by column.
enum Columns<'a> {
    Creations {
        ids: Vec<Uuid>,
        titles: Vec<&'a str>,
        metadata: Vec<JsonText<'a>>,
        owners: Vec<Option<Uuid>>,
    },
    Additions(Box<Additions<'a>>),
    Growths {
        conversations: Vec<Uuid>,
        owners: Vec<Option<Uuid>>,
        messages: Vec<Uuid>,
        starts: Vec<i32>,
        contents: Vec<&'a str>,
    },
}

/// Of each request four columns, of each message eight.
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
    fn of(writes: &'a [Write], (stage, numbers): &Lot) -> Self {
        let of_lot = || numbers.iter().filter_map(|number| writes.get(*number));
        match stage {
            Stage::Create => {
                let new = |write: &'a Write| if let Write::Create(new) = write { Some(&**new) } else { None };
                Self::creations(&of_lot().filter_map(new).collect::<Vec<_>>())
            }
            Stage::Add => {
                let addition = |write: &'a Write| {
                    if let Write::Add(addition) = write { Some(&**addition) } else { None }
                };
                let mut additions = Additions::default();
                for (request, addition) in (1..).zip(of_lot().filter_map(addition)) {
                    additions.push(request, addition);
                }
                Self::Additions(Box::new(additions))
            }
            Stage::Append | Stage::Finish => {
                let growth =
                    |write: &'a Write| if let Write::Append(growth) = write { Some(&**growth) } else { None };
                Self::growths(&of_lot().filter_map(growth).collect::<Vec<_>>())
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

    fn growths(growths: &[&'a Growth]) -> Self {
        Self::Growths {
            conversations: growths.iter().map(|growth| growth.conversation).collect(),
            owners: growths.iter().map(|growth| growth.owner).collect(),
            messages: growths.iter().map(|growth| growth.message).collect(),
            starts: growths.iter().map(|growth| growth.piece.at).collect(),
            contents: growths.iter().map(|growth| growth.piece.content.as_str()).collect(),
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
            Self::Growths { conversations, owners, messages, starts, contents } => vec![
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
            self.contents.push(&message.said.content);
            self.counts.push(message.token_count);
            self.metadata.push(JsonText(message.metadata.as_str().as_bytes()));
            self.are_done.push(message.done);
            let extra = message.said.extra.as_ref();
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

/// What became of each write: `rows` are those of the locks, then of each lot.
fn outcomes(writes: &[Write], lots: &[Lot], rows: &[Vec<Row>]) -> Result<Vec<Done>, DbError> {
    let Some((locks, rows)) = rows.split_first() else { return Ok(Vec::new()) };
    let locked: HashSet<Uuid> = match locks.first() {
        Some(row) => row.try_get::<_, Vec<Uuid>>("locked")?.into_iter().collect(),
        None => HashSet::new(),
    };
    let without_row = |write: &Write| match write {
        Write::Create(_) => Done::NotFound,
        write if locked.contains(&write.conversation()) => Done::NotFound,
        _ => Done::Held,
    };
    let mut outcomes: Vec<Done> = writes.iter().map(without_row).collect();
    for ((stage, numbers), rows) in lots.iter().zip(rows) {
        // Conversations are told by their ids, the others by their places from 1 on.
        let made: HashMap<Uuid, usize> = match stage {
            Stage::Create => {
                let id = |number: &usize| Some((writes.get(*number)?.conversation(), *number));
                numbers.iter().filter_map(id).collect()
            }
            _ => HashMap::new(),
        };
        for row in rows {
            let (number, done) = match stage {
                Stage::Create => {
                    let conversation = conversation(row)?;
                    (made.get(&conversation.id).copied(), Done::Created(conversation))
                }
                Stage::Add => (numbered(numbers, row.try_get("request")?), Done::Entered(entered(row)?)),
                Stage::Append | Stage::Finish => {
                    (numbered(numbers, row.try_get("place")?), Done::Written(written(row)?))
                }
            };
            if let Some(outcome) = number.and_then(|number| outcomes.get_mut(number)) {
                *outcome = done;
            }
        }
    }
    Ok(outcomes)
}

fn entered(row: &Row) -> Result<Entered, DbError> {
    let first = row.try_get::<_, SystemTime>("first")?.into();
    Ok(match row.try_get::<_, Option<Vec<u8>>>("known")? {
        None => Entered::Added(first),
        Some(hash) => Entered::Known { hash, ids: row.try_get("ids")?, first },
    })
}

fn written(row: &Row) -> Result<Written, DbError> {
    let (length, bytes): (Option<i32>, Option<i32>) = (row.try_get("length")?, row.try_get("bytes")?);
    let whole = row.try_get::<_, Option<i32>>("whole")?.unwrap_or_default();
    Ok(Written { so_far: length.zip(bytes), whole, is_added: row.try_get("is_added")? })
}
