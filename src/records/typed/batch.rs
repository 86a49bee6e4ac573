//! Writes in one transaction: batches, and single writes whose record has files.
//!
//! The locks of all records that the requests name come first, as for single writes; a deletion that has to lock more begins the whole anew. Each
//! request is judged by its rule and written in the state that those before it left. Rows of files are part of the transaction; their contents
//! move to their places as the last work before the commit.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::catalog::CollectionHandle;
use super::deletion::{Deletion, Ids, Verdict};
use super::expand::Expand;
use super::rules::{Access, Caller, RuleKind};
use super::store::Reads;
use super::uploads::Uploads;
use super::write::{self, Change, MAX_LOCKINGS, Prepared, members_of, reads_before, stored, with_before};
use super::{TypedError, TypedRecords};
use crate::config::limits;
use crate::db::{DbError, Transaction, begin_in_time, in_time};
use crate::files::{Attached, Attachment, Detach};
use crate::records::schema::{Field, Projection, Violation};
use crate::records::{Data, RecordId, RecordsError};
use crate::time::Millis;

/// The longest random wait before a transaction is repeated that was in the way of another one.
const CONFLICT_WAIT: Duration = Duration::from_millis(20);

/// A write.
#[derive(Debug, Clone)]
pub enum Write {
    /// Creates a record.
    Create,
    /// Changes the record with this id.
    Update(String),
    /// Changes the record whose id is in the body, or creates it.
    Upsert,
    /// Deletes the record with this id.
    Delete(String),
}

/// A write of a batch.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// The collection.
    pub collection: CollectionHandle,
    /// The sender, with what rules read of the request.
    pub caller: Caller,
    /// The kind.
    pub write: Write,
    /// The body.
    pub body: Map<String, Value>,
    /// Related records that the answer has.
    pub expand: Expand,
    /// The members that the answer has. `None`: all.
    pub fields: Option<Projection>,
}

/// A batch that was not done.
#[derive(Debug)]
pub enum BatchFailure {
    /// The request at this place failed; an upsert as what it would have done.
    Request(usize, Write, TypedError),
    /// It took too long.
    TooLong,
    /// The transaction as a whole failed.
    Whole(TypedError),
}

impl From<TypedError> for BatchFailure {
    fn from(error: TypedError) -> Self {
        Self::Whole(error)
    }
}

/// The result of an attempt.
enum Attempt {
    Done(Vec<Option<Vec<u8>>>),
    /// These records have to be locked as well.
    Lock(Ids),
    /// Another transaction was in the way.
    Conflict,
    Failed(BatchFailure),
}

/// The result of a request.
enum Written {
    Record(Map<String, Value>),
    Deleted,
    Lock(Ids),
}

impl TypedRecords {
    /// Executes writes in one transaction of up to `limit`. Returns the records as their senders see them, in JSON; `None`: it was deleted.
    ///
    /// # Errors
    ///
    /// [`BatchFailure`]; nothing is stored then, unless the answer to the commit was lost.
    pub async fn batch(
        &self,
        mut requests: Vec<WriteRequest>,
        mut uploads: Uploads,
        limit: Duration,
    ) -> Result<Vec<Option<Vec<u8>>>, BatchFailure> {
        let deadline = Instant::now() + limit;
        let mut locked = Ids::new();
        for (place, request) in requests.iter().enumerate() {
            let writable = request.collection.expect_writable();
            writable.map_err(|error| BatchFailure::Request(place, request.write.clone(), error))?;
        }
        for request in &mut requests {
            // Made before the first attempt: a repeated one locks the same records.
            if let Some(id) = request.chosen_id() {
                locked.entry(request.collection.number()).or_default().insert(id);
            }
        }
        let mut lockings = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BatchFailure::TooLong);
            }
            match self.attempt(&requests, &mut uploads, &locked, left).await {
                Attempt::Done(answers) => {
                    self.inner.records.wake();
                    return Ok(answers);
                }
                Attempt::Lock(found) => {
                    lockings += 1;
                    if lockings >= MAX_LOCKINGS {
                        return Err(TypedError::from(RecordsError::Overloaded).into());
                    }
                    for (number, ids) in found {
                        locked.entry(number).or_default().extend(ids);
                    }
                }
                Attempt::Conflict => tokio::time::sleep(CONFLICT_WAIT.mul_f64(fastrand::f64())).await,
                Attempt::Failed(failure) => return Err(failure),
            }
        }
    }

    /// Executes one write in a transaction of its own, with the files that came with it. Returns the record as its sender sees it, in JSON.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn write_alone(&self, request: WriteRequest, uploads: Uploads) -> Result<Vec<u8>, TypedError> {
        let limit = self.inner.store.timeout();
        match self.batch(vec![request], uploads, limit).await {
            Ok(answers) => Ok(answers.into_iter().next().flatten().unwrap_or_default()),
            Err(BatchFailure::Request(_, _, error) | BatchFailure::Whole(error)) => Err(error),
            Err(BatchFailure::TooLong) => Err(RecordsError::Overloaded.into()),
        }
    }

    async fn attempt(
        &self,
        requests: &[WriteRequest],
        uploads: &mut Uploads,
        locked: &Ids,
        limit: Duration,
    ) -> Attempt {
        let store = &self.inner.store;
        let (mut connection, timeout) = match store.connection().await {
            Ok(connected) => connected,
            Err(error) => return Attempt::Failed(TypedError::from(error).into()),
        };
        let mut is_at_commit = false;
        let done = in_time(limit, async {
            let transaction = begin_in_time(&mut connection, timeout.min(limit)).await?;
            store.without_jit(&transaction).await?;
            store.lock(&transaction, locked).await?;
            let attempt = self.write_all(&transaction, requests, uploads, locked).await;
            let (answers, names) = match attempt {
                Ok(done) => done,
                Err(attempt) => {
                    transaction.rollback().await?;
                    return Ok(attempt);
                }
            };
            is_at_commit = true;
            if !names.is_empty()
                && let Err(error) = self.place(uploads.take(&names)).await
            {
                transaction.rollback().await?;
                return Ok(Attempt::Failed(error.into()));
            }
            transaction.commit().await?;
            Ok(Attempt::Done(answers))
        })
        .await;
        match connection.release(done) {
            Ok(attempt) => attempt,
            Err(error) if !is_at_commit && is_too_long(&error) => Attempt::Failed(BatchFailure::TooLong),
            // The locks of the beginning.
            Err(error) if error.is_conflict() && !is_at_commit => Attempt::Conflict,
            Err(error) => Attempt::Failed(TypedError::from(error).into()),
        }
    }

    async fn place(&self, attachments: Vec<Attachment>) -> Result<(), TypedError> {
        Ok(self.inner.store.files()?.place(attachments).await?)
    }

    /// Writes all requests. Returns the answers, and the names of the files whose contents are to be placed.
    async fn write_all(
        &self,
        transaction: &Transaction<'_>,
        requests: &[WriteRequest],
        uploads: &Uploads,
        locked: &Ids,
    ) -> Result<(Vec<Option<Vec<u8>>>, Vec<String>), Attempt> {
        let (mut answers, mut names, mut bytes) = (Vec::with_capacity(requests.len()), Vec::new(), 0);
        for (place, request) in requests.iter().enumerate() {
            let resolved;
            let request = match &request.write {
                Write::Upsert => {
                    resolved = self.resolved(transaction, request).await?;
                    &resolved
                }
                _ => request,
            };
            let failed = |error: TypedError| match &error {
                TypedError::Records(RecordsError::Database(database)) if database.is_conflict() => {
                    Attempt::Conflict
                }
                TypedError::Records(RecordsError::Database(database)) if is_too_long(database) => {
                    Attempt::Failed(BatchFailure::TooLong)
                }
                _ => Attempt::Failed(BatchFailure::Request(place, request.write.clone(), error)),
            };
            let written = self.write_one(transaction, request, uploads, locked, &mut names).await;
            let answer = match written.map_err(failed)? {
                Written::Lock(ids) => return Err(Attempt::Lock(ids)),
                Written::Deleted => None,
                Written::Record(members) => {
                    let answer = self.answer(transaction, request, members).await.map_err(failed)?;
                    bytes += answer.len();
                    Some(answer)
                }
            };
            if bytes > limits::MAX_PAGE_BYTES {
                let message = format!("the answer has at most {} bytes", limits::MAX_PAGE_BYTES);
                return Err(failed(TypedError::Blocked(message)));
            }
            answers.push(answer);
        }
        Ok((answers, names))
    }

    /// An upsert as what it does: a change of the record with the id of its body, if there is one, else a creation.
    async fn resolved(
        &self,
        transaction: &Transaction<'_>,
        request: &WriteRequest,
    ) -> Result<WriteRequest, Attempt> {
        let id = request.body.get("id").and_then(Value::as_str).and_then(RecordId::parse);
        let statements = request.collection.statements();
        let found = match id {
            None => Ok(None),
            Some(id) => self.inner.store.lock_row(transaction, statements, id).await,
        };
        let (method, write) = match found {
            Ok(Some(record)) => ("PATCH", Write::Update(record.id.as_str().to_owned())),
            Ok(None) => ("POST", Write::Create),
            Err(error) if error.is_conflict() => return Err(Attempt::Conflict),
            Err(error) if is_too_long(&error) => return Err(Attempt::Failed(BatchFailure::TooLong)),
            Err(error) => return Err(Attempt::Failed(TypedError::from(error).into())),
        };
        Ok(WriteRequest { write, ..request.as_sent(method) })
    }

    async fn answer(
        &self,
        transaction: &Transaction<'_>,
        request: &WriteRequest,
        members: Map<String, Value>,
    ) -> Result<Vec<u8>, TypedError> {
        let WriteRequest { collection, caller, expand, fields, .. } = request;
        let shown = self.shown_by(Reads::Within(transaction), collection, caller, vec![members], expand);
        let shown = shown.await?.pop().unwrap_or_default();
        let json = match fields {
            None => serde_json::to_vec(&shown),
            Some(fields) => serde_json::to_vec(&fields.apply_to(&shown)),
        };
        json.map_err(|_| DbError::Unexpected("a record that is no JSON").into())
    }

    async fn write_one(
        &self,
        transaction: &Transaction<'_>,
        request: &WriteRequest,
        uploads: &Uploads,
        locked: &Ids,
        names: &mut Vec<String>,
    ) -> Result<Written, TypedError> {
        let (store, collection) = (&self.inner.store, &request.collection);
        let statements = collection.statements();
        let (kind, id) = match &request.write {
            Write::Create | Write::Upsert => {
                return self.create_within(transaction, request, uploads, names).await;
            }
            Write::Update(id) => (RuleKind::Update, RecordId::parse(id).ok_or(TypedError::NotFound)?),
            Write::Delete(id) => (RuleKind::Delete, RecordId::parse(id).ok_or(TypedError::NotFound)?),
        };
        collection.access(kind, &request.caller)?;
        let record = store.lock_row(transaction, statements, id).await?.ok_or(TypedError::NotFound)?;
        let definition = collection.definition();
        let before = members_of(&record, definition);
        self.expect_rule(transaction, request, kind, id, &before).await?;
        if kind == RuleKind::Delete {
            let allows = |_: &Map<String, Value>| Ok(());
            let mut deletion = Deletion::new(collection, &[id], locked.clone(), &allows);
            return match store.delete_within(transaction, &mut deletion).await? {
                Verdict::Go => Ok(Written::Deleted),
                Verdict::Lock(ids) => Ok(Written::Lock(ids)),
                Verdict::Refused(refusal) => Err(refusal),
            };
        }
        let reads = Reads::Within(transaction);
        let missing = self.missing_relations(reads, collection, &request.body).await?;
        let (manages, hashes) = self.account_change(reads, request, &before).await?;
        let change = Change { body: &request.body, missing: &missing, uploads, hashes: &hashes, manages };
        let after = change.apply(collection, &request.caller, &before)?;
        let data = Data::merged(stored(&after, definition));
        self.inner.records.fits(&data)?;
        let written = store.write(transaction, statements, id, Some(data.as_bytes())).await;
        let record = written.map_err(|error| write::of_constraint(collection, error.into()))?;
        let gone =
            named(collection, &before).difference(&named(collection, &after)).cloned().collect::<Vec<_>>();
        if !gone.is_empty() {
            let (collection, record) = (collection.number(), id.as_str().to_owned());
            let gone = Detach::Names { collection, record, names: gone };
            store.files()?.detach(transaction, &[gone]).await?;
        }
        self.attach(transaction, collection, id, &after, uploads, names).await?;
        Ok(Written::Record(members_of(&record, definition)))
    }

    async fn create_within(
        &self,
        transaction: &Transaction<'_>,
        request: &WriteRequest,
        uploads: &Uploads,
        names: &mut Vec<String>,
    ) -> Result<Written, TypedError> {
        let WriteRequest { collection, caller, body, .. } = request;
        let reads = Reads::Within(transaction);
        let prepared = self.prepare_new(reads, collection, caller, body.clone(), uploads).await?;
        let Prepared { id, members, data, .. } = prepared;
        self.inner.records.fits(&data)?;
        let added =
            self.inner.store.add_record(transaction, collection.statements(), id, data.as_bytes()).await;
        let record =
            added.map_err(|error| write::of_constraint(collection, error.into()))?.ok_or_else(|| {
                TypedError::refused("id", Violation::new("not_unique", "Value must be unique."))
            })?;
        self.attach(transaction, collection, id, &members, uploads, names).await?;
        Ok(Written::Record(members_of(&record, collection.definition())))
    }

    /// Whether the caller manages the account that a change is for, and the hashes of its new passwords. Those of other records have neither.
    async fn account_change(
        &self,
        reads: Reads<'_>,
        request: &WriteRequest,
        before: &Map<String, Value>,
    ) -> Result<(bool, HashMap<String, Value>), TypedError> {
        let WriteRequest { collection, caller, body, .. } = request;
        let definition = collection.definition();
        if !definition.fields.iter().any(Field::is_secret) {
            return Ok((false, HashMap::new()));
        }
        let with;
        let caller = match reads_before(collection, RuleKind::Manage, caller) {
            true => {
                with = with_before(collection, caller, before);
                &with
            }
            false => caller,
        };
        let manages = self.manages(reads, collection, caller, before).await?;
        if definition.auth.is_some() {
            let violations = self.check_passwords(Some(before), body, manages).await?;
            violations.into_result().map_err(TypedError::Refused)?;
        }
        Ok((manages, self.hashed(definition, body).await?))
    }

    /// Adds the rows of the uploaded files that a record names.
    async fn attach(
        &self,
        transaction: &Transaction<'_>,
        collection: &CollectionHandle,
        id: RecordId,
        members: &Map<String, Value>,
        uploads: &Uploads,
        names: &mut Vec<String>,
    ) -> Result<(), TypedError> {
        if uploads.is_empty() {
            return Ok(());
        }
        let new: Vec<String> = named(collection, members)
            .into_iter()
            .filter(|name| uploads.has(name) && !names.contains(name))
            .collect();
        let attached = |name| {
            let attachment = uploads.content(name)?;
            Some(Attached { collection: collection.number(), record: id.as_str(), name, attachment })
        };
        let attached: Vec<Attached<'_>> = new.iter().filter_map(|name| attached(name)).collect();
        self.inner.store.files()?.attach(transaction, &attached).await?;
        names.extend(new);
        Ok(())
    }

    /// Checks the rule of a change on the record as it is.
    async fn expect_rule(
        &self,
        transaction: &Transaction<'_>,
        request: &WriteRequest,
        kind: RuleKind,
        id: RecordId,
        members: &Map<String, Value>,
    ) -> Result<(), TypedError> {
        let WriteRequest { collection, caller, .. } = request;
        let with;
        let caller = match reads_before(collection, kind, caller) {
            true => {
                with = with_before(collection, caller, members);
                &with
            }
            false => caller,
        };
        let Access::If(rule) = collection.access(kind, caller)? else { return Ok(()) };
        let holds = match rule.matches(members, Millis::now()).map_err(|_| TypedError::InvalidQuery)? {
            Some(holds) => holds,
            None => self.exists(Reads::Within(transaction), collection, id.as_str(), &rule).await?,
        };
        if holds { Ok(()) } else { Err(TypedError::NotFound) }
    }
}

impl WriteRequest {
    /// The same, as if it had come by another method, which rules read: that of what an upsert does.
    fn as_sent(&self, method: &str) -> Self {
        let mut request = self.clone();
        request.caller.request.method = method.to_owned();
        request
    }

    /// The id of the record, which a new one without its own gets here. `None`: it is no id, and refused later.
    fn chosen_id(&mut self) -> Option<RecordId> {
        match &self.write {
            Write::Update(id) | Write::Delete(id) => return RecordId::parse(id),
            Write::Create | Write::Upsert => {}
        }
        match self.body.get("id") {
            None | Some(Value::Null) => {}
            Some(Value::String(id)) if id.is_empty() => {}
            Some(id) => return id.as_str().and_then(RecordId::parse),
        }
        let definition = self.collection.definition();
        let id = match definition.makes_plain_ids() {
            true => RecordId::make(Millis::now()),
            false => RecordId::parse(definition.made_id()?.as_str())?,
        };
        self.body.insert("id".into(), id.as_str().into());
        // It is new, whatever it was asked for.
        if matches!(self.write, Write::Upsert) {
            self.caller.request.method = "POST".into();
        }
        self.write = Write::Create;
        Some(id)
    }
}

/// Whether the time of the batch was up before its commit: no statement may take longer.
fn is_too_long(error: &DbError) -> bool {
    matches!(error, DbError::Timeout(_)) || error.is_cancelled()
}

/// The names of all files of a record.
fn named(collection: &CollectionHandle, members: &Map<String, Value>) -> BTreeSet<String> {
    let values =
        collection.definition().file_fields().filter_map(|field| Some((field, members.get(&field.name)?)));
    values.flat_map(|(field, value)| field.words(value)).collect()
}
