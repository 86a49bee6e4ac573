//! Logs as JSON, in protobuf's mapping with the exceptions of OTLP: ids are hex, and enums are numbers.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::super::super::wire::error::ApiError;
use super::super::members::{self, Ended, ObjectWriter};
use super::{Fault, MAX_DEPTH, Records, TOO_DEEP};

/// Adds the records of a request.
pub(super) fn read(body: &[u8], records: &mut Records<'_, '_>) -> Result<(), ApiError> {
    let mut resource_logs = None;
    let read = members::members(body, |name, value| {
        if name == "resourceLogs" {
            resource_logs = Some(value);
        }
        Ok::<(), ApiError>(())
    });
    ended(read, "body", "the body is a JSON object")?;
    each(resource_logs, "resourceLogs", |logs| {
        let (mut resource, mut schema_url, mut scope_logs) = (None, None, None);
        let read = members::members(logs.get().as_bytes(), |name, value| {
            match &*name {
                "resource" => resource = Some(value),
                "schemaUrl" => schema_url = Some(value),
                "scopeLogs" => scope_logs = Some(value),
                _ => {}
            }
            Ok::<(), ApiError>(())
        });
        ended(read, "resourceLogs", "resourceLogs is an array of objects")?;
        let resource = shared(resource, schema_url, "resource")?;
        each(scope_logs, "scopeLogs", |logs| {
            let (mut scope, mut schema_url, mut log_records) = (None, None, None);
            let read = members::members(logs.get().as_bytes(), |name, value| {
                match &*name {
                    "scope" => scope = Some(value),
                    "schemaUrl" => schema_url = Some(value),
                    "logRecords" => log_records = Some(value),
                    _ => {}
                }
                Ok::<(), ApiError>(())
            });
            ended(read, "scopeLogs", "scopeLogs is an array of objects")?;
            let scope = shared(scope, schema_url, "scope")?;
            each(log_records, "logRecords", |record| {
                let json = record.get().as_bytes();
                records.add(json.len(), &resource, &scope, |object| write_record(json, object))
            })
        })
    })
}

/// Calls `f` with each element of an array; `null` and a missing one are empty.
fn each<'a>(
    array: Option<&'a RawValue>,
    field: &'static str,
    f: impl FnMut(&'a RawValue) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    match array.filter(|array| !members::is_null(array)) {
        None => Ok(()),
        Some(array) => ended(members::elements(array.get().as_bytes(), f), field, "takes an array"),
    }
}

fn ended(read: Result<(), Ended<ApiError>>, field: &'static str, takes: &str) -> Result<(), ApiError> {
    match read {
        Ok(()) => Ok(()),
        Err(Ended::NotThis) => Err(ApiError::invalid(format!("{field}: {takes}")).field(field)),
        Err(Ended::By(error)) => Err(error),
    }
}

/// A resource or a scope, with the URL of its schema.
fn shared(
    value: Option<&RawValue>,
    schema_url: Option<&RawValue>,
    field: &'static str,
) -> Result<Vec<u8>, ApiError> {
    let mut out = Vec::new();
    let mut object = ObjectWriter::new(&mut out);
    if let Some(value) = value.filter(|value| !members::is_null(value)) {
        let read = members::members(value.get().as_bytes(), |name, value| match &*name {
            "attributes" => write_attributes(object.name(&name), value, 0),
            _ => {
                object.raw(&name, value.get().as_bytes());
                Ok(())
            }
        });
        match read {
            Ok(()) => {}
            Err(Ended::By(Fault::Request(error))) => return Err(error),
            Err(Ended::NotThis | Ended::By(Fault::Record(_))) => {
                let message = format!("{field} is an object, whose attributes are an array of key and value");
                return Err(ApiError::invalid(message).field(field));
            }
        }
    }
    if let Some(url) = schema_url.filter(|url| members::text(url).is_some_and(|url| !url.is_empty())) {
        object.raw("schemaUrl", url.get().as_bytes());
    }
    object.end();
    Ok(out)
}

const NOT_AN_OBJECT: Fault = Fault::record("a log record is a JSON object");
const BAD_ATTRIBUTES: Fault = Fault::record("attributes are an array of objects with key and value");
const BAD_VALUE: Fault = Fault::record(
    "a value has one of stringValue, boolValue, intValue, doubleValue, arrayValue, kvlistValue, bytesValue",
);
const BAD_TIME: Fault = Fault::record("times are decimal texts of nanoseconds");
const BAD_ID: Fault = Fault::record("traceId and spanId are hexadecimal texts");

fn write_record(json: &[u8], object: &mut ObjectWriter<'_>) -> Result<(), Fault> {
    let read = members::members(json, |name, value| {
        match &*name {
            _ if members::is_null(value) => {}
            "attributes" => write_attributes(object.name(&name), value, 0)?,
            "body" => write_value(object.name(&name), value, 0)?,
            "timeUnixNano" | "observedTimeUnixNano" => {
                let digits = number_text(value).filter(|text| text.parse::<u64>().is_ok()).ok_or(BAD_TIME)?;
                object.text(&name, &digits);
            }
            "traceId" | "spanId" => {
                let id = members::text(value).ok_or(BAD_ID)?;
                if id.len() % 2 != 0 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(BAD_ID);
                }
                if !id.is_empty() {
                    object.text(&name, &id.to_ascii_lowercase());
                }
            }
            _ => object.raw(&name, value.get().as_bytes()),
        }
        Ok(())
    });
    fault(read, NOT_AN_OBJECT)
}

fn fault(read: Result<(), Ended<Fault>>, otherwise: Fault) -> Result<(), Fault> {
    match read {
        Ok(()) => Ok(()),
        Err(Ended::NotThis) => Err(otherwise),
        Err(Ended::By(fault)) => Err(fault),
    }
}

/// Writes a list of keys and values as an object.
fn write_attributes(out: &mut Vec<u8>, list: &RawValue, depth: usize) -> Result<(), Fault> {
    let mut object = ObjectWriter::new(out);
    if !members::is_null(list) {
        let read = members::elements(list.get().as_bytes(), |pair| {
            let (mut key, mut value) = (None, None);
            let read = members::members(pair.get().as_bytes(), |name, member| {
                match &*name {
                    "key" => key = members::text(member),
                    "value" => value = Some(member),
                    _ => {}
                }
                Ok::<(), Fault>(())
            });
            fault(read, BAD_ATTRIBUTES)?;
            let out = object.name(&key.ok_or(BAD_ATTRIBUTES)?);
            match value {
                Some(value) => write_value(out, value, depth),
                None => {
                    out.extend_from_slice(b"null");
                    Ok(())
                }
            }
        });
        fault(read, BAD_ATTRIBUTES)?;
    }
    object.end();
    Ok(())
}

/// Writes an `AnyValue` as plain JSON.
fn write_value(out: &mut Vec<u8>, value: &RawValue, depth: usize) -> Result<(), Fault> {
    if members::is_null(value) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Err(TOO_DEEP);
    }
    let (mut written, mut unknown) = (false, false);
    let read = members::members(value.get().as_bytes(), |name, value| {
        let text = value.get();
        let is_known = matches!(
            &*name,
            "stringValue"
                | "boolValue"
                | "intValue"
                | "doubleValue"
                | "arrayValue"
                | "kvlistValue"
                | "bytesValue"
        );
        if !is_known || members::is_null(value) {
            unknown |= !is_known;
            return Ok(());
        }
        if std::mem::replace(&mut written, true) {
            return Err(BAD_VALUE);
        }
        match &*name {
            "stringValue" if text.starts_with('"') => out.extend_from_slice(text.as_bytes()),
            "boolValue" if matches!(text, "true" | "false") => out.extend_from_slice(text.as_bytes()),
            "bytesValue" if members::text(value).is_some_and(|text| STANDARD.decode(&*text).is_ok()) => {
                out.extend_from_slice(text.as_bytes());
            }
            "intValue" => {
                let digits = number_text(value).ok_or(BAD_VALUE)?;
                let number: i64 = digits.parse().map_err(|_| BAD_VALUE)?;
                out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            }
            "doubleValue" => {
                let digits = number_text(value).ok_or(BAD_VALUE)?;
                match &*digits {
                    // JSON has no such numbers.
                    "NaN" | "Infinity" | "-Infinity" => members::write_text(out, &digits),
                    digits if serde_json::from_str::<f64>(digits).is_ok() => {
                        out.extend_from_slice(digits.trim().as_bytes());
                    }
                    _ => return Err(BAD_VALUE),
                }
            }
            "arrayValue" => {
                out.push(b'[');
                let mut is_first = true;
                list(value, |values| {
                    let read = members::elements(values.get().as_bytes(), |value| {
                        if !std::mem::take(&mut is_first) {
                            out.push(b',');
                        }
                        write_value(out, value, depth + 1)
                    });
                    fault(read, BAD_VALUE)
                })?;
                out.push(b']');
            }
            "kvlistValue" => {
                let mut values = None;
                list(value, |list| {
                    values = Some(list);
                    Ok(())
                })?;
                match values {
                    Some(values) => write_attributes(out, values, depth + 1)?,
                    None => out.extend_from_slice(b"{}"),
                }
            }
            _ => return Err(BAD_VALUE),
        }
        Ok(())
    });
    fault(read, BAD_VALUE)?;
    match (written, unknown) {
        (true, _) => {}
        // A kind of value that is not known here.
        (false, true) => out.extend_from_slice(value.get().as_bytes()),
        (false, false) => out.extend_from_slice(b"null"),
    }
    Ok(())
}

/// Calls `f` with the last `values` of a list, which may be missing.
fn list<'a>(list: &'a RawValue, f: impl FnOnce(&'a RawValue) -> Result<(), Fault>) -> Result<(), Fault> {
    let mut values = None;
    let read = members::members(list.get().as_bytes(), |name, value| {
        if name == "values" {
            values = Some(value);
        }
        Ok::<(), Fault>(())
    });
    fault(read, BAD_VALUE)?;
    values.filter(|values| !members::is_null(values)).map_or(Ok(()), f)
}

/// The text of a number, which may be a JSON string too.
fn number_text(value: &RawValue) -> Option<Cow<'_, str>> {
    match value.get().bytes().next()? {
        b'"' => members::text(value),
        byte if byte == b'-' || byte.is_ascii_digit() => Some(value.get().into()),
        _ => None,
    }
}
