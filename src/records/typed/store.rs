//! Definitions of collections, and lists of their records, in Postgres.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::TryStreamExt;
use serde_json::{Map, Value};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, RowStream};

use super::catalog::{DefinedCollection, StoredCollection};
use super::definitions::{Plan, PlannedIndex};
use super::deletion::{Deletion, Ids, Verdict};
use super::frequent::FrequentStatements;
use super::totals::{Counted, KnownTotal, Totals};
use super::view::WrittenView;
use super::write::of_text;
use crate::db::{
    Connection, Database, DbError, JsonText, Parameter as Typed, Query, Transaction, begin_in_time, in_time,
    read_snapshot_in_time, sql,
};
use crate::files::{Detach, Files, FilesError};
use crate::records::collections::{Collection, table};
use crate::records::expression::{Parameter, Parameters};
use crate::records::schema::Definition;
use crate::records::store::{Bound, records};
use crate::records::{Name, Record, RecordId};
use crate::time::Millis;

/// The time of a change of a schema: it may rewrite every record, and build indexes.
const DEFINE_TIMEOUT: Duration = Duration::from_secs(120);

/// The longest time of a view's first records while collections are changed, which no other node does meanwhile.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Definitions and lists, with a quota of the pool.
#[derive(Debug, Clone)]
pub(super) struct TypedStore {
    database: Database,
    timeout: Duration,
    /// The schema of the views, in quotes, and its name.
    views: (String, String),
    /// Files of records. `None`: this store writes none, and deletes no records that have some.
    files: Option<Files>,
    frequent: FrequentStatements,
}

/// The connection of a read: one of its own, or that of a transaction, whose changes it sees.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reads<'a> {
    Pool,
    Within(&'a Transaction<'a>),
}

/// A list that is to be read.
pub(super) struct ListStatement<'a> {
    pub(super) conditions: String,
    pub(super) order: String,
    pub(super) parameters: Parameters,
    pub(super) limit: usize,
    pub(super) offset: u64,
    /// What is counted, too.
    pub(super) counted: Option<CountStatement<'a>>,
}

/// The conditions of a list once more, with parameters of their own, to count.
pub(super) struct CountStatement<'a> {
    pub(super) conditions: String,
    pub(super) parameters: Parameters,
    /// The known totals and the topic of the collection's changes. `None`: the conditions read more than this collection.
    pub(super) remembers: Option<(&'a Totals, &'a str)>,
}

/// A record of a list. Unlike one of a table, that of a view may have any text as its id.
#[derive(Debug)]
pub(super) struct ListedRecord {
    pub(super) id: String,
    created: Millis,
    updated: Millis,
    data: String,
}

impl ListedRecord {
    fn read(row: &Row) -> Result<Self, DbError> {
        Ok(Self {
            id: row.try_get::<_, Option<String>>(0)?.unwrap_or_default(),
            created: row.try_get::<_, SystemTime>(2)?.into(),
            updated: row.try_get::<_, SystemTime>(3)?.into(),
            data: row.try_get(4)?,
        })
    }

    /// About the length of its JSON.
    fn json_len(&self) -> usize {
        self.data.len() + self.id.len() + 100
    }

    /// Its members.
    pub(super) fn members(&self, definition: &Definition) -> Map<String, Value> {
        of_text(&self.data, &self.id, (self.created, self.updated), definition)
    }
}

/// The records of a list. `None`: they are larger than a page may be.
pub(super) type Listed = Option<(Vec<ListedRecord>, Option<i64>)>;

/// The outcome of a change of a collection.
pub(super) enum Defined<E> {
    /// It is done.
    Done,
    /// It was refused, and nothing has changed.
    Refused(E),
    /// Records have the same values in a unique index.
    NotUnique(PlannedIndex),
    /// Something in the database depends on the collection's view or table.
    InUse,
    /// The query of a view cannot be run, for this reason.
    InvalidView(String),
}

impl TypedStore {
    pub(super) fn new(database: &Database, files: Option<&Files>, timeout: Duration) -> Self {
        let name = format!("{}_collections", database.schema());
        let views = (format!("\"{name}\""), name);
        Self {
            database: database.clone(),
            timeout,
            views,
            files: files.cloned(),
            frequent: FrequentStatements::default(),
        }
    }

    /// Files of records.
    pub(super) fn files(&self) -> Result<&Files, FilesError> {
        self.files.as_ref().ok_or(FilesError::NotFound)
    }

    /// A connection for a transaction, and the time of its statements.
    pub(super) async fn connection(&self) -> Result<(Connection, Duration), DbError> {
        Ok((self.database.get().await?, self.timeout))
    }

    /// The time of a statement.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Turns off a planner's step that takes longer than these statements, for a transaction.
    pub(super) async fn without_jit(&self, transaction: &Transaction<'_>) -> Result<(), DbError> {
        Ok(transaction.batch_execute(sql!("db/without_jit.sql")).await?)
    }

    async fn query(
        &self,
        reads: Reads<'_>,
        sql: &str,
        parameters: &[Typed<'_>],
    ) -> Result<Vec<Row>, DbError> {
        match reads {
            Reads::Pool => self.database.query_in_time(self.timeout, sql, parameters).await,
            Reads::Within(transaction) => Ok(transaction.query_typed(sql, parameters).await?),
        }
    }

    /// The table of a collection.
    pub(super) fn table(&self, number: i32) -> String {
        table(&self.database, number)
    }

    /// The statements of a collection. The topic of a private one cannot be named by a client: `:` is in no collection's name.
    pub(super) fn statements(&self, collection: &DefinedCollection) -> Arc<Collection> {
        let DefinedCollection { number, name, definition, .. } = collection;
        Arc::new(match definition.is_private() {
            true => Collection::with_topic(&self.database, *number, format!("private:{number}")),
            false => Collection::new(&self.database, *number, name),
        })
    }

    /// All collections.
    pub(super) async fn definitions(&self) -> Result<Vec<StoredCollection>, DbError> {
        let rows = self.database.query_in_time(
            self.timeout,
            sql!(self.database, "records/typed/definitions.sql"),
            &[],
        );
        stored(&rows.await?)
    }

    /// Creates, changes or deletes a collection as `decide` plans it, given all collections, which no other node changes meanwhile.
    pub(super) async fn define<E>(
        &self,
        max: i64,
        decide: impl Fn(Vec<StoredCollection>) -> Result<Vec<Plan>, E>,
    ) -> Result<Defined<E>, DbError> {
        let mut connection = self.database.get().await?;
        let mut at_fault: Option<PlannedIndex> = None;
        let made = in_time(DEFINE_TIMEOUT, async {
            let transaction = begin_in_time(&mut connection, DEFINE_TIMEOUT).await?;
            transaction.query_typed(sql!(self.database, "records/lock_collections.sql"), &[]).await?;
            let rows =
                transaction.query_typed(sql!(self.database, "records/typed/definitions.sql"), &[]).await?;
            let known = stored(&rows)?;
            let mut numbers: HashMap<String, i32> =
                known.iter().map(|one| (one.name.as_str().to_owned(), one.number)).collect();
            let plans = match decide(known) {
                Ok(plans) => plans,
                Err(refusal) => {
                    transaction.rollback().await?;
                    return Ok(Defined::Refused(refusal));
                }
            };
            let may = sql!("records/typed/may_have_views.sql");
            let may = transaction.query_typed(may, &[(&self.views.1.as_str(), Type::TEXT)]).await?;
            let may = may.first().ok_or(DbError::Unexpected("no privileges"))?;
            let (is_there, has_views): (bool, bool) = (may.try_get(0)?, may.try_get(1)?);
            if has_views && !is_there {
                let make = sql!("records/typed/make_views_schema.sql").replace("{views}", &self.views.0);
                transaction.batch_execute(&make).await?;
            }
            self.begin_views(&transaction, &plans, &mut numbers).await?;
            for plan in &plans {
                let mut change = Change { has_views, max, numbers: &mut numbers, at_fault: &mut at_fault };
                if let Some(reason) = self.execute(&transaction, plan, &mut change).await? {
                    transaction.rollback().await?;
                    return Ok(Defined::InvalidView(reason));
                }
            }
            transaction.commit().await?;
            Ok(Defined::Done)
        })
        .await;
        match connection.release(made) {
            Err(error) if error.sql_state() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                Ok(Defined::InUse)
            }
            Err(error) if is_not_unique(&error) => match at_fault {
                Some(index) => Ok(Defined::NotUnique(index)),
                None => Err(error),
            },
            made => made,
        }
    }

    async fn execute(
        &self,
        transaction: &Transaction<'_>,
        plan: &Plan,
        change: &mut Change<'_>,
    ) -> Result<Option<String>, DbError> {
        let has_views = change.has_views;
        let number = match plan.number {
            Some(number) => number,
            None => self.add(transaction, plan, change.max).await?,
        };
        change.numbers.insert(plan.name.as_str().to_owned(), number);
        let table = self.table(number);
        if has_views {
            for name in [plan.old_name.as_ref(), Some(&plan.name)].into_iter().flatten() {
                let drop = sql!("records/typed/drop_view.sql")
                    .replace("{views}", &self.views.0)
                    .replace("{name}", &quoted(name.as_str()));
                transaction.batch_execute(&drop).await?;
            }
        }
        let report = sql!(self.database, "records/typed/report.sql");
        let Some(definition) = &plan.definition else {
            if let Some(files) = &self.files {
                files.detach_unnamed(transaction, number, None).await?;
            }
            let undefine = sql!(self.database, "records/typed/undefine.sql");
            transaction.query_typed(undefine, &[(&number, Type::INT4)]).await?;
            change.numbers.remove(plan.name.as_str());
            let drop = match plan.is_view {
                true => sql!("records/typed/drop_records_view.sql"),
                false => sql!("records/typed/drop_table.sql"),
            };
            transaction.batch_execute(&drop.replace("{table}", &table)).await?;
            transaction.query_typed(report, &[(&plan.name.as_str(), Type::TEXT)]).await?;
            tracing::info!(collection = plan.name.as_str(), "collection deleted");
            return Ok(None);
        };
        let broken;
        let definition = match self.make_view(transaction, plan, number, change).await? {
            None => definition,
            Some(reason) if !plan.follows => return Ok(Some(reason)),
            Some(reason) => {
                tracing::warn!(view = plan.name.as_str(), reason, "a view has lost what it reads");
                broken = Definition { is_broken: true, ..definition.clone() };
                &broken
            }
        };
        let schema =
            serde_json::to_vec(definition).map_err(|_| DbError::Unexpected("a schema that is no JSON"))?;
        let schema = JsonText(&schema);
        let define = sql!(self.database, "records/typed/define.sql");
        let is_private = definition.is_private();
        let parameters: [Typed<'_>; 4] = [
            (&number, Type::INT4),
            (&plan.name.as_str(), Type::TEXT),
            (&schema, Type::JSONB),
            (&is_private, Type::BOOL),
        ];
        transaction.query_typed(define, &parameters).await?;
        if let Some(members) = &plan.members {
            let of_table = |text: &str| text.replace("{table}", &table);
            transaction.batch_execute(&of_table(sql!("records/typed/lock_table.sql"))).await?;
            let convert = of_table(sql!("records/typed/convert.sql")).replace("{members}", members);
            transaction.batch_execute(&convert).await?;
            // A field of files that was removed, or keeps one of several.
            if let Some(files) = &self.files {
                files.detach_unnamed(transaction, number, Some(&table)).await?;
            }
        }
        if !plan.is_view {
            if !definition.has_plain_ids() {
                let free = sql!("records/typed/free_ids.sql")
                    .replace("{table}", &table)
                    .replace("{name}", &format!("records_{number}"));
                transaction.batch_execute(&free).await?;
            }
            self.index(transaction, number, &plan.indexes, change.at_fault).await?;
        }
        if has_views {
            let make = sql!("records/typed/make_view.sql")
                .replace("{views}", &self.views.0)
                .replace("{name}", &quoted(plan.name.as_str()))
                .replace("{columns}", &plan.columns)
                .replace("{table}", &table);
            transaction.batch_execute(&make).await?;
        }
        transaction.query_typed(report, &[(&plan.name.as_str(), Type::TEXT)]).await?;
        Ok(None)
    }

    /// Takes what they read from views that are changed, so that tables and other views can go, and the names of collections that get other
    /// ones or go.
    async fn begin_views(
        &self,
        transaction: &Transaction<'_>,
        plans: &[Plan],
        numbers: &mut HashMap<String, i32>,
    ) -> Result<(), DbError> {
        for plan in plans {
            numbers.remove(plan.old_name.as_ref().unwrap_or(&plan.name).as_str());
            if let (Some(number), true) = (plan.number, plan.is_view) {
                let empty = self.view_statement(number, sql!("records/typed/no_records.sql"));
                transaction.batch_execute(&empty).await?;
            }
        }
        Ok(())
    }

    fn view_statement(&self, number: i32, query: &str) -> String {
        sql!("records/typed/make_records_view.sql")
            .replace("{table}", &self.table(number))
            .replace("{query}", query)
    }

    /// Makes the records of a view, and looks at the first of them unless it follows of another change. Returns the reason for which it cannot
    /// be made.
    async fn make_view(
        &self,
        transaction: &Transaction<'_>,
        plan: &Plan,
        number: i32,
        change: &Change<'_>,
    ) -> Result<Option<String>, DbError> {
        let Some(view) = &plan.view else { return Ok(None) };
        let Some(query) = self.view_query(view, change.numbers) else {
            return Ok(Some("it reads a collection that is not there".into()));
        };
        let savepoint = sql!("records/typed/savepoint.sql");
        let roll_back = sql!("records/typed/rollback_to_savepoint.sql");
        transaction.batch_execute(savepoint).await?;
        let made = transaction.batch_execute(&self.view_statement(number, &query)).await;
        if let Err(error) = made.map_err(DbError::from) {
            let reason = fault_of_query(&error).ok_or(error)?;
            transaction.batch_execute(roll_back).await?;
            return Ok(Some(reason));
        }
        if plan.follows {
            return Ok(None);
        }
        transaction.batch_execute(savepoint).await?;
        let milliseconds = SAMPLE_TIMEOUT.as_millis().to_string();
        let limit = sql!("records/typed/set_timeout.sql");
        transaction.query_typed(limit, &[(&milliseconds.as_str(), Type::TEXT)]).await?;
        let sample = sql!("records/typed/sample.sql").replace("{query}", &query);
        let sampled = transaction.query_typed(&sample, &[]).await.map_err(DbError::from);
        transaction.batch_execute(roll_back).await?;
        match sampled {
            Ok(rows) => {
                let records: Vec<ListedRecord> =
                    rows.iter().map(ListedRecord::read).collect::<Result<_, _>>()?;
                Ok(fault_of_ids(&records))
            }
            // It is slow, and not wrong.
            Err(error) if error.is_cancelled() => Ok(None),
            Err(error) => Ok(Some(fault_of_query(&error).ok_or(error)?)),
        }
    }

    /// The SQL of a view with the tables of collections.
    fn view_query(&self, view: &WrittenView, numbers: &HashMap<String, i32>) -> Option<String> {
        view.sql(|name| numbers.get(name).map(|number| self.table(*number)))
    }

    /// The first records of a query, or the reason for which there are none.
    pub(super) async fn sample(
        &self,
        view: &WrittenView,
        numbers: &HashMap<String, i32>,
    ) -> Result<Result<Vec<ListedRecord>, String>, DbError> {
        let Some(query) = self.view_query(view, numbers) else {
            return Ok(Err("it reads a collection that is not there".into()));
        };
        let sample = sql!("records/typed/sample.sql").replace("{query}", &query);
        match self.database.query_in_time(self.timeout, &sample, &[]).await {
            Ok(rows) => {
                let records: Vec<ListedRecord> =
                    rows.iter().map(ListedRecord::read).collect::<Result<_, _>>()?;
                Ok(fault_of_ids(&records).map_or(Ok(records), Err))
            }
            Err(error) => Ok(Err(fault_of_query(&error).ok_or(error)?)),
        }
    }

    /// Adds a collection with its table, or as a view without records.
    async fn add(&self, transaction: &Transaction<'_>, plan: &Plan, max: i64) -> Result<i32, DbError> {
        let (name, is_view) = (&plan.name, plan.is_view);
        let add = sql!(self.database, "records/add_collection.sql");
        let added = transaction.query_typed(add, &[(&name.as_str(), Type::TEXT), (&max, Type::INT8)]).await?;
        let added = added.first().ok_or(DbError::Unexpected("no count of collections"))?;
        let Some(number) = added.try_get::<_, Option<i32>>("id")? else {
            return Err(DbError::DroppedByTrigger { table: "collections", sent: 1, stored: 0 });
        };
        if is_view {
            let empty = self.view_statement(number, sql!("records/typed/no_records.sql"));
            transaction.batch_execute(&empty).await?;
            tracing::info!(
                collection = name.as_str(),
                view = format!("records_{number}"),
                "collection created"
            );
            return Ok(number);
        }
        let make = sql!("records/make_table.sql")
            .replace("{table}", &self.table(number))
            .replace("{name}", name.as_str());
        transaction.batch_execute(&make).await?;
        tracing::info!(collection = name.as_str(), table = format!("records_{number}"), "collection created");
        Ok(number)
    }

    /// Makes the indexes of a collection, and drops those that it has no more.
    async fn index(
        &self,
        transaction: &Transaction<'_>,
        number: i32,
        wanted: &[PlannedIndex],
        at_fault: &mut Option<PlannedIndex>,
    ) -> Result<(), DbError> {
        let table = self.table(number);
        let prefix = PlannedIndex::prefix(number);
        let indexes = sql!("records/typed/indexes.sql");
        let parameters: [Typed<'_>; 2] = [(&table.as_str(), Type::TEXT), (&prefix.as_str(), Type::TEXT)];
        let rows = transaction.query_typed(indexes, &parameters).await?;
        let known: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let of_schema = |name: &str| self.database.sql(&format!("{{schema}}.{}", quoted(name)));
        for name in known.iter().filter(|name| !wanted.iter().any(|index| index.name_of(number) == **name)) {
            let drop = sql!("records/typed/drop_index.sql").replace("{name}", &of_schema(name));
            transaction.batch_execute(&drop).await?;
        }
        for index in wanted.iter().filter(|index| !known.contains(&index.name_of(number))) {
            let conditions = match index.conditions.as_str() {
                "" => String::new(),
                conditions => format!(" where {conditions}"),
            };
            let make = sql!("records/typed/make_index.sql")
                .replace("{unique}", if index.is_unique { "unique " } else { "" })
                .replace("{name}", &quoted(&index.name_of(number)))
                .replace("{table}", &table)
                .replace("{columns}", &index.columns)
                .replace("{conditions}", &conditions);
            *at_fault = Some(index.clone());
            transaction.batch_execute(&make).await?;
        }
        *at_fault = None;
        Ok(())
    }

    /// A list of up to `max_bytes`.
    pub(super) async fn list(
        &self,
        reads: Reads<'_>,
        number: i32,
        list: ListStatement<'_>,
        max_bytes: usize,
    ) -> Result<Listed, DbError> {
        let of_table = |text: &str, conditions: &str| {
            text.replace("{table}", &self.table(number)).replace("{conditions}", conditions)
        };
        let page = of_table(sql!("records/typed/list.sql"), &list.conditions)
            .replace("{order}", &list.order)
            .replace("{limit}", &list.limit.to_string())
            .replace("{offset}", &list.offset.to_string());
        let begun = Instant::now();
        let (mut count, mut keeps) = (None, None);
        if let Some(CountStatement { conditions, mut parameters, remembers }) = list.counted {
            let key = remembers.and_then(|_| Counted::new(number, &conditions, &parameters));
            let known = key.as_ref().zip(remembers).and_then(|(key, (totals, _))| totals.get(key));
            let text = match (&known, remembers) {
                (Some(known), Some((_, topic))) => {
                    let mut bind = |text: &str| parameters.bind(Parameter::Text(text.to_owned()));
                    sql!(self.database, "records/typed/count_again.sql")
                        .replace("{known}", &bind(&known.total.to_string()))
                        .replace("{topic}", &bind(topic))
                        .replace("{older}", &bind(&known.snapshot))
                        .replace("{since}", &bind(known.since()))
                }
                _ => sql!("records/typed/count.sql").to_owned(),
            };
            count = Some((of_table(&text, &conditions), Bound::new(parameters)));
            keeps = key.zip(remembers.map(|(totals, _)| totals));
        }
        let bound = Bound::new(list.parameters);
        if let Reads::Within(transaction) = reads {
            let rows = transaction.query_typed_raw(&page, bound.typed()).await?;
            let (found, is_whole) = gathered(rows, max_bytes).await?;
            return Ok(is_whole.then_some((found, None)));
        }
        let is_frequent = self.frequent.is_frequent(&page);
        let counts: Vec<Query<'_>> = count.iter().map(|(sql, bound)| (sql.as_str(), bound.typed())).collect();
        let (mut found, mut bytes) = (Vec::new(), 0);
        let connection = self.database.get().await?;
        let page: Query<'_> = (&page, bound.typed());
        let read = read_snapshot_in_time(&connection, self.timeout, is_frequent, &counts, &page, |row| {
            let record = ListedRecord::read(row)?;
            bytes += record.json_len();
            found.push(record);
            Ok(bytes <= max_bytes)
        });
        let counted = read.await;
        let counted = connection.release(counted)?;
        let total = match counted.first() {
            None => None,
            Some(rows) => {
                let row = rows.first().ok_or(DbError::Unexpected("no count"))?;
                let (total, snapshot) =
                    (row.try_get("total")?, row.try_get::<_, Option<String>>("snapshot")?);
                if let (Some((key, totals)), Some(snapshot)) = (keeps, snapshot) {
                    totals.keep(key, KnownTotal { total, snapshot }, begun);
                }
                Some(total)
            }
        };
        Ok((bytes <= max_bytes).then_some((found, total)))
    }

    /// Whether a condition holds for a record as it would be. The condition's parameters begin with `$5`.
    pub(super) async fn holds(
        &self,
        reads: Reads<'_>,
        id: &str,
        members: &[u8],
        times: (Millis, Millis),
        condition: &str,
        parameters: Parameters,
    ) -> Result<bool, DbError> {
        let sql = sql!("records/typed/holds.sql").replace("{conditions}", condition);
        let members = JsonText(members);
        let (created, updated) = (SystemTime::from(times.0), SystemTime::from(times.1));
        let bound = Bound::new(parameters);
        let mut typed: Vec<Typed<'_>> = vec![
            (&id, Type::TEXT),
            (&members, Type::JSONB),
            (&created, Type::TIMESTAMPTZ),
            (&updated, Type::TIMESTAMPTZ),
        ];
        // The first four stand for these.
        typed.extend(bound.typed().into_iter().skip(typed.len()));
        let rows = self.query(reads, &sql, &typed).await?;
        Ok(rows.first().ok_or(DbError::Unexpected("no verdict"))?.try_get(0)?)
    }

    /// Those of `ids` that a collection has.
    pub(super) async fn known_ids(
        &self,
        reads: Reads<'_>,
        number: i32,
        ids: &[&str],
    ) -> Result<Vec<String>, DbError> {
        let sql = sql!("records/typed/known_ids.sql").replace("{table}", &self.table(number));
        let rows = self.query(reads, &sql, &[(&ids, Type::TEXT_ARRAY)]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The first ids of a collection.
    pub(super) async fn first_ids(&self, number: i32) -> Result<Vec<RecordId>, DbError> {
        let sql = sql!("records/typed/truncate.sql").replace("{table}", &self.table(number));
        let rows = self.database.query_in_time(self.timeout, &sql, &[]).await?;
        rows.iter()
            .map(|row| RecordId::parse(row.try_get(0)?).ok_or(DbError::Unexpected("an id of no record")))
            .collect()
    }

    /// Deletes records with what follows of it, in one transaction, if the verdict is good.
    pub(super) async fn delete(&self, mut deletion: Deletion<'_>) -> Result<Verdict, DbError> {
        let mut connection = self.database.get().await?;
        let done = in_time(self.timeout, async {
            let transaction = begin_in_time(&mut connection, self.timeout).await?;
            self.lock(&transaction, deletion.locked()).await?;
            let verdict = self.delete_within(&transaction, &mut deletion).await?;
            match &verdict {
                Verdict::Go => transaction.commit().await?,
                _ => transaction.rollback().await?,
            }
            Ok(verdict)
        })
        .await;
        connection.release(done)
    }

    /// Takes the locks of records, as the first statements of a transaction.
    pub(super) async fn lock(&self, transaction: &Transaction<'_>, locked: &Ids) -> Result<(), DbError> {
        for (number, ids) in locked {
            let ids: Vec<&str> = ids.iter().map(RecordId::as_str).collect();
            let lock = sql!("records/lock_ids.sql");
            transaction.query_typed(lock, &[(number, Type::INT4), (&ids, Type::TEXT_ARRAY)]).await?;
        }
        Ok(())
    }

    /// A deletion as a part of a transaction; it changes nothing unless the verdict is good.
    pub(super) async fn delete_within(
        &self,
        transaction: &Transaction<'_>,
        deletion: &mut Deletion<'_>,
    ) -> Result<Verdict, DbError> {
        if let Some((number, ids)) = deletion.needs_others() {
            let others = sql!("records/typed/has_others.sql").replace("{table}", &self.table(number));
            let rows = transaction.query_typed(&others, &[(&ids, Type::TEXT_ARRAY)]).await?;
            let has_others = rows.first().ok_or(DbError::Unexpected("no count"))?.try_get(0)?;
            deletion.has_others(has_others);
        }
        while let Some((number, condition, ids)) = deletion.next_read() {
            let read = sql!("records/typed/naming.sql")
                .replace("{table}", &self.table(number))
                .replace("{condition}", &condition)
                .replace("{limit}", &(Deletion::MAX + 1).to_string());
            let rows = transaction.query_typed(&read, &[(&ids, Type::TEXT_ARRAY)]).await?;
            deletion.read(records(&rows)?);
        }
        match deletion.verdict() {
            Verdict::Go => {}
            other => return Ok(other),
        }
        let mut gone: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for (collection, id, data) in deletion.writes() {
            self.write(transaction, collection.statements(), id, data.as_deref()).await?;
            if data.is_none() && collection.definition().has_files() {
                gone.entry(collection.number()).or_default().push(id.as_str().to_owned());
            }
        }
        let gone: Vec<Detach> =
            gone.into_iter().map(|(collection, records)| Detach::Records { collection, records }).collect();
        if let (Some(files), false) = (&self.files, gone.is_empty()) {
            files.detach(transaction, &gone).await?;
        }
        Ok(Verdict::Go)
    }

    /// A record, whose row is locked until the transaction ends.
    pub(super) async fn lock_row(
        &self,
        transaction: &Transaction<'_>,
        collection: &Collection,
        id: RecordId,
    ) -> Result<Option<Record>, DbError> {
        let rows = transaction.query_typed(&collection.lock, &[(&id.as_str(), Type::TEXT)]).await?;
        Ok(records(&rows)?.pop())
    }

    /// Adds a record. `None`: its id is taken.
    pub(super) async fn add_record(
        &self,
        transaction: &Transaction<'_>,
        collection: &Collection,
        id: RecordId,
        data: &[u8],
    ) -> Result<Option<Record>, DbError> {
        let now = SystemTime::from(Millis::now());
        let (ids, data) = ([id.as_str()], [JsonText(data)]);
        let parameters: [Typed<'_>; 4] = [
            (&collection.topic.as_str(), Type::TEXT),
            (&&ids[..], Type::TEXT_ARRAY),
            (&now, Type::TIMESTAMPTZ),
            (&&data[..], Type::JSONB_ARRAY),
        ];
        let rows = transaction.query_typed(&collection.create, &parameters).await?;
        Ok(records(&rows)?.pop())
    }

    /// Changes a record that exists and is locked, or deletes it, without data; returns it as it is now, or was.
    pub(super) async fn write(
        &self,
        transaction: &Transaction<'_>,
        collection: &Collection,
        id: RecordId,
        data: Option<&[u8]>,
    ) -> Result<Record, DbError> {
        let now = SystemTime::from(Millis::now());
        let (topic, id) = (collection.topic.as_str(), id.as_str());
        let mut parameters: Vec<Typed<'_>> =
            vec![(&topic, Type::TEXT), (&id, Type::TEXT), (&now, Type::TIMESTAMPTZ)];
        let data = data.map(JsonText);
        let rows = match &data {
            None => transaction.query_typed(&collection.delete, &parameters).await?,
            Some(data) => {
                parameters.push((data, Type::JSONB));
                transaction.query_typed(&collection.update, &parameters).await?
            }
        };
        let dropped = DbError::DroppedByTrigger { table: "records", sent: 1, stored: 0 };
        records(&rows)?.pop().ok_or(dropped)
    }
}

/// The records of a list, until they have more than `max_bytes`; whether all of them are there.
async fn gathered(rows: RowStream, max_bytes: usize) -> Result<(Vec<ListedRecord>, bool), DbError> {
    let (mut found, mut bytes) = (Vec::new(), 0_usize);
    futures_util::pin_mut!(rows);
    while let Some(row) = rows.try_next().await? {
        let record = ListedRecord::read(&row)?;
        bytes = bytes.saturating_add(record.json_len());
        if bytes > max_bytes {
            return Ok((found, false));
        }
        found.push(record);
    }
    Ok((found, true))
}

fn stored(rows: &[Row]) -> Result<Vec<StoredCollection>, DbError> {
    rows.iter()
        .map(|row| {
            let name: &str = row.try_get("name")?;
            Ok(StoredCollection {
                number: row.try_get("id")?,
                name: Name::parse(name).ok_or(DbError::Unexpected("a name of no collection"))?,
                schema: row.try_get("schema")?,
                created: row.try_get::<_, SystemTime>("created")?.into(),
                updated: row.try_get::<_, SystemTime>("updated")?.into(),
            })
        })
        .collect()
}

impl TypedStore {
    /// Takes the one mail that an address may get in some time. Whether there was one left.
    pub(super) async fn take_mail(&self, key: &[u8], interval: Duration) -> Result<bool, DbError> {
        let take = sql!(self.database, "records/mails/take.sql");
        let seconds = interval.as_secs_f64();
        let parameters: [Typed<'_>; 2] = [(&key, Type::BYTEA), (&seconds, Type::FLOAT8)];
        Ok(!self.database.query_in_time(self.timeout, take, &parameters).await?.is_empty())
    }

    /// Gives back what was taken for a mail.
    pub(super) async fn return_mail(&self, key: &[u8]) -> Result<(), DbError> {
        let give = sql!(self.database, "records/mails/return.sql");
        self.database.query_in_time(self.timeout, give, &[(&key, Type::BYTEA)]).await.map(drop)
    }
}

/// What the changes of a transaction share.
struct Change<'a> {
    has_views: bool,
    /// The most collections.
    max: i64,
    /// The numbers of collections by their names.
    numbers: &'a mut HashMap<String, i32>,
    at_fault: &'a mut Option<PlannedIndex>,
}

/// The reason for which a view's query cannot be run, if it is the query's: its types, its groups, its values, its size.
fn fault_of_query(error: &DbError) -> Option<String> {
    let is_of_query =
        |code: &str| ["0A", "21", "22", "2201", "42", "54"].iter().any(|class| code.starts_with(class));
    error.state_code().filter(|code| is_of_query(code)).map(|_| error.message())
}

/// The fault of the ids of a view's first records.
fn fault_of_ids(records: &[ListedRecord]) -> Option<String> {
    let mut known = HashSet::new();
    if records.iter().any(|record| record.id.is_empty()) {
        return Some("the query could return records with empty or invalid ids".into());
    }
    match records.iter().all(|record| known.insert(record.id.as_str())) {
        true => None,
        false => Some("the query could return records with non-unique ids".into()),
    }
}

/// Whether values that have to be unique are not.
fn is_not_unique(error: &DbError) -> bool {
    error.sql_state() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// A name in SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The violated unique index of an error.
pub(super) fn violated_index(error: &DbError) -> Option<&str> {
    error.constraint().filter(|_| is_not_unique(error))
}
