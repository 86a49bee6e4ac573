//! Logs as protobuf: `opentelemetry/proto/collector/logs/v1/logs_service.proto` and the files that it imports, at version 1.8.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::super::wire::error::ApiError;
use super::super::members::{self, ObjectWriter};
use super::protobuf::{Field, Fields, Malformed};
use super::{Fault, MAX_DEPTH, Records, TOO_DEEP};

impl From<Malformed> for ApiError {
    fn from(_: Malformed) -> Self {
        Self::invalid("the body is not protobuf of this message").field("body")
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::record("a log record is not protobuf of this message")
    }
}

const NOT_UTF_8: Fault = Fault::record("a text is not UTF-8");
const WRONG_TYPE: Fault = Fault::record("a field has another type than that of this message");

/// Adds the records of an `ExportLogsServiceRequest`.
pub(super) fn read(body: &[u8], records: &mut Records<'_, '_>) -> Result<(), ApiError> {
    for logs in messages(body, 1) {
        let logs = logs?;
        let resource = shared(last(logs, 1)?, last(logs, 3)?, write_resource_field, "resource")?;
        for logs in messages(logs, 2) {
            let logs = logs?;
            let scope = shared(last(logs, 1)?, last(logs, 3)?, write_scope_field, "scope")?;
            for record in messages(logs, 2) {
                let record = record?;
                records.add(record.len(), &resource, &scope, |object| write_record(record, object))?;
            }
        }
    }
    Ok(())
}

/// The messages of a repeated field.
fn messages(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields::of(message).filter_map(move |field| match field {
        Ok((at, Field::Bytes(bytes))) if at == number => Some(Ok(bytes)),
        Ok((at, _)) if at == number => Some(Err(Malformed)),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

/// The message or text of a field that is there once.
fn last(message: &[u8], number: u32) -> Result<Option<&[u8]>, Malformed> {
    messages(message, number).try_fold(None, |_, bytes| bytes.map(Some))
}

/// A resource or a scope, with the URL of its schema.
fn shared(
    message: Option<&[u8]>,
    schema_url: Option<&[u8]>,
    write: fn(&mut Message<'_, '_>, u32, Field<'_>) -> Result<(), Fault>,
    field: &'static str,
) -> Result<Vec<u8>, ApiError> {
    let mut out = Vec::new();
    let mut object = ObjectWriter::new(&mut out);
    let invalid = |fault| match fault {
        Fault::Request(error) => error,
        Fault::Record(_) => ApiError::invalid(format!("{field} cannot be read")).field(field),
    };
    write_message(message.unwrap_or_default(), &mut object, write).map_err(invalid)?;
    if let Some(url) = schema_url.filter(|url| !url.is_empty()) {
        object.text("schemaUrl", utf_8(url).map_err(invalid)?);
    }
    object.end();
    Ok(out)
}

/// A message that is written as an object. Its attributes are a repeated field, between whose elements others may stand: they are written
/// when the message has ended.
struct Message<'o, 'w> {
    object: &'o mut ObjectWriter<'w>,
    bytes: &'o [u8],
    /// The number of the attributes' field, once there is one.
    attributes: Option<u32>,
}

fn write_message(
    bytes: &[u8],
    object: &mut ObjectWriter<'_>,
    mut write: impl FnMut(&mut Message<'_, '_>, u32, Field<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut message = Message { object, bytes, attributes: None };
    for field in Fields::of(bytes) {
        let (number, field) = field?;
        write(&mut message, number, field)?;
    }
    if let Some(number) = message.attributes {
        write_pairs(message.object.name("attributes"), message.bytes, number, 0)?;
    }
    Ok(())
}

fn write_resource_field(message: &mut Message<'_, '_>, number: u32, field: Field<'_>) -> Result<(), Fault> {
    match number {
        1 => message.attributes = Some(number),
        2 => message.object.raw("droppedAttributesCount", count(field)?.as_bytes()),
        _ => {}
    }
    Ok(())
}

fn write_scope_field(message: &mut Message<'_, '_>, number: u32, field: Field<'_>) -> Result<(), Fault> {
    match number {
        1 => message.object.text("name", text(field)?),
        2 => message.object.text("version", text(field)?),
        3 => message.attributes = Some(number),
        4 => message.object.raw("droppedAttributesCount", count(field)?.as_bytes()),
        _ => {}
    }
    Ok(())
}

fn write_record(bytes: &[u8], object: &mut ObjectWriter<'_>) -> Result<(), Fault> {
    write_message(bytes, object, |message, number, field| {
        let object = &mut *message.object;
        match number {
            1 => object.text("timeUnixNano", &fixed_64(field)?),
            2 => object.raw("severityNumber", count(field)?.as_bytes()),
            3 => object.text("severityText", text(field)?),
            5 => write_value(object.name("body"), bytes_of(field)?, 0)?,
            6 => message.attributes = Some(number),
            7 => object.raw("droppedAttributesCount", count(field)?.as_bytes()),
            8 => match field {
                Field::Fixed32(flags) => object.raw("flags", flags.to_string().as_bytes()),
                _ => return Err(WRONG_TYPE),
            },
            9 => write_id(object, "traceId", bytes_of(field)?),
            10 => write_id(object, "spanId", bytes_of(field)?),
            11 => object.text("observedTimeUnixNano", &fixed_64(field)?),
            12 => object.text("eventName", text(field)?),
            _ => {}
        }
        Ok(())
    })
}

/// Writes the keys and values of a repeated field as an object.
fn write_pairs(out: &mut Vec<u8>, message: &[u8], number: u32, depth: usize) -> Result<(), Fault> {
    let mut object = ObjectWriter::new(out);
    for pair in messages(message, number) {
        let pair = pair?;
        let out = object.name(utf_8(last(pair, 1)?.unwrap_or_default())?);
        match last(pair, 2)? {
            Some(value) => write_value(out, value, depth)?,
            None => out.extend_from_slice(b"null"),
        }
    }
    object.end();
    Ok(())
}

/// Writes an `AnyValue` as plain JSON. Of several fields the last counts.
fn write_value(out: &mut Vec<u8>, value: &[u8], depth: usize) -> Result<(), Fault> {
    if depth >= MAX_DEPTH {
        return Err(TOO_DEEP);
    }
    let known =
        Fields::of(value).filter(|field| !matches!(field, Ok((number, _)) if !(1..=7).contains(number)));
    let mut last = None;
    for field in known {
        last = Some(field?);
    }
    match last {
        None => out.extend_from_slice(b"null"),
        Some((1, field)) => members::write_text(out, text(field)?),
        Some((2, Field::Varint(value))) => out.extend_from_slice(if value == 0 { b"false" } else { b"true" }),
        Some((3, Field::Varint(value))) => {
            out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
        }
        Some((4, Field::Fixed64(bits))) => match f64::from_bits(bits) {
            value if value.is_nan() => members::write_text(out, "NaN"),
            value if value.is_infinite() => {
                members::write_text(out, if value > 0.0 { "Infinity" } else { "-Infinity" });
            }
            value => {
                let _infallible = serde_json::to_writer(out, &value);
            }
        },
        Some((5, Field::Bytes(list))) => {
            out.push(b'[');
            for (place, value) in messages(list, 1).enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_value(out, value?, depth + 1)?;
            }
            out.push(b']');
        }
        Some((6, Field::Bytes(list))) => write_pairs(out, list, 1, depth + 1)?,
        Some((7, Field::Bytes(bytes))) => members::write_text(out, &STANDARD.encode(bytes)),
        Some(_) => return Err(WRONG_TYPE),
    }
    Ok(())
}

fn write_id(object: &mut ObjectWriter<'_>, name: &str, id: &[u8]) {
    if !id.is_empty() {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        object.text(name, &hex);
    }
}

/// The digits of a number.
fn count(field: Field<'_>) -> Result<String, Fault> {
    match field {
        Field::Varint(value) => Ok(value.to_string()),
        _ => Err(WRONG_TYPE),
    }
}

fn fixed_64(field: Field<'_>) -> Result<String, Fault> {
    match field {
        Field::Fixed64(value) => Ok(value.to_string()),
        _ => Err(WRONG_TYPE),
    }
}

fn bytes_of(field: Field<'_>) -> Result<&[u8], Fault> {
    match field {
        Field::Bytes(bytes) => Ok(bytes),
        _ => Err(WRONG_TYPE),
    }
}

fn text(field: Field<'_>) -> Result<&str, Fault> {
    utf_8(bytes_of(field)?)
}

fn utf_8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| NOT_UTF_8)
}
