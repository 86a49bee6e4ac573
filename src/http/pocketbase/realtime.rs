//! `/api/realtime`: changes of records as server-sent events, whose topics a client sets by a request of its own.
//!
//! ```text
//! GET  ─▶ a stream, which begins with the client's id (PB_CONNECT)
//! POST ─▶ the stream of that id, on whichever node ─▶ its topics ─▶ 204, from which on their changes are delivered
//! ```
//!
//! A topic is a collection, or one of its records, with options: a filter, `expand`, `fields`, and the query and headers that rules read. Each
//! change is judged by the collection's list rule, or for one record by its view rule, on the record as the change left it.
//!
//! The option `resume` of a topic, a UUID, keeps a position on the server: see [`crate::realtime::clients`]. A client that comes back with it gets the
//! changes of meanwhile. They are read from the table for all returning topics of a request at once, from the oldest of their positions on; each
//! topic skips those up to its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::caller::{self, Shown};
use super::error::{Operation, Refusal};
use super::{body, no_content};
use crate::db::DbError;
use crate::http::event_stream::{self, CHUNK_BYTES, Close, EventSource, EventStream, LAST_EVENT_ID};
use crate::http::server::ConnectionHandle;
use crate::http::wire::error::ApiError;
use crate::http::wire::{query, sse};
use crate::http::{AppState, Services};
use crate::realtime::clients::{
    ClientConnection, ClientId, ClientRequest, Clients, KeptPosition, MAX_POSITIONS, OpenError, PositionName,
    RequestError,
};
use crate::realtime::{Action, Change, Next, Position, Subscription};
use crate::records::RequestValues;
use crate::records::schema::{Projection, Violation, Violations};
use crate::records::typed::{
    AuthRecord, Caller, ChangedRecord, CollectionHandle, Expand, TypedError, TypedRecords,
};

/// The most topics of a client, and the longest one, in characters.
const MAX_TOPICS: usize = 1_000;
const MAX_TOPIC: usize = 2_500;
/// Bytes of a request.
const MAX_BYTES: usize = 4 << 20;
/// The longest id of a client.
const MAX_ID: usize = 255;
/// The time between two checks of a superuser's token.
const CHECK: Duration = Duration::from_secs(15);
/// The time between two renewals of a position without new changes.
const RENEWAL: Duration = Duration::from_secs(60);
/// The time for which changes are written without a pause for other tasks.
const MAX_RUN: Duration = Duration::from_millis(2);

/// `GET /api/realtime`.
#[utoipa::path(
    get,
    path = "/api/realtime",
    tag = "collections",
    summary = "Changes of records, as server-sent events",
    description = "The first event, PB_CONNECT, has the id by which POST sets the topics.",
    responses((status = 200, description = "Events, named by their topics", content_type = "text/event-stream", body = String))
)]
pub(super) async fn connect(
    State(state): State<Arc<AppState>>,
    Extension(connection): Extension<ConnectionHandle>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    // Of a client that reads the ids of events. The id of PB_CONNECT is none.
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).and_then(Position::parse);
    let (typed, realtime) = (services.typed()?.clone(), services.realtime()?);
    let client = realtime.clients().open().await.map_err(|error| match error {
        OpenError::Database(error) => ApiError::from(error),
        OpenError::NoRandomness => ApiError::internal(),
    })?;
    let subscription = realtime.connect(None).map_err(ApiError::from)?;
    let clients = realtime.clients().clone();
    let stream = EventStream {
        state: Arc::clone(&state),
        heartbeat: Duration::from_secs(realtime.limits().heartbeat_s),
        connection: connection.clone(),
        access: None,
        retry_ms: None,
    };
    let mut response = stream.respond(Source {
        state,
        typed,
        clients,
        client,
        connection,
        subscription,
        shown: Shown::default(),
        checked: Instant::now(),
        topics: Vec::new(),
        feed: BTreeSet::new(),
        cursors: Vec::new(),
        last,
        position: Position::unknown(),
        unsent: None,
        renewed: Instant::now(),
        request: None,
        joining: None,
        is_reading: false,
        awaits_redirect: false,
        redirect: None,
        is_greeted: false,
        expires: None,
    });
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The topic of a client that waits for a provider's redirect.
const REDIRECT: &str = "@oauth2";

/// A request to a stream, on its way between nodes.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    shown: Shown,
    /// The owner of kept positions.
    owner: String,
    topics: Vec<String>,
    /// The data of a provider's redirect. Without it the topics are set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redirect: Option<Value>,
}

/// The answer of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Reply {
    Set,
    /// The request is of another caller than those before.
    OtherCaller,
    /// The feed could not be read, or there are too many topics.
    Failed,
    /// The owner has [`MAX_POSITIONS`] positions.
    TooManyPositions,
    /// The client waits for no redirect.
    NotAwaited,
}

/// `POST /api/realtime`.
#[utoipa::path(
    post,
    path = "/api/realtime",
    tag = "collections",
    summary = "Sets the topics of a stream",
    request_body(content = Value, content_type = "application/json", description = "clientId, and subscriptions: the topics"),
    responses(
        (status = 204, description = "They are set; later changes are delivered"),
        (status = 400, description = "The id is missing, or topics are refused"),
        (status = 403, description = "The stream is of another caller"),
        (status = 404, description = "There is no such stream"),
    )
)]
pub(super) async fn subscribe(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_BYTES).await?;
    let (id, topics) = parse(&read.members, read.is_form)?;
    let shown = caller::shown(&state, &read.head).await?;
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "Missing or invalid client id.");
    let id = ClientId::parse(&id).ok_or_else(unknown)?;
    let owner = shown.owner(&read.head);
    let message = serde_json::to_vec(&Message { shown, owner, topics, redirect: None })
        .map_err(|_| Refusal::internal())?;
    let answered = services.realtime()?.clients().request(&id, message.into()).await;
    let away = || {
        ApiError::unavailable("overloaded", "the stream does not answer; try again", Duration::from_secs(1))
    };
    let answer = answered.map_err(|error| match error {
        RequestError::Unknown => unknown(),
        RequestError::TooLarge => ApiError::too_large("too many bytes of topics").into(),
        RequestError::NoAnswer | RequestError::Busy => away().into(),
        RequestError::Database(error) => ApiError::from(error).into(),
    })?;
    match serde_json::from_slice(&answer) {
        Ok(Reply::Set) => Ok(no_content()),
        Ok(Reply::OtherCaller) => {
            let message = "The current and the previous request authorization don't match.";
            Err(Refusal::new(StatusCode::FORBIDDEN, message))
        }
        Ok(Reply::TooManyPositions) => {
            let message = format!("There are {MAX_POSITIONS} subscriptions with resume already.");
            let mut violations = Violations::default();
            violations.add("subscriptions", Violation::new("too_many_values", message));
            Err(Operation::Read.refuses(TypedError::Refused(violations)))
        }
        Ok(Reply::Failed | Reply::NotAwaited) | Err(_) => Err(away().into()),
    }
}

/// Sends the data of a provider's redirect to the client that waits for it, on any node. Whether there is one.
pub(super) async fn send_redirect(services: &Services, id: &str, data: Value) -> Result<bool, Refusal> {
    let Some(id) = ClientId::parse(id) else { return Ok(false) };
    let message =
        Message { shown: Shown::default(), owner: String::new(), topics: Vec::new(), redirect: Some(data) };
    let message = serde_json::to_vec(&message).map_err(|_| Refusal::internal())?;
    match services.realtime()?.clients().request(&id, message.into()).await {
        Ok(answer) => Ok(matches!(serde_json::from_slice(&answer), Ok(Reply::Set))),
        Err(RequestError::Database(error)) => Err(ApiError::from(error).into()),
        Err(_) => Ok(false),
    }
}

/// The id and the topics of a request.
fn parse(members: &Map<String, Value>, is_form: bool) -> Result<(String, Vec<String>), Refusal> {
    let id = match members.get("clientId") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(id)) => id.clone(),
        // A form's value in its shortest spelling.
        Some(Value::Number(id)) if is_form => id.to_string(),
        Some(_) => return Err(Refusal::generic()),
    };
    let topics: Vec<Value> = match members.get("subscriptions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(topics)) => topics.clone(),
        Some(topic) if is_form => vec![topic.clone()],
        Some(_) => return Err(Refusal::generic()),
    };
    let text = |topic: &Value| match topic {
        Value::String(topic) => Ok(topic.clone()),
        topic if is_form => Ok(topic.to_string()),
        _ => Err(Refusal::generic()),
    };
    let topics: Vec<String> = topics.iter().map(text).collect::<Result<_, _>>()?;
    let mut violations = Violations::default();
    let too_long = |most: usize| {
        Violation::new("length_too_long", format!("The length must be no more than {most}."))
            .with("max", most)
            .with("min", 0)
    };
    if id.is_empty() {
        violations.add("clientId", Violation::required());
    } else if id.chars().count() > MAX_ID {
        let message = format!("The length must be between 1 and {MAX_ID}.");
        let violation = Violation::new("length_out_of_range", message).with("max", MAX_ID).with("min", 1);
        violations.add("clientId", violation);
    }
    if topics.len() > MAX_TOPICS {
        violations.add("subscriptions", too_long(MAX_TOPICS));
    }
    let mut of_topics = Violations::default();
    let is_long = |(_, topic): &(usize, &String)| topic.chars().count() > MAX_TOPIC;
    for (at, _) in topics.iter().enumerate().filter(is_long) {
        of_topics.add(&at.to_string(), too_long(MAX_TOPIC));
    }
    for (at, topic) in topics.iter().enumerate().take(MAX_TOPICS) {
        if Options::of_topic(topic).resume().is_err() {
            let violation = Violation::new("invalid_format", "The option resume must be a UUID.".to_owned());
            of_topics.add(&at.to_string(), violation);
        }
    }
    violations.add_all("subscriptions", of_topics);
    match violations.into_result() {
        Ok(()) => Ok((id, topics.into_iter().filter(|topic| !topic.is_empty()).collect())),
        Err(violations) => Err(Operation::Read.refuses(TypedError::Refused(violations))),
    }
}

/// A topic of a client.
struct Topic {
    /// As the client wrote it: the name of its events.
    text: String,
    /// The id of the collection.
    collection: String,
    /// The topic of the feed.
    feed: String,
    /// `None`: all records.
    record: Option<String>,
    request: RequestValues,
    filter: String,
    expand: Expand,
    fields: Option<Projection>,
    /// The name of its kept position, if it has one.
    cursor: Option<Uuid>,
    /// While changes are read from the table: those up to here are not for it.
    floor: Option<Position>,
    /// Whether it misses changes if the table does not have them any more.
    returns: bool,
    /// Whether it has joined: changes of its collection that come before are for others.
    is_joined: bool,
}

/// The options of a topic.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    query: Map<String, Value>,
    headers: Map<String, Value>,
}

impl Options {
    /// Broken options are none.
    fn of_topic(topic: &str) -> Self {
        let (_, query) = topic.split_once('?').unwrap_or_default();
        let options = query::pairs(query).find(|(name, _)| name == "options");
        options.and_then(|(_, json)| serde_json::from_str(&json).ok()).unwrap_or_default()
    }

    /// The client's name for a kept position.
    fn resume(&self) -> Result<Option<Uuid>, uuid::Error> {
        match self.query.get("resume") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Uuid::try_parse(text).map(Some),
            Some(_) => Uuid::try_parse("").map(Some),
        }
    }
}

impl Topic {
    /// Reads a topic. `None`: there is no such collection, and nothing is ever sent.
    async fn parse(text: String, typed: &TypedRecords) -> Option<Self> {
        let options = Options::of_topic(&text);
        let path = text.split_once('?').map_or(&*text, |(path, _)| path);
        let (name, record) = match path.split_once('/') {
            None | Some((_, "*")) => (path.split('/').next().unwrap_or_default(), None),
            Some((name, record)) => (name, Some(record.to_owned())),
        };
        if name.is_empty() || !sse::is_one_line(&text) {
            return None;
        }
        let found = typed.collection(name).await.ok().flatten()?;
        // Another spelling of the name is silent.
        if found.name().as_str() != name && found.definition().id != name {
            return None;
        }
        // One name serves several topics: each has a position of its own.
        let of_topic = format!("{}/{}", found.definition().id, record.as_deref().unwrap_or("*"));
        let cursor = options.resume().ok().flatten().map(|resume| Uuid::new_v5(&resume, of_topic.as_bytes()));
        let texts = |members: Map<String, Value>, is_header: bool| -> Map<String, Value> {
            let text = |(name, value): (String, Value)| {
                let name = if is_header { name.to_lowercase().replace('-', "_") } else { name };
                let value = if value.is_string() { value } else { value.to_string().into() };
                (name, value)
            };
            members.into_iter().map(text).collect()
        };
        let request = RequestValues {
            context: "realtime",
            method: "GET".into(),
            query: texts(options.query, false),
            headers: texts(options.headers, true),
            body: Map::new(),
            before: None,
            auth: None,
        };
        let option = |name: &str| request.query.get(name).and_then(Value::as_str).unwrap_or_default();
        let (filter, expand) = (option("filter").to_owned(), Expand::parse(option("expand")));
        let fields = Projection::parse(option("fields")).flatten();
        let (collection, feed) = (found.definition().id.clone(), found.topic().to_owned());
        let (floor, returns, is_joined) = (None, false, false);
        Some(Self {
            collection,
            feed,
            record,
            filter,
            expand,
            fields,
            request,
            text,
            cursor,
            floor,
            returns,
            is_joined,
        })
    }

    fn matches(&self, change: &Change) -> bool {
        *self.feed == *change.topic && self.record.as_ref().is_none_or(|record| **record == *change.record)
    }
}

/// A kept position.
struct Cursor {
    name: Uuid,
    /// `None`: it is new, and begins where its topics join.
    kept: Option<KeptPosition>,
    /// While changes are read from the table: those up to here are not for it.
    floor: Option<Position>,
    /// While changes are read from the table: its topics have their changes up to here.
    position: Option<Position>,
}

/// A request whose topics have not joined.
struct JoiningRequest {
    request: ClientRequest,
    owner: String,
    /// Whether some come back from a position.
    returns: bool,
}

/// The events of a client.
struct Source {
    state: Arc<AppState>,
    typed: TypedRecords,
    clients: Clients,
    client: ClientConnection,
    connection: ConnectionHandle,
    subscription: Subscription,
    /// The caller of the last request.
    shown: Shown,
    /// The last check of a superuser's token.
    checked: Instant,
    topics: Vec<Topic>,
    /// The topics of the feed that these need.
    feed: BTreeSet<String>,
    cursors: Vec<Cursor>,
    /// The position with which the client came.
    last: Option<Position>,
    /// The topics that are not read from the table have their changes up to here, in written chunks.
    position: Position,
    /// The position of the cursors once the chunk that was written last is sent.
    unsent: Option<Position>,
    /// The last renewal of positions without new changes.
    renewed: Instant,
    /// A request that waits for the one before.
    request: Option<ClientRequest>,
    joining: Option<JoiningRequest>,
    /// Whether changes are read from the table.
    is_reading: bool,
    /// Whether the client waits for a provider's redirect; it gets one.
    awaits_redirect: bool,
    /// The data of one that is to be sent.
    redirect: Option<Value>,
    is_greeted: bool,
    /// The time at which the token of the caller's record expires: the stream ends then, and a client that has a new one comes back with it.
    expires: Option<Instant>,
}

impl Source {
    /// Sets the topics of a request. New ones of the feed join first.
    async fn set(&mut self, request: ClientRequest) {
        let Ok(message) = serde_json::from_slice::<Message>(&request.body) else {
            return answer(request, Reply::Failed);
        };
        if let Some(redirect) = message.redirect {
            if !std::mem::take(&mut self.awaits_redirect) {
                return answer(request, Reply::NotAwaited);
            }
            self.redirect = Some(redirect);
            return answer(request, Reply::Set);
        }
        self.settle().await;
        if !self.shown.may_become(&message.shown) {
            return answer(request, Reply::OtherCaller);
        }
        self.awaits_redirect = message.topics.iter().any(|topic| topic == REDIRECT);
        let mut topics = Vec::with_capacity(message.topics.len());
        for text in message.topics {
            topics.extend(Topic::parse(text, &self.typed).await);
        }
        let identity: Arc<str> = message.shown.identity().into();
        let last = self.last.take();
        let returning = match self.set_cursors(&topics, &identity).await {
            Ok(returning) => returning,
            Err(error) => {
                tracing::warn!(error = error.with_sources(), "the positions of a client cannot be read");
                self.last = last;
                self.cursors.clear();
                return answer(request, Reply::Failed);
            }
        };
        let is_known = |topic: &Topic| self.topics.iter().any(|known| known.text == topic.text);
        for topic in topics.iter_mut() {
            let kept = || returning.iter().find(|(name, _)| topic.cursor == Some(*name));
            topic.floor = match is_known(topic) {
                true => None,
                // More exact than what is kept.
                false => last.clone().or_else(|| kept().map(|(_, position)| position.clone())),
            };
            topic.returns = topic.floor.is_some();
        }
        let from = Position::oldest(topics.iter().filter_map(|topic| topic.floor.as_ref()));
        let of_table: BTreeSet<String> =
            topics.iter().filter(|topic| topic.returns).map(|topic| topic.feed.clone()).collect();
        // Known topics of the same collections are read from the table too, from where they are.
        for topic in topics.iter_mut().filter(|topic| is_known(topic)) {
            topic.is_joined = true;
            if of_table.contains(&topic.feed) {
                (topic.floor, topic.returns) = (Some(self.position.clone()), true);
            }
        }
        for cursor in &mut self.cursors {
            let returns = |topic: &Topic| topic.cursor == Some(cursor.name) && topic.returns;
            match topics.iter().any(returns) {
                false => (cursor.floor, cursor.position) = (None, None),
                true if cursor.floor.is_none() => {
                    let here = Some(self.position.clone());
                    (cursor.floor, cursor.position) = (here.clone(), here);
                }
                true => {}
            }
        }
        let wanted: BTreeSet<String> = topics.iter().map(|topic| topic.feed.clone()).collect();
        for gone in self.feed.difference(&wanted).chain(self.feed.intersection(&of_table)) {
            self.subscription.remove(gone);
        }
        let is_new = |name: &&String| !self.feed.contains(*name) || of_table.contains(*name);
        let new: Vec<String> = wanted.iter().filter(is_new).cloned().collect();
        (self.shown, self.topics, self.feed) = (message.shown, topics, wanted);
        self.expires = self.shown.expires_in().map(|left| Instant::now() + left);
        let has_new_cursor = self.cursors.iter().any(|cursor| cursor.kept.is_none());
        if new.is_empty() && !has_new_cursor {
            self.topics.iter_mut().for_each(|topic| topic.is_joined = true);
            return answer(request, Reply::Set);
        }
        match self.subscription.add(new.clone(), from.clone()) {
            Ok(()) => {
                let (owner, returns) = (message.owner, from.is_some());
                self.joining = Some(JoiningRequest { request, owner, returns });
            }
            Err(_too_many) => {
                self.forget(&new);
                answer(request, Reply::Failed);
            }
        }
    }

    /// Sets the cursors to those of the topics. Returns the positions of those that are taken over.
    async fn set_cursors(
        &mut self,
        topics: &[Topic],
        identity: &Arc<str>,
    ) -> Result<Vec<(Uuid, Position)>, DbError> {
        let names: BTreeSet<Uuid> = topics.iter().filter_map(|topic| topic.cursor).collect();
        let is_bound =
            |cursor: &Cursor| cursor.kept.as_ref().is_some_and(|kept| kept.name().identity == *identity);
        // A client that has signed in goes on where it is, by a position of its new identity.
        let is_live =
            |name: &Uuid| self.cursors.iter().any(|cursor| cursor.name == *name && cursor.kept.is_some());
        let live: BTreeSet<Uuid> = names.iter().filter(|name| is_live(name)).copied().collect();
        self.cursors.retain(|cursor| names.contains(&cursor.name) && is_bound(cursor));
        let known = |name: &Uuid| self.cursors.iter().any(|cursor| cursor.name == *name);
        let (new, taken): (Vec<Uuid>, Vec<Uuid>) =
            names.into_iter().filter(|name| !known(name)).partition(|name| live.contains(name));
        let taking = self.clients.take_positions(identity, &taken, self.client.id());
        let mut returning = Vec::new();
        for (position, kept) in taking.await? {
            let name = kept.name().name;
            returning.push((name, position.clone()));
            let (floor, kept) = (Some(position), Some(kept));
            self.cursors.push(Cursor { name, kept, position: floor.clone(), floor });
        }
        let others = taken.into_iter().filter(|name| !returning.iter().any(|(known, _)| known == name));
        let others = new.into_iter().chain(others);
        self.cursors.extend(others.map(|name| Cursor { name, kept: None, floor: None, position: None }));
        Ok(returning)
    }

    /// The topics of a request have joined: new cursors begin here.
    async fn joined(&mut self, joining: JoiningRequest) {
        let JoiningRequest { request, owner, returns } = joining;
        let point = self.subscription.join_point().clone();
        self.position = point.clone();
        for topic in &mut self.topics {
            topic.is_joined = true;
            if !topic.returns {
                topic.floor = returns.then(|| point.clone());
            }
        }
        let identity: Arc<str> = self.shown.identity().into();
        let mut reply = Reply::Set;
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.kept.is_none()) {
            let name = PositionName { identity: Arc::clone(&identity), name: cursor.name };
            // Of a client that came with a position of its own.
            let of_topic = |topic: &&Topic| topic.cursor == Some(cursor.name) && topic.returns;
            let start = self.topics.iter().find(of_topic).and_then(|topic| topic.floor.clone());
            (cursor.floor, cursor.position) = (start.clone(), start.clone());
            let start = start.unwrap_or_else(|| point.clone());
            match self.clients.add_position(&name, &owner, self.client.id(), &start).await {
                Ok(Some(kept)) => cursor.kept = Some(kept),
                Ok(None) => reply = Reply::TooManyPositions,
                Err(error) => {
                    tracing::warn!(error = error.with_sources(), "a position of a client cannot be kept");
                    reply = Reply::Failed;
                }
            }
        }
        if reply != Reply::Set {
            // The next request tries again.
            self.cursors.retain(|cursor| cursor.kept.is_some());
            self.topics.retain(|topic| {
                topic.cursor.is_none_or(|name| self.cursors.iter().any(|cursor| cursor.name == name))
            });
        }
        self.is_reading = returns;
        if !returns {
            self.caught_up();
        }
        answer(request, reply);
    }

    /// Nothing is read from the table any more.
    fn caught_up(&mut self) {
        self.position = self.subscription.position().clone();
        for topic in &mut self.topics {
            (topic.floor, topic.returns) = (None, false);
        }
        for cursor in &mut self.cursors {
            (cursor.floor, cursor.position) = (None, None);
        }
    }

    fn forget(&mut self, feed: &[String]) {
        self.feed.retain(|name| !feed.contains(name));
        self.topics.retain(|topic| !feed.contains(&topic.feed));
        let topics = &self.topics;
        self.cursors.retain(|cursor| topics.iter().any(|topic| topic.cursor == Some(cursor.name)));
    }

    /// A change was written, or is of no topic.
    fn advance(&mut self, change: &Change) {
        if !self.subscription.is_of_table() {
            self.position = change.position();
            // Of topics that are about to be read from the table, those that had waited.
            let is_it = |topic: &&mut Topic| topic.returns && topic.is_joined && *topic.feed == *change.topic;
            for topic in self.topics.iter_mut().filter(is_it) {
                topic.floor = Some(self.position.clone());
                for cursor in self.cursors.iter_mut().filter(|cursor| Some(cursor.name) == topic.cursor) {
                    let here = Some(self.position.clone());
                    (cursor.floor, cursor.position) = (here.clone(), here);
                }
            }
            return;
        }
        for cursor in &mut self.cursors {
            // Others wait at their positions.
            if cursor.floor.as_ref().is_some_and(|floor| !floor.includes(change)) {
                cursor.position = Some(change.position());
            }
        }
    }

    /// An administrator whose token has ended is a guest.
    async fn check(&mut self) {
        if matches!(self.shown, Shown::Key(_)) && self.checked.elapsed() >= CHECK {
            self.checked = Instant::now();
            let peer = self.connection.peer();
            if !Box::pin(caller::is_still_superuser(&self.state, &self.shown, peer)).await {
                self.shown = Shown::default();
            }
        }
    }

    /// The record of the caller as it is now. One that is gone, or whose tokens are void, leaves a guest.
    async fn settle(&mut self) -> Option<Arc<AuthRecord>> {
        let Shown::Record(shown) = &self.shown else { return None };
        match Box::pin(caller::record_again(&self.state, shown)).await {
            Ok(Some(record)) => Some(record),
            Ok(None) => {
                self.shown = Shown::default();
                None
            }
            // Without an answer it sees what guests see, this time.
            Err(_) => None,
        }
    }

    /// Writes the events of a change.
    async fn write_change(&mut self, out: &mut BytesMut, change: &Change) {
        let action = match change.action {
            Action::Create | Action::Update | Action::Delete => change.action.name(),
            _ => return,
        };
        if !self.topics.iter().any(|topic| topic.matches(change)) {
            return;
        }
        let record_of_caller = self.settle().await;
        let is_new = |topic: &&Topic| {
            topic.is_joined && topic.floor.as_ref().is_none_or(|floor| !floor.includes(change))
        };
        for topic in self.topics.iter().filter(|topic| topic.matches(change)).filter(is_new) {
            let Ok(Some(collection)) = self.typed.collection(&topic.collection).await else { continue };
            let form = change.parsed(|| ChangedRecord::read(&collection, change));
            let Ok(record) = form else { continue };
            let is_superuser = matches!(self.shown, Shown::Key(_));
            let caller = Caller { is_superuser, request: topic.request.clone() };
            let caller = match &record_of_caller {
                Some(own) => own.caller(caller),
                None => caller,
            };
            let is_single = topic.record.is_some();
            match self.typed.sees(&collection, &caller, is_single, &topic.filter, &record).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::warn!(
                        error = error.to_string(),
                        "a change could not be judged, and is not delivered"
                    );
                    continue;
                }
            }
            let data = self.data(topic, &collection, &caller, &record, action).await;
            let fields = sse::Fields { id: Some(change.id()), event: Some(&topic.text), retry_ms: None };
            sse::write_event(out, fields, &data);
        }
    }

    /// The data of an event.
    async fn data(
        &self,
        topic: &Topic,
        collection: &CollectionHandle,
        caller: &Caller,
        record: &ChangedRecord,
        action: &str,
    ) -> Bytes {
        let is_shared =
            caller.is_superuser || caller.request.auth.is_none() || !record.has_viewers(collection);
        if topic.expand.is_empty() && topic.fields.is_none() && is_shared {
            return record.event(action, caller.is_superuser);
        }
        let shown = self.typed.shown(collection, caller, vec![record.members().clone()], &topic.expand).await;
        let shown = shown.ok().and_then(|mut shown| shown.pop()).unwrap_or_default();
        let shown = topic.fields.as_ref().map_or_else(|| shown.clone(), |fields| fields.apply_to(&shown));
        serde_json::to_vec(&json!({"action": action, "record": shown})).unwrap_or_default().into()
    }
}

fn answer(request: ClientRequest, reply: Reply) {
    request.answer(serde_json::to_vec(&reply).unwrap_or_default().into());
}

/// Resolves at the expiry of a token. Cancel-safe.
async fn expiry(expires: Option<Instant>) {
    match expires {
        Some(expires) => tokio::time::sleep_until(expires).await,
        None => std::future::pending().await,
    }
}

impl EventSource for Source {
    async fn ready(&mut self) {
        let is_busy = self.subscription.is_busy();
        if !self.is_greeted || (self.request.is_some() && !is_busy) {
            return;
        }
        let takes_requests = self.request.is_none();
        tokio::select! {
            request = self.client.next(), if takes_requests => self.request = Some(request),
            () = self.subscription.ready() => {}
            () = expiry(self.expires) => {}
        }
    }

    async fn write(&mut self, out: &mut BytesMut) -> Result<(), Close> {
        if !std::mem::replace(&mut self.is_greeted, true) {
            let id = self.client.id().as_str();
            let fields = sse::Fields { id: Some(id), event: Some("PB_CONNECT"), retry_ms: None };
            sse::write_event(out, fields, format!("{{\"clientId\":\"{id}\"}}").as_bytes());
            return Ok(());
        }
        if self.expires.is_some_and(|expires| expires <= Instant::now()) {
            return Err(Close::Ended("expired"));
        }
        self.check().await;
        if !self.subscription.is_busy()
            && let Some(request) = self.request.take()
        {
            // On the heap, as every idle stream holds room for the largest future that it may run.
            Box::pin(self.set(request)).await;
        }
        if let Some(redirect) = self.redirect.take() {
            let fields =
                sse::Fields { id: Some(self.client.id().as_str()), event: Some(REDIRECT), retry_ms: None };
            sse::write_event(out, fields, redirect.to_string().as_bytes());
        }
        let mut begun = Instant::now();
        while out.len() < CHUNK_BYTES {
            // Rules take time, and other tasks wait.
            if begun.elapsed() > MAX_RUN {
                tokio::task::yield_now().await;
                begun = Instant::now();
            }
            match self.subscription.next().await? {
                Next::Change(change) => {
                    self.write_change(out, &change).await;
                    self.advance(&change);
                }
                Next::Joined => {
                    if let Some(joining) = self.joining.take() {
                        Box::pin(self.joined(joining)).await;
                    }
                }
                Next::NotJoined => {
                    if let Some(JoiningRequest { request, .. }) = self.joining.take() {
                        // The next request adds them again.
                        self.topics.clear();
                        self.cursors.clear();
                        let feed: Vec<String> = std::mem::take(&mut self.feed).into_iter().collect();
                        for name in &feed {
                            self.subscription.remove(name);
                        }
                        answer(request, Reply::Failed);
                    }
                }
                Next::Reset => {
                    let data = json!({"action": "reset"}).to_string();
                    for topic in self.topics.iter().filter(|topic| topic.returns) {
                        let fields = sse::Fields { event: Some(&topic.text), ..sse::Fields::default() };
                        sse::write_event(out, fields, data.as_bytes());
                    }
                }
                Next::Nothing => break,
            }
            if self.is_reading && !self.subscription.is_busy() {
                self.is_reading = false;
                self.caught_up();
            }
        }
        if !self.cursors.is_empty() {
            self.unsent = Some(self.position.clone());
            self.cursors.iter().filter_map(|cursor| cursor.kept.as_ref()).for_each(KeptPosition::sends);
        }
        Ok(())
    }

    fn heartbeat(&mut self, out: &mut BytesMut) {
        sse::write_comment(out);
        // The position of a quiet stream stays of use.
        if !self.cursors.is_empty()
            && self.renewed.elapsed() >= RENEWAL
            && !self.is_reading
            && self.joining.is_none()
        {
            self.renewed = Instant::now();
            if let Some(position) = self.subscription.moved_on() {
                self.position = position;
            }
            for kept in self.cursors.iter().filter_map(|cursor| cursor.kept.as_ref()) {
                kept.sent(&self.position);
                kept.renew();
            }
        }
    }

    fn sent(&mut self) {
        self.subscription.sent();
        let Some(position) = self.unsent.take() else { return };
        for cursor in &self.cursors {
            if let Some(kept) = &cursor.kept {
                kept.sent(cursor.position.as_ref().unwrap_or(&position));
            }
        }
    }

    fn settles(&self) -> bool {
        !self.cursors.is_empty()
    }

    fn settled(&mut self, is_received: bool) {
        self.cursors
            .iter()
            .filter_map(|cursor| cursor.kept.as_ref())
            .for_each(|kept| kept.finished(is_received));
    }

    fn cut(&mut self, out: &mut BytesMut, close: Close) {
        event_stream::write_cut(out, close);
    }

    async fn hold(&self, chunk: Bytes) -> Bytes {
        self.subscription.hold(chunk).await
    }

    async fn cut_off(&self) -> Close {
        tokio::select! {
            end = self.subscription.dropped() => end.into(),
            () = self.subscription.overstays() => Close::Slow,
        }
    }

    fn closed(&mut self, close: Close) {
        self.state.metrics.follows_closed.with_label_values(&[close.name()]).inc();
    }
}
