//! Files of records: contents that fields of records name. The fields are the truth; a row beside them has the content's hash, size and type.
//!
//! The transaction that stores a record adds the rows of its new files, and removes those of the files that it names no more. A record that is
//! changed or deleted by another face leaves rows behind, which a task of the records removes. Contents without a row go with the next sweep.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

use super::draft::Draft;
use super::receive::complete;
use super::upload_turns::UploadTurn;
use super::{ContentHash, Files, FilesError, blocking, media};
use crate::db::{DbError, Transaction};

/// The wait for another upload's end. Pages send several forms at once.
const TURN_WAIT: Duration = Duration::from_secs(20);

/// An upload of files of records under way.
#[derive(Debug)]
pub struct AttachmentUpload {
    files: Files,
    _turn: UploadTurn,
}

/// An uploaded content that no record names yet. Dropped, it is removed.
#[derive(Debug)]
pub struct Attachment {
    draft: Draft,
    size: u64,
    mime_type: String,
    pub(super) sha256: ContentHash,
}

/// A file that a record names from now on.
#[derive(Debug)]
pub struct Attached<'a> {
    /// The number of the record's collection.
    pub collection: i32,
    /// The record's id.
    pub record: &'a str,
    /// The name by which the record names it.
    pub name: &'a str,
    /// The content.
    pub attachment: &'a Attachment,
}

/// A file of a record.
#[derive(Debug, Clone)]
pub struct AttachedFile {
    /// Bytes.
    pub size: u64,
    /// The media type of its content.
    pub mime_type: String,
    /// The hash of its content.
    pub sha256: ContentHash,
    /// The time of its upload, in seconds of Unix time.
    pub uploaded_s: u64,
    /// The members of the record, as JSON.
    pub members: String,
}

/// Files that records name no more.
#[derive(Debug, Clone)]
pub enum Detach {
    /// Those of a record with these names.
    Names {
        /// The collection's number.
        collection: i32,
        /// The record's id.
        record: String,
        /// The names.
        names: Vec<String>,
    },
    /// All of these records.
    Records {
        /// The collection's number.
        collection: i32,
        /// The records' ids.
        records: Vec<String>,
    },
}

impl Attachment {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The media type of its content, without parameters.
    pub fn mime_type(&self) -> &str {
        &self.mime_type
    }
}

impl AttachmentUpload {
    /// Receives a file of up to `max` bytes. At most 256 KiB of it, and one chunk of `source`, are held in memory.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; [`FilesError::TooLarge`] leaves the rest of the source unread.
    pub async fn add<S>(&self, max: u64, source: S) -> Result<Attachment, FilesError>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin,
    {
        let within = |size: u64| if size > max { Err(FilesError::TooLarge(max)) } else { Ok(()) };
        let draft = self.files.receive(source, within).await?;
        let (size, mime_type) = (draft.size(), media::detect(draft.head()));
        let (draft, sha256) = complete(draft).await?;
        Ok(Attachment { draft, size, mime_type, sha256 })
    }
}

impl Files {
    /// Begins an upload of files of records by an address, with the announced number of bytes. The quota of users does not count: who may write a record is
    /// the matter of its collection's rules, and how much of the number and the size that its fields allow.
    ///
    /// # Errors
    ///
    /// [`FilesError::Overloaded`], [`FilesError::DiskFull`], [`FilesError::OtherDatabase`], [`FilesError::Database`].
    pub async fn begin_attachments(
        &self,
        address: IpAddr,
        announced: u64,
    ) -> Result<AttachmentUpload, FilesError> {
        let turn = self.inner.record_uploads.take(address, TURN_WAIT).await;
        let turn = turn.ok_or(FilesError::Overloaded("uploads"))?;
        let contents = self.inner.contents.clone();
        blocking(move || contents.check_room(announced)).await?;
        // Checked first: a new folder's contents would be swept by the first database that claims it.
        if !self.is_ours().await? {
            return Err(FilesError::OtherDatabase);
        }
        Ok(AttachmentUpload { files: self.clone(), _turn: turn })
    }

    /// Adds the rows of files, in the transaction that stores their records. Until it ends, the sweeper leaves their contents.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn attach(&self, transaction: &Transaction<'_>, files: &[Attached<'_>]) -> Result<(), DbError> {
        if files.is_empty() {
            return Ok(());
        }
        self.inner.store.attach(transaction, files).await
    }

    /// Moves contents to their places, as the last work before the commit of the transaction that added their rows. Such a transaction must not be
    /// repeated: if it is rolled back, the sweeper removes the contents.
    ///
    /// # Errors
    ///
    /// [`FilesError`]; the transaction is to be rolled back then.
    pub async fn place(&self, attachments: Vec<Attachment>) -> Result<(), FilesError> {
        let (number, bytes) = (attachments.len(), attachments.iter().map(Attachment::size).sum());
        if number == 0 {
            return Ok(());
        }
        let contents = self.inner.contents.clone();
        blocking(move || {
            for Attachment { mut draft, sha256, .. } in attachments {
                contents.place(&mut draft, &sha256)?;
            }
            Ok(())
        })
        .await?;
        self.inner.metrics.files_stored(number, bytes);
        Ok(())
    }

    /// Removes the rows of files, in the transaction that changes their records.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn detach(&self, transaction: &Transaction<'_>, files: &[Detach]) -> Result<(), DbError> {
        for detach in files {
            self.inner.store.detach(transaction, detach).await?;
        }
        Ok(())
    }

    /// Removes the rows of files that no record of a collection names, in the transaction that changes its fields; `table` is that of its records.
    /// `None`: the collection is deleted.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn detach_unnamed(
        &self,
        transaction: &Transaction<'_>,
        collection: i32,
        table: Option<&str>,
    ) -> Result<(), DbError> {
        self.inner.store.detach_unnamed(transaction, collection, table).await
    }

    /// The collections that have files, by number.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn attached_collections(&self) -> Result<Vec<i32>, DbError> {
        self.inner.store.attached_collections().await
    }

    /// Removes the rows of files that no record names, of up to a thousand files of a collection behind `after` (a record and a name); returns the
    /// last of them, and the number of removed rows. `None`: there are no more.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn sweep_attached(
        &self,
        collection: i32,
        table: Option<&str>,
        after: &(String, String),
    ) -> Result<Option<((String, String), u64)>, DbError> {
        self.inner.store.sweep_attached(collection, table, after).await
    }

    /// A file of a record, with the record's members.
    ///
    /// # Errors
    ///
    /// [`FilesError::Database`].
    pub async fn attached(
        &self,
        collection: i32,
        table: &str,
        record: &str,
        name: &str,
    ) -> Result<Option<AttachedFile>, FilesError> {
        Ok(self.inner.store.attached(collection, table, record, name).await?)
    }

    /// Opens an attached file's content.
    ///
    /// # Errors
    ///
    /// As [`Files::open`].
    pub async fn open_attached(&self, file: &AttachedFile) -> Result<std::fs::File, FilesError> {
        self.open_content(file.sha256, file.size).await
    }
}
