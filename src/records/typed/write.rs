//! Creations, changes and deletions of records.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::accounts::settle;
use super::catalog::CollectionHandle;
use super::deletion::{Allows, Deletion, Ids, Verdict};
use super::rules::{Access, Caller, Rule, RuleKind};
use super::store::{Reads, violated_index};
use super::uploads::Uploads;
use super::{TypedError, TypedRecords};
use crate::records::expression::{Parameter, Parameters};
use crate::records::schema::{DateText, Definition, Field, Kind, PASSWORD, Violation, Violations};
use crate::records::store::Outcome;
use crate::records::{Data, Record, RecordId, RecordsError, RequestValues, TypedExpression};
use crate::time::Millis;

/// The attempts to lock all records that a deletion changes.
pub(super) const MAX_LOCKINGS: usize = 8;

/// A record that may be created.
pub(super) struct Prepared {
    pub(super) id: RecordId,
    /// Whether a client chose the id.
    is_chosen: bool,
    pub(super) members: Map<String, Value>,
    pub(super) data: Data,
}

impl TypedRecords {
    /// Creates a record; returns its members.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn create(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        body: Map<String, Value>,
    ) -> Result<Map<String, Value>, TypedError> {
        let prepared = self.prepare_new(Reads::Pool, collection, caller, body, &Uploads::default()).await?;
        let Prepared { id, is_chosen, data, .. } = prepared;
        let created = self.inner.records.insert(collection.statements(), id, is_chosen, data).await;
        let record = created.map_err(|error| of_constraint(collection, error))?;
        Ok(members_of(&record, collection.definition()))
    }

    /// The record that a body creates, if its values and the rule allow it.
    pub(super) async fn prepare_new(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        caller: &Caller,
        mut body: Map<String, Value>,
        uploads: &Uploads,
    ) -> Result<Prepared, TypedError> {
        collection.expect_writable()?;
        let definition = collection.definition();
        let plain;
        let caller = match definition.without_modifiers(None, &caller.request.body) {
            Some(body) => {
                plain =
                    Caller { request: RequestValues { body, ..caller.request.clone() }, ..caller.clone() };
                &plain
            }
            None => caller,
        };
        let access = collection.access(RuleKind::Create, caller)?;
        let is_chosen = body.get("id").is_some_and(|id| !matches!(id, Value::Null) && *id != "");
        let now = Millis::now();
        if !is_chosen && definition.makes_plain_ids() {
            // Its neighbours in the index are the records of the same time.
            body.insert("id".into(), RecordId::make(now).as_str().into());
        }
        let mut violations = match definition.auth.is_some() {
            true => self.check_passwords(None, &body, false).await?,
            false => Violations::default(),
        };
        let mut members = match definition.apply(None, &body, caller.is_superuser, &DateText::at(now)) {
            Ok(members) => members,
            Err(more) => {
                violations.extend(more);
                violations.extend(uploads.check(definition, &body));
                return Err(TypedError::Refused(violations));
            }
        };
        let id = members.get("id").and_then(Value::as_str).and_then(RecordId::parse);
        if id.is_none() {
            violations.add("id", Violation::format());
        }
        violations.extend(uploads.check(definition, &body));
        // No rule reads them, so none of Postgres' logs has them.
        members.retain(|name, _| !definition.field(name).is_some_and(Field::is_secret));
        let missing = self.missing_relations(reads, collection, &body).await?;
        check_references(definition, None, &members, &missing, uploads, &mut violations);
        violations.into_result().map_err(TypedError::Refused)?;
        let Some(id) = id else { return Err(TypedError::refused("id", Violation::format())) };
        let manages = match definition.auth.is_some() {
            true => self.would_manage(reads, collection, caller, &members, now).await?,
            false => false,
        };
        settle(definition, None, &mut members, manages)?;
        if let Access::If(rule) = access {
            let holds = self.decide(reads, collection, &rule, &members, (now, now)).await?;
            if !holds {
                return Err(TypedError::RuleFails);
            }
        }
        if definition.auth.is_some() && is_chosen && self.is_id_of_others(reads, collection, id).await? {
            let message = "Invalid or duplicated auth record id.";
            return Err(TypedError::refused("id", Violation::new("invalid_auth_id", message)));
        }
        members.extend(self.hashed(definition, &body).await?);
        let data = Data::merged(stored(&members, definition));
        Ok(Prepared { id, is_chosen, members, data })
    }

    /// Changes a record; returns its members. A body that sets fields of files is for [`Self::write_alone`].
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn update(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        id: &str,
        body: &Map<String, Value>,
    ) -> Result<Map<String, Value>, TypedError> {
        collection.expect_writable()?;
        let definition = collection.definition();
        collection.access(RuleKind::Update, caller)?;
        let id = RecordId::parse(id).ok_or(TypedError::NotFound)?;
        let is_decided = self.decides(collection, RuleKind::Update, caller, id).await?;
        let missing = self.missing_relations(Reads::Pool, collection, body).await?;
        let (manages, hashes, password) = self.prepare(collection, caller, id, is_decided, body).await?;
        // The closure's own refusal: that of the store has no place for it.
        let refusal = Mutex::new(None);
        let decide = |record: &Record| {
            let members = members_of(record, definition);
            let decided = || {
                if !is_decided {
                    holds_for(collection, RuleKind::Update, caller, &members)?;
                }
                // The password was compared with this one.
                if password.as_ref().is_some_and(|password| members.get(PASSWORD) != Some(password)) {
                    return Err(RecordsError::Overloaded.into());
                }
                let (missing, hashes, uploads) = (&missing, &hashes, &Uploads::default());
                let change = Change { body, missing, uploads, hashes, manages };
                let changed = change.apply(collection, caller, &members)?;
                Ok(Data::merged(stored(&changed, definition)))
            };
            decided().map(Outcome::Update).map_err(|error| {
                *refusal.lock() = Some(error);
                RecordsError::NotFound
            })
        };
        let changed = self.inner.records.change_with(collection.statements(), id, decide).await;
        match (refusal.into_inner(), changed) {
            (Some(refusal), Err(_)) => Err(refusal),
            (_, Err(error)) => Err(of_constraint(collection, error)),
            (_, Ok(record)) => Ok(members_of(&record, definition)),
        }
    }

    /// What a change of a record with passwords needs before the record is locked: whether the caller manages the account, the hashes of new
    /// passwords, and the stored hash that was compared with the old one. Nothing is hashed for a caller who may not change the record.
    async fn prepare(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        id: RecordId,
        is_decided: bool,
        body: &Map<String, Value>,
    ) -> Result<(bool, HashMap<String, Value>, Option<Value>), TypedError> {
        let definition = collection.definition();
        if !definition.fields.iter().any(Field::is_secret) {
            return Ok((false, HashMap::new(), None));
        }
        let record = self.inner.records.look_up(collection.statements(), id).await.map_err(of_record)?;
        let members = members_of(&record, definition);
        if !is_decided {
            holds_for(collection, RuleKind::Update, caller, &members)?;
        }
        let mut compared = None;
        let manages = match reads_before(collection, RuleKind::Manage, caller) {
            true => {
                self.manages(Reads::Pool, collection, &with_before(collection, caller, &members), &members)
                    .await?
            }
            false => self.manages(Reads::Pool, collection, caller, &members).await?,
        };
        if definition.auth.is_some() {
            let mut violations = self.check_passwords(Some(&members), body, manages).await?;
            if !violations.is_empty() {
                // With those of the other fields.
                let now = DateText::at(Millis::now());
                if let Err(more) = definition.apply(Some(&members), body, caller.is_superuser, &now) {
                    violations.extend(more);
                }
                return Err(TypedError::Refused(violations));
            }
            compared = members.get(PASSWORD).filter(|_| body.contains_key(PASSWORD)).cloned();
        }
        Ok((manages, self.hashed(definition, body).await?, compared))
    }

    /// Deletes a record, and what follows of it.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn delete(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        id: &str,
    ) -> Result<(), TypedError> {
        collection.expect_writable()?;
        collection.access(RuleKind::Delete, caller)?;
        let id = RecordId::parse(id).ok_or(TypedError::NotFound)?;
        let is_decided = self.decides(collection, RuleKind::Delete, caller, id).await?;
        let allows = |members: &Map<String, Value>| match is_decided {
            true => Ok(()),
            false => holds_for(collection, RuleKind::Delete, caller, members),
        };
        self.delete_all(collection, &[id], &allows).await
    }

    /// Deletes all records of a collection, a thousand at once, each with what follows of it.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn truncate(&self, collection: &CollectionHandle) -> Result<(), TypedError> {
        if collection.definition().is_view() {
            let reason = "view collections cannot be truncated since they don't store their own records";
            return Err(TypedError::Blocked(reason.into()));
        }
        loop {
            let ids = self.inner.store.first_ids(collection.number()).await?;
            if ids.is_empty() {
                return Ok(());
            }
            match self.delete_all(collection, &ids, &|_| Ok(())).await {
                // Some were deleted meanwhile.
                Ok(()) | Err(TypedError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn delete_all(
        &self,
        collection: &CollectionHandle,
        ids: &[RecordId],
        allows: &Allows<'_>,
    ) -> Result<(), TypedError> {
        let mut locked = Ids::from([(collection.number(), ids.iter().copied().collect::<BTreeSet<_>>())]);
        for _ in 0..MAX_LOCKINGS {
            let deletion = Deletion::new(collection, ids, locked.clone(), allows);
            match self.inner.store.delete(deletion).await {
                Ok(Verdict::Go) => {
                    self.inner.records.wake();
                    return Ok(());
                }
                Ok(Verdict::Refused(refusal)) => return Err(refusal),
                Ok(Verdict::Lock(found)) => {
                    for (number, ids) in found {
                        locked.entry(number).or_default().extend(ids);
                    }
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RecordsError::Overloaded.into())
    }

    /// Whether an expression holds for a record with these members and times: decided here, or by Postgres, if it reads other records.
    pub(super) async fn decide(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        expression: &TypedExpression,
        members: &Map<String, Value>,
        times: (Millis, Millis),
    ) -> Result<bool, TypedError> {
        let now = Millis::now();
        if let Some(holds) = expression.matches(members, now).map_err(|_| TypedError::InvalidQuery)? {
            return Ok(holds);
        }
        // The record's own columns are the first four parameters.
        let mut parameters = Parameters::default();
        for _ in 0..4 {
            parameters.bind(Parameter::Text(String::new()));
        }
        let condition = expression.compile(now, &|id| self.table(collection, id), &mut parameters);
        let data = stored(members, collection.definition());
        let id = members.get("id").and_then(Value::as_str).unwrap_or_default();
        Ok(self.inner.store.holds(reads, id, &data, times, &condition, parameters).await?)
    }

    /// Whether Postgres has decided the rule of an access to a record: one that reads more than the record itself.
    async fn decides(
        &self,
        collection: &CollectionHandle,
        kind: RuleKind,
        caller: &Caller,
        id: RecordId,
    ) -> Result<bool, TypedError> {
        let Access::If(mut rule) = collection.access(kind, caller)? else { return Ok(true) };
        if rule.is_own() {
            return Ok(false);
        }
        if reads_before(collection, kind, caller) {
            let record = self.inner.records.look_up(collection.statements(), id).await.map_err(of_record)?;
            let caller = with_before(collection, caller, &members_of(&record, collection.definition()));
            if let Access::If(again) = collection.access(kind, &caller)? {
                rule = again;
            }
        }
        match self.exists(Reads::Pool, collection, id.as_str(), &rule).await? {
            true => Ok(true),
            false => Err(TypedError::NotFound),
        }
    }

    /// The ids in a body that no record has, by the field that names them.
    pub(super) async fn missing_relations(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        body: &Map<String, Value>,
    ) -> Result<MissingIds, TypedError> {
        let mut missing = MissingIds::new();
        for field in &collection.definition().fields {
            let Kind::Relation { collection_id, .. } = &field.kind else { continue };
            let mut ids: HashSet<String> = HashSet::new();
            for name in [field.name.clone(), format!("{}+", field.name), format!("+{}", field.name)] {
                if let Some(sent) = body.get(&name) {
                    ids.extend(field.words(sent));
                }
            }
            if ids.is_empty() {
                continue;
            }
            let known = match collection.other(collection_id) {
                Some(other) => {
                    let wanted: Vec<&str> = ids.iter().map(String::as_str).collect();
                    self.inner.store.known_ids(reads, other.number(), &wanted).await?
                }
                None => Vec::new(),
            };
            for id in known {
                ids.remove(&id);
            }
            missing.insert(field.name.clone(), ids);
        }
        Ok(missing)
    }

    pub(super) fn table(&self, collection: &CollectionHandle, id: &str) -> String {
        // Expressions are resolved against the same snapshot.
        collection.other(id).map_or_else(String::new, |other| self.inner.store.table(other.number()))
    }
}

/// The ids in a body that no record has, by the field that names them.
pub(super) type MissingIds = HashMap<String, HashSet<String>>;

/// A change of a record, with what it needs beside the record.
pub(super) struct Change<'a> {
    pub(super) body: &'a Map<String, Value>,
    pub(super) missing: &'a MissingIds,
    pub(super) uploads: &'a Uploads,
    /// Of new passwords.
    pub(super) hashes: &'a HashMap<String, Value>,
    /// Whether the caller manages the account.
    pub(super) manages: bool,
}

impl Change<'_> {
    /// The members of a record after the change, if its values allow it.
    pub(super) fn apply(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        members: &Map<String, Value>,
    ) -> Result<Map<String, Value>, TypedError> {
        let Self { body, missing, uploads, hashes, manages } = *self;
        let definition = collection.definition();
        let now = DateText::at(Millis::now());
        let mut changed = match definition.apply(Some(members), body, caller.is_superuser, &now) {
            Ok(changed) => changed,
            Err(mut violations) => {
                violations.extend(uploads.check(definition, body));
                return Err(TypedError::Refused(violations));
            }
        };
        changed.extend(hashes.clone());
        settle(definition, Some(members), &mut changed, manages)?;
        let mut violations = uploads.check(definition, body);
        check_references(definition, Some(members), &changed, missing, uploads, &mut violations);
        violations.into_result().map_err(TypedError::Refused)?;
        Ok(changed)
    }
}

/// Decides a rule over the record's own fields.
fn holds_for(
    collection: &CollectionHandle,
    kind: RuleKind,
    caller: &Caller,
    members: &Map<String, Value>,
) -> Result<(), TypedError> {
    let with;
    let caller = match reads_before(collection, kind, caller) {
        true => {
            with = with_before(collection, caller, members);
            &with
        }
        false => caller,
    };
    match collection.access(kind, caller)? {
        Access::Granted => Ok(()),
        Access::If(rule) => {
            match rule.matches(members, Millis::now()).map_err(|_| TypedError::InvalidQuery)? {
                Some(true) => Ok(()),
                _ => Err(TypedError::NotFound),
            }
        }
    }
}

/// Whether a rule's values depend on the stored record: `:changed`, and modifiers.
pub(super) fn reads_before(collection: &CollectionHandle, kind: RuleKind, caller: &Caller) -> bool {
    let has_modifiers = || collection.definition().without_modifiers(None, &caller.request.body).is_some();
    match collection.rule(kind) {
        rule @ Rule::Filter { fixed: None, .. } => rule.reads_before() || has_modifiers(),
        _ => false,
    }
}

pub(super) fn with_before(
    collection: &CollectionHandle,
    caller: &Caller,
    members: &Map<String, Value>,
) -> Caller {
    let mut caller = caller.clone();
    if let Some(body) = collection.definition().without_modifiers(Some(members), &caller.request.body) {
        caller.request.body = body;
    }
    caller.request.before = Some(members.clone());
    caller
}

/// Adds the violations of new ids that no record has, and of files that are not there.
fn check_references(
    definition: &Definition,
    before: Option<&Map<String, Value>>,
    after: &Map<String, Value>,
    missing: &MissingIds,
    uploads: &Uploads,
    violations: &mut Violations,
) {
    for field in &definition.fields {
        let value = after.get(&field.name).unwrap_or(&Value::Null);
        let known: Vec<String> = before
            .and_then(|before| before.get(&field.name))
            .map(|known| field.words(known))
            .unwrap_or_default();
        let new = || field.words(value).into_iter().filter(|word| !known.contains(word));
        match &field.kind {
            Kind::Relation { .. } => {
                let Some(missing) = missing.get(&field.name) else { continue };
                if new().any(|id| missing.contains(&id)) {
                    let message = "Failed to find all relation records with the provided ids.";
                    violations.add(&field.name, Violation::new("missing_rel_records", message));
                }
            }
            Kind::File { .. } => {
                let new: Vec<String> = new().filter(|name| !uploads.has(name)).collect();
                if !new.is_empty() {
                    let message = format!("Invalid new files: [{}].", new.join(" "));
                    let violation = Violation::new("invalid_file", message);
                    violations.add(&field.name, violation.with("invalidFiles", new));
                }
            }
            _ => {}
        }
    }
}

/// A failed write; a violated unique index is one of its fields.
pub(super) fn of_constraint(collection: &CollectionHandle, error: RecordsError) -> TypedError {
    let not_unique = || Violation::new("not_unique", "Value must be unique.");
    match &error {
        RecordsError::Taken => TypedError::refused("id", not_unique()),
        RecordsError::NotFound => TypedError::NotFound,
        RecordsError::Database(database) => {
            let violated = violated_index(database);
            let index = collection
                .indexes()
                .iter()
                .find(|index| violated == Some(index.name_of(collection.number()).as_str()));
            match index {
                Some(index) => {
                    let mut violations = Violations::default();
                    for field in &index.fields {
                        violations.add(field, not_unique());
                    }
                    TypedError::Refused(violations)
                }
                None => error.into(),
            }
        }
        _ => error.into(),
    }
}

pub(super) fn of_record(error: RecordsError) -> TypedError {
    match error {
        RecordsError::NotFound => TypedError::NotFound,
        error => error.into(),
    }
}

/// The members of a stored record, with its id and its times.
pub(super) fn members_of(record: &Record, definition: &Definition) -> Map<String, Value> {
    of_text(&record.data, record.id.as_str(), (record.created, record.updated), definition)
}

/// The same, of the text of its own members.
pub(super) fn of_text(
    data: &str,
    id: &str,
    (created, updated): (Millis, Millis),
    definition: &Definition,
) -> Map<String, Value> {
    let mut members: Map<String, Value> = serde_json::from_str(data).unwrap_or_default();
    members.insert("id".into(), id.into());
    for field in definition.fields.iter().filter(|field| definition.is_column(field)) {
        let time = if field.name == "created" { created } else { updated };
        members.insert(field.name.clone(), DateText::at(time).as_str().into());
    }
    members
}

/// The members that are stored in `data`, as JSON.
pub(super) fn stored(members: &Map<String, Value>, definition: &Definition) -> Vec<u8> {
    let is_column =
        |name: &str| name == "id" || definition.field(name).is_some_and(|field| definition.is_column(field));
    let kept: BTreeMap<&String, &Value> = members.iter().filter(|(name, _)| !is_column(name)).collect();
    serde_json::to_vec(&kept).unwrap_or_default()
}
