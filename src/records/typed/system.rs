//! The collections of the system, which a database gets when the first node reads its catalogue: superusers, what belongs to accounts of all
//! collections, and once `users`.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::catalog::Definitions;
use super::definitions::Plan;
use super::store::Defined;
use super::{TypedError, TypedRecords};
use crate::config::limits;
use crate::records::schema::Definition;

/// The rule of records that belong to an account: its own ones.
const OWN: &str =
    "@request.auth.id != '' && recordRef = @request.auth.id && collectionRef = @request.auth.collectionId";
/// The rule of accounts: each its own.
const SELF: &str = "id = @request.auth.id";
/// The collections of the system, and `users`.
const COLLECTIONS: i64 = 6;
/// The collection of superusers.
pub const SUPERUSERS: &str = "_superusers";

/// Dates of a record.
fn dates(mut fields: Vec<Value>) -> Value {
    fields.push(json!({"name": "created", "type": "autodate", "onCreate": true}));
    fields.push(json!({"name": "updated", "type": "autodate", "onCreate": true, "onUpdate": true}));
    fields.into()
}

/// A collection of the system: its body, and whether `_externalAuths` and its like let accounts delete their records.
fn of_accounts(name: &str, more: &[&str], indexes: &[&str], deletes: bool) -> Value {
    let text = |name: &&str| json!({"name": name, "type": "text", "required": true});
    let mut fields: Vec<Value> = ["collectionRef", "recordRef"].iter().chain(more).map(text).collect();
    if name == "_otps" {
        fields.push(
            json!({"name": "password", "type": "password", "cost": 8, "hidden": true, "required": true}),
        );
        fields.push(json!({"name": "sentTo", "type": "text", "hidden": true}));
    }
    json!({
        "name": name, "type": "base", "fields": dates(fields), "indexes": indexes,
        "listRule": OWN, "viewRule": OWN, "deleteRule": if deletes { OWN.into() } else { Value::Null },
    })
}

/// The collections of the system as clients would send them.
fn system() -> [Value; 5] {
    [
        json!({"name": SUPERUSERS, "type": "auth", "fields": dates(Vec::new()), "authToken": {"duration": 86_400}}),
        of_accounts(
            "_externalAuths",
            &["provider", "providerId"],
            &[
                "CREATE UNIQUE INDEX `idx_externalAuths_record_provider` ON `_externalAuths` (collectionRef, recordRef, provider)",
                "CREATE UNIQUE INDEX `idx_externalAuths_collection_provider` ON `_externalAuths` (collectionRef, provider, providerId)",
            ],
            true,
        ),
        of_accounts(
            "_mfas",
            &["method"],
            &["CREATE INDEX `idx_mfas_collectionRef_recordRef` ON `_mfas` (collectionRef, recordRef)"],
            false,
        ),
        of_accounts(
            "_otps",
            &[],
            &["CREATE INDEX `idx_otps_collectionRef_recordRef` ON `_otps` (collectionRef, recordRef)"],
            false,
        ),
        of_accounts(
            "_authOrigins",
            &["fingerprint"],
            &[
                "CREATE UNIQUE INDEX `idx_authOrigins_unique_pairs` ON `_authOrigins` (collectionRef, recordRef, fingerprint)",
            ],
            true,
        ),
    ]
}

/// The collection `users` of a new database.
fn users(is_open: bool) -> Value {
    let types = ["image/jpeg", "image/png", "image/svg+xml", "image/gif", "image/webp"];
    let fields = vec![
        json!({"name": "name", "type": "text", "max": 255}),
        json!({"name": "avatar", "type": "file", "maxSelect": 1, "mimeTypes": types}),
    ];
    json!({
        "id": "_pb_users_auth_", "name": "users", "type": "auth", "fields": dates(fields),
        "listRule": SELF, "viewRule": SELF, "updateRule": SELF, "deleteRule": SELF,
        "createRule": if is_open { Value::from("") } else { Value::Null },
        "oauth2": {"mappedFields": {"name": "name", "avatarURL": "avatar"}},
    })
}

impl TypedRecords {
    /// Makes the collections of the system that are not there. `users` comes with the first of them only, so that a deleted one stays deleted.
    pub(super) async fn make_system(&self) -> Result<(), TypedError> {
        if self.inner.has_system.load(Ordering::Relaxed) {
            return Ok(());
        }
        let is_open = self.inner.users_are_open;
        let decide = |stored| plans(&Definitions::of(stored), is_open);
        // They do not count: a database that has all others gets them, too.
        match self.inner.store.define(limits::MAX_COLLECTIONS + COLLECTIONS, decide).await? {
            Defined::Refused(refusal) => return Err(refusal),
            Defined::InUse | Defined::InvalidView(_) | Defined::NotUnique(_) => {
                return Err(TypedError::Failed);
            }
            Defined::Done => {}
        }
        self.inner.has_system.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn plans(definitions: &Definitions, is_open: bool) -> Result<Vec<Plan>, TypedError> {
    let mut plans = Vec::new();
    let is_new = definitions.find(SUPERUSERS).is_none();
    for body in system() {
        let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
        match definitions.find(name).and_then(|at| definitions.all.get(at)) {
            Some(found) if found.definition.system => continue,
            // Its records are a client's, who must not become superusers by them.
            Some(_) => {
                let message =
                    format!("the collection {name} is not of the system: rename it in the table collections");
                return Err(TypedError::Blocked(message));
            }
            None => {}
        }
        let (name, mut definition) = Definition::create(&body)?;
        definition.system = true;
        for field in &mut definition.fields {
            field.system = true;
        }
        plans.push(Plan::of(None, None, name, definition));
    }
    let body = users(is_open);
    if is_new && definitions.find("users").is_none() && definitions.find("_pb_users_auth_").is_none() {
        let (name, definition) = Definition::create(&body)?;
        plans.push(Plan::of(None, None, name, definition));
        match is_open {
            true => tracing::warn!(
                "the collection users is new: everyone may sign up there, until its createRule is changed"
            ),
            false => tracing::info!(
                "the collection users is new: sign-up is closed until a superuser sets its createRule"
            ),
        }
    }
    Ok(plans)
}
