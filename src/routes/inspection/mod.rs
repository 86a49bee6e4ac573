//! Inspects a definition: one select, a target that can be one, columns that fit.

mod store;

pub(super) use store::{inspect, inspect_condition};

use super::generate::{Column, Plan};
use super::model::Definition;

/// A definition that Postgres has parsed, with what it found.
#[derive(Debug)]
pub(super) struct Inspected {
    /// The target's id.
    pub(super) target_id: u32,
    /// Its schema and name.
    pub(super) target_name: (String, String),
    /// Both, quoted.
    target: String,
    /// The select's columns, as they are in the target.
    columns: Vec<Column>,
    /// Their names.
    pub(super) column_names: Vec<String>,
    key: Vec<Column>,
    /// Whether the select aggregates.
    pub(super) is_whole: bool,
    /// The column that is the event's id, as far as the select shows it.
    pub(super) event_column: Option<String>,
    /// Remarks for the author.
    pub(super) notes: Vec<String>,
}

impl Inspected {
    /// What the route's functions do.
    pub(super) fn plan<'a>(&'a self, definition: &'a Definition) -> Plan<'a> {
        Plan {
            target: &self.target,
            columns: &self.columns,
            key: &self.key,
            select: definition.select(),
            on_conflict: definition.on_conflict.as_deref(),
            strict: definition.strict,
            serial: definition.serial,
            whole: self.is_whole,
        }
    }
}
