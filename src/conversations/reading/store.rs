//! Batched reads in Postgres.

use std::time::{Duration, SystemTime};

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{PageBudget, ReadRequest, ReadResponse};
use crate::conversations::list::{MessageQuery, Start};
use crate::conversations::model::Message;
use crate::conversations::store::{Found, conversation, message, page};
use crate::db::{
    BY_INDEX, Database, DbError, Parameter as Typed, Query, numbered, query_often_in_time,
    query_snapshot_in_time, sql,
};
use crate::paging::SortKey;
use crate::realtime::{PAGE_BYTES, Position, Snapshot, position_of_row};

/// Reads conversations, with a quota of the pool.
#[derive(Debug, Clone)]
pub(in crate::conversations) struct ReadStore {
    database: Database,
    timeout: Duration,
}

/// The kinds of reads, each with a statement of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Conversation,
    OwnedList,
    UnownedList,
    After,
    Before,
}

const KINDS: [Kind; 5] = [Kind::Conversation, Kind::OwnedList, Kind::UnownedList, Kind::After, Kind::Before];

impl Kind {
    fn of(read: &ReadRequest) -> Self {
        match read {
            ReadRequest::Conversation { .. } => Self::Conversation,
            ReadRequest::List { owner: Some(_), .. } => Self::OwnedList,
            ReadRequest::List { owner: None, .. } => Self::UnownedList,
            ReadRequest::Messages { query: MessageQuery { from: Start::After(_), .. }, .. } => Self::After,
            ReadRequest::Messages { query: MessageQuery { from: Start::Before(_), .. }, .. } => Self::Before,
        }
    }

    fn statement(self, database: &Database) -> &'static str {
        match self {
            Self::Conversation => sql!(database, "conversations/get.sql"),
            Self::OwnedList => sql!(database, "conversations/list.sql", mine = "c.owner = asked.owner"),
            Self::UnownedList => sql!(database, "conversations/list.sql", mine = "c.owner is null"),
            Self::After => sql!(database, "conversations/messages.sql", beyond = ">", direction = "asc"),
            Self::Before => sql!(database, "conversations/messages.sql", beyond = "<", direction = "desc"),
        }
    }
}

/// The most messages of a live subscriber's page; its bytes are [`PAGE_BYTES`].
const LIVE_PAGE: usize = 200;

/// A page for a live subscriber.
#[derive(Debug)]
pub(in crate::conversations) struct LivePage {
    pub(in crate::conversations) messages: Vec<Message>,
    pub(in crate::conversations) is_more: bool,
    /// The snapshot of the page's statement.
    pub(in crate::conversations) snapshot: Snapshot,
}

impl ReadStore {
    /// A store over `database`, whose statements may take up to `timeout`.
    pub(in crate::conversations) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// The outcome of each read, and the position of the snapshot that all were read in.
    pub(in crate::conversations) async fn read(
        &self,
        reads: &[ReadRequest],
        budget: PageBudget,
    ) -> Result<(Vec<ReadResponse>, Position), DbError> {
        let columns: Vec<Columns> = KINDS.into_iter().filter_map(|kind| Columns::of(kind, reads)).collect();
        let (position, rows) = self.rows(&columns, &budget).await?;
        // Only a list is there in any case.
        let without_row = |read: &ReadRequest| match read {
            ReadRequest::List { .. } => ReadResponse::List((Vec::new(), false)),
            _ => ReadResponse::NotFound,
        };
        let mut responses: Vec<ReadResponse> = reads.iter().map(without_row).collect();
        for (columns, rows) in columns.iter().zip(rows) {
            for (place, rows) in of_each(rows)? {
                let Some(number) = numbered(&columns.numbers, place) else { continue };
                if let Some((read, response)) = reads.get(number).zip(responses.get_mut(number)) {
                    *response = budget.response(read, &rows)?;
                }
            }
        }
        Ok((responses, position))
    }

    /// A page of messages behind a key. `None`: there is no such conversation.
    pub(in crate::conversations) async fn live_page(
        &self,
        conversation: Uuid,
        owner: Option<Uuid>,
        after: SortKey,
    ) -> Result<Option<LivePage>, DbError> {
        let query = MessageQuery { limit: LIVE_PAGE, from: Start::After(after) };
        let read = ReadRequest::Messages { conversation, owner, query };
        let budget = PageBudget::alone(PAGE_BYTES);
        let columns = Columns::of(Kind::After, std::slice::from_ref(&read));
        let (_, mut rows) = self.rows(columns.as_slice(), &budget).await?;
        let rows = rows.pop().unwrap_or_default();
        let Some(row) = rows.first() else { return Ok(None) };
        let snapshot = Snapshot::parse(row.try_get("snapshot")?);
        let snapshot = snapshot.ok_or(DbError::Unexpected("a snapshot that cannot be read"))?;
        match budget.response(&read, &rows)? {
            ReadResponse::Messages((messages, is_more)) => Ok(Some(LivePage { messages, is_more, snapshot })),
            _ => Ok(None),
        }
    }

    /// A page of the messages with ids from `first` to `last`, behind `after`; in the order of their ids.
    pub(in crate::conversations) async fn messages_between(
        &self,
        conversation: Uuid,
        (first, last): (Uuid, Uuid),
        after: Option<Uuid>,
    ) -> Result<Found<Message>, DbError> {
        let after = after.unwrap_or_default();
        let (limit, bytes) = (LIVE_PAGE as i64 + 1, PAGE_BYTES as i64);
        let parameters: [Typed<'_>; 6] = [
            (&conversation, Type::UUID),
            (&first, Type::UUID),
            (&last, Type::UUID),
            (&after, Type::UUID),
            (&limit, Type::INT8),
            (&bytes, Type::INT8),
        ];
        let between = sql!(self.database, "conversations/messages_between.sql");
        let connection = self.database.get().await?;
        let rows = query_often_in_time(&connection, self.timeout, between, &parameters).await;
        page(&connection.release(rows)?, LIVE_PAGE, message)
    }

    /// The rows of each statement, and the position of the snapshot that all of them read.
    async fn rows(
        &self,
        columns: &[Columns],
        budget: &PageBudget,
    ) -> Result<(Position, Vec<Vec<Row>>), DbError> {
        let now = sql!(self.database, "realtime/now.sql");
        let mut queries: Vec<Query<'_>> = vec![(BY_INDEX, Vec::new()), (now, Vec::new())];
        let statement = |columns: &Columns| columns.kind.statement(&self.database);
        queries.extend(columns.iter().map(|columns| (statement(columns), columns.parameters(budget))));
        let connection = self.database.get().await?;
        let rows = query_snapshot_in_time(&connection, self.timeout, &queries).await;
        let mut rows = connection.release(rows)?.into_iter().skip(1);
        let now = rows.next().and_then(|now| now.into_iter().next());
        let position =
            position_of_row(&self.database, &now.ok_or(DbError::Unexpected("no snapshot"))?).await?;
        Ok((position, rows.collect()))
    }
}

/// The parameters of a statement: a column of each of these for the reads of its kind.
#[derive(Debug)]
struct Columns {
    kind: Kind,
    /// The numbers of the reads.
    numbers: Vec<usize>,
    conversations: Vec<Uuid>,
    owners: Vec<Option<Uuid>>,
    ats: Vec<SystemTime>,
    ids: Vec<Uuid>,
    limits: Vec<i64>,
    skipped: Vec<i64>,
}

impl Columns {
    /// The reads of a kind, if there are any.
    fn of(kind: Kind, reads: &[ReadRequest]) -> Option<Self> {
        let mut columns = Self {
            kind,
            numbers: Vec::new(),
            conversations: Vec::new(),
            owners: Vec::new(),
            ats: Vec::new(),
            ids: Vec::new(),
            limits: Vec::new(),
            skipped: Vec::new(),
        };
        for (number, read) in reads.iter().enumerate().filter(|(_, read)| Kind::of(read) == kind) {
            columns.numbers.push(number);
            columns.push(read);
        }
        (!columns.numbers.is_empty()).then_some(columns)
    }

    fn push(&mut self, read: &ReadRequest) {
        match read {
            ReadRequest::Conversation { id, owner } => {
                self.conversations.push(*id);
                self.owners.push(*owner);
            }
            ReadRequest::List { owner, query } => {
                self.owners.push(*owner);
                self.page(query.after, query.limit);
                self.skipped.push(i64::from(query.offset));
            }
            ReadRequest::Messages { conversation, owner, query } => {
                self.conversations.push(*conversation);
                self.owners.push(*owner);
                let (Start::After(key) | Start::Before(key)) = query.from;
                self.page(key, query.limit);
            }
        }
    }

    fn page(&mut self, from: SortKey, limit: usize) {
        self.ats.push(from.at.into());
        self.ids.push(from.id);
        // One more, to know whether there are more.
        self.limits.push(limit as i64 + 1);
    }

    fn parameters<'a>(&'a self, budget: &'a PageBudget) -> Vec<Typed<'a>> {
        let conversations: Typed<'a> = (&self.conversations, Type::UUID_ARRAY);
        let owners: Typed<'a> = (&self.owners, Type::UUID_ARRAY);
        let from: [Typed<'a>; 3] = [
            (&self.ats, Type::TIMESTAMPTZ_ARRAY),
            (&self.ids, Type::UUID_ARRAY),
            (&self.limits, Type::INT8_ARRAY),
        ];
        let bounds: [Typed<'a>; 2] = [(&budget.bytes, Type::INT8), (&budget.is_alone, Type::BOOL)];
        match self.kind {
            Kind::Conversation => vec![conversations, owners],
            Kind::OwnedList | Kind::UnownedList => {
                let skipped: Typed<'a> = (&self.skipped, Type::INT8_ARRAY);
                [owners].into_iter().chain(from).chain([skipped]).chain(bounds).collect()
            }
            Kind::After | Kind::Before => {
                [conversations, owners].into_iter().chain(from).chain(bounds).collect()
            }
        }
    }
}

impl PageBudget {
    /// The response that the rows of a read make.
    fn response(self, read: &ReadRequest, rows: &[Row]) -> Result<ReadResponse, DbError> {
        Ok(match read {
            ReadRequest::Conversation { .. } => match rows.first() {
                Some(row) => ReadResponse::Conversation(conversation(row)?),
                None => ReadResponse::NotFound,
            },
            ReadRequest::List { query, .. } => {
                self.page(rows, query.limit, conversation)?.map_or(ReadResponse::TooLarge, ReadResponse::List)
            }
            ReadRequest::Messages { query, .. } => {
                self.page(rows, query.limit, message)?.map_or(ReadResponse::TooLarge, ReadResponse::Messages)
            }
        })
    }

    /// A page of up to `limit` entries. `None`: it exceeds its budget.
    fn page<T>(
        self,
        rows: &[Row],
        limit: usize,
        entry: impl Fn(&Row) -> Result<T, DbError>,
    ) -> Result<Option<Found<T>>, DbError> {
        let Some(first) = rows.first() else { return Ok(Some((Vec::new(), false))) };
        // A conversation without messages has one row, and nothing in it.
        let Some(found) = first.try_get::<_, Option<i64>>("found")? else {
            return Ok(Some((Vec::new(), false)));
        };
        let is_whole = rows.len() as i64 == found && first.try_get("fits")?;
        if is_whole || self.is_alone { page(rows, limit, entry).map(Some) } else { Ok(None) }
    }
}

/// The rows of each read, by its ordinal in the statement from 1 on.
fn of_each(rows: Vec<Row>) -> Result<Vec<(i32, Vec<Row>)>, DbError> {
    let mut all: Vec<(i32, Vec<Row>)> = Vec::new();
    for row in rows {
        let place = row.try_get("place")?;
        match all.last_mut() {
            Some((last, rows)) if *last == place => rows.push(row),
            _ => all.push((place, vec![row])),
        }
    }
    Ok(all)
}
