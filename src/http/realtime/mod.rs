//! What changes, live.
//!
//! A subscription begins with the event `ready`, whose position is a point of the feed: nothing that is committed behind it is missed. Each
//! `change` carries its position as its id. A client that comes back with one, as `from` or as `Last-Event-ID`, continues there.
//!
//! Here is what the faces share: the topics and the position of a request, and the permissions that it needs.

mod event;
mod options;
mod stream;
mod ticket;
mod topic;
mod websocket;

use hyper::{HeaderMap, StatusCode};
use utoipa_axum::routes;
use uuid::Uuid;

use super::AppState;
use super::edge::authorize::Requirement;
use super::edge::routes::{Access, Routes};
use super::event_stream::LAST_EVENT_ID;
use super::wire::error::ApiError;
use super::wire::query;
use crate::auth::Principal;
use crate::realtime::{MAX_TOPICS, Position, TableName};
use topic::{Topic, Topics};

/// Every route of this face.
pub(super) fn routes() -> Routes {
    Routes::default()
        .route(Access::Topics, routes!(stream::stream))
        .route(Access::Topics, routes!(websocket::open))
        .route(Access::Topics, routes!(ticket::create))
}

/// The most topics of a URL.
const MAX_URL_TOPICS: usize = 100;
/// The most topics of a WebSocket.
const MAX_CONNECTION_TOPICS: usize = MAX_TOPICS;

/// The start of a subscription, as a request asks for it.
struct Start {
    topics: Topics,
    /// `None`: from now on.
    from: Option<Position>,
}

impl Start {
    /// Reads a query. `Last-Event-ID` goes before `from`.
    fn of_query(text: &str, headers: &HeaderMap) -> Result<Self, ApiError> {
        query::check(Some(text))?;
        let (mut topics, mut from) = (None, None);
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match &*query::decoded(name) {
                // Commas outside percent-encoding separate topics.
                "topics" => {
                    topics = Some(Topics::parse(value.split(',').map(query::decoded), MAX_URL_TOPICS)?);
                }
                // Used up before.
                "ticket" => {}
                "from" => from = Some(position(&query::decoded(value), "from")?),
                name => return Err(query::unknown_parameter(name)),
            }
        }
        let topics = topics.ok_or_else(|| {
            ApiError::invalid("topics takes one to 100 topics, such as records/items").field("topics")
        })?;
        topics.check_from(from.as_ref())?;
        if let Some(value) = headers.get(LAST_EVENT_ID) {
            from = Some(position(value.to_str().unwrap_or_default(), LAST_EVENT_ID)?);
        }
        Ok(Self { topics, from })
    }
}

fn position(text: &str, field: &'static str) -> Result<Position, ApiError> {
    let refuse = || ApiError::invalid(format!("{field} takes the id of an event or a position")).field(field);
    Position::parse(text).ok_or_else(refuse)
}

impl Topics {
    /// Checks that a caller with this user may read them, and that their modules are on, and compiles their filters.
    async fn check(
        &mut self,
        state: &AppState,
        principal: &Principal,
        user: Option<Uuid>,
    ) -> Result<(), ApiError> {
        for topic in self.iter() {
            if let Some(module) = topic.module().filter(|module| !state.modules.has(*module)) {
                let message = format!("{topic} is of {}, which are off (MODULES)", module.info().name);
                return Err(ApiError::invalid(message).field("topics"));
            }
            topic.requirement().check(state, principal)?;
        }
        let services = state.services()?;
        self.compile(services.realtime()?.filters(), principal)?;
        for topic in self.iter() {
            if let Topic::Conversation(id) = topic {
                // Its owner does not change.
                services.conversations()?.get(user, *id).await?;
            }
        }
        let tables: Vec<&TableName> = self.iter().filter_map(Topic::table).collect();
        if let Some(table) = services.realtime()?.unwatched(&tables).await? {
            let message = format!("{table} is no watched table: select tidegate_watch('{table}') in SQL");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message).field("topics"));
        }
        Ok(())
    }

    /// The permissions that they require, each once.
    fn requirements(&self) -> Vec<Requirement> {
        let mut all: Vec<Requirement> = self.iter().map(Topic::requirement).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
