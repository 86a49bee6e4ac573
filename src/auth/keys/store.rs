//! The table `api_keys`.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::text::NewKey;
use super::{CachedKey, KeyHash};
use crate::auth::AuthError;
use crate::auth::scope::{Scope, Scopes};
use crate::db::{ConflictRetries, Connection, Database, DbError, Parameter, begin_in_time, in_time, sql};

/// A key in a list.
#[derive(Debug, Clone)]
pub struct ListedKey {
    /// Its id.
    pub id: Uuid,
    /// The part of it that lists show.
    pub prefix: String,
    /// The name.
    pub name: String,
    /// The scopes.
    pub scopes: Scopes,
    /// The user who created it.
    pub owner: Option<Uuid>,
    /// RFC 3339.
    pub created: String,
    /// RFC 3339.
    pub expires: Option<String>,
    /// RFC 3339; up to half a minute old.
    pub last_used: Option<String>,
    /// RFC 3339.
    pub revoked: Option<String>,
    /// Its replacement.
    pub replaced_by: Option<Uuid>,
    /// Of a write-only key: the origins of its pages.
    pub origins: Option<Vec<String>>,
}

/// A row to be added.
pub(super) struct NewKeyRow<'a> {
    pub(super) id: Uuid,
    pub(super) key: &'a NewKey,
    /// `None`: the name of the replaced key.
    pub(super) name: Option<&'a str>,
    pub(super) scopes: &'a Scopes,
    pub(super) is_admin: bool,
    pub(super) owner: Option<Uuid>,
    pub(super) expires_s: Option<i64>,
    pub(super) replaces: Option<(Uuid, i64)>,
    pub(super) origins: Option<&'a [String]>,
}

#[derive(Debug, Clone)]
pub(super) struct KeyStore {
    database: Database,
    timeout: Duration,
}

impl KeyStore {
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        self.database.query_in_time(self.timeout, sql, parameters).await
    }

    /// Adds a key and returns its name, unless its owner has `most`, or the key to be replaced is missing.
    pub(super) async fn add(&self, new: &NewKeyRow<'_>, most: i64) -> Result<String, AuthError> {
        let mut retries = ConflictRetries::within(self.timeout * 4);
        loop {
            let mut connection = self.database.get().await?;
            // A rejection is an answer; an error of the database may pass.
            let adding = async {
                match self.add_with(&mut connection, new, most).await {
                    Err(AuthError::Database(error)) => Err(*error),
                    added => Ok(added),
                }
            };
            let added = in_time(retries.left(), adding).await;
            let added = connection.release(added);
            if !retries.again(&added).await {
                return added?;
            }
        }
    }

    async fn add_with(
        &self,
        connection: &mut Connection,
        new: &NewKeyRow<'_>,
        most: i64,
    ) -> Result<String, AuthError> {
        let transaction = begin_in_time(connection, self.timeout).await?;
        if let Some(owner) = new.owner {
            let lock = sql!(self.database, "auth/lock_owner.sql");
            let owners =
                transaction.query_typed(lock, &[(&owner, Type::UUID)]).await.map_err(DbError::from)?;
            if owners.is_empty() {
                return Err(AuthError::NotAUser);
            }
            let count = sql!(self.database, "auth/count_keys.sql");
            let rows =
                transaction.query_typed(count, &[(&owner, Type::UUID)]).await.map_err(DbError::from)?;
            let held: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(DbError::from)?;
            if held >= most {
                return Err(AuthError::TooManyKeys(most));
            }
        }
        let names = new.scopes.names();
        let replaces = new.replaces.map(|(id, _)| id);
        let parameters: [Parameter<'_>; 10] = [
            (&new.id, Type::UUID),
            (&new.key.prefix, Type::TEXT),
            (&&new.key.hash.0[..], Type::BYTEA),
            (&new.name, Type::TEXT),
            (&names, Type::TEXT_ARRAY),
            (&new.is_admin, Type::BOOL),
            (&new.owner, Type::UUID),
            (&new.expires_s, Type::INT8),
            (&replaces, Type::UUID),
            (&new.origins, Type::TEXT_ARRAY),
        ];
        let add = sql!(self.database, "auth/add_key.sql");
        let rows = transaction.query_typed(add, &parameters).await.map_err(DbError::from)?;
        let Some(row) = rows.first() else {
            return Err(DbError::DroppedByTrigger { table: "api_keys", sent: 1, stored: 0 }.into());
        };
        let name = row.try_get(0).map_err(DbError::from)?;
        if let Some((replaced, overlap_s)) = new.replaces {
            let overlap_s = overlap_s as f64;
            let parameters: [Parameter<'_>; 4] = [
                (&replaced, Type::UUID),
                (&new.id, Type::UUID),
                (&overlap_s, Type::FLOAT8),
                (&new.owner, Type::UUID),
            ];
            let replace = sql!(self.database, "auth/replace_key.sql");
            let rows = transaction.query_typed(replace, &parameters).await.map_err(DbError::from)?;
            if rows.is_empty() {
                return Err(AuthError::NotFound("key"));
            }
        }
        transaction.commit().await.map_err(DbError::from)?;
        Ok(name)
    }

    pub(super) async fn find(&self, hash: &KeyHash) -> Result<Option<CachedKey>, DbError> {
        let find = sql!(self.database, "auth/find_key.sql");
        let rows = self.query(find, &[(&&hash.0[..], Type::BYTEA)]).await?;
        rows.first().map(known).transpose()
    }

    /// The keys used last, with their hashes.
    pub(super) async fn used_last(&self, limit: i64) -> Result<Vec<(KeyHash, CachedKey)>, DbError> {
        let warm = sql!(self.database, "auth/warm_keys.sql");
        let rows = self.query(warm, &[(&limit, Type::INT8)]).await?;
        let read = |row: &Row| {
            let hash = row.try_get::<_, &[u8]>("hash")?;
            let Ok(hash) = hash.try_into() else { return Ok(None) };
            Ok(Some((KeyHash(hash), known(row)?)))
        };
        rows.iter().filter_map(|row| read(row).transpose()).collect()
    }

    pub(super) async fn list(
        &self,
        owner: Option<Uuid>,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<ListedKey>, DbError> {
        let list = sql!(self.database, "auth/list_keys.sql");
        let parameters: [Parameter<'_>; 3] =
            [(&owner, Type::UUID), (&after, Type::UUID), (&limit, Type::INT8)];
        self.query(list, &parameters).await?.iter().map(listed).collect()
    }

    pub(super) async fn revoke(
        &self,
        id: Option<Uuid>,
        prefix: &str,
        owner: Option<Uuid>,
    ) -> Result<Vec<Uuid>, DbError> {
        let revoke = sql!(self.database, "auth/revoke_key.sql");
        let parameters: [Parameter<'_>; 3] = [(&id, Type::UUID), (&prefix, Type::TEXT), (&owner, Type::UUID)];
        self.query(revoke, &parameters).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Writes the last uses of keys, in seconds of Unix time.
    pub(super) async fn touch(&self, ids: &[Uuid], at_s: &[i64]) -> Result<(), DbError> {
        let touch = sql!(self.database, "auth/touch_keys.sql");
        self.query(touch, &[(&ids, Type::UUID_ARRAY), (&at_s, Type::INT8_ARRAY)]).await?;
        Ok(())
    }
}

fn scopes(row: &Row) -> Result<Scopes, DbError> {
    let scopes = Scopes::known(row.try_get::<_, Vec<&str>>("scopes")?);
    Ok(if row.try_get("admin")? { scopes.with(Scope::Admin) } else { scopes })
}

fn known(row: &Row) -> Result<CachedKey, DbError> {
    let owners: Option<Vec<&str>> = row.try_get("owner_permissions")?;
    let scopes = scopes(row)?;
    Ok(CachedKey {
        id: row.try_get("id")?,
        owner: row.try_get("owner")?,
        origins: row.try_get::<_, Option<Vec<String>>>("origins")?.map(Arc::from),
        scopes: match owners {
            Some(owners) => scopes.within(&Scopes::known(owners)),
            None => scopes,
        },
        expires_s: row.try_get("expires_s")?,
        used_s: AtomicI64::new(0),
        written_s: AtomicI64::new(0),
    })
}

fn listed(row: &Row) -> Result<ListedKey, DbError> {
    Ok(ListedKey {
        id: row.try_get("id")?,
        prefix: row.try_get("prefix")?,
        name: row.try_get("name")?,
        scopes: scopes(row)?,
        owner: row.try_get("owner")?,
        created: row.try_get("created")?,
        expires: row.try_get("expires")?,
        last_used: row.try_get("last_used")?,
        revoked: row.try_get("revoked")?,
        replaced_by: row.try_get("replaced_by")?,
        origins: row.try_get("origins")?,
    })
}
