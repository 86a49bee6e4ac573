//! Changes of definitions, planned: what is checked against all other collections, and what has to happen to the table.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::TypedError;
use super::catalog::{CollectionHandle, DefinedCollection, Definitions, references};
use super::rules;
use super::store::quoted;
use super::view::{self, Views, WrittenView};
use crate::records::schema::{
    Definition, DefinitionError, Field, Index, IndexColumn, IndexCondition, Kind, Violation, Violations,
};
use crate::records::{Catalog, Name, RequestValues};
use crate::time::Millis;

/// A change of a collection.
#[derive(Debug)]
pub(super) struct Plan {
    /// `None`: it is new.
    pub(super) number: Option<i32>,
    /// The name before, if it has another one now.
    pub(super) old_name: Option<Name>,
    pub(super) name: Name,
    /// `None`: it is deleted.
    pub(super) definition: Option<Definition>,
    /// The members of each record after the change, in SQL. `None`: they stay.
    pub(super) members: Option<String>,
    pub(super) indexes: Vec<PlannedIndex>,
    /// The columns of its view, in SQL.
    pub(super) columns: String,
    /// The query of its records. `None`: they are those of a table, or there are none.
    pub(super) view: Option<WrittenView>,
    /// Whether it is a view.
    pub(super) is_view: bool,
    /// Whether it follows of another change, which it does not stop.
    pub(super) follows: bool,
}

/// An index in SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedIndex {
    /// Its place in the definition.
    pub(super) at: usize,
    /// Its name in the definition.
    pub(super) name: String,
    /// The fields of its columns.
    pub(super) fields: Vec<String>,
    pub(super) is_unique: bool,
    pub(super) columns: String,
    pub(super) conditions: String,
}

impl PlannedIndex {
    /// The beginning of the names of the indexes that a collection's definition made: names are unique in a schema.
    pub(super) fn prefix(number: i32) -> String {
        format!("records_{number}_i_")
    }

    /// Its name in Postgres: another one for each change of its parts.
    pub(super) fn name_of(&self, number: i32) -> String {
        let parts = format!("{} {} {} {}", self.name, self.is_unique, self.columns, self.conditions);
        format!("{}{:08x}", Self::prefix(number), crc32fast::hash(parts.as_bytes()))
    }

    /// Those of a definition.
    pub(super) fn all(definition: &Definition) -> Vec<Self> {
        let parsed = definition.indexes.iter().map(|text| Index::parse(text));
        parsed.enumerate().filter_map(|(at, index)| Self::of(at, &index.ok()?, definition)).collect()
    }

    fn of(at: usize, index: &Index, definition: &Definition) -> Option<Self> {
        let column = |IndexColumn { field, ignores_case, descends }: &IndexColumn| {
            let value = indexed(definition, definition.field(field)?, *ignores_case);
            Some(format!("({value}){}", if *descends { " desc" } else { "" }))
        };
        let condition = |IndexCondition { field, operator, value }: &IndexCondition| {
            let field = definition.field(field)?;
            let left = indexed(definition, field, false);
            Some(match value {
                None if *operator == "=" => format!("({left}) is null"),
                None => format!("({left}) is not null"),
                Some(value) if matches!(field.kind, Kind::Number { .. } | Kind::Bool {}) => {
                    format!("({left}) {operator} {}::numeric", literal(value))
                }
                Some(value) => format!("({left}) {operator} {}", literal(value)),
            })
        };
        let columns: Option<Vec<String>> = index.columns.iter().map(column).collect();
        let conditions: Option<Vec<String>> = index.conditions.iter().map(condition).collect();
        Some(Self {
            at,
            name: index.name.clone(),
            fields: index.columns.iter().map(|column| column.field.clone()).collect(),
            is_unique: index.is_unique,
            columns: columns?.join(", "),
            conditions: conditions?.join(" and "),
        })
    }
}

/// A text in SQL. Not in quotes, whose escapes depend on a setting.
fn literal(text: &str) -> String {
    let mut tag = String::from("$v");
    while text.contains(tag.as_str()) {
        tag.push('v');
    }
    tag.push('$');
    format!("{tag}{text}{tag}")
}

/// A field's value, as the expressions of `expr::typed` have it: else the index serves none of them.
fn indexed(definition: &Definition, field: &Field, ignores_case: bool) -> String {
    let name = &field.name;
    match &field.kind {
        _ if field.is_id() => "id".into(),
        _ if definition.is_column(field) => name.clone(),
        Kind::Number { .. } | Kind::Bool {} => number(name),
        Kind::Json { .. } | Kind::GeoPoint {} => format!("data -> '{name}'"),
        _ if ignores_case => format!("lower((data ->> '{name}') collate \"C\")"),
        _ => format!("(data ->> '{name}') collate \"C\""),
    }
}

fn number(name: &str) -> String {
    let value = format!("(data -> '{name}')");
    format!(
        "case jsonb_typeof({value}) when 'number' then ({value})::numeric \
         when 'boolean' then ({value})::boolean::integer::numeric end"
    )
}

/// The columns of a collection's view, without secrets. Values of another type than their field's, which other faces can store, are null.
fn columns(definition: &Definition) -> String {
    let column = |field: &Field| {
        let name = &field.name;
        let value = match &field.kind {
            _ if field.is_id() => "id".to_owned(),
            _ if definition.is_column(field) => name.clone(),
            Kind::Number { .. } => format!("({})::double precision", number(name)),
            Kind::Bool {} => format!("({}) <> 0", number(name)),
            Kind::Json { .. } | Kind::GeoPoint {} => format!("data -> '{name}'"),
            Kind::Date { .. } | Kind::Autodate { .. } => format!(
                "case when data ->> '{name}' ~ '^\\d{{4}}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d{{3}}Z$' \
                 then (data ->> '{name}')::timestamptz end"
            ),
            kind if kind.is_list() => format!("data -> '{name}'"),
            _ => format!("data ->> '{name}'"),
        };
        format!("{value} as {}", quoted(name))
    };
    definition
        .fields
        .iter()
        .filter(|field| !definition.is_secret(field))
        .map(column)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The members of records after a change of their fields. `None`: they stay as they are.
fn members(before: &Definition, after: &Definition) -> Option<String> {
    let in_data = |field: &&Field| !field.is_id() && !after.is_column(field);
    let mut removed: Vec<String> = Vec::new();
    let (mut added, mut defaults) = (Vec::new(), Vec::new());
    for old in before.fields.iter().filter(in_data) {
        let kept = after.fields.iter().any(|new| new.id == old.id && new.name == old.name);
        if !kept {
            removed.push(format!("'{}'", old.name));
        }
    }
    for new in after.fields.iter().filter(in_data) {
        let (name, zero) = (&new.name, literal(&new.zero().to_string()));
        let Some(old) = before.fields.iter().find(|old| old.id == new.id) else {
            defaults.push(format!("'{name}', {zero}::jsonb"));
            continue;
        };
        let value = format!("data -> '{}'", old.name);
        let value = match (old.kind.is_list(), new.kind.is_list()) {
            (true, false) => format!("coalesce({value} -> -1, {zero}::jsonb)"),
            (false, true) => format!(
                "case when coalesce({value}, '\"\"'::jsonb) in ('\"\"'::jsonb, 'null'::jsonb) then '[]'::jsonb \
                 else jsonb_build_array({value}) end"
            ),
            _ if old.name == new.name => continue,
            _ => format!("coalesce({value}, {zero}::jsonb)"),
        };
        added.push(format!("'{name}', {value}"));
    }
    if removed.is_empty() && added.is_empty() && defaults.is_empty() {
        return None;
    }
    let mut sql = match removed.as_slice() {
        [] => "data".to_owned(),
        removed => format!("(data - array[{}]::text[])", removed.join(", ")),
    };
    // A function takes 100 arguments.
    for part in defaults.chunks(50) {
        sql = format!("(jsonb_build_object({}) || {sql})", part.join(", "));
    }
    for part in added.chunks(50) {
        sql = format!("({sql} || jsonb_build_object({}))", part.join(", "));
    }
    Some(sql)
}

impl From<DefinitionError> for TypedError {
    fn from(error: DefinitionError) -> Self {
        match error {
            DefinitionError::Format => Self::Format,
            DefinitionError::IdChange => Self::NotFound,
            DefinitionError::NoRandomness => Self::Failed,
            DefinitionError::Violations(violations) => Self::Refused(violations),
        }
    }
}

impl Plan {
    /// A new collection.
    pub(super) fn create(definitions: &Definitions, body: &Value) -> Result<Vec<Self>, TypedError> {
        let (name, definition) = Definition::create(body)?;
        let mut all = definitions.all.clone();
        let now = Millis::now();
        all.push(DefinedCollection { number: 0, name, definition, created: now, updated: now });
        let at = all.len() - 1;
        Changed::of(definitions, all).plans(&[(at, None)])
    }

    /// A changed one.
    pub(super) fn change(definitions: &Definitions, id: &str, body: &Value) -> Result<Vec<Self>, TypedError> {
        let at = definitions.find(id).ok_or(TypedError::NotFound)?;
        let old = definitions.all.get(at).ok_or(TypedError::NotFound)?;
        let (name, definition) = old.definition.change(&old.name, body)?;
        let mut all = definitions.all.clone();
        if let Some(one) = all.get_mut(at) {
            *one = DefinedCollection { name, definition, ..old.clone() };
        }
        Changed::of(definitions, all).plans(&[(at, Some(at))])
    }

    /// Creates and changes collections by their ids, else by their names, all or none of them. Fields that a collection has and the body does not, and
    /// collections that the bodies lack, stay unless `deletes_missing`; those of the system always do. Relations and rules may lead to collections
    /// of later bodies.
    pub(super) fn import(
        definitions: &Definitions,
        bodies: &[Value],
        deletes_missing: bool,
    ) -> Result<Vec<Self>, TypedError> {
        let mut all = definitions.all.clone();
        // The places of the imported ones, and of each the collection before.
        let mut imported: Vec<(usize, Option<usize>)> = Vec::new();
        for body in bodies {
            let member = |name: &str| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            let known = Definitions::new(all.clone());
            let found = member("id")
                .and_then(|id| known.all.iter().position(|other| other.definition.id == id))
                .or_else(|| known.find(member("name")?));
            let at = found.unwrap_or(all.len());
            if imported.iter().any(|(other, _)| *other == at) {
                let name = member("name").unwrap_or_default();
                return Err(not_imported(name, "", "the collection occurs twice"));
            }
            let made = match found.and_then(|at| known.all.get(at)) {
                None => Definition::create(body),
                Some(old) => {
                    let body =
                        if deletes_missing { body.clone() } else { with_fields(body, &old.definition) };
                    old.definition.change(&old.name, &body)
                }
            };
            let (name, definition) = made.map_err(|error| {
                let error = TypedError::from(error);
                refused_import(body, &error).unwrap_or(error)
            })?;
            let now = Millis::now();
            let (number, created) =
                found.and_then(|at| all.get(at)).map_or((0, now), |old| (old.number, old.created));
            let collection = DefinedCollection { number, name, definition, created, updated: now };
            match all.get_mut(at) {
                Some(old) => *old = collection,
                None => all.push(collection),
            }
            imported.push((at, found));
        }
        let is_missing = |at: usize, collection: &DefinedCollection| {
            deletes_missing
                && !collection.definition.system
                && !imported.iter().any(|(imported, _)| *imported == at)
        };
        let mut plans = Vec::new();
        for (at, collection) in definitions.all.iter().enumerate().filter(|(at, old)| is_missing(*at, old)) {
            let staying = |reference: &super::catalog::Reference| {
                all.get(reference.at)
                    .is_some_and(|other| reference.at != at && !is_missing(reference.at, other))
            };
            let after = Definitions::new(all.clone());
            if let Some(user) = references(&after, &collection.definition.id).iter().find(|one| staying(one))
            {
                let user = all.get(user.at).map_or("", |user| user.name.as_str());
                let reason = format!("a relation of {user} leads to it");
                return Err(not_imported(collection.name.as_str(), &collection.definition.id, &reason));
            }
            plans.push(Self::deletion(collection));
        }
        // As they will be.
        let places: Vec<usize> = (0..all.len())
            .filter(|at| all.get(*at).is_some_and(|collection| !is_missing(*at, collection)))
            .collect();
        let after = places.iter().filter_map(|at| all.get(*at).cloned()).collect();
        let changed = Changed::of(definitions, after);
        let requested: Vec<(usize, Option<usize>)> = imported
            .into_iter()
            .filter_map(|(at, found)| Some((places.iter().position(|place| *place == at)?, found)))
            .collect();
        for (place, _) in &requested {
            if let (Err(error), Some(collection)) = (changed.check(*place), changed.after.all.get(*place)) {
                let body = json!({"name": collection.name.as_str(), "id": collection.definition.id});
                return Err(refused_import(&body, &error).unwrap_or(error));
            }
        }
        plans.extend(changed.plans(&requested)?);
        Ok(plans)
    }

    fn deletion(old: &DefinedCollection) -> Self {
        Self {
            number: Some(old.number),
            old_name: None,
            name: old.name.clone(),
            definition: None,
            members: None,
            indexes: Vec::new(),
            columns: String::new(),
            view: None,
            is_view: old.definition.is_view(),
            follows: false,
        }
    }

    pub(super) fn of(
        old: Option<&DefinedCollection>,
        before: Option<&Definition>,
        name: Name,
        definition: Definition,
    ) -> Self {
        Self {
            number: old.map(|old| old.number),
            old_name: old.map(|old| old.name.clone()).filter(|old| *old != name),
            name,
            members: before.filter(|_| !definition.is_view()).and_then(|before| members(before, &definition)),
            indexes: PlannedIndex::all(&definition),
            columns: columns(&definition),
            is_view: definition.is_view(),
            definition: Some(definition),
            view: None,
            follows: false,
        }
    }

    /// A deleted one.
    pub(super) fn delete(definitions: &Definitions, id: &str) -> Result<Vec<Self>, TypedError> {
        let at = definitions.find(id).ok_or(TypedError::NotFound)?;
        let old = definitions.all.get(at).ok_or(TypedError::NotFound)?;
        if old.definition.system {
            return Err(TypedError::System);
        }
        let needed = references(definitions, &old.definition.id);
        let mut names: Vec<&str> = needed
            .iter()
            .filter(|reference| reference.at != at)
            .filter_map(|reference| Some(definitions.all.get(reference.at)?.name.as_str()))
            .collect();
        names.dedup();
        if !names.is_empty() {
            return Err(TypedError::Needed(names.join(", ")));
        }
        let mut all = definitions.all.clone();
        all.remove(at);
        let changed = Changed::of(definitions, all);
        let was_whole = |view: &&DefinedCollection| {
            let before = definitions.all.iter().find(|one| one.number == view.number);
            view.definition.is_broken && before.is_some_and(|before| !before.definition.is_broken)
        };
        let broken: Vec<&str> =
            changed.after.all.iter().filter(was_whole).map(|view| view.name.as_str()).collect();
        if !broken.is_empty() {
            return Err(TypedError::Needed(broken.join(", ")));
        }
        let mut plans = vec![Self::deletion(old)];
        plans.extend(changed.plans(&[])?);
        Ok(plans)
    }
}

/// All collections as they will be, and before.
struct Changed<'a> {
    before: &'a Definitions,
    after: Definitions,
    views: Views,
}

impl<'a> Changed<'a> {
    fn of(before: &'a Definitions, mut after: Vec<DefinedCollection>) -> Self {
        let is_same = |one: &DefinedCollection, other: &DefinedCollection| {
            one.number == other.number && one.number != 0
        };
        let renamed = before.all.iter().enumerate().filter_map(|(at, was)| {
            let now = after.iter().find(|now| is_same(now, was) && now.name != was.name)?;
            Some((at, now.name.as_str().to_owned()))
        });
        let renamed: BTreeMap<usize, String> = renamed.collect();
        for view in after.iter_mut().filter(|_| !renamed.is_empty()) {
            let was = before.all.iter().find(|was| is_same(was, view));
            let kept = was.and_then(|was| was.definition.view_query.as_ref());
            let kept = kept.filter(|kept| view.definition.view_query.as_ref() == Some(*kept));
            if let Some(query) = kept.and_then(|query| WrittenView::renamed(query, before, &renamed)) {
                view.definition.view_query = Some(query);
            }
        }
        let (after, views) = view::settled(after);
        Self { before, after, views }
    }

    /// Checks the collection at a place.
    fn check(&self, at: usize) -> Result<(), TypedError> {
        let collection = self.after.all.get(at).ok_or(TypedError::NotFound)?;
        if let Some(Err(error)) = self.views.get(at) {
            return Err(refused_view(&error.to_string()));
        }
        check(&self.after, Some(at), &collection.name, &collection.definition)
    }

    /// The changes of the collections at places, each with its place before, and those of the views that follow of them.
    fn plans(&self, requested: &[(usize, Option<usize>)]) -> Result<Vec<Plan>, TypedError> {
        for (at, _) in requested {
            self.check(*at)?;
        }
        let touched: BTreeSet<usize> = requested.iter().map(|(at, _)| *at).collect();
        let following = self.views.concerned(self.before, &self.after, &touched).into_iter().map(|at| {
            let number = self.after.all.get(at).map(|one| one.number);
            (at, self.before.all.iter().position(|one| Some(one.number) == number))
        });
        let mut all: Vec<(usize, Option<usize>)> = requested.iter().copied().chain(following).collect();
        all.sort_by_key(|(at, _)| self.views.rank(*at));
        let plan = |(at, found): (usize, Option<usize>)| {
            let now = self.after.all.get(at)?;
            let old = found.and_then(|at| self.before.all.get(at));
            let plan =
                Plan::of(old, old.map(|old| &old.definition), now.name.clone(), now.definition.clone());
            let view = self.views.get(at).and_then(|written| written.as_ref().ok().cloned());
            Some(Plan { view, follows: !touched.contains(&at), ..plan })
        };
        Ok(all.into_iter().filter_map(plan).collect())
    }
}

/// The refusal of a view's query.
pub(super) fn refused_view(reason: &str) -> TypedError {
    let reason: String = reason.chars().take(500).collect();
    let violation = Violation::new("invalid_view_query", format!("Invalid query - {reason}"));
    let mut violations = Violations::default();
    violations.add("viewQuery", violation);
    violations.add("fields", Violation::required());
    TypedError::Refused(violations)
}

/// A body with the fields that only the collection has.
fn with_fields(body: &Value, old: &Definition) -> Value {
    let mut body = body.clone();
    if let Some(Value::Array(fields)) = body.get_mut("fields") {
        let is_sent = |field: &Field, sent: &Value| {
            let is = |member: &str, text: &str| sent.get(member).and_then(Value::as_str) == Some(text);
            is("id", &field.id) || is("name", &field.name)
        };
        let missing = old.fields.iter().filter(|field| !fields.iter().any(|sent| is_sent(field, sent)));
        let missing: Vec<Value> = missing.map(Field::json).collect();
        fields.extend(missing);
    }
    body
}

fn not_imported(name: &str, id: &str, reason: &str) -> TypedError {
    let message = format!("Data validations failed for collection {name:?} ({id}):\n{reason}.");
    TypedError::refused("collections", Violation::new("collections_import_failure", message))
}

/// The error of an import whose collection is refused. `None`: it is another error.
fn refused_import(body: &Value, error: &TypedError) -> Option<TypedError> {
    let reason = match error {
        TypedError::Refused(violations) => serde_json::to_string_pretty(violations).ok()?,
        TypedError::Format => "a member has another type than it takes".to_owned(),
        TypedError::NotFound => "its id cannot be changed".to_owned(),
        _ => return None,
    };
    let member = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    Some(not_imported(member("name"), member("id"), &reason))
}

/// Checks a definition against all others.
fn check(
    definitions: &Definitions,
    at: Option<usize>,
    name: &Name,
    definition: &Definition,
) -> Result<(), TypedError> {
    let mut violations = Violations::default();
    let others = || definitions.all.iter().enumerate().filter(|(other, _)| Some(*other) != at);
    if others().any(|(_, other)| other.name.as_str().eq_ignore_ascii_case(name.as_str())) {
        let message = "Collection name must be unique (case insensitive).";
        violations.add("name", Violation::new("collection_name_exists", message));
    }
    if others().any(|(_, other)| other.definition.id == definition.id) && violations.is_empty() {
        violations.add("id", Violation::new("not_unique", "Value must be unique."));
    }
    // The collections as they would be: a relation may lead to the collection itself, and a rule to its new fields.
    let now = Millis::now();
    let mut all: Vec<DefinedCollection> = others().map(|(_, other)| other.clone()).collect();
    all.push(DefinedCollection {
        number: 0,
        name: name.clone(),
        definition: definition.clone(),
        created: now,
        updated: now,
    });
    let all = Definitions::new(all);
    let mut of_fields = Violations::default();
    for (place, field) in definition.fields.iter().enumerate() {
        let found = check_field(&all, definition, field);
        of_fields.add_all(&place.to_string(), found);
    }
    violations.add_all("fields", of_fields);
    let mut of_indexes = Violations::default();
    for index in PlannedIndex::all(definition) {
        let user = others().find(|(_, other)| {
            other.definition.parsed_indexes().iter().any(|used| used.name.eq_ignore_ascii_case(&index.name))
        });
        if let Some((_, user)) = user {
            let user = user.name.as_str();
            let message = format!("The index name is already used in {user} collection.");
            let violation = Violation::new("existing_index_name", message).with("usedTableName", user);
            of_indexes.add(&index.at.to_string(), violation);
        }
    }
    violations.add_all("indexes", of_indexes);
    let check_rule = |text: Option<&str>| {
        let text = text.filter(|text| !text.is_empty())?;
        let error = rules::parse(text, &RequestValues::default(), &all, &definition.id).err()?;
        Some(Violation::new("invalid_rule", format!("Invalid rule. Raw error: {error}.")))
    };
    for (rule, text) in definition.all_rules() {
        if let Some(violation) = check_rule(text) {
            violations.add(rule, violation);
        }
    }
    let of_second_factors = definition.auth.as_ref().map(|auth| auth.mfa.rule.as_str());
    if let Some(violation) = check_rule(of_second_factors) {
        let mut of_mfa = Violations::default();
        of_mfa.add("rule", violation);
        violations.add_all("mfa", of_mfa);
    }
    violations.into_result().map_err(TypedError::Refused)
}

fn check_field(all: &Definitions, definition: &Definition, field: &Field) -> Violations {
    let mut found = Violations::default();
    match &field.kind {
        Kind::Relation { collection_id, .. } if all.by_id(collection_id).is_none() => {
            let message = "The relation collection doesn't exist.";
            found.add("collectionId", Violation::new("field_relation_missing_collection", message));
        }
        // PocketBase's rule.
        Kind::Relation { collection_id, .. }
            if !definition.is_view()
                && all.by_id(collection_id).is_some_and(|other| other.definition.is_view()) =>
        {
            let message = "Only view collections are allowed to have relations to other views.";
            found.add("collectionId", Violation::new("relation_field_non_view_base_collection", message));
        }
        _ if definition.is_view() => {}
        // They are columns of the table, which every change sets.
        Kind::Autodate { on_create, on_update }
            if (field.name == "created" && (*on_update || !*on_create))
                || (field.name == "updated" && !*on_update) =>
        {
            let message = "created is set on creation, and updated on every change.";
            found.add("name", Violation::new("not_in_invalid", message));
        }
        Kind::Autodate { .. } => {}
        _ if matches!(field.name.as_str(), "created" | "updated") => {
            let message = "created and updated are of the type autodate.";
            found.add("name", Violation::new("not_in_invalid", message));
        }
        _ => {}
    }
    found
}

/// A collection as clients read it.
pub(super) fn shown(collection: &CollectionHandle) -> Value {
    use crate::records::schema::DateText;
    let (definition, (created, updated)) = (collection.definition(), collection.times());
    let mut shown = json!({
        "id": definition.id,
        "name": collection.name().as_str(),
        "type": definition.kind.name(),
        "system": definition.system,
        "fields": definition.fields.iter().map(Field::json).collect::<Vec<_>>(),
        "indexes": definition.indexes,
        "created": DateText::at(created).as_str(),
        "updated": DateText::at(updated).as_str(),
    });
    if let Value::Object(members) = &mut shown {
        for (rule, text) in definition.all_rules() {
            members.insert(rule.to_owned(), text.into());
        }
        members.extend(definition.auth.iter().flat_map(|auth| auth.shown()));
        members.extend(
            definition.view_query.iter().map(|query| ("viewQuery".to_owned(), query.as_str().into())),
        );
    }
    shown
}

impl CollectionHandle {
    /// The collection as clients read it.
    pub fn shown(&self) -> Value {
        shown(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posts(more: &Value) -> Definition {
        let mut body = json!({"name": "posts", "fields": [
            {"name": "title", "type": "text"},
            {"name": "n", "type": "number"},
            {"name": "kind", "type": "select", "values": ["a", "b"], "maxSelect": 1},
            {"name": "created", "type": "autodate", "onCreate": true},
        ]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        Definition::create(&body).unwrap().1
    }

    #[test]
    fn an_index_is_on_the_expressions_of_filters() {
        let index = "Create unique index i on posts (title collate nocase, n desc, created, id) where title != 'a$v$' and n > 5";
        let [index] = PlannedIndex::all(&posts(&json!({"indexes": [index]}))).try_into().unwrap();
        let number = number("n");
        assert_eq!(
            index.columns,
            format!("(lower((data ->> 'title') collate \"C\")), ({number}) desc, (created), (id)")
        );
        assert_eq!(
            index.conditions,
            format!("((data ->> 'title') collate \"C\") <> $vv$a$v$$vv$ and ({number}) > $v$5$v$::numeric")
        );
        assert!(index.name_of(7).starts_with("records_7_i_") && index.is_unique);
    }

    #[test]
    fn members_follow_their_fields() {
        let before = posts(&json!({}));
        assert_eq!(members(&before, &before), None);
        let (_, after) = before
            .change(
                &Name::parse("posts").unwrap(),
                &json!({"fields": [
                    {"id": before.field("title").unwrap().id, "name": "headline", "type": "text"},
                    {"name": "kind", "type": "select", "values": ["a", "b"], "maxSelect": 2},
                    {"name": "flag", "type": "bool"},
                ]}),
            )
            .unwrap();
        assert_eq!(
            members(&before, &after).unwrap(),
            "((jsonb_build_object('flag', $v$false$v$::jsonb) || (data - array['title', 'n']::text[])) || jsonb_build_object('headline', \
             coalesce(data -> 'title', $v$\"\"$v$::jsonb), 'kind', case when coalesce(data -> 'kind', '\"\"'::jsonb) in \
             ('\"\"'::jsonb, 'null'::jsonb) then '[]'::jsonb else jsonb_build_array(data -> 'kind') end))"
        );
    }
}
