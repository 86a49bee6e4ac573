//! The fields of a view's records, and their members in SQL.

use super::ViewError;
use super::query::{Column, Origin};
use super::value::{Type, Value, quote};
use crate::records::schema::{Definition, Field, Kind};

/// The field of the id.
const ID: &str = "id";
/// The pairs of a `jsonb_build_object`, which takes 100 arguments.
const PAIRS: usize = 40;

/// The value of a field of a collection, in the row of its table with this alias.
pub(super) fn read(definition: &Definition, field: &Field, alias: &str) -> (String, Type) {
    let name = &field.name;
    let json = format!("({alias}.data -> '{name}')");
    match &field.kind {
        _ if field.is_id() => (format!("{alias}.id"), Type::Text),
        _ if definition.is_column(field) => (
            format!(
                "(to_char({alias}.{name} at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS\"Z\"') collate \"C\")"
            ),
            Type::Text,
        ),
        // As filters and indexes have it.
        Kind::Number { .. } => (
            format!(
                "(case jsonb_typeof({json}) when 'number' then ({json})::numeric \
                 when 'boolean' then ({json})::boolean::integer::numeric end)"
            ),
            Type::Number,
        ),
        Kind::Bool {} => (
            format!(
                "(case jsonb_typeof({json}) when 'number' then ({json})::numeric <> 0 \
                 when 'boolean' then ({json})::boolean end)"
            ),
            Type::Bool,
        ),
        Kind::Json { .. } | Kind::GeoPoint {} => (format!("(nullif({json}, 'null'::jsonb))"), Type::Json),
        kind if kind.is_list() => (json, Type::Json),
        _ => (format!("(({alias}.data ->> '{name}') collate \"C\")"), Type::Text),
    }
}

/// The fields of a query's columns, as PocketBase finds them.
pub(super) fn infer(columns: &[Column]) -> Result<Vec<Field>, ViewError> {
    let mut fields: Vec<Field> = Vec::with_capacity(columns.len());
    for (at, column) in columns.iter().enumerate() {
        let field = field(column);
        if fields.iter().any(|other| other.name.eq_ignore_ascii_case(&field.name)) {
            return Err(ViewError::new(format!("duplicate column name: {}", field.name)));
        }
        if let Some((member, violation)) = field.check().first() {
            let message = &violation.message;
            return Err(ViewError::new(format!(
                "invalid field {:?} ({at}): {member}: {message}",
                field.name
            )));
        }
        fields.push(field);
    }
    if !fields.iter().any(|field| field.name == ID) {
        return Err(ViewError::new(
            "missing required id column (you can use `(ROW_NUMBER() OVER()) as id` if you don't have one)",
        ));
    }
    Ok(fields)
}

fn field(column: &Column) -> Field {
    let name = column.name.as_str();
    if name == ID {
        let mut field = Field::id_field();
        if let Kind::Text { min, max, autogenerate_pattern, .. } = &mut field.kind {
            (*min, *max) = (0, 0);
            autogenerate_pattern.clear();
        }
        return field;
    }
    let number = |only_int| Kind::Number { min: None, max: None, only_int };
    let kind = match &column.origin {
        Origin::Field(field) => {
            // The same one each time, unlike PocketBase's.
            let id = format!("_clone_{:08x}", crc32fast::hash(name.as_bytes()));
            return Field { id, name: name.to_owned(), ..(**field).clone() };
        }
        Origin::Id(collection) => Kind::Relation {
            collection_id: collection.clone(),
            cascade_delete: false,
            min_select: 0,
            max_select: 1,
        },
        Origin::Count | Origin::Integer => number(true),
        Origin::Number => number(false),
        Origin::Text => Kind::Text {
            min: 0,
            max: 0,
            pattern: Default::default(),
            autogenerate_pattern: String::new(),
            primary_key: false,
        },
        Origin::Bool => Kind::Bool {},
        Origin::Other => Kind::Json { max_size: 1 },
    };
    let mut field = Field {
        id: String::new(),
        name: name.to_owned(),
        system: false,
        hidden: false,
        presentable: false,
        required: false,
        help: String::new(),
        kind,
    };
    field.complete();
    field
}

/// A column's member: of the type of its field, and never null but as JSON.
fn member(field: &Field, value: &Value) -> Result<String, ViewError> {
    let zero = format!("{}::jsonb", quote(&field.zero().to_string()));
    let value = match &field.kind {
        Kind::Number { .. } => format!("to_jsonb(trim_scale({}::numeric))", value.number()?),
        Kind::Bool {} => format!("to_jsonb({})", value.truth()?),
        Kind::Json { .. } => value.json_member()?,
        Kind::GeoPoint {} => value.json(),
        kind if kind.is_list() => value.json(),
        _ => format!("to_jsonb({})", value.text()),
    };
    Ok(format!("{}, coalesce({value}, {zero})", quote(&field.name)))
}

/// A query with the columns of a collection's table. Rows have no times: `created` is their place in the order of the query, if it has one.
pub(super) fn records(
    sql: &str,
    columns: &[Column],
    fields: &[Field],
    is_ordered: bool,
) -> Result<String, ViewError> {
    let (mut id, mut members) = (String::new(), Vec::new());
    for (at, (column, field)) in columns.iter().zip(fields).enumerate() {
        let value = Value::new(format!("v.c{}", at + 1), column.value.kind);
        match field.is_id() {
            true => id = value.text(),
            false => members.push(member(field, &value)?),
        }
    }
    let objects: Vec<String> =
        members.chunks(PAIRS).map(|part| format!("jsonb_build_object({})", part.join(", "))).collect();
    let data = if objects.is_empty() { "'{}'::jsonb".to_owned() } else { objects.join(" || ") };
    let place = match is_ordered {
        true => "timestamptz 'epoch' + row_number() over () * interval '1 millisecond'",
        false => "timestamptz 'epoch'",
    };
    Ok(format!(
        "{}select ({id}) collate \"C\" as id, 0::bigint as version, {place} as created, timestamptz 'epoch' as updated, {data} as data \
         from ({sql}) as v",
        ""
    ))
}
