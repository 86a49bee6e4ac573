//! Groups of reads in Postgres.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Read, Room, Shown};
use crate::conversations::list::{From, MessageQuery};
use crate::conversations::model::Message;
use crate::conversations::place::Place;
use crate::conversations::store::{Found, conversation, message, page};
use crate::db::{
    BY_INDEX, Database, DbError, Parameter as Typed, Query, numbered, query_all_in_time, query_often_in_time,
};
use crate::realtime::Snapshot;

/// Reads of conversations, over a share of the pool.
#[derive(Debug, Clone)]
pub(in crate::conversations) struct ReadStore {
    database: Database,
    timeout: Duration,
    sql: Arc<Statements>,
}

#[derive(Debug)]
struct Statements {
    conversation: String,
    list_of_owner: String,
    list_of_nobody: String,
    after: String,
    before: String,
    between: String,
}

impl Statements {
    fn new(database: &Database) -> Self {
        let list = database.sql(include_str!("../../../sql/conversations/list.sql"));
        let messages = database.sql(include_str!("../../../sql/conversations/messages.sql"));
        let towards =
            |beyond, direction| messages.replace("{beyond}", beyond).replace("{direction}", direction);
        Self {
            conversation: database.sql(include_str!("../../../sql/conversations/get.sql")),
            list_of_owner: list.replace("{mine}", "c.owner = asked.owner"),
            list_of_nobody: list.replace("{mine}", "c.owner is null"),
            after: towards(">", "asc"),
            before: towards("<", "desc"),
            between: database.sql(include_str!("../../../sql/conversations/messages_between.sql")),
        }
    }

    fn of(&self, kind: Kind) -> &str {
        match kind {
            Kind::Conversation => &self.conversation,
            Kind::ListOfOwner => &self.list_of_owner,
            Kind::ListOfNobody => &self.list_of_nobody,
            Kind::After => &self.after,
            Kind::Before => &self.before,
        }
    }
}

/// What has a statement of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Conversation,
    ListOfOwner,
    ListOfNobody,
    After,
    Before,
}

const KINDS: [Kind; 5] =
    [Kind::Conversation, Kind::ListOfOwner, Kind::ListOfNobody, Kind::After, Kind::Before];

impl Kind {
    fn of(read: &Read) -> Self {
        match read {
            Read::Conversation { .. } => Self::Conversation,
            Read::List { owner: Some(_), .. } => Self::ListOfOwner,
            Read::List { owner: None, .. } => Self::ListOfNobody,
            Read::Messages { query: MessageQuery { from: From::After(_), .. }, .. } => Self::After,
            Read::Messages { query: MessageQuery { from: From::Before(_), .. }, .. } => Self::Before,
        }
    }
}

/// Messages of a page for somebody who follows, and the bytes at which that is enough: it waits until he has read it.
const LIVE_PAGE: usize = 200;
const LIVE_PAGE_BYTES: usize = crate::realtime::LOT_BYTES;

/// A page for somebody who follows.
#[derive(Debug)]
pub(in crate::conversations) struct LivePage {
    pub(in crate::conversations) messages: Vec<Message>,
    pub(in crate::conversations) is_more: bool,
    /// What the page's statement saw.
    pub(in crate::conversations) snapshot: Snapshot,
}

impl ReadStore {
    /// Over `database`, whose statements may take up to `timeout`.
    pub(in crate::conversations) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout, sql: Arc::new(Statements::new(database)) }
    }

    /// Reads; what was found of each.
    pub(in crate::conversations) async fn read(
        &self,
        reads: &[Read],
        room: Room,
    ) -> Result<Vec<Shown>, DbError> {
        let asked: Vec<Asked> = KINDS.into_iter().filter_map(|kind| Asked::of(kind, reads)).collect();
        let rows = self.rows(&asked, &room).await?;
        // Only a list is there in any case.
        let without_row = |read: &Read| match read {
            Read::List { .. } => Shown::List((Vec::new(), false)),
            _ => Shown::Nothing,
        };
        let mut shown: Vec<Shown> = reads.iter().map(without_row).collect();
        for (asked, rows) in asked.iter().zip(rows) {
            for (place, rows) in of_each(rows)? {
                let Some(number) = numbered(&asked.numbers, place) else { continue };
                if let Some((read, shown)) = reads.get(number).zip(shown.get_mut(number)) {
                    *shown = room.shown(read, &rows)?;
                }
            }
        }
        Ok(shown)
    }

    /// A page of messages behind a place, and what its statement saw; none if there is no such conversation.
    pub(in crate::conversations) async fn live_page(
        &self,
        conversation: Uuid,
        owner: Option<Uuid>,
        after: Place,
    ) -> Result<Option<LivePage>, DbError> {
        let query = MessageQuery { limit: LIVE_PAGE, from: From::After(after) };
        let read = Read::Messages { conversation, owner, query };
        let room = Room::alone(LIVE_PAGE_BYTES);
        let asked = Asked::of(Kind::After, std::slice::from_ref(&read));
        let rows = self.rows(asked.as_slice(), &room).await?.pop().unwrap_or_default();
        let Some(row) = rows.first() else { return Ok(None) };
        let snapshot = Snapshot::parse(row.try_get("snapshot")?);
        let snapshot = snapshot.ok_or(DbError::Unexpected("a snapshot that cannot be read"))?;
        match room.shown(&read, &rows)? {
            Shown::Messages((messages, is_more)) => Ok(Some(LivePage { messages, is_more, snapshot })),
            _ => Ok(None),
        }
    }

    /// A lot of the messages with ids between two, both included, behind a third; in the order of their ids.
    pub(in crate::conversations) async fn messages_between(
        &self,
        conversation: Uuid,
        (first, last): (Uuid, Uuid),
        after: Option<Uuid>,
    ) -> Result<Found<Message>, DbError> {
        let after = after.unwrap_or_default();
        let (limit, bytes) = (LIVE_PAGE as i64 + 1, LIVE_PAGE_BYTES as i64);
        let parameters: [Typed<'_>; 6] = [
            (&conversation, Type::UUID),
            (&first, Type::UUID),
            (&last, Type::UUID),
            (&after, Type::UUID),
            (&limit, Type::INT8),
            (&bytes, Type::INT8),
        ];
        let connection = self.database.get().await?;
        let rows = query_often_in_time(&connection, self.timeout, &self.sql.between, &parameters).await;
        page(&connection.release(rows)?, LIVE_PAGE, message)
    }

    /// The rows of each statement.
    async fn rows(&self, asked: &[Asked], room: &Room) -> Result<Vec<Vec<Row>>, DbError> {
        let mut queries: Vec<Query<'_>> = vec![(BY_INDEX, Vec::new())];
        queries.extend(asked.iter().map(|asked| (self.sql.of(asked.kind), asked.parameters(room))));
        let connection = self.database.get().await?;
        let rows = query_all_in_time(&connection, self.timeout, &queries).await;
        Ok(connection.release(rows)?.into_iter().skip(1).collect())
    }
}

/// What a statement is given: a column of each of these for the reads of its kind.
#[derive(Debug)]
struct Asked {
    kind: Kind,
    /// The numbers of the reads.
    numbers: Vec<usize>,
    conversations: Vec<Uuid>,
    owners: Vec<Option<Uuid>>,
    ats: Vec<SystemTime>,
    ids: Vec<Uuid>,
    limits: Vec<i64>,
    passed_over: Vec<i64>,
}

impl Asked {
    /// The reads of a kind, if there are any.
    fn of(kind: Kind, reads: &[Read]) -> Option<Self> {
        let mut asked = Self {
            kind,
            numbers: Vec::new(),
            conversations: Vec::new(),
            owners: Vec::new(),
            ats: Vec::new(),
            ids: Vec::new(),
            limits: Vec::new(),
            passed_over: Vec::new(),
        };
        for (number, read) in reads.iter().enumerate().filter(|(_, read)| Kind::of(read) == kind) {
            asked.numbers.push(number);
            asked.push(read);
        }
        (!asked.numbers.is_empty()).then_some(asked)
    }

    fn push(&mut self, read: &Read) {
        match read {
            Read::Conversation { id, owner } => {
                self.conversations.push(*id);
                self.owners.push(*owner);
            }
            Read::List { owner, query } => {
                self.owners.push(*owner);
                self.page(query.after, query.limit);
                self.passed_over.push(i64::from(query.offset));
            }
            Read::Messages { conversation, owner, query } => {
                self.conversations.push(*conversation);
                self.owners.push(*owner);
                let (From::After(place) | From::Before(place)) = query.from;
                self.page(place, query.limit);
            }
        }
    }

    fn page(&mut self, from: Place, limit: usize) {
        self.ats.push(from.at.into());
        self.ids.push(from.id);
        // One more tells whether there is more.
        self.limits.push(limit as i64 + 1);
    }

    fn parameters<'a>(&'a self, room: &'a Room) -> Vec<Typed<'a>> {
        let conversations: Typed<'a> = (&self.conversations, Type::UUID_ARRAY);
        let owners: Typed<'a> = (&self.owners, Type::UUID_ARRAY);
        let from: [Typed<'a>; 3] = [
            (&self.ats, Type::TIMESTAMPTZ_ARRAY),
            (&self.ids, Type::UUID_ARRAY),
            (&self.limits, Type::INT8_ARRAY),
        ];
        let bounds: [Typed<'a>; 2] = [(&room.bytes, Type::INT8), (&room.is_alone, Type::BOOL)];
        match self.kind {
            Kind::Conversation => vec![conversations, owners],
            Kind::ListOfOwner | Kind::ListOfNobody => {
                let passed_over: Typed<'a> = (&self.passed_over, Type::INT8_ARRAY);
                [owners].into_iter().chain(from).chain([passed_over]).chain(bounds).collect()
            }
            Kind::After | Kind::Before => {
                [conversations, owners].into_iter().chain(from).chain(bounds).collect()
            }
        }
    }
}

impl Room {
    /// What the rows of a read are.
    fn shown(self, read: &Read, rows: &[Row]) -> Result<Shown, DbError> {
        Ok(match read {
            Read::Conversation { .. } => match rows.first() {
                Some(row) => Shown::Conversation(conversation(row)?),
                None => Shown::Nothing,
            },
            Read::List { query, .. } => {
                self.page(rows, query.limit, conversation)?.map_or(Shown::TooMuch, Shown::List)
            }
            Read::Messages { query, .. } => {
                self.page(rows, query.limit, message)?.map_or(Shown::TooMuch, Shown::Messages)
            }
        })
    }

    /// A page of up to `limit` entries; none if there was no room for as many as there are.
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

/// The rows of each read, by its place in the statement from 1 on.
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
