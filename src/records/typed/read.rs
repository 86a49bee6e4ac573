//! Lists and views of records.

use serde_json::{Map, Value};

use super::catalog::CollectionHandle;
use super::rules::{Access, Caller, RuleKind};
use super::store::{CountStatement, ListStatement, Reads};
use super::write::{members_of, of_record};
use super::{TypedError, TypedRecords};
use crate::config::limits;
use crate::db::DbError;
use crate::records::expression::{Parameter, Parameters};
use crate::records::{RecordId, Seen, TypedExpression, TypedSort};
use crate::time::Millis;

/// The most records of a page.
const MAX_PER_PAGE: i64 = 1_000;
/// Those of a page whose request names no number.
const PER_PAGE: i64 = 30;
/// Names that are for superusers in filters and orders.
pub(super) const OF_SUPERUSERS: [&str; 2] = ["@collection.", "@request."];

/// The query of a list.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// The filter; empty: all.
    pub filter: String,
    /// The order; empty: that of creation.
    pub sort: String,
    /// The page, from 1 on.
    pub page: i64,
    /// The records of a page; 0 and less: the default.
    pub per_page: i64,
    /// Whether the records are not counted.
    pub skips_total: bool,
}

impl ListRequest {
    /// The page, and the records of a page.
    pub(super) fn bounds(&self) -> (i64, i64) {
        let per_page = if self.per_page > 0 { self.per_page.min(MAX_PER_PAGE) } else { PER_PAGE };
        (self.page.max(1), per_page)
    }
}

/// A page of a list.
#[derive(Debug)]
pub struct TypedPage {
    /// The members of its records.
    pub records: Vec<Map<String, Value>>,
    /// Its number, from 1 on.
    pub page: i64,
    /// The records of a page.
    pub per_page: i64,
    /// The number of all records. `None`: they were not counted.
    pub total: Option<i64>,
}

impl TypedRecords {
    /// A page of the records that a caller may list.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn list(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        request: &ListRequest,
    ) -> Result<TypedPage, TypedError> {
        let rule = collection.access(RuleKind::List, caller)?;
        if collection.definition().is_broken {
            return Err(TypedError::InvalidQuery);
        }
        if !caller.is_superuser {
            let uses = |name: &&&str| request.filter.contains(**name) || request.sort.contains(**name);
            if let Some(name) = OF_SUPERUSERS.iter().find(uses) {
                return Err(TypedError::SuperusersName(name));
            }
        }
        let (catalog, id) = (&collection.catalog.definitions, &collection.definition().id);
        let sees = |other: &str| match caller.is_superuser {
            true => Seen::All,
            false => collection.seen(other, caller),
        };
        let mut expressions = Vec::new();
        if let Access::If(rule) = rule {
            expressions.push(rule);
        }
        if !request.filter.is_empty() {
            let filter = TypedExpression::parse(
                &request.filter,
                &caller.request,
                catalog,
                id,
                &sees,
                caller.is_superuser,
            );
            expressions.push(filter.map_err(|_| TypedError::InvalidQuery)?);
        }
        let sort = TypedSort::parse(&request.sort, catalog, id, &sees, caller.is_superuser)
            .map_err(|_| TypedError::InvalidQuery)?;
        let (page, per_page) = request.bounds();

        let now = Millis::now();
        let table = |id: &str| self.table(collection, id);
        let compile = |parameters: &mut Parameters| -> String {
            let compiled: Vec<String> =
                expressions.iter().map(|expression| expression.compile(now, &table, parameters)).collect();
            if compiled.is_empty() { "true".into() } else { compiled.join(" and ") }
        };
        let mut parameters = Parameters::default();
        let conditions = compile(&mut parameters);
        let order = sort.compile(&table, &mut parameters);
        let counted = (!request.skips_total).then(|| {
            let mut parameters = Parameters::default();
            let conditions = compile(&mut parameters);
            // The records of a view change with those of other collections.
            let is_own =
                !collection.definition().is_view() && expressions.iter().all(TypedExpression::is_own);
            let remembers = is_own.then(|| (&collection.catalog.totals, collection.topic()));
            CountStatement { conditions, parameters, remembers }
        });
        let offset = (page - 1).saturating_mul(per_page).unsigned_abs();
        let limit = usize::try_from(per_page).unwrap_or_default();
        let statement = ListStatement { conditions, order, parameters, limit, offset, counted };
        let max_bytes = limits::MAX_PAGE_BYTES;
        let listed = self.inner.store.list(Reads::Pool, collection.number(), statement, max_bytes).await;
        let listed = listed.map_err(|error| of_query(collection, error))?;
        let Some((records, total)) = listed else {
            return Err(TypedError::Blocked(format!(
                "a page has at most {max_bytes} bytes: ask for fewer records"
            )));
        };
        let definition = collection.definition();
        let records = records.iter().map(|record| record.members(definition)).collect();
        Ok(TypedPage { records, page, per_page, total })
    }

    /// A record that a caller may view.
    ///
    /// # Errors
    ///
    /// [`TypedError`].
    pub async fn view(
        &self,
        collection: &CollectionHandle,
        caller: &Caller,
        id: &str,
    ) -> Result<Map<String, Value>, TypedError> {
        let access = collection.access(RuleKind::View, caller)?;
        let members = match collection.definition().is_view() {
            true => self.view_of_query(collection, id).await?,
            false => {
                let id = RecordId::parse(id).ok_or(TypedError::NotFound)?;
                let found = self.inner.records.look_up(collection.statements(), id).await;
                members_of(&found.map_err(of_record)?, collection.definition())
            }
        };
        if let Access::If(rule) = access {
            let holds = match rule.matches(&members, Millis::now()).map_err(|_| TypedError::InvalidQuery)? {
                Some(holds) => holds,
                None => self.exists(Reads::Pool, collection, id, &rule).await?,
            };
            if !holds {
                return Err(TypedError::NotFound);
            }
        }
        Ok(members)
    }

    /// A record of a view, by its id, which may be any text.
    pub(super) async fn view_of_query(
        &self,
        collection: &CollectionHandle,
        id: &str,
    ) -> Result<Map<String, Value>, TypedError> {
        // Postgres has no NUL in texts.
        if id.is_empty() || id.contains('\0') {
            return Err(TypedError::NotFound);
        }
        let mut parameters = Parameters::default();
        let conditions = format!("id = {}", parameters.bind(Parameter::Text(id.to_owned())));
        let (order, limit) = ("id".to_owned(), 1);
        let statement = ListStatement { conditions, order, parameters, limit, offset: 0, counted: None };
        let listed = self.inner.store.list(Reads::Pool, collection.number(), statement, usize::MAX).await;
        let listed = listed.map_err(|error| of_query(collection, error))?;
        let record = listed.and_then(|(records, _)| records.into_iter().next());
        Ok(record.ok_or(TypedError::NotFound)?.members(collection.definition()))
    }

    /// Whether a record is there for which an expression holds.
    pub(super) async fn exists(
        &self,
        reads: Reads<'_>,
        collection: &CollectionHandle,
        id: &str,
        expression: &TypedExpression,
    ) -> Result<bool, TypedError> {
        let mut parameters = Parameters::default();
        let is_it = format!("id = {}", parameters.bind(Parameter::Text(id.to_owned())));
        let table = |id: &str| self.table(collection, id);
        let holds = expression.compile(Millis::now(), &table, &mut parameters);
        let statement = ListStatement {
            conditions: format!("{is_it} and {holds}"),
            order: "id".into(),
            parameters,
            limit: 1,
            offset: 0,
            counted: None,
        };
        let listed = self.inner.store.list(reads, collection.number(), statement, usize::MAX).await?;
        Ok(listed.is_some_and(|(records, _)| !records.is_empty()))
    }
}

/// The error of a list. A view's query may fail on the values that it reads.
fn of_query(collection: &CollectionHandle, error: DbError) -> TypedError {
    let is_of_query =
        collection.reads_views() && error.state_code().is_some_and(|code| code.starts_with("22"));
    if is_of_query { TypedError::InvalidQuery } else { error.into() }
}
