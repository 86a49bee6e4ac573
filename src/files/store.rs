//! The table `files`.

use std::future::Future;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::attachments::{Attached, AttachedFile, Detach};
use super::list::{FILES, FileQuery};
use super::{ContentHash, FilesError, StoredFile};
use crate::db::{Connection, Database, DbError, Parameter, Transaction, begin_in_time, in_time, sql};
use crate::paging::{Page, SortKey};
use crate::time::Micros;

/// The minimum that a file counts as, in bytes: an empty one takes space too.
pub(super) const LEAST_COUNTED: u64 = 4096;

/// The statements of the transaction that adds files.
const STATEMENTS: u32 = 6;
/// The time for moving contents to their places, beside the statements.
const PLACE_TIME: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct FileStore {
    database: Database,
    timeout: Duration,
}

/// A file to be added.
#[derive(Debug, Clone)]
pub(super) struct NewFile {
    pub(super) id: Uuid,
    pub(super) filename: String,
    pub(super) size: u64,
    pub(super) mime_type: String,
    pub(super) sha256: ContentHash,
}

impl FileStore {
    /// The files of `database`, with a time limit for each statement.
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        self.database.query_in_time(self.timeout, sql, parameters).await
    }

    /// The bytes that an owner's files count as.
    pub(super) async fn usage(&self, owner: Option<Uuid>) -> Result<u64, DbError> {
        let usage = sql!(self.database, "files/usage.sql");
        bytes(&self.query(usage, &[(&owner, Type::UUID), (&(LEAST_COUNTED as i64), Type::INT8)]).await?)
    }

    /// Adds an upload's files in one transaction, all or none, if the owner's files then count as `quota` at most. `place`
    /// moves their contents to their places while the sweeper is locked out. Returns the upload's time.
    pub(super) async fn add(
        &self,
        owner: Option<Uuid>,
        quota: Option<u64>,
        files: &[NewFile],
        place: impl Future<Output = Result<(), FilesError>>,
    ) -> Result<String, FilesError> {
        let mut connection = self.database.get().await?;
        let time = self.timeout * STATEMENTS + PLACE_TIME;
        let added = in_time(time, self.add_over(&mut connection, owner, quota, files, place)).await;
        connection.release(added)?
    }

    async fn add_over(
        &self,
        connection: &mut Connection,
        owner: Option<Uuid>,
        quota: Option<u64>,
        files: &[NewFile],
        place: impl Future<Output = Result<(), FilesError>>,
    ) -> Result<Result<String, FilesError>, DbError> {
        let transaction = begin_in_time(connection, self.timeout).await?;
        if let Some(quota) = quota {
            let lock = sql!(self.database, "files/lock_owner.sql");
            transaction.query_typed(lock, &[(&owner, Type::UUID)]).await?;
            let usage = sql!(self.database, "files/usage.sql");
            let parameters: [Parameter<'_>; 2] =
                [(&owner, Type::UUID), (&(LEAST_COUNTED as i64), Type::INT8)];
            let held = bytes(&transaction.query_typed(usage, &parameters).await?)?;
            let more: u64 = files.iter().map(|file| counted(file.size)).sum();
            if held.saturating_add(more) > quota {
                return Ok(Err(FilesError::QuotaExceeded(quota)));
            }
        }
        let hashes: Vec<&[u8]> = files.iter().map(|file| &file.sha256.0[..]).collect();
        let lock = sql!(self.database, "files/lock_contents.sql");
        transaction.query_typed(lock, &[(&hashes, Type::BYTEA_ARRAY)]).await?;
        if let Err(error) = place.await {
            return Ok(Err(error));
        }
        let ids: Vec<Uuid> = files.iter().map(|file| file.id).collect();
        let names: Vec<&str> = files.iter().map(|file| file.filename.as_str()).collect();
        let paths: Vec<String> = files.iter().map(|file| file.sha256.path()).collect();
        let sizes: Vec<i64> = files.iter().map(|file| file.size as i64).collect();
        let types: Vec<&str> = files.iter().map(|file| file.mime_type.as_str()).collect();
        let add = sql!(self.database, "files/add.sql");
        let parameters: [Parameter<'_>; 7] = [
            (&ids, Type::UUID_ARRAY),
            (&names, Type::TEXT_ARRAY),
            (&paths, Type::TEXT_ARRAY),
            (&sizes, Type::INT8_ARRAY),
            (&types, Type::TEXT_ARRAY),
            (&hashes, Type::BYTEA_ARRAY),
            (&owner, Type::UUID),
        ];
        let rows = transaction.query_typed(add, &parameters).await?;
        let (sent, stored) = (files.len() as u64, rows.len() as u64);
        if stored < sent {
            return Err(DbError::DroppedByTrigger { table: "files", sent, stored });
        }
        let uploaded_at = rows.first().map_or(Ok(String::new()), |row| row.try_get("uploaded_at"))?;
        transaction.commit().await?;
        Ok(Ok(uploaded_at))
    }

    /// A file of an owner.
    pub(super) async fn find(&self, owner: Option<Uuid>, id: Uuid) -> Result<Option<StoredFile>, DbError> {
        let find = sql!(self.database, "files/find.sql");
        let rows = self.query(find, &[(&owner, Type::UUID), (&id, Type::UUID)]).await?;
        Ok(rows.first().map(read).transpose()?.map(|(file, _)| file))
    }

    /// A page of an owner's files.
    pub(super) async fn list(
        &self,
        owner: Option<Uuid>,
        query: &FileQuery,
    ) -> Result<Page<StoredFile>, DbError> {
        let list = sql!(self.database, "files/list.sql");
        let after_us = query.after.map(|key| key.at.0);
        let after_id = query.after.map(|key| key.id);
        // One more, to see whether there is a next page.
        let limit = query.limit as i64 + 1;
        let offset = i64::from(query.offset);
        let parameters: [Parameter<'_>; 5] = [
            (&owner, Type::UUID),
            (&limit, Type::INT8),
            (&offset, Type::INT8),
            (&after_us, Type::INT8),
            (&after_id, Type::UUID),
        ];
        let mut rows = self.query(list, &parameters).await?;
        let is_more = rows.len() > query.limit;
        rows.truncate(query.limit);
        let read = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let page = Page::forward(read, is_more, |(file, at)| SortKey { at: *at, id: file.id }.cursor(FILES));
        Ok(page.map(|(file, _)| file))
    }

    /// Deletes a file of an owner; returns false if there is none.
    pub(super) async fn delete(&self, owner: Option<Uuid>, id: Uuid) -> Result<bool, DbError> {
        let delete = sql!(self.database, "files/delete.sql");
        Ok(!self.query(delete, &[(&owner, Type::UUID), (&id, Type::UUID)]).await?.is_empty())
    }

    /// The database's id.
    pub(super) async fn id(&self) -> Result<Option<Uuid>, DbError> {
        let rows = self.query(sql!(self.database, "files/store_id.sql"), &[]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Adds the rows of attached files, and keeps their contents from the sweeper until the transaction ends.
    pub(super) async fn attach(
        &self,
        transaction: &Transaction<'_>,
        files: &[Attached<'_>],
    ) -> Result<(), DbError> {
        let hashes: Vec<&[u8]> = files.iter().map(|file| &file.attachment.sha256.0[..]).collect();
        let lock = sql!(self.database, "files/lock_contents.sql");
        transaction.query_typed(lock, &[(&hashes, Type::BYTEA_ARRAY)]).await?;
        let collections: Vec<i32> = files.iter().map(|file| file.collection).collect();
        let records: Vec<&str> = files.iter().map(|file| file.record).collect();
        let names: Vec<&str> = files.iter().map(|file| file.name).collect();
        let sizes: Vec<i64> = files.iter().map(|file| file.attachment.size() as i64).collect();
        let types: Vec<&str> = files.iter().map(|file| file.attachment.mime_type()).collect();
        let attach = sql!(self.database, "files/attachments/attach.sql");
        let parameters: [Parameter<'_>; 6] = [
            (&collections, Type::INT4_ARRAY),
            (&records, Type::TEXT_ARRAY),
            (&names, Type::TEXT_ARRAY),
            (&sizes, Type::INT8_ARRAY),
            (&types, Type::TEXT_ARRAY),
            (&hashes, Type::BYTEA_ARRAY),
        ];
        let stored = transaction.query_typed(attach, &parameters).await?.len() as u64;
        DbError::all_stored("record_files", files.len() as u64, stored)
    }

    /// Removes rows of attached files.
    pub(super) async fn detach(&self, transaction: &Transaction<'_>, files: &Detach) -> Result<(), DbError> {
        match files {
            Detach::Names { collection, record, names } => {
                let detach = sql!(self.database, "files/attachments/detach_names.sql");
                let parameters: [Parameter<'_>; 3] =
                    [(collection, Type::INT4), (&record.as_str(), Type::TEXT), (names, Type::TEXT_ARRAY)];
                transaction.query_typed(detach, &parameters).await?;
            }
            Detach::Records { collection, records } => {
                let detach = sql!(self.database, "files/attachments/detach_records.sql");
                let parameters: [Parameter<'_>; 2] = [(collection, Type::INT4), (records, Type::TEXT_ARRAY)];
                transaction.query_typed(detach, &parameters).await?;
            }
        }
        Ok(())
    }

    /// Removes the rows of attached files of a collection that no record names; without a table all of them.
    pub(super) async fn detach_unnamed(
        &self,
        transaction: &Transaction<'_>,
        collection: i32,
        table: Option<&str>,
    ) -> Result<(), DbError> {
        let detach = match table {
            Some(table) => {
                sql!(self.database, "files/attachments/detach_unnamed.sql").replace("{table}", table)
            }
            None => sql!(self.database, "files/attachments/detach_collection.sql").to_owned(),
        };
        transaction.query_typed(&detach, &[(&collection, Type::INT4)]).await?;
        Ok(())
    }

    /// The collections that have attached files.
    pub(super) async fn attached_collections(&self) -> Result<Vec<i32>, DbError> {
        let rows = self.query(sql!(self.database, "files/attachments/collections.sql"), &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Removes the rows that no record names of a part of a collection's attached files; returns the part's last one.
    pub(super) async fn sweep_attached(
        &self,
        collection: i32,
        table: Option<&str>,
        after: &(String, String),
    ) -> Result<Option<((String, String), u64)>, DbError> {
        let Some(table) = table else {
            let detach = sql!(self.database, "files/attachments/detach_collection.sql");
            self.query(detach, &[(&collection, Type::INT4)]).await?;
            return Ok(None);
        };
        let sweep = sql!(self.database, "files/attachments/sweep.sql").replace("{table}", table);
        let parameters: [Parameter<'_>; 3] =
            [(&collection, Type::INT4), (&after.0.as_str(), Type::TEXT), (&after.1.as_str(), Type::TEXT)];
        let rows = self.query(&sweep, &parameters).await?;
        let last = rows.first().map(|row| {
            let removed: i64 = row.try_get("removed")?;
            Ok::<_, DbError>(((row.try_get("record")?, row.try_get("name")?), removed.unsigned_abs()))
        });
        last.transpose()
    }

    /// An attached file, with its record's members.
    pub(super) async fn attached(
        &self,
        collection: i32,
        table: &str,
        record: &str,
        name: &str,
    ) -> Result<Option<AttachedFile>, DbError> {
        let find = sql!(self.database, "files/attachments/find.sql").replace("{table}", table);
        let parameters: [Parameter<'_>; 3] =
            [(&collection, Type::INT4), (&record, Type::TEXT), (&name, Type::TEXT)];
        let rows = self.query(&find, &parameters).await?;
        let read = |row: &Row| -> Result<AttachedFile, DbError> {
            let sha256 = ContentHash::from_bytes(row.try_get("sha256")?);
            Ok(AttachedFile {
                size: size(row.try_get("size")?)?,
                mime_type: row.try_get("mime_type")?,
                sha256: sha256.ok_or(DbError::Unexpected("a hash of another length"))?,
                uploaded_s: row.try_get::<_, i64>("uploaded_s")?.unsigned_abs(),
                members: row.try_get("data")?,
            })
        };
        rows.first().map(read).transpose()
    }

    /// Those of these contents that no file has.
    pub(super) async fn orphans(&self, hashes: &[ContentHash]) -> Result<Vec<ContentHash>, DbError> {
        let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash.0[..]).collect();
        let orphans = sql!(self.database, "files/orphans.sql");
        let rows = self.query(orphans, &[(&hashes, Type::BYTEA_ARRAY)]).await?;
        let hash = |row: &Row| Ok(ContentHash::from_bytes(row.try_get(0)?));
        rows.iter().filter_map(|row| hash(row).transpose()).collect()
    }

    /// Removes a content by `remove` if no file has it and no upload is about to add it; returns whether it was removed.
    pub(super) async fn remove_orphan(
        &self,
        hash: ContentHash,
        remove: impl Future<Output = Result<(), FilesError>>,
    ) -> Result<bool, FilesError> {
        let mut connection = self.database.get().await?;
        let time = self.timeout * STATEMENTS + PLACE_TIME;
        let removed = in_time(time, self.remove_orphan_over(&mut connection, hash, remove)).await;
        connection.release(removed)?
    }

    async fn remove_orphan_over(
        &self,
        connection: &mut Connection,
        hash: ContentHash,
        remove: impl Future<Output = Result<(), FilesError>>,
    ) -> Result<Result<bool, FilesError>, DbError> {
        let transaction = begin_in_time(connection, self.timeout).await?;
        let lock = sql!(self.database, "files/try_lock_content.sql");
        let rows = transaction.query_typed(lock, &[(&&hash.0[..], Type::BYTEA)]).await?;
        if !rows.first().map_or(Ok(false), |row| row.try_get(0))? {
            return Ok(Ok(false));
        }
        // Checked once more under the lock: a statement sees all commits before its beginning.
        let orphans = sql!(self.database, "files/orphans.sql");
        let hashes = [&hash.0[..]];
        let rows = transaction.query_typed(orphans, &[(&&hashes[..], Type::BYTEA_ARRAY)]).await?;
        if rows.is_empty() {
            return Ok(Ok(false));
        }
        let removed = remove.await;
        transaction.commit().await?;
        Ok(removed.map(|()| true))
    }
}

/// The bytes that a file counts as.
pub(super) fn counted(size: u64) -> u64 {
    size.max(LEAST_COUNTED)
}

fn bytes(rows: &[Row]) -> Result<u64, DbError> {
    let sum: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    size(sum)
}

/// A size, which the tables' checks keep from being negative.
fn size(bytes: i64) -> Result<u64, DbError> {
    u64::try_from(bytes).map_err(|_| DbError::Unexpected("a negative size"))
}

/// A file, and its upload time.
fn read(row: &Row) -> Result<(StoredFile, Micros), DbError> {
    let sha256 = row.try_get::<_, &[u8]>("sha256")?.try_into();
    let sha256 = sha256.map_err(|_| DbError::Unexpected("a hash of another length"))?;
    let file = StoredFile {
        id: row.try_get("id")?,
        filename: row.try_get("filename")?,
        size: size(row.try_get("size")?)?,
        mime_type: row.try_get("mime_type")?,
        sha256: ContentHash(sha256),
        uploaded_at: row.try_get("uploaded_at")?,
        processed: row.try_get("processed")?,
    };
    Ok((file, Micros(row.try_get("uploaded_us")?)))
}
