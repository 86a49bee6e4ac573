//! Deletions with what follows of them: records that name a deleted one are deleted too, or lose its id, or need it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use super::TypedError;
use super::catalog::{CollectionHandle, Reference};
use super::write::{members_of, stored};
use crate::records::schema::{Field, Kind};
use crate::records::{Record, RecordId};

/// The records of a collection.
pub(super) type Ids = BTreeMap<i32, BTreeSet<RecordId>>;

/// Decides whether a record may be deleted, by its members.
pub(super) type Allows<'a> = dyn Fn(&Map<String, Value>) -> Result<(), TypedError> + Sync + 'a;

/// A deletion in one transaction. The caller reads what [`Self::next_read`] asks for, and then writes, if the verdict is good.
pub(super) struct Deletion<'a> {
    /// The records that are locked.
    locked: Ids,
    /// All records that are deleted or changed.
    found: Ids,
    /// By the place of their collection in the catalogue, and their id.
    records: BTreeMap<(usize, RecordId), Found>,
    /// What is to be read. Without a reference: the records that are to be deleted.
    reads: VecDeque<Read>,
    reading: Option<Read>,
    root: CollectionHandle,
    /// Whether a record may be deleted.
    allows: &'a Allows<'a>,
    refusal: Option<TypedError>,
}

struct Read {
    reference: Option<Reference>,
    ids: Vec<RecordId>,
}

struct Found {
    members: Map<String, Value>,
    is_deleted: bool,
    has_changed: bool,
}

/// The verdict of a deletion.
pub(super) enum Verdict {
    /// All is read and locked.
    Go,
    /// These have to be locked as well.
    Lock(Ids),
    Refused(TypedError),
}

impl<'a> Deletion<'a> {
    /// The most records that name one.
    pub(super) const MAX: usize = 10_000;

    /// The deletion of records of `root`.
    pub(super) fn new(
        root: &CollectionHandle,
        ids: &[RecordId],
        locked: Ids,
        allows: &'a Allows<'a>,
    ) -> Self {
        let mut found = Ids::new();
        if root.definition().is_superusers() {
            // It has to be locked, too.
            found.entry(root.number()).or_default().insert(RecordId::impossible());
        }
        Self {
            locked,
            found,
            records: BTreeMap::new(),
            reads: VecDeque::from([Read { reference: None, ids: ids.to_vec() }]),
            reading: None,
            root: root.clone(),
            allows,
            refusal: None,
        }
    }

    /// The collection and the ids of a deletion that may not be of all records: some superuser has to stay. Deletions of that collection wait for
    /// each other, by the lock of an id that no record has.
    pub(super) fn needs_others(&mut self) -> Option<(i32, Vec<String>)> {
        if !self.root.definition().is_superusers() {
            return None;
        }
        let ids = self.reads.front().map(|read| read.ids.iter().map(|id| id.as_str().to_owned()).collect());
        Some((self.root.number(), ids.unwrap_or_default()))
    }

    /// Takes the answer to [`Self::needs_others`].
    pub(super) fn has_others(&mut self, has_others: bool) {
        if !has_others {
            self.refusal = Some(TypedError::LastSuperuser);
        }
    }

    /// The records that are locked, in an order in which no two deletions wait for each other.
    pub(super) fn locked(&self) -> &Ids {
        &self.locked
    }

    /// The next records to read: the number of their collection, and a condition on the ids of its parameter.
    pub(super) fn next_read(&mut self) -> Option<(i32, String, Vec<String>)> {
        if self.refusal.is_some() {
            return None;
        }
        let read = self.reads.pop_front()?;
        let ids = read.ids.iter().map(|id| id.as_str().to_owned()).collect();
        let (number, condition) = match &read.reference {
            None => (self.root.number(), "id = any($1)".to_owned()),
            Some(reference) => {
                (self.root.at(reference.at).number(), names(&reference.field, reference.is_list))
            }
        };
        self.reading = Some(read);
        Some((number, condition, ids))
    }

    /// Takes what was read.
    pub(super) fn read(&mut self, records: Vec<Record>) {
        let Some(Read { reference, ids }) = self.reading.take() else { return };
        if records.len() > Self::MAX || self.records.len() + records.len() > Self::MAX {
            let message = format!("more than {} records would change at once", Self::MAX);
            self.refusal = Some(TypedError::Blocked(message));
            return;
        }
        let handle = match &reference {
            None => self.root.clone(),
            Some(reference) => self.root.at(reference.at),
        };
        if reference.is_none() && records.len() < ids.len() {
            self.refusal = Some(TypedError::NotFound);
            return;
        }
        let gone: BTreeSet<&str> = ids.iter().map(RecordId::as_str).collect();
        let mut deleted = Vec::new();
        for record in records {
            let members = members_of(&record, handle.definition());
            if reference.is_none()
                && let Err(refusal) = (self.allows)(&members)
            {
                self.refusal = Some(refusal);
                return;
            }
            self.found.entry(handle.number()).or_default().insert(record.id);
            let known = self.records.entry((handle.place(), record.id));
            let found = known.or_insert(Found { members, is_deleted: false, has_changed: false });
            if found.is_deleted {
                continue;
            }
            match &reference {
                None => found.is_deleted = true,
                Some(reference) => {
                    found.is_deleted = !forget(&mut found.members, reference, &gone) && reference.cascades;
                    found.has_changed = true;
                }
            }
            if found.is_deleted {
                deleted.push(record.id);
            }
        }
        if !deleted.is_empty() {
            for reference in handle.references() {
                self.reads.push_back(Read { reference: Some(reference.clone()), ids: deleted.clone() });
            }
        }
    }

    /// The verdict once all is read.
    pub(super) fn verdict(&mut self) -> Verdict {
        if let Some(refusal) = self.refusal.take() {
            return Verdict::Refused(refusal);
        }
        let is_locked = |number: &i32, ids: &BTreeSet<RecordId>| {
            self.locked.get(number).is_some_and(|locked| ids.is_subset(locked))
        };
        if !self.found.iter().all(|(number, ids)| is_locked(number, ids)) {
            return Verdict::Lock(self.found.clone());
        }
        for ((at, _), found) in &self.records {
            let handle = self.root.at(*at);
            let lacks = |field: &Field| {
                field.required
                    && matches!(field.kind, Kind::Relation { .. })
                    && found.members.get(&field.name).is_none_or(|value| *value == field.zero())
            };
            if found.has_changed && !found.is_deleted && handle.definition().fields.iter().any(lacks) {
                return Verdict::Refused(TypedError::Needed(handle.name().as_str().to_owned()));
            }
        }
        Verdict::Go
    }

    /// The changes: the collection, the id and the new members. `None`: it is deleted.
    pub(super) fn writes(&self) -> impl Iterator<Item = (CollectionHandle, RecordId, Option<Vec<u8>>)> {
        self.records.iter().map(|((at, id), found)| {
            let handle = self.root.at(*at);
            let data = (!found.is_deleted).then(|| stored(&found.members, handle.definition()));
            (handle, *id, data)
        })
    }
}

/// The condition that a field names one of the ids `$1`.
pub(super) fn names(field: &str, is_list: bool) -> String {
    match is_list {
        false => format!("(data ->> '{field}') collate \"C\" = any($1)"),
        true => format!("data -> '{field}' ?| $1"),
    }
}

/// Removes ids from a field; returns whether some are left.
fn forget(members: &mut Map<String, Value>, reference: &Reference, gone: &BTreeSet<&str>) -> bool {
    match members.get_mut(&reference.field) {
        Some(Value::Array(ids)) => {
            ids.retain(|id| id.as_str().is_none_or(|id| !gone.contains(id)));
            !ids.is_empty()
        }
        Some(Value::String(id)) if gone.contains(id.as_str()) => {
            id.clear();
            false
        }
        _ => true,
    }
}
