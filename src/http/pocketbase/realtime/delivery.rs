//! The judgement of changes for the topics of a stream, and their events.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::time::Instant;

use super::Source;
use super::topics::Topic;
use crate::http::pocketbase::caller::{self, Shown};
use crate::http::wire::sse;
use crate::realtime::{Action, Change};
use crate::records::typed::{AuthRecord, Caller, ChangedRecord, CollectionHandle};

/// The time between two checks of a superuser's token.
const CHECK: Duration = Duration::from_secs(15);

impl Source {
    /// An administrator whose token has ended is a guest.
    pub(super) async fn check(&mut self) {
        if matches!(self.shown, Shown::Key(_)) && self.checked.elapsed() >= CHECK {
            self.checked = Instant::now();
            let peer = self.connection.peer();
            if !Box::pin(caller::is_still_superuser(&self.state, &self.shown, peer)).await {
                self.shown = Shown::default();
            }
        }
    }

    /// The record of the caller as it is now. One that is gone, or whose tokens are void, leaves a guest.
    pub(super) async fn settle(&mut self) -> Option<Arc<AuthRecord>> {
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
    pub(super) async fn write_change(&mut self, out: &mut BytesMut, change: &Change) {
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
            let signed_in = (is_superuser || record_of_caller.is_some()).then(|| {
                let caller = Caller { is_superuser, ..topic.guest.clone() };
                match &record_of_caller {
                    Some(own) => own.caller(caller),
                    None => caller,
                }
            });
            let caller = signed_in.as_ref().unwrap_or(&topic.guest);
            let is_single = topic.record.is_some();
            match self.typed.sees(&collection, caller, is_single, &topic.filter, &record).await {
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
            let data = self.data(topic, &collection, caller, &record, action).await;
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
        let record = vec![record.members().clone()];
        // On the heap, as most events need no room for it.
        let shown = Box::pin(self.typed.shown(collection, caller, record, &topic.expand)).await;
        let shown = shown.ok().and_then(|mut shown| shown.pop()).unwrap_or_default();
        let shown = topic.fields.as_ref().map_or_else(|| shown.clone(), |fields| fields.apply_to(&shown));
        serde_json::to_vec(&json!({"action": action, "record": shown})).unwrap_or_default().into()
    }
}
