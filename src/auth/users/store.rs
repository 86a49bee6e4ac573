//! The table `users`.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::User;
use crate::auth::AuthError;
use crate::auth::scope::Scopes;
use crate::db::{Database, DbError, Parameter, sql};

/// A user in a list.
#[derive(Debug, Clone)]
pub struct ListedUser {
    /// The user.
    pub user: User,
    /// The issuer and subject, for a user of an issuer.
    pub subject: Option<(String, String)>,
}

#[derive(Debug, Clone)]
pub(super) struct UserStore {
    database: Database,
    timeout: Duration,
}

impl UserStore {
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        self.database.query_in_time(self.timeout, sql, parameters).await
    }

    /// Adds a user, unless the email is taken under one of these spellings.
    pub(super) async fn add(
        &self,
        email: &str,
        spellings: &[String; 3],
        hash: &str,
        permissions: Scopes,
    ) -> Result<User, AuthError> {
        let add = sql!(self.database, "auth/add_user.sql");
        let names = permissions.names();
        let parameters: [Parameter<'_>; 6] = [
            (&email, Type::TEXT),
            (&hash, Type::TEXT),
            (&names, Type::TEXT_ARRAY),
            (&spellings[0], Type::TEXT),
            (&spellings[1], Type::TEXT),
            (&spellings[2], Type::TEXT),
        ];
        let rows = self.query(add, &parameters).await.map_err(|error| match error.constraint() {
            Some("users_email") => AuthError::EmailTaken,
            _ => error.into(),
        })?;
        match rows.first() {
            Some(row) => Ok(read_user(row)?),
            None if self.find_by_email(spellings).await?.is_some() => Err(AuthError::EmailTaken),
            None => Err(DbError::DroppedByTrigger { table: "users", sent: 1, stored: 0 }.into()),
        }
    }

    /// The user with an email of one of these spellings, in order of the spellings, and the password's hash.
    pub(super) async fn find_by_email(
        &self,
        spellings: &[String; 3],
    ) -> Result<Option<(User, String)>, DbError> {
        let find = sql!(self.database, "auth/find_user_by_email.sql");
        let parameters: [Parameter<'_>; 3] = std::array::from_fn(|place| {
            let spelling: &(dyn tokio_postgres::types::ToSql + Sync) = &spellings[place];
            (spelling, Type::TEXT)
        });
        let rows = self.query(find, &parameters).await?;
        rows.first().map(|row| Ok((read_user(row)?, row.try_get("password_hash")?))).transpose()
    }

    pub(super) async fn find(&self, id: Uuid) -> Result<Option<User>, DbError> {
        let find = sql!(self.database, "auth/find_user.sql");
        self.query(find, &[(&id, Type::UUID)]).await?.first().map(read_user).transpose()
    }

    pub(super) async fn of_subject(&self, issuer: &str, subject: &str) -> Result<Uuid, AuthError> {
        let parameters: [Parameter<'_>; 2] = [(&issuer, Type::TEXT), (&subject, Type::TEXT)];
        for sql in [
            sql!(self.database, "auth/find_external_user.sql"),
            sql!(self.database, "auth/add_external_user.sql"),
        ] {
            if let Some(row) = self.query(sql, &parameters).await?.first() {
                return Ok(row.try_get(0).map_err(DbError::from)?);
            }
        }
        Err(DbError::DroppedByTrigger { table: "users", sent: 1, stored: 0 }.into())
    }

    pub(super) async fn list(&self, after: Option<Uuid>, limit: i64) -> Result<Vec<ListedUser>, DbError> {
        let list = sql!(self.database, "auth/list_users.sql");
        let rows = self.query(list, &[(&after, Type::UUID), (&limit, Type::INT8)]).await?;
        let listed = |row: &Row| {
            let issuer: Option<String> = row.try_get("issuer")?;
            let subject: Option<String> = row.try_get("subject")?;
            Ok(ListedUser { user: read_user(row)?, subject: issuer.zip(subject) })
        };
        rows.iter().map(listed).collect()
    }

    pub(super) async fn set_password(&self, id: Uuid, hash: &str) -> Result<bool, DbError> {
        let set = sql!(self.database, "auth/set_password.sql");
        Ok(!self.query(set, &[(&id, Type::UUID), (&hash, Type::TEXT)]).await?.is_empty())
    }

    pub(super) async fn set_permissions(&self, id: Uuid, permissions: Scopes) -> Result<bool, DbError> {
        let set = sql!(self.database, "auth/set_permissions.sql");
        let names = permissions.names();
        Ok(!self.query(set, &[(&id, Type::UUID), (&names, Type::TEXT_ARRAY)]).await?.is_empty())
    }

    pub(super) async fn delete(&self, id: Uuid, token_lifetime_s: i64) -> Result<bool, DbError> {
        let delete = sql!(self.database, "auth/delete_user.sql");
        let seconds = token_lifetime_s as f64;
        Ok(!self.query(delete, &[(&id, Type::UUID), (&seconds, Type::FLOAT8)]).await?.is_empty())
    }
}

pub(in crate::auth) fn read_user(row: &Row) -> Result<User, DbError> {
    let permissions: Vec<&str> = row.try_get("permissions")?;
    Ok(User {
        id: row.try_get("id")?,
        email: row.try_get::<_, Option<String>>("email")?.unwrap_or_default(),
        permissions: Scopes::known(permissions),
        created: row.try_get("created")?,
    })
}
