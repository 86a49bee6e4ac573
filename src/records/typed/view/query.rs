//! Selects: their sources, joins, conditions, groups and orders, and what is built of them.

use std::collections::{BTreeMap, HashSet};

use sqlparser::ast::{
    Cte, Distinct, Expr, FunctionArg, FunctionArgExpr, GroupByExpr, Ident, JoinConstraint, JoinOperator,
    LimitClause, ObjectName, ObjectNamePart, OrderBy, OrderByExpr, OrderByKind, OrderBySort, Query, Select,
    SelectFlavor, SelectItem, SetExpr, SetOperator, SetQuantifier, TableAlias, TableFactor,
    TableFunctionArgs, TableWithJoins, Value as Literal,
};
use sqlparser::tokenizer::Span;

use super::super::catalog::Definitions;
use super::value::{Type, Value, unified};
use super::{ViewError, fields};
use crate::records::schema::{Definition, Field};

/// The deepest nesting of selects.
const MAX_SELECTS: usize = 6;
/// The most sources of a select.
const MAX_SOURCES: usize = 16;
/// The most expressions that are written, some of them several times.
const MAX_STEPS: usize = 20_000;
/// The most columns of a select.
const MAX_COLUMNS: usize = 200;

/// A column's origin, by which a view's field gets its type.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The id of the collection with this id.
    Id(String),
    /// A field.
    Field(Box<Field>),
    /// A number of rows.
    Count,
    /// A number.
    Number,
    /// A cast: to a whole number, a text, a boolean.
    Integer,
    Text,
    Bool,
    /// Any other expression.
    Other,
}

/// A column of a source, or of a select.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
    /// Whether it never leaves the service.
    is_secret: bool,
    /// Whether only its qualified name finds it: a join has it once.
    is_joined: bool,
}

/// A table or a sub-select of a `from`.
struct Source {
    name: String,
    /// Its name in the SQL that is written.
    alias: String,
    /// The SQL of its id, where it is a table whose columns follow of it.
    key: Option<String>,
    /// The place of the collection whose name is its own.
    place: Option<usize>,
    columns: Vec<Column>,
}

/// The groups of a select.
#[derive(Debug, Clone, Default)]
struct Groups {
    /// What is grouped by, in SQL.
    keys: HashSet<String>,
    /// Whether some of them are more than a column.
    has_expressions: bool,
    /// The order of a group's rows, the first of which gives values that are neither grouped nor aggregated: that of the one `min` or `max`.
    first: Option<String>,
}

/// A select that is being written.
#[derive(Default)]
pub(super) struct Scope {
    sources: Vec<Source>,
    /// The names of its columns, with what they stand for.
    aliases: Vec<(String, Expr)>,
    sees_aliases: bool,
    groups: Option<Groups>,
    /// Whether an aggregate's arguments are being written.
    pub(super) is_in_aggregate: bool,
    pub(super) has_aggregate: bool,
    /// The orders of the first rows of its `min` and `max`.
    pub(super) extremes: Vec<String>,
}

pub(super) struct Compiler<'a> {
    definitions: &'a Definitions,
    scopes: Vec<Scope>,
    /// The queries of `with`, by name.
    ctes: Vec<(String, String, Vec<Column>)>,
    names: usize,
    steps: usize,
    selects: usize,
    pub(super) depth: usize,
    sources: BTreeMap<usize, usize>,
    /// Where names of collections stand in the query's text, with the places of the collections.
    names_of_tables: BTreeMap<TextRange, usize>,
}

/// The begin and the end of a part of a text, each a line and a column from 1 on.
pub(super) type TextRange = ((u64, u64), (u64, u64));

fn place_of(span: Span) -> TextRange {
    ((span.start.line, span.start.column), (span.end.line, span.end.column))
}

/// A written query and its columns.
struct Written {
    sql: String,
    columns: Vec<Column>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(definitions: &'a Definitions) -> Self {
        Self {
            definitions,
            scopes: Vec::new(),
            ctes: Vec::new(),
            names: 0,
            steps: 0,
            selects: 0,
            depth: 0,
            sources: BTreeMap::new(),
            names_of_tables: BTreeMap::new(),
        }
    }

    /// The collections that were read, and how often.
    pub(super) fn sources(&self) -> BTreeMap<usize, usize> {
        self.sources.clone()
    }

    /// Where the text names collections, with their places.
    pub(super) fn names_of_tables(self) -> BTreeMap<TextRange, usize> {
        self.names_of_tables
    }

    /// The order of the rows of a select that names none, so that a number of a row is the same each time: by its groups, else by the age of its
    /// tables' records.
    pub(super) fn own_order(&mut self) -> Result<String, ViewError> {
        let scope = self.scope()?;
        let mut keys: Vec<String> = match &scope.groups {
            Some(groups) => groups.keys.iter().cloned().collect(),
            None => {
                let tables = scope.sources.iter().filter(|source| source.key.is_some());
                tables
                    .flat_map(|source| ["created", "id"].map(|key| format!("{}.{key}", source.alias)))
                    .collect()
            }
        };
        if scope.groups.is_some() {
            keys.sort_unstable();
        }
        Ok(if keys.is_empty() { String::new() } else { format!("order by {}", keys.join(", ")) })
    }

    /// A whole query, its columns, and whether it has an order.
    pub(super) fn view(&mut self, query: &Query) -> Result<(String, Vec<Column>, bool), ViewError> {
        let Written { sql, columns } = self.query(query)?;
        Ok((sql, columns, query.order_by.is_some()))
    }

    pub(super) fn name(&mut self, prefix: char) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// The scope of the select that is being written.
    pub(super) fn scope(&mut self) -> Result<&mut Scope, ViewError> {
        self.scopes.last_mut().ok_or_else(|| ViewError::new("there is no select"))
    }

    /// A sub-select of one column.
    pub(super) fn scalar(&mut self, query: &Query) -> Result<(String, Value), ViewError> {
        let Written { sql, mut columns } = self.query(query)?;
        match (columns.pop(), columns.is_empty()) {
            (Some(column), true) => Ok((sql, column.value)),
            _ => Err(ViewError::new("a sub-select that stands for a value has one column")),
        }
    }

    /// A sub-select whose columns do not count.
    pub(super) fn rows(&mut self, query: &Query) -> Result<String, ViewError> {
        Ok(self.query(query)?.sql)
    }

    fn query(&mut self, query: &Query) -> Result<Written, ViewError> {
        if self.selects >= MAX_SELECTS {
            return Err(ViewError::new(format!("selects are nested at most {MAX_SELECTS} deep")));
        }
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        let has_more = fetch.is_some()
            || !locks.is_empty()
            || for_clause.is_some()
            || settings.is_some()
            || format_clause.is_some()
            || !pipe_operators.is_empty();
        if has_more {
            return Err(ViewError::unknown("what follows the select"));
        }
        self.selects += 1;
        let known = self.ctes.len();
        let mut ctes = Vec::new();
        if let Some(with) = with {
            if with.recursive {
                return Err(ViewError::unknown("WITH RECURSIVE"));
            }
            for cte in &with.cte_tables {
                ctes.push(self.cte(cte)?);
            }
        }
        let limit = limit(limit_clause.as_ref())?;
        let order = order_keys(order_by.as_ref())?;
        let mut written = match &**body {
            SetExpr::Select(select) => self.select(select, order, &limit)?,
            body => self.combined(body, order, &limit)?,
        };
        self.selects -= 1;
        self.ctes.truncate(known);
        if !ctes.is_empty() {
            written.sql = format!("with {} {}", ctes.join(", "), written.sql);
        }
        Ok(written)
    }

    fn cte(&mut self, cte: &Cte) -> Result<String, ViewError> {
        if cte.from.is_some() || cte.alias.at.is_some() {
            return Err(ViewError::unknown("this WITH"));
        }
        // It sees no columns of the selects around it.
        let outer = std::mem::take(&mut self.scopes);
        let written = self.query(&cte.query);
        self.scopes = outer;
        let Written { sql, columns } = written?;
        let columns = renamed(columns, Some(&cte.alias))?;
        let name = self.name('w');
        self.ctes.push((cte.alias.name.value.clone(), name.clone(), columns));
        Ok(format!("{name} as ({sql})"))
    }

    /// `union` and its like. Their columns have one type on both sides.
    fn combined(&mut self, body: &SetExpr, order: &[OrderByExpr], limit: &str) -> Result<Written, ViewError> {
        let Written { sql, columns } = self.operand(body)?;
        if order.is_empty() && limit.is_empty() {
            return Ok(Written { sql, columns });
        }
        let alias = self.name('s');
        let columns: Vec<Column> = of_source(&columns, &alias);
        let mut keys = Vec::new();
        for key in order {
            let at = match &key.expr {
                Expr::Value(value) => position(&value.value, columns.len())?,
                Expr::Identifier(name) => columns.iter().position(|column| is_name(&column.name, name)),
                _ => None,
            };
            let column = at.and_then(|at| columns.get(at));
            let column = column.ok_or_else(|| ViewError::new("the order of a UNION names its columns"))?;
            keys.push(format!("{}{}", column.value.sql, direction(key)?));
        }
        let order = if keys.is_empty() { String::new() } else { format!(" order by {}", keys.join(", ")) };
        let (list, columns) = listed(columns);
        Ok(Written { sql: format!("{}select {list} from ({sql}) as {alias}{order}{limit}", ""), columns })
    }

    fn operand(&mut self, body: &SetExpr) -> Result<Written, ViewError> {
        let (left, operator, quantifier, right) = match body {
            SetExpr::Select(select) => return self.select(select, &[], ""),
            SetExpr::Query(query) => return self.query(query),
            SetExpr::SetOperation { left, op, set_quantifier, right } => (left, op, set_quantifier, right),
            SetExpr::Values(_) => return Err(ViewError::unknown("VALUES")),
            _ => return Err(ViewError::new("the query is one SELECT")),
        };
        self.enter()?;
        let (left, right) = (self.operand(left)?, self.operand(right)?);
        self.depth -= 1;
        let operator = match (operator, quantifier) {
            (SetOperator::Union, SetQuantifier::All) => "union all",
            (SetOperator::Union, SetQuantifier::None) => "union",
            (SetOperator::Except, SetQuantifier::None) => "except",
            (SetOperator::Intersect, SetQuantifier::None) => "intersect",
            _ => return Err(ViewError::unknown("this kind of UNION")),
        };
        if left.columns.len() != right.columns.len() {
            return Err(ViewError::new(
                "SELECTs to the left and right of a UNION have different numbers of columns",
            ));
        }
        let kinds: Vec<Type> = left
            .columns
            .iter()
            .zip(&right.columns)
            .map(|(one, other)| unified(one.value.kind, other.value.kind))
            .collect();
        let mut side = |written: &Written| -> Result<String, ViewError> {
            let alias = self.name('s');
            let mut list = Vec::new();
            for (at, (column, kind)) in of_source(&written.columns, &alias).iter().zip(&kinds).enumerate() {
                list.push(format!("{} as c{}", column.value.cast(*kind)?, at + 1));
            }
            Ok(format!("(select {} from ({}) as {alias})", list.join(", "), written.sql))
        };
        let sql = format!("{} {operator} {}", side(&left)?, side(&right)?);
        let columns = left.columns.into_iter().zip(right.columns).zip(kinds).enumerate();
        let columns = columns.map(|(at, ((one, other), kind))| {
            let origin = if same_origin(&one.origin, &other.origin) { one.origin } else { Origin::Other };
            column(one.name, Value::new(format!("c{}", at + 1), kind), origin)
        });
        Ok(Written { sql, columns: columns.collect() })
    }

    fn select(&mut self, select: &Select, order: &[OrderByExpr], limit: &str) -> Result<Written, ViewError> {
        check_select(select)?;
        self.scopes.push(Scope::default());
        let written = self.within(select, order, limit);
        self.scopes.pop();
        written
    }

    fn within(&mut self, select: &Select, order: &[OrderByExpr], limit: &str) -> Result<Written, ViewError> {
        let mut tables = Vec::new();
        for (at, table) in select.from.iter().enumerate() {
            // With a comma, so that a join sees the tables before it.
            let joined = if at == 0 { "" } else { " cross join " };
            tables.push(format!("{joined}{}", self.joined(table)?));
        }
        let mut projection = Vec::new();
        for item in &select.projection {
            projection.push(match item {
                SelectItem::UnnamedExpr(expr) => (None, expr),
                SelectItem::ExprWithAlias { expr, alias } => (Some(alias.value.clone()), expr),
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                    return Err(ViewError::new(
                        "wildcard columns (*) are not supported - manually type the collection field names you want the view query to have",
                    ));
                }
                SelectItem::ExprWithAliases { .. } => return Err(ViewError::unknown("several names of a column")),
            });
        }
        if projection.len() > MAX_COLUMNS {
            return Err(ViewError::new(format!("a select has at most {MAX_COLUMNS} columns")));
        }
        let aliases = projection.iter().filter_map(|(name, expr)| Some((name.clone()?, (*expr).clone())));
        self.scope()?.aliases = aliases.collect();
        let selection = match &select.selection {
            Some(condition) => {
                let condition = self.with_aliases(condition)?;
                if condition.is_aggregate {
                    return Err(ViewError::new("misuse of aggregate in WHERE"));
                }
                format!(" where {}", condition.truth()?)
            }
            None => String::new(),
        };
        let group_by = match &select.group_by {
            GroupByExpr::Expressions(keys, more) if more.is_empty() => keys.as_slice(),
            _ => return Err(ViewError::unknown("this GROUP BY")),
        };
        let mut groups = Groups::default();
        for key in group_by {
            let key = match key {
                Expr::Value(value) => match position(&value.value, projection.len())? {
                    Some(at) => projection.get(at).map_or(key, |(_, expr)| *expr),
                    None => key,
                },
                key => key,
            };
            let value = self.with_aliases(key)?;
            if value.is_aggregate {
                return Err(ViewError::new("aggregate functions are not allowed in the GROUP BY clause"));
            }
            groups.has_expressions |= !matches!(key, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
            groups.keys.insert(value.sql);
        }
        // Once to find the aggregates, without which nothing is grouped.
        let written = self.parts(&projection, select.having.as_ref(), order)?;
        let scope = self.scope()?;
        let is_grouped = !group_by.is_empty() || scope.has_aggregate;
        let extremes = std::mem::take(&mut scope.extremes);
        let (columns, having, order) = match is_grouped {
            false => written,
            true => {
                // Their order is that of no set.
                let keys = groups.keys.clone();
                if let [first] = extremes.as_slice() {
                    groups.first = Some(first.clone());
                }
                self.scope()?.groups = Some(groups);
                let written = self.parts(&projection, select.having.as_ref(), order)?;
                let mut keys: Vec<String> = keys.into_iter().collect();
                keys.sort_unstable();
                let by =
                    if keys.is_empty() { String::new() } else { format!(" group by {}", keys.join(", ")) };
                (written.0, format!("{by}{}", written.1), written.2)
            }
        };
        let distinct = match &select.distinct {
            None | Some(Distinct::All) => "",
            Some(Distinct::Distinct) => "distinct ",
            Some(Distinct::On(_)) => return Err(ViewError::unknown("DISTINCT ON")),
        };
        let from = if tables.is_empty() { String::new() } else { format!(" from {}", tables.concat()) };
        let (list, columns) = listed(columns);
        let sql = format!("{}select {distinct}{list}{from}{selection}{having}{order}{limit}", "");
        if sql.len() > super::MAX_WRITTEN_BYTES {
            return Err(ViewError::new("the query is too complex"));
        }
        Ok(Written { sql, columns })
    }

    /// The columns, the condition of groups and the order of a select.
    fn parts(
        &mut self,
        projection: &[(Option<String>, &Expr)],
        having: Option<&Expr>,
        order: &[OrderByExpr],
    ) -> Result<(Vec<Column>, String, String), ViewError> {
        let mut columns = Vec::new();
        for (name, expr) in projection {
            let (value, origin) = self.column_of(expr)?;
            let name = match (name, expr) {
                (Some(name), _) => name.clone(),
                (None, Expr::Identifier(ident)) => self.declared(std::slice::from_ref(ident))?,
                (None, Expr::CompoundIdentifier(names)) => self.declared(names)?,
                // PocketBase has its text, which is no field's name either.
                (None, Expr::Function(function)) => format!("{}()", function.name),
                (None, _) => "an expression".to_owned(),
            };
            columns.push(column(name, value, origin));
        }
        let having = match having {
            Some(condition) => format!(" having {}", self.with_aliases(condition)?.truth()?),
            None => String::new(),
        };
        let mut keys = Vec::new();
        for key in order {
            let known = match &key.expr {
                Expr::Value(value) => position(&value.value, columns.len())?,
                Expr::Identifier(name) => {
                    let is_it = |(alias, _): &(Option<String>, &Expr)| {
                        alias.as_ref().is_some_and(|alias| is_name(alias, name))
                    };
                    projection.iter().position(is_it)
                }
                _ => None,
            };
            let value = match known.and_then(|at| columns.get(at)) {
                Some(column) => column.value.clone(),
                None => self.with_aliases(&key.expr)?,
            };
            let sql = match super::expression::ignores_case(&key.expr) {
                true => format!("lower({})", value.text()),
                false => value.sql,
            };
            keys.push(format!("{sql}{}", direction(key)?));
        }
        let order = if keys.is_empty() { String::new() } else { format!(" order by {}", keys.join(", ")) };
        Ok((columns, having, order))
    }

    /// An expression in which names of the select's columns stand for what they are.
    fn with_aliases(&mut self, expr: &Expr) -> Result<Value, ViewError> {
        self.scope()?.sees_aliases = true;
        let value = self.value(expr);
        self.scope()?.sees_aliases = false;
        value
    }

    /// A column of a select, with its origin.
    fn column_of(&mut self, expr: &Expr) -> Result<(Value, Origin), ViewError> {
        let origin = match expr {
            Expr::Identifier(name) => self.origin(std::slice::from_ref(name)),
            Expr::CompoundIdentifier(names) => self.origin(names),
            Expr::Function(function) => super::function::origin(function),
            Expr::Cast { data_type, .. } => super::expression::cast_origin(data_type),
            _ => Origin::Other,
        };
        Ok((self.value(expr)?, origin))
    }

    fn origin(&self, names: &[Ident]) -> Origin {
        self.find(names).map_or(Origin::Other, |(_, column)| column.origin.clone())
    }

    /// The name of a column as it was declared.
    fn declared(&self, names: &[Ident]) -> Result<String, ViewError> {
        match self.find(names) {
            Ok((_, column)) => Ok(column.name.clone()),
            Err(error) => match names {
                [name] if name.quote_style == Some('"') => Ok(name.value.clone()),
                _ => Err(error),
            },
        }
    }

    /// A table and what is joined to it.
    fn joined(&mut self, table: &TableWithJoins) -> Result<String, ViewError> {
        let mut sql = self.source(&table.relation)?;
        for join in &table.joins {
            if join.global {
                return Err(ViewError::unknown("this join"));
            }
            let (kind, constraint) = match &join.join_operator {
                JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::CrossJoin(on) => {
                    ("join", on)
                }
                JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => ("left join", on),
                JoinOperator::Right(on) | JoinOperator::RightOuter(on) => ("right join", on),
                JoinOperator::FullOuter(on) => ("full join", on),
                _ => return Err(ViewError::unknown("this join")),
            };
            let before = self.scope()?.sources.len();
            let right = self.source(&join.relation)?;
            let on = match constraint {
                JoinConstraint::None => "true".to_owned(),
                JoinConstraint::On(condition) => {
                    let condition = self.value(condition)?;
                    if condition.is_aggregate {
                        return Err(ViewError::new("misuse of aggregate in ON"));
                    }
                    condition.truth()?
                }
                JoinConstraint::Using(names) => self.using(names, before)?,
                JoinConstraint::UsingAlias(..) | JoinConstraint::Natural => {
                    return Err(ViewError::unknown("NATURAL JOIN"));
                }
            };
            sql = format!("{sql} {kind} {right} on {on}");
        }
        Ok(sql)
    }

    /// The equality of columns that the sources before a place and those from it on have.
    fn using(&mut self, names: &[ObjectName], before: usize) -> Result<String, ViewError> {
        let mut conditions = Vec::new();
        for name in names {
            let ident = one_name(name)?;
            let missing = || {
                ViewError::new(format!(
                    "cannot join using column {} - column not present in both tables",
                    ident.value
                ))
            };
            let scope = self.scope()?;
            let place = |sources: &[Source]| {
                sources.iter().enumerate().find_map(|(at, source)| {
                    Some((at, source.columns.iter().position(|column| is_name(&column.name, &ident))?))
                })
            };
            let before = before.min(scope.sources.len());
            let (left, right) = scope.sources.split_at_mut(before);
            let (one, other) = place(left).zip(place(right)).ok_or_else(missing)?;
            let one = left.get(one.0).and_then(|source| source.columns.get(one.1)).ok_or_else(missing)?;
            let other = right
                .get_mut(other.0)
                .and_then(|source| source.columns.get_mut(other.1))
                .ok_or_else(missing)?;
            if one.is_secret || other.is_secret {
                return Err(secret(&ident.value));
            }
            let (a, b) = Value::pair(&one.value, &other.value)?;
            conditions.push(format!("{a} = {b}"));
            other.is_joined = true;
        }
        Ok(format!("({})", conditions.join(" and ")))
    }

    /// A table or sub-select, which becomes a source of the select.
    fn source(&mut self, factor: &TableFactor) -> Result<String, ViewError> {
        if self.scope()?.sources.len() >= MAX_SOURCES {
            return Err(ViewError::new(format!("a select has at most {MAX_SOURCES} tables")));
        }
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_directives: _,
                inheritance: None,
            } if with_hints.is_empty() && partitions.is_empty() => {
                let ident = one_name(name)?;
                let shown =
                    alias.as_ref().map_or_else(|| ident.value.clone(), |alias| alias.name.value.clone());
                if alias.as_ref().is_some_and(|alias| !alias.columns.is_empty() || alias.at.is_some()) {
                    return Err(ViewError::unknown("an alias with columns"));
                }
                let sql_alias = self.name('s');
                let cte = self.ctes.iter().rev().find(|(cte, ..)| is_name(cte, &ident));
                if let Some((_, table, columns)) = cte {
                    let (sql, columns) = (format!("{table} as {sql_alias}"), of_source(columns, &sql_alias));
                    self.add(shown, sql_alias, None, columns)?;
                    return Ok(sql);
                }
                let missing = || ViewError::new(format!("no such table: {}", ident.value));
                let definitions = self.definitions;
                let is_it = |name: &str| name.eq_ignore_ascii_case(&ident.value);
                let at =
                    definitions.all.iter().position(|one| is_it(one.name.as_str())).ok_or_else(missing)?;
                let collection = definitions.all.get(at).ok_or_else(missing)?;
                *self.sources.entry(at).or_default() += 1;
                let definition = &collection.definition;
                let key = (!definition.is_view()).then(|| format!("{sql_alias}.id"));
                let columns = columns_of(definition, &sql_alias);
                let sql = format!("\0{}\0 as {sql_alias}", collection.name.as_str());
                self.add(shown, sql_alias, key, columns)?;
                self.names_of_tables.insert(place_of(ident.span), at);
                if let (None, Some(source)) = (alias, self.scope()?.sources.last_mut()) {
                    source.place = Some(at);
                }
                Ok(sql)
            }
            TableFactor::Table { args: Some(arguments), name, alias, .. }
                if name.to_string().eq_ignore_ascii_case("json_each") =>
            {
                self.elements(arguments, alias.as_ref())
            }
            TableFactor::Table { args: Some(_), name, .. } => {
                Err(ViewError::unknown(&format!("the table function {name}")))
            }
            TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
                // It sees no columns of the select that it is a source of.
                let own = self.scopes.pop().ok_or_else(|| ViewError::new("there is no select"))?;
                let written = self.query(subquery);
                self.scopes.push(own);
                let Written { sql, columns } = written?;
                let columns = renamed(columns, alias.as_ref())?;
                let shown = alias.as_ref().map(|alias| alias.name.value.clone()).unwrap_or_default();
                let sql_alias = self.name('s');
                let columns = of_source(&columns, &sql_alias);
                let sql = format!("({sql}) as {sql_alias}");
                self.add(shown, sql_alias, None, columns)?;
                Ok(sql)
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                self.enter()?;
                let joined = self.joined(table_with_joins);
                self.depth -= 1;
                Ok(format!("({})", joined?))
            }
            _ => Err(ViewError::unknown("this kind of table")),
        }
    }

    /// The elements of a JSON list, as rows with `key`, `value` and `atom`.
    fn elements(
        &mut self,
        arguments: &TableFunctionArgs,
        alias: Option<&TableAlias>,
    ) -> Result<String, ViewError> {
        let wrong = || ViewError::new("json_each() takes one field of the type json, or a list, in views");
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(list))] = arguments.args.as_slice() else {
            return Err(wrong());
        };
        if arguments.settings.is_some() || alias.is_some_and(|alias| !alias.columns.is_empty()) {
            return Err(wrong());
        }
        let list = self.value(list)?;
        if list.kind != Type::Json || list.is_aggregate {
            return Err(wrong());
        }
        let alias_sql = self.name('s');
        let array = list.once(|json| {
            format!("case when jsonb_typeof({json}) = 'array' then {json} else '[]'::jsonb end")
        })?;
        let value = |name: &str, place: &str, kind| {
            column(name.to_owned(), Value::new(format!("{alias_sql}.{place}"), kind), Origin::Other)
        };
        let columns = vec![
            value("key", "c1", Type::Number),
            value("value", "c2", Type::Json),
            value("atom", "c2", Type::Json),
        ];
        let name = alias.map_or_else(|| "json_each".to_owned(), |alias| alias.name.value.clone());
        self.add(name, alias_sql.clone(), None, columns)?;
        Ok(format!(
            "lateral (select (place - 1)::numeric as c1, nullif(element, 'null'::jsonb) as c2 \
             from jsonb_array_elements({array}) with ordinality as elements (element, place)) as {alias_sql}"
        ))
    }

    fn add(
        &mut self,
        name: String,
        alias: String,
        key: Option<String>,
        columns: Vec<Column>,
    ) -> Result<(), ViewError> {
        let sources = &mut self.scope()?.sources;
        if !name.is_empty() && sources.iter().any(|source| source.name.eq_ignore_ascii_case(&name)) {
            return Err(ViewError::new(format!("ambiguous table name: {name}")));
        }
        sources.push(Source { name, alias, key, place: None, columns });
        Ok(())
    }

    /// The select that a name leads to, by its depth, and the column.
    fn find(&self, names: &[Ident]) -> Result<(usize, &Column), ViewError> {
        let (table, name) = match names {
            [name] => (None, name),
            [table, name] => (Some(table), name),
            _ => return Err(ViewError::unknown("a name of several parts")),
        };
        for (depth, scope) in self.scopes.iter().enumerate().rev() {
            let mut found = Vec::new();
            for source in &scope.sources {
                if table.is_some_and(|table| !is_name(&source.name, table)) {
                    continue;
                }
                let of_name = |column: &&Column| is_name(&column.name, name);
                found.extend(
                    source
                        .columns
                        .iter()
                        .filter(of_name)
                        .filter(|column| table.is_some() || !column.is_joined),
                );
            }
            match found.as_slice() {
                [] => {}
                [column] if column.is_secret => return Err(secret(&column.name)),
                [column] => return Ok((depth, column)),
                _ => return Err(ViewError::new(format!("ambiguous column name: {}", name.value))),
            }
        }
        let parts: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
        Err(ViewError::new(format!("no such column: {}", parts.join("."))))
    }

    /// The value of a name: a column, an alias of the select's columns, or a text in double quotes.
    pub(super) fn named(&mut self, names: &[Ident]) -> Result<Value, ViewError> {
        if let [table, _] = names {
            let mut sources = self.scopes.iter().rev().flat_map(|scope| &scope.sources);
            let place = sources.find(|source| is_name(&source.name, table)).and_then(|source| source.place);
            if let Some(at) = place {
                self.names_of_tables.insert(place_of(table.span), at);
            }
        }
        let missing = match self.find(names) {
            Ok((depth, column)) => {
                let value = column.value.clone();
                return Ok(self.grouped(depth, value));
            }
            Err(error) => error,
        };
        let [name] = names else { return Err(missing) };
        let scope = self.scope()?;
        if scope.sees_aliases {
            let alias =
                scope.aliases.iter().find(|(alias, _)| is_name(alias, name)).map(|(_, expr)| expr.clone());
            if let Some(expr) = alias {
                self.scope()?.sees_aliases = false;
                let value = self.value(&expr);
                self.scope()?.sees_aliases = true;
                return value;
            }
        }
        match name.quote_style {
            Some('"') if missing.0.starts_with("no such column") => Ok(Value::of_text(&name.value)),
            _ => Err(missing),
        }
    }

    /// A column's value in a select with groups: where it is neither grouped nor follows of a grouped id, that of one row.
    fn grouped(&self, depth: usize, value: Value) -> Value {
        let Some(scope) = self.scopes.get(depth) else { return value };
        let Some(groups) = scope.groups.as_ref().filter(|_| !scope.is_in_aggregate) else { return value };
        let is_of = |source: &&Source| {
            let prefix = format!("{}.", source.alias);
            value.sql.contains(&prefix)
        };
        let follows = scope
            .sources
            .iter()
            .find(is_of)
            .and_then(|source| source.key.as_ref())
            .is_some_and(|key| groups.keys.contains(key));
        if follows || groups.keys.contains(&value.sql) {
            return value;
        }
        let order = groups.first.as_deref().unwrap_or_default();
        let sql = format!("(array_agg({}{order}))[1]", value.sql);
        Value { is_aggregate: true, ..Value::new(sql, value.kind) }
    }

    /// Whether an expression is what a select is grouped by; its SQL then stands for itself.
    pub(super) fn group_key(&mut self, expr: &Expr) -> Result<Option<Value>, ViewError> {
        let scope = self.scope()?;
        if scope.is_in_aggregate || !scope.groups.as_ref().is_some_and(|groups| groups.has_expressions) {
            return Ok(None);
        }
        let groups = scope.groups.take();
        let (extremes, has_aggregate) = (scope.extremes.clone(), scope.has_aggregate);
        let plain = self.value(expr);
        let scope = self.scope()?;
        (scope.extremes, scope.has_aggregate) = (extremes, has_aggregate);
        let is_key =
            matches!((&plain, &groups), (Ok(plain), Some(groups)) if groups.keys.contains(&plain.sql));
        scope.groups = groups;
        Ok(plain.ok().filter(|_| is_key))
    }

    /// One more expression.
    pub(super) fn step(&mut self) -> Result<(), ViewError> {
        self.steps += 1;
        match self.steps > MAX_STEPS {
            true => Err(ViewError::new("the query is too complex")),
            false => Ok(()),
        }
    }

    /// One level deeper.
    pub(super) fn enter(&mut self) -> Result<(), ViewError> {
        self.depth += 1;
        match self.depth > super::expression::MAX_DEPTH {
            true => Err(ViewError::new("the query is nested too deep")),
            false => Ok(()),
        }
    }

    /// The order of an expression of a window or an aggregate.
    pub(super) fn order_of(&mut self, keys: &[OrderByExpr]) -> Result<String, ViewError> {
        let mut sql = Vec::new();
        for key in keys {
            sql.push(format!("{}{}", self.value(&key.expr)?.sql, direction(key)?));
        }
        Ok(if sql.is_empty() { String::new() } else { format!("order by {}", sql.join(", ")) })
    }
}

fn secret(name: &str) -> ViewError {
    ViewError::new(format!("the column {name} cannot be read"))
}

/// The columns of a collection.
fn columns_of(definition: &Definition, alias: &str) -> Vec<Column> {
    let of = |field: &Field| {
        let origin = match field.is_id() {
            true => Origin::Id(definition.id.clone()),
            false => Origin::Field(Box::new(field.clone())),
        };
        let is_secret = definition.is_secret(field);
        let (sql, kind) = fields::read(definition, field, alias);
        Column { is_secret, ..column(field.name.clone(), Value::new(sql, kind), origin) }
    };
    definition.fields.iter().map(of).collect()
}

fn column(name: String, value: Value, origin: Origin) -> Column {
    Column { name, value, origin, is_secret: false, is_joined: false }
}

/// The columns of a select as those of a source.
fn of_source(columns: &[Column], alias: &str) -> Vec<Column> {
    let of = |(at, one): (usize, &Column)| {
        // A sub-select's columns have no field, as PocketBase has it.
        column(one.name.clone(), Value::new(format!("{alias}.c{}", at + 1), one.value.kind), Origin::Other)
    };
    columns.iter().enumerate().map(of).collect()
}

/// The list of a select, and its columns as `c1`, `c2`…
fn listed(columns: Vec<Column>) -> (String, Vec<Column>) {
    let list: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| format!("{} as c{}", column.value.sql, at + 1))
        .collect();
    let columns = columns.into_iter().enumerate().map(|(at, one)| {
        let value = Value::new(format!("c{}", at + 1), one.value.kind);
        column(one.name, value, one.origin)
    });
    (list.join(", "), columns.collect())
}

/// Columns with the names of an alias.
fn renamed(mut columns: Vec<Column>, alias: Option<&TableAlias>) -> Result<Vec<Column>, ViewError> {
    let Some(alias) = alias.filter(|alias| !alias.columns.is_empty()) else { return Ok(columns) };
    if alias.columns.len() != columns.len() {
        return Err(ViewError::new(format!("table {} has another number of columns", alias.name.value)));
    }
    for (column, renamed) in columns.iter_mut().zip(&alias.columns) {
        column.name.clone_from(&renamed.name.value);
    }
    Ok(columns)
}

fn same_origin(one: &Origin, other: &Origin) -> bool {
    match (one, other) {
        (Origin::Id(one), Origin::Id(other)) => one == other,
        (Origin::Field(one), Origin::Field(other)) => one.kind == other.kind,
        (Origin::Count, Origin::Count)
        | (Origin::Number, Origin::Number)
        | (Origin::Integer, Origin::Integer)
        | (Origin::Text, Origin::Text)
        | (Origin::Bool, Origin::Bool) => true,
        _ => false,
    }
}

fn is_name(name: &str, ident: &Ident) -> bool {
    name.eq_ignore_ascii_case(&ident.value)
}

/// A name without a schema.
fn one_name(name: &ObjectName) -> Result<Ident, ViewError> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => Ok(ident.clone()),
        [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(ident)]
            if schema.value.eq_ignore_ascii_case("main") =>
        {
            Ok(ident.clone())
        }
        _ => Err(ViewError::new(format!("no such table: {name}"))),
    }
}

/// The place of a column that a number names; `None`: it is no whole number.
fn position(value: &Literal, columns: usize) -> Result<Option<usize>, ViewError> {
    let Literal::Number(number, _) = value else { return Ok(None) };
    let Ok(number) = number.parse::<usize>() else { return Ok(None) };
    match number.checked_sub(1).filter(|at| *at < columns) {
        Some(at) => Ok(Some(at)),
        None => Err(ViewError::new(format!(
            "a column of that number is out of range - should be between 1 and {columns}"
        ))),
    }
}

fn direction(key: &OrderByExpr) -> Result<String, ViewError> {
    if key.with_fill.is_some() {
        return Err(ViewError::unknown("WITH FILL"));
    }
    let descends = match &key.options.sort {
        None | Some(OrderBySort::Asc) => false,
        Some(OrderBySort::Desc) => true,
        Some(OrderBySort::Using(_)) => return Err(ViewError::unknown("USING in an order")),
    };
    // Nulls are smaller than all else.
    let nulls = match key.options.nulls_first.unwrap_or(!descends) {
        true => "nulls first",
        false => "nulls last",
    };
    Ok(format!("{} {nulls}", if descends { " desc" } else { "" }))
}

fn order_keys(order: Option<&OrderBy>) -> Result<&[OrderByExpr], ViewError> {
    match order {
        None => Ok(&[]),
        Some(OrderBy { kind: OrderByKind::Expressions(keys), interpolate: None }) => Ok(keys),
        Some(_) => Err(ViewError::unknown("this ORDER BY")),
    }
}

/// `limit` and `offset`, of whole numbers.
fn limit(clause: Option<&LimitClause>) -> Result<String, ViewError> {
    let number = |expr: &Expr| match expr {
        Expr::Value(value) => match &value.value {
            Literal::Number(number, _) => number.parse::<u32>().ok(),
            _ => None,
        },
        _ => None,
    };
    let whole = |expr: &Expr| {
        number(expr).ok_or_else(|| ViewError::new("LIMIT and OFFSET are whole numbers in views"))
    };
    let (limit, offset) = match clause {
        None => return Ok(String::new()),
        Some(LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
            (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => (Some(limit), Some(offset)),
        Some(_) => return Err(ViewError::unknown("LIMIT BY")),
    };
    let mut sql = String::new();
    if let Some(limit) = limit {
        sql = format!(" limit {}", whole(limit)?);
    }
    if let Some(offset) = offset {
        sql = format!("{sql} offset {}", whole(offset)?);
    }
    Ok(sql)
}

/// Refuses clauses that SQLite has not, or this module not.
fn check_select(select: &Select) -> Result<(), ViewError> {
    let is_plain = select.optimizer_hints.is_empty()
        && select.select_modifiers.is_none()
        && select.top.is_none()
        && select.exclude.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
        && select.flavor == SelectFlavor::Standard;
    if !is_plain {
        return Err(ViewError::unknown("this kind of select"));
    }
    if !select.named_window.is_empty() {
        return Err(ViewError::unknown("WINDOW"));
    }
    Ok(())
}
