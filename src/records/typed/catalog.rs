//! The catalogue: every collection with its fields, rules and indexes, as one snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use super::TypedError;
use super::definitions::PlannedIndex;
use super::live::Judgements;
use super::rules::{Rule, RuleKind};
use super::store::TypedStore;
use super::totals::Totals;
use crate::records::collections::Collection;
use crate::records::schema::{Definition, Field, Kind};
use crate::records::{Catalog, Name, RequestValues, TypedCollection};
use crate::time::Millis;

/// A row of `collections`.
#[derive(Debug, Clone)]
pub(super) struct StoredCollection {
    pub(super) number: i32,
    pub(super) name: Name,
    /// `None`: it takes any JSON object.
    pub(super) schema: Option<String>,
    pub(super) created: Millis,
    pub(super) updated: Millis,
}

/// A collection and its definition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DefinedCollection {
    pub(super) number: i32,
    pub(super) name: Name,
    pub(super) definition: Definition,
    pub(super) created: Millis,
    pub(super) updated: Millis,
}

/// All collections, by id and by name.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) all: Vec<DefinedCollection>,
    by_id: HashMap<String, usize>,
    by_name: HashMap<String, usize>,
}

impl Definitions {
    /// The definitions of rows. A schema that cannot be read is logged, and its collection takes any object.
    pub(super) fn of(stored: Vec<StoredCollection>) -> Self {
        Self::new(stored.into_iter().map(DefinedCollection::of).collect())
    }

    pub(super) fn new(all: Vec<DefinedCollection>) -> Self {
        let mut definitions = Self { by_id: HashMap::new(), by_name: HashMap::new(), all };
        for (at, collection) in definitions.all.iter().enumerate() {
            definitions.by_id.entry(collection.definition.id.clone()).or_insert(at);
            definitions.by_name.entry(collection.name.as_str().to_owned()).or_insert(at);
        }
        // A name in another case finds a collection too, behind an exact one.
        for (at, collection) in definitions.all.iter().enumerate() {
            definitions.by_name.entry(collection.name.as_str().to_ascii_lowercase()).or_insert(at);
        }
        definitions
    }

    /// The place of a collection by its id or its name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let by_id = self.by_id.get(name).or_else(|| self.by_name.get(name));
        by_id.or_else(|| self.by_name.get(&name.to_ascii_lowercase())).copied()
    }

    fn shown(&self, at: usize) -> Option<TypedCollection<'_>> {
        let collection = self.all.get(at)?;
        Some(TypedCollection { name: collection.name.as_str(), definition: &collection.definition })
    }
}

impl Catalog for Definitions {
    fn by_id(&self, id: &str) -> Option<TypedCollection<'_>> {
        self.shown(*self.by_id.get(id)?)
    }

    fn by_name(&self, name: &str) -> Option<TypedCollection<'_>> {
        self.shown(*self.by_name.get(name)?)
    }
}

impl DefinedCollection {
    fn of(stored: StoredCollection) -> Self {
        let StoredCollection { number, name, schema, created, updated } = stored;
        let read = schema.as_deref().map(serde_json::from_str::<Definition>);
        let definition = match read {
            Some(Ok(definition)) => definition,
            Some(Err(error)) => {
                tracing::error!(
                    collection = name.as_str(),
                    error = error.to_string(),
                    "a schema cannot be read"
                );
                Definition::untyped(&name)
            }
            None => Definition::untyped(&name),
        };
        Self { number, name, definition, created, updated }
    }
}

/// A field of another collection that names records of this one.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    /// The place of the other collection.
    pub(super) at: usize,
    pub(super) field: String,
    pub(super) is_list: bool,
    pub(super) cascades: bool,
}

/// All collections at one moment, with what is made of their definitions once.
#[derive(Debug, Default)]
pub(super) struct CatalogSnapshot {
    pub(super) definitions: Definitions,
    pub(super) totals: Totals,
    pub(super) judgements: Judgements,
    made: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    statements: Arc<Collection>,
    rules: [Rule; RuleKind::COUNT],
    indexes: Vec<PlannedIndex>,
    references: Vec<Reference>,
}

impl CatalogSnapshot {
    pub(super) fn new(definitions: Definitions, store: &TypedStore) -> Self {
        let made = definitions.all.iter().map(|collection| {
            let rules = RuleKind::ALL.map(|kind| Rule::new(kind, &collection.definition, &definitions));
            Made {
                statements: store.statements(collection),
                rules,
                indexes: PlannedIndex::all(&collection.definition),
                references: references(&definitions, &collection.definition.id)
                    .into_iter()
                    // Those of a view follow of what it reads.
                    .filter(|reference| !definitions.all.get(reference.at).is_some_and(is_view))
                    .chain(of_accounts(&definitions, &collection.definition))
                    .collect(),
            }
        });
        let made = made.collect();
        Self { definitions, totals: Totals::default(), judgements: Judgements::default(), made }
    }
}

fn is_view(collection: &DefinedCollection) -> bool {
    collection.definition.is_view()
}

/// The fields that name records of the collection with this id.
pub(super) fn references(definitions: &Definitions, id: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    for (at, collection) in definitions.all.iter().enumerate() {
        for field in &collection.definition.fields {
            let Kind::Relation { collection_id, cascade_delete, .. } = &field.kind else { continue };
            if collection_id == id {
                found.push(Reference {
                    at,
                    field: field.name.clone(),
                    is_list: field.kind.is_list(),
                    cascades: *cascade_delete,
                });
            }
        }
    }
    found
}

/// The records of the system that go with an account: their ids of accounts are unique in all collections.
fn of_accounts(definitions: &Definitions, definition: &Definition) -> Vec<Reference> {
    let all = definitions.all.iter().enumerate().filter(|_| definition.auth.is_some());
    let is_of_accounts =
        |other: &Definition| other.system && other.auth.is_none() && other.field(RECORD_REF).is_some();
    all.filter(|(_, other)| is_of_accounts(&other.definition))
        .map(|(at, _)| Reference { at, field: RECORD_REF.to_owned(), is_list: false, cascades: true })
        .collect()
}

/// The field of the system's collections that names an account.
const RECORD_REF: &str = "recordRef";

/// A collection of a snapshot; cheap to clone.
#[derive(Debug, Clone)]
pub struct CollectionHandle {
    pub(super) catalog: Arc<CatalogSnapshot>,
    at: usize,
}

impl CollectionHandle {
    /// The collection with this id or name.
    pub(super) fn find(catalog: &Arc<CatalogSnapshot>, name: &str) -> Option<Self> {
        let at = catalog.definitions.find(name)?;
        Some(Self { catalog: Arc::clone(catalog), at })
    }

    /// The collection at a place of the same snapshot.
    pub(super) fn at(&self, at: usize) -> Self {
        Self { catalog: Arc::clone(&self.catalog), at }
    }

    /// The collection with this id, of the same snapshot.
    pub(super) fn other(&self, id: &str) -> Option<Self> {
        Self::find(&self.catalog, id)
    }

    /// All collections of a snapshot.
    pub(super) fn all(catalog: &Arc<CatalogSnapshot>) -> impl Iterator<Item = Self> {
        (0..catalog.definitions.all.len()).map(|at| Self { catalog: Arc::clone(catalog), at })
    }

    /// Its place in the snapshot.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    pub(super) fn defined(&self) -> &DefinedCollection {
        // A handle is made for a place of its snapshot only.
        &self.catalog.definitions.all[self.at]
    }

    fn made(&self) -> &Made {
        &self.catalog.made[self.at]
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.defined().name
    }

    /// Its definition.
    pub fn definition(&self) -> &Definition {
        &self.defined().definition
    }

    /// The time of its creation, and of the last change of its definition.
    pub fn times(&self) -> (Millis, Millis) {
        (self.defined().created, self.defined().updated)
    }

    pub(super) fn number(&self) -> i32 {
        self.defined().number
    }

    /// The topic of its changes in the feed.
    pub fn topic(&self) -> &str {
        &self.statements().topic
    }

    pub(super) fn statements(&self) -> &Arc<Collection> {
        &self.made().statements
    }

    pub(super) fn rule(&self, kind: RuleKind) -> &Rule {
        &self.made().rules[kind as usize]
    }

    /// Whether a rule reads the request.
    pub fn reads_request(&self) -> bool {
        let rules = self.definition().all_rules();
        // Rules of other collections count in filters over relations, and in `expand`.
        rules.into_iter().any(|(_, text)| text.is_some_and(RequestValues::are_read_by))
            || !self.references().is_empty()
            || self.is_named_by_views()
            || self.definition().fields.iter().any(|field| matches!(field.kind, Kind::Relation { .. }))
    }

    /// Nothing, unless it is a view.
    ///
    /// # Errors
    ///
    /// [`TypedError::IsView`].
    pub(super) fn expect_writable(&self) -> Result<(), TypedError> {
        if self.definition().is_view() { Err(TypedError::IsView) } else { Ok(()) }
    }

    /// The most bytes of the files of one record. A file of a field without a limit has 5 MiB.
    pub fn max_files_bytes(&self) -> u64 {
        let of = |field: &Field| match &field.kind {
            Kind::File { max_select, .. } => {
                let max = super::Uploads::max_bytes(self.definition(), &field.name).unwrap_or_default();
                // One more, so that too many of them are named as such.
                max.saturating_mul(max_select.max(&1).unsigned_abs().saturating_add(1))
            }
            _ => 0,
        };
        self.definition().file_fields().map(of).fold(0, u64::saturating_add)
    }

    /// Whether a field of a view names its records.
    fn is_named_by_views(&self) -> bool {
        let id = &self.definition().id;
        let names = |field: &Field| matches!(&field.kind, Kind::Relation { collection_id, .. } if collection_id == id);
        let mut views = self.catalog.definitions.all.iter().filter(|one| is_view(one));
        views.any(|view| view.definition.fields.iter().any(names))
    }

    /// The collections with tables that a view reads, by other views too.
    pub(super) fn tables(&self) -> Vec<Self> {
        let places = super::view::tables(&self.catalog.definitions, self.at);
        places.into_iter().map(|at| self.at(at)).collect()
    }

    /// Whether a list may read a view: it is one, or its rules and filters may lead to one.
    pub(super) fn reads_views(&self) -> bool {
        self.catalog.definitions.all.iter().any(is_view)
    }

    pub(super) fn indexes(&self) -> &[PlannedIndex] {
        &self.made().indexes
    }

    pub(super) fn references(&self) -> &[Reference] {
        &self.made().references
    }
}
