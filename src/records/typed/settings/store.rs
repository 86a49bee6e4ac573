//! The row of the settings.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio_postgres::types::Type;

use super::{AppSettings, SettingsError};
use crate::db::{Database, DbError, JsonText, begin_in_time, in_time, sql};

/// The settings in Postgres.
#[derive(Debug, Clone)]
pub(in crate::records::typed) struct SettingsStore {
    database: Database,
    timeout: Duration,
}

impl SettingsStore {
    pub(in crate::records::typed) fn new(database: &Database) -> Self {
        Self { database: database.clone(), timeout: database.statement_timeout() }
    }

    /// The settings.
    pub(in crate::records::typed) async fn read(&self) -> Result<AppSettings, DbError> {
        let read = sql!(self.database, "records/settings/read.sql");
        of_rows(&self.database.query_in_time(self.timeout, read, &[]).await?)
    }

    /// Changes the settings by `decide`, which no other node does meanwhile; the new ones, or its refusal. `None` of it changes nothing.
    async fn change_by(
        &self,
        decide: impl FnOnce(&AppSettings) -> Result<Option<AppSettings>, SettingsError>,
    ) -> Result<Result<AppSettings, SettingsError>, DbError> {
        let mut connection = self.database.get().await?;
        let done = in_time(self.timeout, async {
            let transaction = begin_in_time(&mut connection, self.timeout).await?;
            transaction.query_typed(sql!(self.database, "records/settings/lock.sql"), &[]).await?;
            let rows = transaction.query_typed(sql!(self.database, "records/settings/read.sql"), &[]).await?;
            let known = of_rows(&rows)?;
            let changed = match decide(&known) {
                Ok(Some(changed)) => changed,
                other => {
                    transaction.rollback().await?;
                    return Ok(other.map(|_| known));
                }
            };
            let value =
                serde_json::to_vec(&changed).map_err(|_| DbError::Unexpected("settings that are no JSON"))?;
            let save = sql!(self.database, "records/settings/save.sql");
            transaction.query_typed(save, &[(&JsonText(&value), Type::JSONB)]).await?;
            transaction.commit().await?;
            Ok(Ok(changed))
        })
        .await;
        connection.release(done)
    }

    /// Merges `patch` into the settings; the new ones, or the refusal of the change.
    pub(in crate::records::typed) async fn change(
        &self,
        patch: &Map<String, Value>,
    ) -> Result<Result<AppSettings, SettingsError>, DbError> {
        self.change_by(|known| known.changed(patch).map(Some)).await
    }

    /// Renames a collection in the limits of requests.
    pub(in crate::records::typed) async fn rename_collection(
        &self,
        old: &str,
        new: &str,
    ) -> Result<AppSettings, DbError> {
        let renamed = self.change_by(|known| {
            let mut changed = known.clone();
            Ok(changed.rename_collection(old, new).then_some(changed))
        });
        renamed.await?.map_err(|_| DbError::Unexpected("settings that are refused"))
    }
}

/// The settings of their row; the defaults if there is none. A member that a later version has added has its default.
fn of_rows(rows: &[tokio_postgres::Row]) -> Result<AppSettings, DbError> {
    let Some(row) = rows.first() else { return Ok(AppSettings::default()) };
    let value: &str = row.try_get("value")?;
    serde_json::from_str(value).map_err(|error| {
        tracing::error!(error = error.to_string(), "the row of app_settings cannot be read");
        DbError::Unexpected("settings that cannot be read")
    })
}
