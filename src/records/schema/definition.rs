//! Definitions of collections: rules, fields and indexes; their creation and change by what a client sends.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::auth::{self, AuthOptions, TOKEN_KEY};
use super::field::{Field, ID, ID_PATTERN, Kind, MADE_ID};
use super::generate::generate;
use super::index::Index;
use super::violation::{Violation, Violations};
use crate::records::Name;

/// The id of the collection of superusers.
const SUPERUSERS: &str = "pbc_3142635823";
/// The most fields.
const MAX_FIELDS: usize = 500;
/// The most indexes.
const MAX_INDEXES: usize = 50;

/// Rules: `None` is for superusers only, `""` for everyone, all others are filters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// Of lists.
    pub list_rule: Option<String>,
    /// Of single records.
    pub view_rule: Option<String>,
    /// Of creations.
    pub create_rule: Option<String>,
    /// Of changes.
    pub update_rule: Option<String>,
    /// Of deletions.
    pub delete_rule: Option<String>,
}

impl Rules {
    /// The rules by their names.
    pub fn named(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("listRule", self.list_rule.as_deref()),
            ("viewRule", self.view_rule.as_deref()),
            ("createRule", self.create_rule.as_deref()),
            ("updateRule", self.update_rule.as_deref()),
            ("deleteRule", self.delete_rule.as_deref()),
        ]
    }
}

/// The type of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CollectionKind {
    /// Records.
    #[default]
    Base,
    /// Records that sign in.
    Auth,
    /// Records of a query.
    View,
}

impl CollectionKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Auth => "auth",
            Self::View => "view",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Base, Self::Auth, Self::View].into_iter().find(|kind| kind.name() == name)
    }
}

/// A collection but for its records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The id, which stays when the collection is renamed.
    pub id: String,
    /// The type.
    #[serde(default, rename = "type")]
    pub kind: CollectionKind,
    /// Whether it belongs to the service.
    #[serde(default)]
    pub system: bool,
    /// Access of others than superusers.
    #[serde(flatten)]
    pub rules: Rules,
    /// The fields, the id among them.
    pub fields: Vec<Field>,
    /// The texts of the indexes.
    #[serde(default)]
    pub indexes: Vec<String>,
    /// Options of sign-ins; `None`: its records do not sign in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Box<AuthOptions>>,
    /// The query of a view, in SQLite's SQL.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "viewQuery")]
    pub view_query: Option<String>,
    /// Whether the query of a view has lost what it reads, so that the view has no records.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", rename = "isBroken")]
    pub is_broken: bool,
}

/// A refused definition.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DefinitionError {
    /// A member has another type than it takes.
    #[error("the definition has a member of another type than it takes")]
    Format,
    /// The id of a collection cannot be changed.
    #[error("the id of a collection cannot be changed")]
    IdChange,
    /// Violations.
    #[error("the definition is refused")]
    Violations(Violations),
    /// The system has no random bytes for a secret.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// A member that is left out, or null, or a value.
fn sent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?))
}

/// A definition as a client sends it: members that are left out stay.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DefinitionRequest {
    id: Option<String>,
    name: Option<String>,
    r#type: Option<String>,
    system: Option<bool>,
    #[serde(deserialize_with = "sent")]
    list_rule: Option<Option<String>>,
    #[serde(deserialize_with = "sent")]
    view_rule: Option<Option<String>>,
    #[serde(deserialize_with = "sent")]
    create_rule: Option<Option<String>>,
    #[serde(deserialize_with = "sent")]
    update_rule: Option<Option<String>>,
    #[serde(deserialize_with = "sent")]
    delete_rule: Option<Option<String>>,
    fields: Option<Vec<Field>>,
    indexes: Option<Vec<String>>,
    view_query: Option<String>,
}

impl DefinitionRequest {
    fn read(body: &Value) -> Result<Self, DefinitionError> {
        Self::deserialize(body).map_err(|_| DefinitionError::Format)
    }

    fn apply_rules(&mut self, rules: &mut Rules) {
        for (sent, rule) in [
            (&mut self.list_rule, &mut rules.list_rule),
            (&mut self.view_rule, &mut rules.view_rule),
            (&mut self.create_rule, &mut rules.create_rule),
            (&mut self.update_rule, &mut rules.update_rule),
            (&mut self.delete_rule, &mut rules.delete_rule),
        ] {
            if let Some(sent) = sent.take() {
                *rule = sent;
            }
        }
    }
}

impl Definition {
    /// The definition of a collection that was created without one: no fields but the id, for superusers only.
    pub fn untyped(name: &Name) -> Self {
        let kind = CollectionKind::Base;
        let id = collection_id(kind, name.as_str());
        Self {
            id,
            kind,
            system: false,
            rules: Rules::default(),
            fields: vec![Field::id_field()],
            indexes: Vec::new(),
            auth: None,
            view_query: None,
            is_broken: false,
        }
    }

    /// Whether its records are those of a query.
    pub fn is_view(&self) -> bool {
        self.kind == CollectionKind::View
    }

    /// Whether a field never leaves the service.
    pub fn is_secret(&self, field: &Field) -> bool {
        field.is_secret() || (self.auth.is_some() && field.name == TOKEN_KEY)
    }

    /// Whether a field is one of the table's columns of times.
    pub fn is_column(&self, field: &Field) -> bool {
        !self.is_view()
            && matches!(field.kind, Kind::Autodate { .. })
            && matches!(field.name.as_str(), "created" | "updated")
    }

    /// Whether it is the collection of superusers.
    pub fn is_superusers(&self) -> bool {
        self.system && self.id == SUPERUSERS
    }

    /// Whether only this face serves its records: the others know neither accounts nor hidden values.
    pub fn is_private(&self) -> bool {
        let is_kept = |field: &Field| field.hidden || field.is_secret();
        self.kind != CollectionKind::Base || self.system || self.fields.iter().any(is_kept)
    }

    /// A new collection.
    ///
    /// # Errors
    ///
    /// [`DefinitionError`]. Rules, names and ids that are in use, and indexes of other collections are for the caller to check.
    pub fn create(body: &Value) -> Result<(Name, Self), DefinitionError> {
        let mut request = DefinitionRequest::read(body)?;
        let mut violations = Violations::default();
        let kind = CollectionKind::parse(request.r#type.as_deref().unwrap_or("base")).unwrap_or_else(|| {
            violations.add("type", Violation::new("in_invalid", "Must be a valid value."));
            CollectionKind::Base
        });
        let text = request.name.take().unwrap_or_default();
        let name = name(&text, &mut violations);
        let mut rules = Rules::default();
        request.apply_rules(&mut rules);
        let id = request.id.take().filter(|id| !id.is_empty()).unwrap_or_else(|| collection_id(kind, &text));
        let auth = match kind {
            CollectionKind::Base | CollectionKind::View => None,
            CollectionKind::Auth => Some(Box::new(AuthOptions::default().merged(body)?)),
        };
        let mut definition = Self {
            id,
            kind,
            system: false,
            rules,
            fields: request.fields.unwrap_or_default(),
            indexes: request.indexes.unwrap_or_default(),
            auth,
            view_query: None,
            is_broken: false,
        };
        if kind == CollectionKind::View {
            definition.view_query = Some(request.view_query.unwrap_or_default());
            // Its query has them.
            definition.fields.clear();
            definition.check_view(&mut violations);
        } else {
            definition.complete_fields(None);
            definition.complete_indexes(&text);
            definition.check(None, &mut violations);
        }
        match (name, violations.into_result()) {
            (Some(name), Ok(())) => Ok((name, definition)),
            (_, Err(violations)) => Err(DefinitionError::Violations(violations)),
            (None, Ok(())) => Err(DefinitionError::Format),
        }
    }

    /// The collection with the members of a request. A name in it is returned as well.
    ///
    /// # Errors
    ///
    /// [`DefinitionError`], as of [`Self::create`].
    pub fn change(&self, old_name: &Name, body: &Value) -> Result<(Name, Self), DefinitionError> {
        let mut request = DefinitionRequest::read(body)?;
        if request.id.as_ref().is_some_and(|id| *id != self.id) {
            return Err(DefinitionError::IdChange);
        }
        let mut violations = Violations::default();
        if request.r#type.as_deref().is_some_and(|kind| kind != self.kind.name()) {
            violations
                .add("type", Violation::new("collection_type_change", "Collection type cannot be changed."));
        }
        if request.system.is_some_and(|system| system != self.system) {
            let message = "System collection state cannot be changed.";
            violations.add("system", Violation::new("collection_system_flag_change", message));
        }
        let name = match request.name.take() {
            None => Some(old_name.clone()),
            Some(text) => name(&text, &mut violations),
        };
        if self.system && name.as_ref().is_some_and(|name| name != old_name) {
            let message = "System collection name cannot be changed.";
            violations.add("name", Violation::new("collection_system_name_change", message));
        }
        let mut new = self.clone();
        request.apply_rules(&mut new.rules);
        if let Some(auth) = &self.auth {
            new.auth = Some(Box::new(auth.merged(body)?));
        }
        if self.system {
            for ((rule, before), (_, after)) in self.all_rules().into_iter().zip(new.all_rules()) {
                if before != after {
                    let message = "System collection API rule cannot be changed.";
                    violations.add(rule, Violation::new("collection_system_rule_change", message));
                }
            }
        }
        let has_indexes = request.indexes.is_some();
        if let Some(indexes) = request.indexes.take() {
            new.indexes = indexes;
        }
        if let Some(name) = name.as_ref().filter(|name| !has_indexes && *name != old_name) {
            new.indexes = new
                .indexes
                .iter()
                .filter_map(|text| Some(Index::parse(text).ok()?.text(name.as_str())))
                .collect();
        }
        if let (true, Some(query)) = (self.is_view(), request.view_query.take()) {
            new.view_query = Some(query);
        }
        if let Some(fields) = request.fields.take().filter(|_| !self.is_view()) {
            new.fields = fields;
            new.complete_fields(Some(self));
        }
        match self.is_view() {
            true => new.check_view(&mut violations),
            false => {
                new.complete_indexes(name.as_ref().unwrap_or(old_name).as_str());
                new.check(Some(self), &mut violations);
            }
        }
        match (name, violations.into_result()) {
            (Some(name), Ok(())) => Ok((name, new)),
            (_, Err(violations)) => Err(DefinitionError::Violations(violations)),
            (None, Ok(())) => Err(DefinitionError::Format),
        }
    }

    /// All rules by their names.
    pub fn all_rules(&self) -> Vec<(&'static str, Option<&str>)> {
        let of_auth = self.auth.iter().flat_map(|auth| auth.named_rules());
        self.rules.named().into_iter().chain(of_auth).collect()
    }

    /// The field of a name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Whether all ids have 15 characters of `a` to `z` and `0` to `9`.
    pub fn has_plain_ids(&self) -> bool {
        self.fields.iter().any(|field| {
            matches!(&field.kind, Kind::Text { primary_key: true, min: 15, max: 15, pattern, .. }
                if pattern.as_str() == ID_PATTERN)
        })
    }

    /// Whether the service makes such an id for a record that comes without one.
    pub fn makes_plain_ids(&self) -> bool {
        self.fields.iter().any(|field| {
            matches!(&field.kind, Kind::Text { primary_key: true, autogenerate_pattern, .. }
                if autogenerate_pattern == MADE_ID)
        })
    }

    /// An id by the pattern of the id field. `None`: it has none, so that clients choose ids.
    pub fn made_id(&self) -> Option<String> {
        self.fields.iter().find_map(|field| match &field.kind {
            Kind::Text { primary_key: true, autogenerate_pattern, .. }
                if !autogenerate_pattern.is_empty() =>
            {
                generate(autogenerate_pattern)
            }
            _ => None,
        })
    }

    /// The fields of files.
    pub fn file_fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| matches!(field.kind, Kind::File { .. }))
    }

    /// Whether it has fields of files.
    pub fn has_files(&self) -> bool {
        self.file_fields().next().is_some()
    }

    /// Whether a body sets fields of files.
    pub fn sets_files(&self, body: &serde_json::Map<String, Value>) -> bool {
        let is_of = |field: &Field, member: &str| member.trim_matches(['+', '-']) == field.name;
        self.file_fields().any(|field| body.keys().any(|member| is_of(field, member)))
    }

    /// Its parsed indexes.
    pub fn parsed_indexes(&self) -> Vec<Index> {
        self.indexes.iter().filter_map(|text| Index::parse(text).ok()).collect()
    }

    /// Completes sent fields: those that are known by id or by name keep their id, the last one of an id counts, and system fields stay.
    fn complete_fields(&mut self, old: Option<&Self>) {
        for field in &mut self.fields {
            let known = old.and_then(|old| match field.id.as_str() {
                "" => old.field(&field.name),
                id => old.fields.iter().find(|known| known.id == id),
            });
            if let Some(known) = known {
                field.id = known.id.clone();
                field.system = known.system;
            }
            field.complete();
        }
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut fields: Vec<Field> = Vec::with_capacity(self.fields.len() + 1);
        for field in self.fields.drain(..) {
            match places.get(&field.id) {
                Some(place) => fields[*place] = field,
                None => {
                    places.insert(field.id.clone(), fields.len());
                    fields.push(field);
                }
            }
        }
        if let Some(old) = old {
            let missing = old.fields.iter().filter(|field| field.system && !places.contains_key(&field.id));
            for (place, field) in missing.enumerate() {
                fields.insert(place, field.clone());
            }
        } else if !fields.iter().any(|field| field.name == ID) {
            fields.insert(0, Field::id_field());
        }
        self.fields = fields;
        if self.auth.is_some() {
            auth::complete_fields(&mut self.fields);
        }
    }

    fn complete_indexes(&mut self, name: &str) {
        if self.auth.is_some() {
            auth::complete_indexes(self, name);
        }
    }

    fn check(&self, old: Option<&Self>, violations: &mut Violations) {
        if self.fields.len() > MAX_FIELDS {
            let message = format!("The length must be no more than {MAX_FIELDS}.");
            return violations.add("fields", Violation::new("length_too_long", message));
        }
        let mut found = Violations::default();
        let mut names: BTreeMap<String, ()> = BTreeMap::new();
        for (at, field) in self.fields.iter().enumerate() {
            let known = old.and_then(|old| old.fields.iter().find(|known| known.id == field.id));
            if known.is_some_and(|known| known.kind.name() != field.kind.name()) {
                let message = "Field type cannot be changed.";
                found.add(&at.to_string(), Violation::new("field_type_change", message));
                continue;
            }
            let mut of_field = field.check();
            if names.insert(field.name.to_ascii_lowercase(), ()).is_some() && !field.name.is_empty() {
                let message = format!("Duplicated or invalid field name {}.", field.name);
                let violation =
                    Violation::new("duplicated_field_name", message).with("fieldName", field.name.as_str());
                of_field.add("name", violation);
            }
            if known.is_some_and(|known| known.system && known.name != field.name) {
                let message = "System fields cannot be deleted or renamed.";
                of_field.add("name", Violation::new("system_field_change", message));
            }
            if let (Some(Kind::Relation { collection_id: before, .. }), Kind::Relation { collection_id, .. }) =
                (known.map(|known| &known.kind), &field.kind)
                && before != collection_id
            {
                let message = "The relation collection cannot be changed.";
                of_field.add("collectionId", Violation::new("field_relation_change", message));
            }
            found.add_all(&at.to_string(), of_field);
        }
        violations.add_all("fields", found);
        self.check_indexes(violations);
        if let Some(auth) = &self.auth {
            auth.check(self, violations);
        }
    }

    /// Checks what a view has besides its query.
    fn check_view(&self, violations: &mut Violations) {
        for (name, rule) in self.rules.named() {
            if rule.is_some() && !matches!(name, "listRule" | "viewRule") {
                violations.add(name, Violation::new("nil", "Must be blank."));
            }
        }
        if !self.indexes.is_empty() {
            let message = "View collections don't support indexes.";
            violations.add("indexes", Violation::new("indexes_not_supported", message));
        }
        if self.view_query.as_deref().unwrap_or_default().trim().is_empty() {
            violations.add("viewQuery", Violation::required());
            violations.add("fields", Violation::required());
        }
    }

    fn check_indexes(&self, violations: &mut Violations) {
        if self.indexes.len() > MAX_INDEXES {
            let message = format!("The length must be no more than {MAX_INDEXES}.");
            return violations.add("indexes", Violation::new("length_too_long", message));
        }
        let mut found = Violations::default();
        let mut names: Vec<String> = Vec::new();
        for (at, text) in self.indexes.iter().enumerate() {
            let violation = match Index::parse(text) {
                Err(violation) => Some(violation),
                Ok(index) if names.iter().any(|name| name.eq_ignore_ascii_case(&index.name)) => {
                    Some(Violation::new("duplicated_index_name", "The index name already exists."))
                }
                Ok(index) => {
                    let unknown = index.fields().find(|field| self.field(field).is_none());
                    let violation = unknown.map(|field| {
                        // The real server shows SQLite's error.
                        let message = format!(
                            "Failed to create index {} - SQL logic error: no such column: {field} (1).",
                            index.name
                        );
                        Violation::new("invalid_index_expression", message)
                    });
                    names.push(index.name);
                    violation
                }
            };
            if let Some(violation) = violation {
                found.add(&at.to_string(), violation);
            }
        }
        violations.add_all("indexes", found);
    }
}

/// The id of a collection without one of its own.
fn collection_id(kind: CollectionKind, name: &str) -> String {
    format!("pbc_{}", crc32fast::hash(format!("{}{name}", kind.name()).as_bytes()))
}

fn name(text: &str, violations: &mut Violations) -> Option<Name> {
    let name = Name::parse(text);
    if text.is_empty() {
        violations.add("name", Violation::required());
    } else if name.is_none() {
        violations.add("name", Violation::new("match_invalid", "Must be in a valid format."));
    }
    name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(result: Result<(Name, Definition), DefinitionError>) -> Value {
        match result {
            Err(DefinitionError::Violations(violations)) => serde_json::to_value(violations).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn code(code: &str, message: &str) -> Value {
        json!({"code": format!("validation_{code}"), "message": message})
    }

    #[test]
    fn a_new_collection_has_the_id_of_its_name_and_a_field_for_the_id_of_records() {
        let body = json!({"name": "p1", "type": "base", "listRule": "", "fields": [{"name": "title", "type": "text"}]});
        let (name, definition) = Definition::create(&body).unwrap();
        assert_eq!((name.as_str(), definition.id.as_str()), ("p1", "pbc_433794682"));
        assert_eq!(
            definition.fields.iter().map(|field| &*field.id).collect::<Vec<_>>(),
            ["text3208210256", "text724990059"]
        );
        assert_eq!(
            (definition.rules.list_rule.as_deref(), definition.rules.view_rule.as_deref()),
            (Some(""), None)
        );
        let stored = serde_json::to_value(&definition).unwrap();
        assert_eq!(Definition::deserialize(&stored).unwrap(), definition);
        assert_eq!(Definition::untyped(&name).id, definition.id);
        let own = json!({"id": "myownid", "name": "p1"});
        assert_eq!(Definition::create(&own).unwrap().1.id, "myownid");
    }

    #[test]
    fn refusals_of_creations_are_those_of_pocketbase() {
        let create = |body: Value| refusal(Definition::create(&body));
        let field = |at: &str, member: &str, violation: Value| json!({"fields": {at: {member: violation}}});
        for (body, expected) in [
            (json!({"name": "1 p"}), json!({"name": code("match_invalid", "Must be in a valid format.")})),
            (json!({"name": ""}), json!({"name": code("required", "Cannot be blank.")})),
            (
                json!({"name": "a", "type": "zzz"}),
                json!({"type": code("in_invalid", "Must be a valid value.")}),
            ),
            (
                json!({"name": "a", "fields": [{"name": "a", "type": "text"}, {"name": "A", "type": "text"}]}),
                field(
                    "2",
                    "name",
                    json!({
                        "code": "validation_duplicated_field_name",
                        "message": "Duplicated or invalid field name A.",
                        "params": {"fieldName": "A"},
                    }),
                ),
            ),
            (
                json!({"name": "a", "fields": [{"name": "a_via_b", "type": "text"}]}),
                field("1", "name", code("found_via", "The value cannot contain \"_via_\".")),
            ),
            (
                json!({"name": "a", "fields": [{"name": "r", "type": "select"}]}),
                field("1", "values", code("required", "Cannot be blank.")),
            ),
            (
                json!({"name": "a", "indexes": ["Create index bad"]}),
                json!({"indexes": {"0": code("invalid_index_expression", "Invalid CREATE INDEX expression.")}}),
            ),
            (
                json!({"name": "a", "indexes": ["Create index foo on a (qq)"]}),
                json!({"indexes": {"0": code(
                    "invalid_index_expression",
                    "Failed to create index foo - SQL logic error: no such column: qq (1).",
                )}}),
            ),
            (
                json!({"name": "a", "indexes": ["Create index i on a (id)", "Create index I on a (id)"]}),
                json!({"indexes": {"1": code("duplicated_index_name", "The index name already exists.")}}),
            ),
        ] {
            assert_eq!(create(body.clone()), expected, "{body}");
        }
        let bad = json!({"name": "a", "fields": [{"name": "x", "type": "nope"}]});
        assert_eq!(Definition::create(&bad), Err(DefinitionError::Format));
        assert_eq!(Definition::create(&json!({"name": 5})), Err(DefinitionError::Format));
    }

    #[test]
    fn a_change_keeps_fields_by_id_then_by_name_and_drops_the_others() {
        let body =
            json!({"name": "cp", "fields": [{"name": "a", "type": "text"}, {"name": "b", "type": "number"}]});
        let (name, old) = Definition::create(&body).unwrap();
        let fields = |sent: Value| {
            let (_, new) = old.change(&name, &json!({"fields": sent})).unwrap();
            new.fields.iter().map(|field| format!("{} {}", field.name, field.id)).collect::<Vec<_>>()
        };
        let id = "id text3208210256";
        assert_eq!(fields(json!([{"name": "a", "type": "text"}])), [id, "a text3904355907"]);
        assert_eq!(
            fields(json!([{"id": "text3904355907", "name": "x", "type": "text"}])),
            [id, "x text3904355907"]
        );
        assert_eq!(fields(json!([{"name": "A", "type": "text"}])), [id, "A text3554254475"]);
        assert_eq!(fields(json!([])), [id]);
        let twice =
            json!([{"id": "c1", "name": "qq", "type": "text"}, {"id": "c1", "name": "rr", "type": "text"}]);
        assert_eq!(fields(twice), [id, "rr c1"]);

        let change = |body: Value| refusal(old.change(&name, &body));
        let other_type = json!({"fields": [{"id": "text3904355907", "name": "a", "type": "number"}]});
        let expected = json!({"fields": {"1": code("field_type_change", "Field type cannot be changed.")}});
        assert_eq!(change(other_type), expected);
        let message = "System collection state cannot be changed.";
        assert_eq!(
            change(json!({"system": true})),
            json!({"system": code("collection_system_flag_change", message)})
        );
        assert_eq!(old.change(&name, &json!({"id": "other"})), Err(DefinitionError::IdChange));
        let (_, ruled) = old.change(&name, &json!({"listRule": "", "viewRule": null})).unwrap();
        assert_eq!((ruled.rules.list_rule.as_deref(), ruled.rules.view_rule), (Some(""), None));
    }

    #[test]
    fn a_new_name_rewrites_the_indexes() {
        let body = json!({"name": "cp", "fields": [{"name": "a", "type": "text"}], "indexes": ["Create index foo on cp (a)"]});
        let (name, old) = Definition::create(&body).unwrap();
        let (name, new) = old.change(&name, &json!({"name": "cy"})).unwrap();
        assert_eq!((name.as_str(), &*new.indexes[0]), ("cy", "CREATE INDEX `foo` ON `cy` (`a`)"));
        let dropped = refusal(new.change(&name, &json!({"fields": []})));
        assert_eq!(dropped["indexes"]["0"]["code"], "validation_invalid_index_expression");
    }
}
