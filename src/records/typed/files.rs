//! Files of records: who may read one, and the task that removes what no record names.

use std::time::Duration;

use serde_json::{Map, Value};

use super::catalog::CollectionHandle;
use super::rules::Caller;
use super::{TypedError, TypedRecords};
use crate::files::{AttachedFile, Files};
use crate::records::RecordId;
use crate::records::schema::Kind;
use crate::supervisor::{Backoff, Next, StepError, Supervisor};

/// A file of a record.
#[derive(Debug)]
pub struct RecordFile {
    /// Its content.
    pub file: AttachedFile,
    /// The sizes of its previews.
    pub thumbs: Vec<String>,
    /// Whether readers need a token that the view rule admits.
    pub is_protected: bool,
}

impl TypedRecords {
    /// The store of the contents of files.
    ///
    /// # Errors
    ///
    /// [`TypedError::Files`] where records have none.
    pub fn files(&self) -> Result<&Files, TypedError> {
        Ok(self.inner.store.files()?)
    }

    /// A file of a record, for any caller.
    ///
    /// # Errors
    ///
    /// [`TypedError::NotFound`] if the record, or its fields, do not name it.
    pub async fn file(
        &self,
        collection: &CollectionHandle,
        id: &str,
        name: &str,
    ) -> Result<RecordFile, TypedError> {
        let id = RecordId::parse(id).ok_or(TypedError::NotFound)?;
        let (file, members) = match collection.definition().is_view() {
            true => self.file_of_view(collection, id, name).await?,
            false => {
                let file = self.attached(collection, id, name).await?.ok_or(TypedError::NotFound)?;
                let members: Map<String, Value> = serde_json::from_str(&file.members).unwrap_or_default();
                (file, members)
            }
        };
        let names_it = |value: &Value| match value {
            Value::String(text) => text == name,
            Value::Array(texts) => texts.iter().any(|text| text == name),
            _ => false,
        };
        let mut fields = collection.definition().file_fields();
        let field = fields.find(|field| members.get(&field.name).is_some_and(names_it));
        match field.map(|field| &field.kind) {
            Some(Kind::File { thumbs, protected, .. }) => {
                Ok(RecordFile { file, thumbs: thumbs.clone(), is_protected: *protected })
            }
            _ => Err(TypedError::NotFound),
        }
    }

    async fn attached(
        &self,
        collection: &CollectionHandle,
        id: RecordId,
        name: &str,
    ) -> Result<Option<AttachedFile>, TypedError> {
        let table = self.inner.store.table(collection.number());
        match self.files()?.attached(collection.number(), &table, id.as_str(), name).await {
            // It was deleted meanwhile, on another node.
            Err(crate::files::FilesError::Database(error)) if error.is_table_missing() => Ok(None),
            found => Ok(found?),
        }
    }

    /// A file that a view's record may name, of the record with the same id that the view reads; and the members of the view's record.
    async fn file_of_view(
        &self,
        view: &CollectionHandle,
        id: RecordId,
        name: &str,
    ) -> Result<(AttachedFile, Map<String, Value>), TypedError> {
        let members = self.view_of_query(view, id.as_str()).await?;
        for source in view.tables() {
            if source.definition().has_files()
                && let Some(file) = self.attached(&source, id, name).await?
            {
                return Ok((file, members));
            }
        }
        Err(TypedError::NotFound)
    }

    /// Whether a caller may read the protected files of a record: by the view rule.
    ///
    /// # Errors
    ///
    /// [`TypedError`]; [`TypedError::NotFound`] if they may not.
    pub async fn expect_file_view(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        id: &str,
    ) -> Result<(), TypedError> {
        match self.view(collection, caller, id).await {
            Ok(_) => Ok(()),
            Err(TypedError::Forbidden | TypedError::InvalidQuery) => Err(TypedError::NotFound),
            Err(error) => Err(error),
        }
    }

    /// Starts the task that looks for files that no record names, at once and then every `FILES_SWEEP_S`; 0: no task.
    pub(super) fn keep_files_swept(&self, files: &Files, supervisor: &Supervisor) {
        let interval = Duration::from_secs(files.config().files_sweep_s);
        if interval.is_zero() {
            return;
        }
        let typed = self.clone();
        supervisor.periodic("record-files", interval, Backoff::fixed(interval), move || {
            let typed = typed.clone();
            async move {
                let removed = typed.sweep_files().await.map_err(|error| StepError::new(error.to_string()))?;
                if removed > 0 {
                    tracing::info!(files = removed, "removed files that no record names");
                }
                Ok(Next::Interval)
            }
        });
    }

    /// Removes the rows of files that no record names: other faces of the same records, and SQL, change them without those. Returns their number,
    /// but for those of deleted collections.
    ///
    /// # Errors
    ///
    /// [`TypedError`]; what was removed until then is gone.
    pub async fn sweep_files(&self) -> Result<u64, TypedError> {
        let collections = self.files()?.attached_collections().await?;
        if collections.is_empty() {
            return Ok(0);
        }
        // Read after the files: none of theirs that exists is missing here.
        let catalog = self.refresh().await?;
        let mut removed = 0;
        for number in collections {
            let mut handles = CollectionHandle::all(&catalog);
            let table = handles.find(|handle| handle.number() == number);
            let table = table.map(|handle| self.inner.store.table(handle.number()));
            let mut after = (String::new(), String::new());
            while let Some((last, found)) =
                self.files()?.sweep_attached(number, table.as_deref(), &after).await?
            {
                (after, removed) = (last, removed + found);
            }
        }
        Ok(removed)
    }
}
