//! Changes of records as they are delivered: what a caller sees of each.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

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

/// The most judgements of a catalogue; beyond it they are made anew.
const MAX_JUDGEMENTS: usize = 10_000;
/// The most bytes of what one is known by; a longer one is made each time.
const MAX_KEY_BYTES: usize = 2_048;
/// The most judgements that a change has verdicts of Postgres for: those of many subscribers with values of their own are not shared.
const MAX_VERDICTS: usize = 64;

/// A record as a change left it, or as it was before its deletion.
#[derive(Debug)]
pub struct ChangedRecord {
    members: Map<String, Value>,
    times: (Millis, Millis),
    /// As guests see it, and as superusers do.
    shown: [Map<String, Value>; 2],
    events: [OnceLock<Bytes>; 2],
    /// Verdicts of Postgres.
    verdicts: Mutex<Vec<KnownVerdict>>,
}

/// The verdict on an expression of a judgement.
type Verdict = Arc<OnceCell<bool>>;

/// A judgement, which is kept so that no other has its address, and the verdicts on its expressions.
#[derive(Debug)]
struct KnownVerdict {
    judgement: Arc<Judgement>,
    expression: usize,
    verdict: Verdict,
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
        Ok(Self { members, times, shown, events: Default::default(), verdicts: Mutex::default() })
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

    /// The place of the verdict on an expression of a judgement. `None`: too many others have one.
    fn verdict(&self, judgement: &Arc<Judgement>, expression: usize) -> Option<Verdict> {
        let mut known = self.verdicts.lock();
        let is_it = |other: &&KnownVerdict| {
            other.expression == expression && Arc::ptr_eq(&other.judgement, judgement)
        };
        if let Some(known) = known.iter().find(is_it) {
            return Some(Arc::clone(&known.verdict));
        }
        if known.len() >= MAX_VERDICTS {
            return None;
        }
        let verdict = Verdict::default();
        let judgement = Arc::clone(judgement);
        known.push(KnownVerdict { judgement, expression, verdict: Arc::clone(&verdict) });
        Some(verdict)
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
        let judgement = collection.judgement(caller, is_single, filter);
        let expressions = match &*judgement {
            Judgement::Nothing => return Ok(false),
            Judgement::If(expressions) => expressions,
        };
        for (at, expression) in expressions.iter().enumerate() {
            let holds = match expression.matches(&record.members, Millis::now()) {
                Ok(Some(holds)) => holds,
                Err(_) => return Err(TypedError::InvalidQuery),
                Ok(None) => {
                    // On the heap, as every idle stream holds room for the largest future that it may run.
                    let decide = || {
                        Box::pin(self.decide(
                            Reads::Pool,
                            collection,
                            expression,
                            &record.members,
                            record.times,
                        ))
                    };
                    match record.verdict(&judgement, at) {
                        // The first subscriber asks Postgres, and all others wait for it.
                        Some(verdict) => *verdict.get_or_try_init(decide).await?,
                        None => decide().await?,
                    }
                }
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What subscribers have to meet to see a change. One for all with the same rule, filter and values of `@request`.
#[derive(Debug)]
pub(super) enum Judgement {
    /// They see nothing.
    Nothing,
    /// All of these hold.
    If(Vec<TypedExpression>),
}

/// The rule, the filter and the values of `@request` of a judgement.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct JudgementKey {
    collection: usize,
    is_single: bool,
    is_superuser: bool,
    filter: String,
    /// Everything that a rule may read. Empty: none reads anything of it.
    request: String,
}

/// The judgements of a catalogue.
#[derive(Debug, Default)]
pub(super) struct Judgements(Mutex<HashMap<JudgementKey, Arc<Judgement>>>);

impl CollectionHandle {
    fn judgement(&self, caller: &Caller, is_single: bool, filter: &str) -> Arc<Judgement> {
        let reads_request = self.reads_request() || !filter.is_empty();
        let key = JudgementKey {
            collection: self.place(),
            is_single,
            is_superuser: caller.is_superuser,
            filter: filter.to_owned(),
            request: if reads_request { format!("{:?}", caller.request) } else { String::new() },
        };
        if let Some(known) = self.catalog.judgements.0.lock().get(&key) {
            return Arc::clone(known);
        }
        let judgement = Arc::new(self.judge(caller, is_single, filter).unwrap_or(Judgement::Nothing));
        if key.filter.len() + key.request.len() > MAX_KEY_BYTES {
            return judgement;
        }
        let mut known = self.catalog.judgements.0.lock();
        if known.len() >= MAX_JUDGEMENTS {
            known.clear();
        }
        Arc::clone(known.entry(key).or_insert(judgement))
    }

    /// `None`: a rule or a filter cannot be read, or is not for this caller.
    fn judge(&self, caller: &Caller, is_single: bool, filter: &str) -> Option<Judgement> {
        let kind = if is_single { RuleKind::View } else { RuleKind::List };
        let mut expressions = match self.access(kind, caller).ok()? {
            Access::Granted => Vec::new(),
            Access::If(rule) => vec![rule],
        };
        if !filter.is_empty() {
            if !caller.is_superuser && OF_SUPERUSERS.iter().any(|name| filter.contains(name)) {
                return None;
            }
            let sees = |other: &str| match caller.is_superuser {
                true => Seen::All,
                false => self.seen(other, caller),
            };
            let (catalog, id) = (&self.catalog.definitions, &self.definition().id);
            let is_superuser = caller.is_superuser;
            let filter =
                TypedExpression::parse(filter, &caller.request, catalog, id, &sees, is_superuser).ok()?;
            expressions.push(filter);
        }
        Some(Judgement::If(expressions))
    }
}
