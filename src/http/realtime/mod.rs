//! What changes, live.
//!
//! A subscription begins with the event `ready`, whose position is a point of the feed: nothing that is committed behind it is missed. Each
//! `change` carries its position as its id. A client that comes back with one, as `from` or as `Last-Event-ID`, continues there.
//!
//! Here is what the faces share: the topics and the position of a request, and the permissions that it needs.

mod event;
mod options;
mod stream;
mod topic;

use hyper::{HeaderMap, StatusCode};
use utoipa_axum::routes;
use uuid::Uuid;

use super::AppState;
use super::edge::authorize;
use super::edge::routes::{Access, Routes};
use super::event_stream::LAST_EVENT_ID;
use super::wire::error::ApiError;
use super::wire::query;
use crate::auth::Principal;
use crate::realtime::{Position, TableName};
use topic::{Topic, Topics};

/// Every route of this face.
pub(super) fn routes() -> Routes {
    Routes::default().route(Access::Topics, routes!(stream::stream))
}

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
                "topics" => topics = Some(Topics::parse(value.split(',').map(query::decoded))?),
                "from" => from = Some(position(&query::decoded(value), "from")?),
                name => return Err(query::unknown_parameter(name)),
            }
        }
        let topics = topics.ok_or_else(|| {
            ApiError::invalid("topics takes one to 100 topics, such as records/items").field("topics")
        })?;
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
    /// Checks that the caller may read them, and that their modules are on, and compiles their filters; returns the caller's user.
    async fn check(&mut self, state: &AppState, principal: &Principal) -> Result<Option<Uuid>, ApiError> {
        let services = state.services()?;
        for topic in self.iter() {
            if let Some(module) = topic.module().filter(|module| !state.modules.has(*module)) {
                let message = format!("{topic} is of {}, which are off (MODULES)", module.info().name);
                return Err(ApiError::invalid(message).field("topics"));
            }
            authorize::require(state, principal, topic.scope())?;
        }
        self.compile(services.realtime()?.filters(), principal)?;
        let user = services.accounts.user_of(principal).await?;
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
        Ok(user)
    }

    /// The access that they require.
    fn access(&self) -> Vec<Access> {
        self.iter().map(|topic| Access::Scope(topic.scope())).collect()
    }
}
