//! The table `sessions`.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::rotation::{RefreshToken, RotationVerdict, StoredSession, judge};
use crate::auth::users::{User, read_user};
use crate::db::{ConflictRetries, Connection, Database, DbError, Parameter, begin_in_time, in_time, sql};

/// The origin of a session, as far as known. For its user to recognise; it proves nothing.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// The client's user agent.
    pub user_agent: Option<String>,
    /// Its address.
    pub address: Option<String>,
}

/// A session in a list.
#[derive(Debug, Clone)]
pub struct ListedSession {
    /// Its id (`sid`).
    pub id: Uuid,
    /// RFC 3339.
    pub created: String,
    /// The time of the last tokens. RFC 3339.
    pub last_used: String,
    /// RFC 3339.
    pub expires: String,
    /// The origin.
    pub client: Client,
}

#[derive(Debug, Clone)]
pub(super) struct SessionStore {
    database: Database,
    timeout: Duration,
}

impl SessionStore {
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        self.database.query_in_time(self.timeout, sql, parameters).await
    }

    /// The sessions of a user beyond the first `kept`.
    pub(super) async fn surplus(&self, user: Uuid, kept: i64) -> Result<Vec<Uuid>, DbError> {
        let find = sql!(self.database, "auth/find_surplus_sessions.sql");
        ids(&self.query(find, &[(&user, Type::UUID), (&kept, Type::INT8)]).await?)
    }

    pub(super) async fn add(
        &self,
        user: Uuid,
        token: &RefreshToken,
        lifetime_s: i64,
        client: &Client,
    ) -> Result<(), DbError> {
        let add = sql!(self.database, "auth/add_session.sql");
        let (hash, lifetime_s) = (token.hash(), lifetime_s as f64);
        let parameters: [Parameter<'_>; 6] = [
            (&token.session, Type::UUID),
            (&user, Type::UUID),
            (&&hash[..], Type::BYTEA),
            (&lifetime_s, Type::FLOAT8),
            (&client.user_agent, Type::TEXT),
            (&client.address, Type::TEXT),
        ];
        match self.query(add, &parameters).await?.is_empty() {
            true => Err(DbError::DroppedByTrigger { table: "sessions", sent: 1, stored: 0 }),
            false => Ok(()),
        }
    }

    /// Judges a refresh token and, if it is valid, stores `next` as its successor; returns the session's user too.
    /// `was_issued`: the token's tag is right.
    pub(super) async fn rotate(
        &self,
        shown: &RefreshToken,
        was_issued: bool,
        next: &RefreshToken,
        lifetime_s: i64,
    ) -> Result<(RotationVerdict, Option<User>), DbError> {
        let mut retries = ConflictRetries::within(self.timeout * 3);
        loop {
            let mut connection = self.database.get().await?;
            let rotating = self.rotate_with(&mut connection, shown, was_issued, next, lifetime_s);
            let rotated = in_time(retries.left(), rotating).await;
            let rotated = connection.release(rotated);
            if !retries.again(&rotated).await {
                return rotated;
            }
        }
    }

    async fn rotate_with(
        &self,
        connection: &mut Connection,
        shown: &RefreshToken,
        was_issued: bool,
        next: &RefreshToken,
        lifetime_s: i64,
    ) -> Result<(RotationVerdict, Option<User>), DbError> {
        let transaction = begin_in_time(connection, self.timeout).await?;
        let lock = sql!(self.database, "auth/lock_session.sql");
        let rows = transaction.query_typed(lock, &[(&shown.session, Type::UUID)]).await?;
        let Some(row) = rows.first() else { return Ok((RotationVerdict::Invalid, None)) };
        let stored = StoredSession {
            current: row.try_get("current_hash")?,
            previous: row.try_get("previous_hash")?,
            is_over: row.try_get("is_revoked")? || row.try_get("is_expired")?,
        };
        let (hash, next_hash) = (shown.hash(), next.hash());
        let judgement = judge(&stored, &hash, &next_hash, was_issued);
        if judgement == RotationVerdict::Rotate {
            let rotate = sql!(self.database, "auth/rotate_session.sql");
            let lifetime_s = lifetime_s as f64;
            let parameters: [Parameter<'_>; 3] =
                [(&shown.session, Type::UUID), (&&next_hash[..], Type::BYTEA), (&lifetime_s, Type::FLOAT8)];
            let stored = transaction.execute_typed(rotate, &parameters).await?;
            if stored != 1 {
                return Err(DbError::DroppedByTrigger { table: "sessions", sent: 1, stored });
            }
        }
        let user = read_user(row)?;
        transaction.commit().await?;
        Ok((judgement, Some(user)))
    }

    pub(super) async fn end(
        &self,
        user: Option<Uuid>,
        sessions: Option<&[Uuid]>,
        remembered_s: i64,
    ) -> Result<Vec<Uuid>, DbError> {
        let end = sql!(self.database, "auth/end_sessions.sql");
        let remembered_s = remembered_s as f64;
        let parameters: [Parameter<'_>; 3] =
            [(&user, Type::UUID), (&sessions, Type::UUID_ARRAY), (&remembered_s, Type::FLOAT8)];
        ids(&self.query(end, &parameters).await?)
    }

    pub(super) async fn list(&self, user: Uuid) -> Result<Vec<ListedSession>, DbError> {
        let list = sql!(self.database, "auth/list_sessions.sql");
        let listed = |row: &Row| {
            Ok(ListedSession {
                id: row.try_get("id")?,
                created: row.try_get("created")?,
                last_used: row.try_get("last_used")?,
                expires: row.try_get("expires")?,
                client: Client { user_agent: row.try_get("user_agent")?, address: row.try_get("address")? },
            })
        };
        self.query(list, &[(&user, Type::UUID)]).await?.iter().map(listed).collect()
    }
}

fn ids(rows: &[Row]) -> Result<Vec<Uuid>, DbError> {
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
