//! Answers of PocketBase 0.40.6 to filters, for the tests of both back ends.

use serde_json::Value as Json;

use super::super::RequestValues;
use super::{Catalog, ResolveError, Seen, TypedCollection, TypedExpression};
use crate::records::schema::Definition;

/// Answers of PocketBase 0.40.6: collections, records, and filters with the rows that they find.
const ANSWERS: &str = include_str!("testdata/filters.json");

pub(super) struct Corpus {
    /// By name, with their records.
    pub(super) collections: Vec<(String, Definition, Vec<Json>)>,
    pub(super) filters: Vec<(String, Json)>,
}

impl Corpus {
    pub(super) fn read() -> Self {
        let answers: Json = serde_json::from_str(ANSWERS).unwrap();
        let mut collections = Vec::new();
        for body in answers["collections"].as_array().unwrap() {
            let (name, definition) = Definition::create(body).unwrap();
            let records = answers["records"][name.as_str()].as_array().unwrap().iter();
            let typed = records.map(|record| {
                let members = definition.fields.iter().map(|field| {
                    let value = field.coerce(record.get(&field.name).unwrap_or(&Json::Null)).unwrap();
                    (field.name.clone(), value)
                });
                Json::Object(members.collect())
            });
            let records = typed.collect();
            collections.push((name.as_str().to_owned(), definition, records));
        }
        let filters = serde_json::from_value(answers["filters"].clone()).unwrap();
        Self { collections, filters }
    }

    pub(super) fn collection(&self, name: &str) -> &(String, Definition, Vec<Json>) {
        self.collections.iter().find(|(other, ..)| other == name).unwrap()
    }

    pub(super) fn resolve(&self, filter: &str) -> Result<TypedExpression, ResolveError> {
        let id = &self.collection("gpost").1.id;
        TypedExpression::parse(filter, &RequestValues::default(), self, id, &|_| Seen::All, false)
    }
}

impl Catalog for Corpus {
    fn by_id(&self, id: &str) -> Option<TypedCollection<'_>> {
        let found = self.collections.iter().find(|(_, definition, _)| definition.id == id);
        found.map(|(name, definition, _)| TypedCollection { name, definition })
    }

    fn by_name(&self, name: &str) -> Option<TypedCollection<'_>> {
        let found = self.collections.iter().find(|(other, ..)| other == name);
        found.map(|(name, definition, _)| TypedCollection { name, definition })
    }
}
