//! The topics of a stream, and the kept positions that they come back from.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::topics::Topic;
use super::{JoiningRequest, Message, REDIRECT, Reply, Source, answer};
use crate::db::DbError;
use crate::realtime::clients::{ClientRequest, KeptPosition, PositionName};
use crate::realtime::{Change, Position};

/// A kept position.
pub(super) struct Cursor {
    pub(super) name: Uuid,
    /// `None`: it is new, and begins where its topics join.
    pub(super) kept: Option<KeptPosition>,
    /// While changes are read from the table: those up to here are not for it.
    pub(super) floor: Option<Position>,
    /// While changes are read from the table: its topics have their changes up to here.
    pub(super) position: Option<Position>,
}

impl Source {
    /// Sets the topics of a request. New ones of the feed join first.
    pub(super) async fn set(&mut self, request: ClientRequest) {
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
    pub(super) async fn joined(&mut self, joining: JoiningRequest) {
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
    pub(super) fn caught_up(&mut self) {
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
    pub(super) fn advance(&mut self, change: &Change) {
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
}
