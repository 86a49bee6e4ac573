//! Lists of collections, and the scaffold of a new one.

use std::cmp::Ordering;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::catalog::CollectionHandle;
use super::read::ListRequest;
use super::{TypedError, TypedRecords};
use crate::records::schema::{DateText, Definition, Field};
use crate::records::{Catalog, RequestValues, Seen, TypedCollection, TypedExpression};
use crate::time::Millis;

/// A page of collections.
#[derive(Debug)]
pub struct CollectionsPage {
    /// The collections.
    pub collections: Vec<CollectionHandle>,
    /// Its number, from 1 on.
    pub page: i64,
    /// The collections of a page.
    pub per_page: i64,
    /// The number of all matching ones. `None`: they were not counted.
    pub total: Option<i64>,
}

/// What a filter of collections reads of one.
struct Described(Definition);

impl Described {
    fn get() -> Option<&'static Self> {
        static DESCRIBED: OnceLock<Option<Described>> = OnceLock::new();
        let body = json!({"name": "collections", "fields": [
            {"name": "name", "type": "text"},
            {"name": "type", "type": "text"},
            {"name": "system", "type": "bool"},
            {"name": "created", "type": "date"},
            {"name": "updated", "type": "date"},
        ]});
        let described = || Definition::create(&body).ok().map(|(_, definition)| Self(definition));
        DESCRIBED.get_or_init(described).as_ref()
    }

    fn members(collection: &CollectionHandle) -> Map<String, Value> {
        let (definition, (created, updated)) = (collection.definition(), collection.times());
        let members = [
            ("id", definition.id.as_str().into()),
            ("name", collection.name().as_str().into()),
            ("type", definition.kind.name().into()),
            ("system", definition.system.into()),
            ("created", DateText::at(created).as_str().into()),
            ("updated", DateText::at(updated).as_str().into()),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Catalog for Described {
    fn by_id(&self, id: &str) -> Option<TypedCollection<'_>> {
        (id == self.0.id).then_some(TypedCollection { name: "collections", definition: &self.0 })
    }

    fn by_name(&self, _: &str) -> Option<TypedCollection<'_>> {
        None
    }
}

impl TypedRecords {
    /// A page of the collections, for superusers.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn list_collections(&self, request: &ListRequest) -> Result<CollectionsPage, TypedError> {
        let described = Described::get().ok_or(TypedError::InvalidQuery)?;
        let filter = match request.filter.as_str() {
            "" => None,
            text => {
                let values = RequestValues::default();
                let parsed = TypedExpression::parse(
                    text,
                    &values,
                    described,
                    &described.0.id,
                    &|_| Seen::Nothing,
                    false,
                );
                Some(parsed.map_err(|_| TypedError::InvalidQuery)?)
            }
        };
        let keys = sort_keys(&request.sort, &described.0)?;
        let mut found: Vec<(Map<String, Value>, CollectionHandle)> = Vec::new();
        for collection in self.collections().await? {
            let members = Described::members(&collection);
            let holds = match &filter {
                None => true,
                Some(filter) => {
                    let holds =
                        filter.matches(&members, Millis::now()).map_err(|_| TypedError::InvalidQuery)?;
                    holds == Some(true)
                }
            };
            if holds {
                found.push((members, collection));
            }
        }
        found.sort_by(|(one, _), (other, _)| order(&keys, one, other));
        let (page, per_page) = request.bounds();
        let total = (!request.skips_total).then_some(found.len() as i64);
        let skipped = usize::try_from((page - 1).saturating_mul(per_page)).unwrap_or(usize::MAX);
        let taken = usize::try_from(per_page).unwrap_or_default();
        let collections =
            found.into_iter().skip(skipped).take(taken).map(|(_, collection)| collection).collect();
        Ok(CollectionsPage { collections, page, per_page, total })
    }
}

/// The keys of an order: names, and whether they descend.
fn sort_keys<'a>(text: &'a str, described: &Definition) -> Result<Vec<(&'a str, bool)>, TypedError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let key = |key: &'a str| {
        let key = key.trim();
        let (name, descends) = match key.strip_prefix('-') {
            Some(name) => (name, true),
            None => (key.strip_prefix('+').unwrap_or(key), false),
        };
        described.field(name).map(|_| (name, descends)).ok_or(TypedError::InvalidQuery)
    };
    text.split(',').map(key).collect()
}

fn order(keys: &[(&str, bool)], one: &Map<String, Value>, other: &Map<String, Value>) -> Ordering {
    let text = |members: &Map<String, Value>, name: &str| match members.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    keys.iter().fold(Ordering::Equal, |ordering, (name, descends)| {
        ordering.then_with(|| {
            let by_key = text(one, name).cmp(&text(other, name));
            if *descends { by_key.reverse() } else { by_key }
        })
    })
}

/// An empty collection, as a user interface begins a new one.
///
/// # Errors
///
/// [`TypedError::Failed`] without randomness.
pub fn scaffolds() -> Result<Value, TypedError> {
    let base = json!({
        "id": "", "name": "", "type": "base", "system": false, "fields": [Field::id_field().json()], "indexes": [],
        "listRule": null, "viewRule": null, "createRule": null, "updateRule": null, "deleteRule": null,
        "created": "", "updated": "",
    });
    let made = Definition::create(&json!({"name": "scaffold", "type": "auth", "fields": []}))?;
    let (_, definition) = made;
    let mut auth = base.clone();
    if let Value::Object(members) = &mut auth {
        members.extend(definition.auth.iter().flat_map(|options| options.shown()));
        members.insert("type".into(), definition.kind.name().into());
        members.insert("fields".into(), definition.fields.iter().map(Field::json).collect());
        let indexes = definition.indexes.iter().map(|text| text.replace("`scaffold`", "``"));
        members.insert("indexes".into(), indexes.collect());
    }
    let mut view = base.clone();
    if let Value::Object(members) = &mut view {
        members.insert("type".into(), "view".into());
        members.insert("fields".into(), Value::Array(Vec::new()));
        members.insert("viewQuery".into(), "".into());
    }
    Ok(json!({"base": base, "auth": auth, "view": view}))
}
