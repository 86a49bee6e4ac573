//! `expand`: related records beside the ones that name them, or that they name.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use super::catalog::CollectionHandle;
use super::deletion::names;
use super::rules::{Access, Caller, RuleKind};
use super::store::{ListStatement, Reads};
use super::{TypedError, TypedRecords};
use crate::config::limits;
use crate::records::expression::{Parameter, Parameters};
use crate::records::schema::Kind;
use crate::time::Millis;

/// The deepest path.
const MAX_DEPTH: usize = 6;
/// The most records of a back relation.
const MAX_BACK: usize = 1_000;
/// The most names.
const MAX_NAMES: usize = 100;

/// The names of an `expand`, as a tree.
#[derive(Debug, Clone, Default)]
pub struct Expand(BTreeMap<String, Expand>);

impl Expand {
    /// Reads `author,comments_via_post.author`. What is too deep, or too much, is cut.
    pub fn parse(text: &str) -> Self {
        let mut tree = Self::default();
        for path in text.split(',').take(MAX_NAMES) {
            let mut at = &mut tree;
            for name in path.trim().split('.').take(MAX_DEPTH).filter(|name| !name.is_empty()) {
                at = at.0.entry(name.to_owned()).or_default();
            }
        }
        tree
    }

    /// Whether there is nothing to expand.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A step from records to related ones.
struct Step {
    to: CollectionHandle,
    /// The field that has ids: of the records, or of the related ones.
    field: String,
    is_list: bool,
    is_back: bool,
    /// Whether one related record stands for itself, not in a list.
    is_single: bool,
}

impl CollectionHandle {
    /// The step of a name. One over a hidden field is for superusers.
    fn step(&self, name: &str, is_superuser: bool) -> Option<Step> {
        if let Some(field) = self.definition().field(name) {
            let Kind::Relation { collection_id, .. } = &field.kind else { return None };
            if field.hidden && !is_superuser {
                return None;
            }
            let is_list = field.kind.is_list();
            let to = self.other(collection_id)?;
            return Some(Step { to, field: name.to_owned(), is_list, is_back: false, is_single: !is_list });
        }
        let (collection, via) = name.split_once("_via_")?;
        let to = self.other(collection).filter(|to| to.name().as_str() == collection)?;
        let field = to.definition().field(via).filter(|field| is_superuser || !field.hidden)?;
        let Kind::Relation { collection_id, .. } = &field.kind else { return None };
        if *collection_id != self.definition().id {
            return None;
        }
        let is_list = field.kind.is_list();
        let is_unique = to.indexes().iter().any(|index| index.is_unique && index.fields == [via]);
        let is_single = !is_list && is_unique;
        Some(Step { to: to.clone(), field: via.to_owned(), is_list, is_back: true, is_single })
    }
}

impl TypedRecords {
    /// The records as a caller sees them, with the related ones that they ask for and may view.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub fn shown<'a>(
        &'a self,
        collection: &'a CollectionHandle,
        caller: &'a Caller,
        records: Vec<Map<String, Value>>,
        expand: &'a Expand,
    ) -> BoxFuture<'a, Result<Vec<Map<String, Value>>, TypedError>> {
        self.shown_by(Reads::Pool, collection, caller, records, expand)
    }

    /// The same, with related records as a transaction sees them.
    pub(super) fn shown_by<'a>(
        &'a self,
        reads: Reads<'a>,
        collection: &'a CollectionHandle,
        caller: &'a Caller,
        records: Vec<Map<String, Value>>,
        expand: &'a Expand,
    ) -> BoxFuture<'a, Result<Vec<Map<String, Value>>, TypedError>> {
        Box::pin(async move {
            let (definition, name) = (collection.definition(), collection.name().as_str());
            let emails = self.emails_seen(reads, collection, caller, &records).await?;
            let one = |members: &Map<String, Value>| {
                let sees_email = !emails.is_empty() && emails.contains(id(members));
                definition.shown(name, members, caller.is_superuser, sees_email)
            };
            let mut shown: Vec<Map<String, Value>> = records.iter().map(one).collect();
            for (name, inner) in &expand.0 {
                let Some(step) = collection.step(name, caller.is_superuser) else { continue };
                let related = self.related(reads, &step, caller, &records).await?;
                if related.is_empty() {
                    continue;
                }
                let ids: Vec<Value> = related.iter().map(|record| id(record).into()).collect();
                let keys: Vec<Vec<String>> =
                    related.iter().map(|record| words(record, &step.field)).collect();
                let related = self.shown_by(reads, &step.to, caller, related, inner).await?;
                for (record, members) in shown.iter_mut().zip(&records) {
                    let found: Vec<Value> = match step.is_back {
                        true => {
                            let own = id(members);
                            let names_it = |keys: &&Vec<String>| keys.iter().any(|key| key == own);
                            let places = keys.iter().enumerate().filter(|(_, keys)| names_it(keys));
                            let places = places.map(|(place, _)| place).take(MAX_BACK);
                            places
                                .filter_map(|place| related.get(place).cloned().map(Value::Object))
                                .collect()
                        }
                        false => words(members, &step.field)
                            .into_iter()
                            .filter_map(|id| ids.iter().position(|other| *other == *id))
                            .filter_map(|place| related.get(place).cloned().map(Value::Object))
                            .collect(),
                    };
                    let value = match (step.is_single, found.into_iter()) {
                        (_, found) if found.len() == 0 => continue,
                        (false, found) => Value::Array(found.collect()),
                        (true, mut found) => found.next().unwrap_or_default(),
                    };
                    let expanded = record.entry("expand").or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(expanded) = expanded {
                        expanded.insert(name.clone(), value);
                    }
                }
            }
            Ok(shown)
        })
    }

    /// The records of a step that a caller may view.
    async fn related(
        &self,
        reads: Reads<'_>,
        step: &Step,
        caller: &Caller,
        records: &[Map<String, Value>],
    ) -> Result<Vec<Map<String, Value>>, TypedError> {
        let mut caller = caller.clone();
        caller.request.context = "expand";
        let rule = match step.to.access(RuleKind::View, &caller) {
            Ok(access) => access,
            Err(TypedError::Forbidden | TypedError::InvalidQuery) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut ids: Vec<String> = match step.is_back {
            true => records.iter().map(|record| id(record).to_owned()).collect(),
            false => records.iter().flat_map(|record| words(record, &step.field)).collect(),
        };
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let limit = if step.is_back { MAX_BACK.saturating_mul(records.len()).min(10_000) } else { ids.len() };
        let mut parameters = Parameters::default();
        parameters.bind(Parameter::Texts(ids));
        let mut conditions = match step.is_back {
            true => names(&step.field, step.is_list),
            false => "id = any($1)".to_owned(),
        };
        if let Access::If(rule) = rule {
            let table = |id: &str| self.table(&step.to, id);
            let rule = rule.compile(Millis::now(), &table, &mut parameters);
            conditions = format!("{conditions} and {rule}");
        }
        let order = "created, id".to_owned();
        let statement = ListStatement { conditions, order, parameters, limit, offset: 0, counted: None };
        let max_bytes = limits::MAX_PAGE_BYTES;
        let listed = self.inner.store.list(reads, step.to.number(), statement, max_bytes).await?;
        let Some((related, _)) = listed else {
            return Err(TypedError::Blocked(format!("related records have at most {max_bytes} bytes")));
        };
        Ok(related.iter().map(|record| record.members(step.to.definition())).collect())
    }
}

fn id(members: &Map<String, Value>) -> &str {
    members.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// The ids of a field: one, or those of a list.
fn words(members: &Map<String, Value>, field: &str) -> Vec<String> {
    match members.get(field) {
        Some(Value::String(id)) if !id.is_empty() => vec![id.clone()],
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
