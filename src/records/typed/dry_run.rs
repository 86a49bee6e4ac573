//! Tries of a view's query before a view is made of it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::catalog::DefinedCollection;
use super::view;
use super::{TypedError, TypedRecords};
use crate::records::schema::{Definition, Field};
use crate::time::Millis;

/// The name of the collection that the records of a try belong to.
const NAME: &str = "temp_view";

/// What a query would be as a view.
#[derive(Debug)]
pub struct DryRun {
    /// Its fields.
    pub fields: Vec<Value>,
    /// Its first records, as superusers see them.
    pub sample: Vec<Map<String, Value>>,
}

impl TypedRecords {
    /// Runs a view's query without making a view. `Ok(Err(_))`: it is invalid, for this reason.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn dry_run_view(&self, query: &str) -> Result<Result<DryRun, String>, TypedError> {
        let catalog = self.catalog().await?;
        let known = &catalog.definitions.all;
        let numbers: HashMap<String, i32> =
            known.iter().map(|one| (one.name.as_str().to_owned(), one.number)).collect();
        let (name, definition) =
            Definition::create(&json!({"name": NAME, "type": "view", "viewQuery": query}))?;
        let mut all = known.clone();
        let now = Millis::now();
        all.push(DefinedCollection { number: 0, name, definition, created: now, updated: now });
        let at = all.len() - 1;
        let (definitions, views) = view::settled(all);
        let Some(definition) = definitions.all.get(at).map(|one| &one.definition) else {
            return Err(TypedError::NotFound);
        };
        let view = match views.get(at) {
            Some(Ok(view)) => view,
            Some(Err(error)) => return Ok(Err(error.to_string())),
            None => return Err(TypedError::NotFound),
        };
        let sampled = self.inner.store.sample(view, &numbers).await?;
        Ok(sampled.map(|records| DryRun {
            fields: definition.fields.iter().map(Field::json).collect(),
            sample: records
                .iter()
                .map(|record| definition.shown(NAME, &record.members(definition), true, true))
                .collect(),
        }))
    }
}
