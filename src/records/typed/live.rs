//! Changes of records as they are delivered: what a caller sees of each.

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::catalog::CollectionHandle;
use super::read::OF_SUPERUSERS;
use super::rules::{Access, Caller, RuleKind};
use super::store::Reads;
use super::write::of_text;
use super::{TypedError, TypedRecords};
use crate::realtime::Change;
use crate::records::schema::EMAIL_VISIBILITY;
use crate::records::{Seen, TypedExpression};
use crate::time::{Micros, Millis};

/// A record as a change left it, or as it was before its deletion.
#[derive(Debug)]
pub struct ChangedRecord {
    members: Map<String, Value>,
    times: (Millis, Millis),
    /// As guests see it, and as superusers do.
    shown: [Map<String, Value>; 2],
    events: [OnceLock<Bytes>; 2],
}

impl ChangedRecord {
    /// The record of a change.
    ///
    /// # Errors
    ///
    /// [`TypedError::NotFound`] for data that is no record.
    pub fn read(collection: &CollectionHandle, change: &Change) -> Result<Self, TypedError> {
        let millis = |us: i64| Millis::from(std::time::SystemTime::from(Micros(us)));
        let times = (millis(change.created_us), millis(change.updated_us));
        let definition = collection.definition();
        let members = of_text(&change.data, &change.record, times, definition);
        let shown =
            |is_superuser| definition.shown(collection.name().as_str(), &members, is_superuser, false);
        let shown = [shown(false), shown(true)];
        Ok(Self { members, times, shown, events: Default::default() })
    }

    /// Its members.
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }

    /// The data of an event about it, made once for all guests, and once for all superusers.
    pub fn event(&self, action: &str, is_superuser: bool) -> Bytes {
        let [of_guests, of_superusers] = &self.shown;
        let [for_guests, for_superusers] = &self.events;
        let (shown, event) = match is_superuser {
            false => (of_guests, for_guests),
            true => (of_superusers, for_superusers),
        };
        let data = || serde_json::to_vec(&json!({"action": action, "record": shown})).unwrap_or_default();
        event.get_or_init(|| data().into()).clone()
    }

    /// Whether some callers see more of it than guests, and are no superusers.
    pub fn has_viewers(&self, collection: &CollectionHandle) -> bool {
        collection.auth().is_some() && self.members.get(EMAIL_VISIBILITY) != Some(&true.into())
    }
}

impl TypedRecords {
    /// Whether a caller sees a changed record: by the list rule and their filter, or by the view rule, if they asked for a single one.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn sees(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        is_single: bool,
        filter: &str,
        record: &ChangedRecord,
    ) -> Result<bool, TypedError> {
        let kind = if is_single { RuleKind::View } else { RuleKind::List };
        let mut expressions = Vec::new();
        match collection.access(kind, caller) {
            Ok(Access::Granted) => {}
            Ok(Access::If(rule)) => expressions.push(rule),
            Err(_) => return Ok(false),
        }
        if !filter.is_empty() {
            if !caller.is_superuser && OF_SUPERUSERS.iter().any(|name| filter.contains(name)) {
                return Ok(false);
            }
            let sees = |other: &str| match caller.is_superuser {
                true => Seen::All,
                false => collection.seen(other, caller),
            };
            let (catalog, id) = (&collection.catalog.definitions, &collection.definition().id);
            match TypedExpression::parse(filter, &caller.request, catalog, id, &sees, caller.is_superuser) {
                Ok(filter) => expressions.push(filter),
                Err(_) => return Ok(false),
            }
        }
        for expression in &expressions {
            let holds =
                self.decide(Reads::Pool, collection, expression, &record.members, record.times).await?;
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
