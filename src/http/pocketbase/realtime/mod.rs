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

mod cursors;
mod delivery;
pub(super) mod requests;
mod topics;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::caller::Shown;
use super::error::Refusal;
use crate::http::AppState;
use crate::http::event_stream::{self, CHUNK_BYTES, Close, EventSource, EventStream, LAST_EVENT_ID};
use crate::http::server::ConnectionHandle;
use crate::http::wire::error::ApiError;
use crate::http::wire::sse;
use crate::realtime::clients::{ClientConnection, ClientRequest, Clients, KeptPosition, OpenError};
use crate::realtime::{Next, Position, Subscription};
use crate::records::typed::TypedRecords;
use cursors::Cursor;
pub(super) use requests::send_redirect;
use topics::Topic;

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
    /// The owner has as many positions as may be.
    TooManyPositions,
    /// The client waits for no redirect.
    NotAwaited,
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
