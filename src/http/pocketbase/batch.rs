//! `POST /api/batch`: writes of records in one transaction.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::auth::take_password;
use super::caller::{self, Sender};
use super::error::{Operation, Refusal};
use super::multipart::Files;
use super::rate::{self, Limited};
use super::{Query, answer, answer_json, body};
use crate::http::AppState;
use crate::http::edge::client::ClientAddress;
use crate::http::openapi::bodies::BatchOfWrites;
use crate::records::schema::{Violation, Violations};
use crate::records::typed::settings::{AppSettings, Batches};
use crate::records::typed::{BatchFailure, Expand, Write, WriteRequest};

/// Bytes of a batch without a limit of its own: of its members, and with its files.
const MAX_BYTES: usize = 32 << 20;
const MAX_WHOLE_BYTES: u64 = 128 << 20;
/// The requests of a batch, and the seconds for its transaction, where the settings say 0.
const MAX_REQUESTS: usize = 50;
const TIMEOUT_S: u64 = 3;

const UNREADABLE: &str = "Failed to read the submitted batch data.";
const INVALID: &str = "Invalid batch request data.";
const FAILED: &str = "Batch transaction failed.";

/// The limits of batches, which superusers set.
#[derive(Debug, Clone, Copy)]
struct BatchLimits {
    is_on: bool,
    max_requests: usize,
    timeout: Duration,
    /// Bytes of the members, and with the files.
    bytes: (usize, u64),
}

impl BatchLimits {
    /// Those of the settings. A number of 0 is the default.
    fn of(batches: &Batches) -> Self {
        let positive = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
        let bytes = positive(batches.max_body_size);
        let own = bytes.map_or(MAX_BYTES, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Self {
            is_on: batches.enabled,
            max_requests: positive(batches.max_requests).map_or(MAX_REQUESTS, |number| number as usize),
            timeout: Duration::from_secs(positive(batches.timeout).unwrap_or(TIMEOUT_S)),
            bytes: (own, bytes.unwrap_or(MAX_WHOLE_BYTES)),
        }
    }
}

/// A request of a batch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InnerRequest {
    method: Option<String>,
    url: Option<String>,
    headers: Option<Map<String, Value>>,
    body: Option<Map<String, Value>>,
}

/// `POST /api/batch`.
#[utoipa::path(
    post,
    path = "/api/batch",
    tag = "collections",
    summary = "Creates, changes and deletes records in one transaction",
    params(("fields" = Option<String>, Query, description = "Only these members of the answers")),
    request_body(content = BatchOfWrites, content_type = "application/json"),
    responses(
        (status = 200, description = "The answer to each request: status and body", body = Value),
        (status = 400, description = "One of them was refused, and nothing is done: data.requests names it"),
        (status = 403, description = "Batches are off"),
        (status = 413, description = "The batch is too large"),
    )
)]
pub(super) async fn post(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, Refusal> {
    let services = state.services()?;
    let settings = services.typed()?.settings().await.map_err(|error| Operation::Read.refuses(error))?;
    let limits = BatchLimits::of(&settings.batch);
    if !limits.is_on {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Batch requests are not allowed."));
    }
    let read = body::read_with(services, request, limits.bytes.0, Files::OfBatch(limits.bytes.1)).await;
    let mut read = read.map_err(|refusal| match refusal.status() {
        StatusCode::BAD_REQUEST => Refusal::new(StatusCode::BAD_REQUEST, UNREADABLE),
        _ => refusal,
    })?;
    let fields = Query::of(&read.head.uri).projection()?;
    let inner: Option<Vec<InnerRequest>> = match read.members.remove("requests") {
        None => None,
        Some(requests) => {
            serde_json::from_value(requests).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, UNREADABLE))?
        }
    };
    let mut inner = inner.unwrap_or_default();
    check(&inner, limits.max_requests)?;
    for (part, name) in std::mem::take(&mut read.parts) {
        // Files of no request are dropped.
        let place = part.strip_prefix("requests.").and_then(|part| part.split_once('.'));
        let Some((place, member)) = place else { continue };
        if let Some(request) = place.parse::<usize>().ok().and_then(|place| inner.get_mut(place)) {
            body::add_file(request.body.get_or_insert_default(), member, name);
        }
    }
    let sender = Sender::of(&state, &read.head).await?;
    let mut requests = Vec::with_capacity(inner.len());
    for (place, request) in inner.into_iter().enumerate() {
        let made = write(&state, &settings, &sender, &read.head, request).await;
        requests.push(made.map_err(|refusal| failed(place, refusal))?);
    }
    let typed = services.typed()?;
    let answers =
        typed.batch(requests, read.uploads, limits.timeout).await.map_err(|failure| match failure {
            BatchFailure::Request(place, write, error) => failed(place, operation(&write).refuses(error)),
            BatchFailure::TooLong => Refusal::new(StatusCode::BAD_REQUEST, FAILED),
            BatchFailure::Whole(error) => Operation::Read.refuses(error),
        })?;
    let mut shown = Vec::with_capacity(answers.len());
    for answer in answers {
        let (status, body) = match answer {
            None => (204, "null".to_owned()),
            Some(record) => (200, String::from_utf8(record).map_err(|_| Refusal::internal())?),
        };
        let body = RawValue::from_string(body).map_err(|_| Refusal::internal())?;
        shown.push(Answer { body, status });
    }
    match fields {
        None => answer_json(services, serde_json::to_vec(&shown).map_err(|_| Refusal::internal())?),
        Some(fields) => {
            let shown = serde_json::to_value(&shown).map_err(|_| Refusal::internal())?;
            answer(services, &fields.apply(&shown))
        }
    }
}

/// The answer to a request of a batch.
#[derive(serde::Serialize)]
struct Answer {
    body: Box<RawValue>,
    status: u16,
}

/// Checks the shape of all requests.
fn check(requests: &[InnerRequest], max_requests: usize) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    let (mut by_request, max) = (Violations::default(), max_requests);
    if requests.is_empty() {
        violations.add("requests", Violation::required());
    } else if requests.len() > max {
        let violation = Violation::new("length_too_long", format!("The length must be no more than {max}."));
        violations.add("requests", violation.with("max", max).with("min", 0));
    }
    for (place, request) in requests.iter().enumerate() {
        let mut of_request = Violations::default();
        match request.method.as_deref().unwrap_or_default() {
            "" => of_request.add("method", Violation::required()),
            "GET" | "POST" | "PUT" | "PATCH" | "DELETE" => {}
            _ => of_request.add("method", Violation::new("in_invalid", "Must be a valid value.")),
        }
        if request.url.as_deref().unwrap_or_default().is_empty() {
            of_request.add("url", Violation::required());
        }
        by_request.add_all(&place.to_string(), of_request);
    }
    violations.add_all("requests", by_request);
    let refused = violations.into_result();
    refused.map_err(|violations| Refusal::with(INVALID, serde_json::to_value(violations).unwrap_or_default()))
}

/// The refusal of a batch of which one request failed. An error of the service is that of the whole.
fn failed(place: usize, refusal: Refusal) -> Refusal {
    if refusal.status().is_server_error() {
        return refusal;
    }
    let failure = json!({
        "code": "batch_request_failed", "message": "Batch request failed.", "response": refusal.shown(),
    });
    Refusal::with(FAILED, json!({"requests": {place.to_string(): failure}}))
}

fn operation(write: &Write) -> Operation {
    match write {
        Write::Create | Write::Upsert => Operation::CreateRecord,
        Write::Update(_) => Operation::UpdateRecord,
        Write::Delete(_) => Operation::DeleteRecord,
    }
}

/// A request as a write. Others than those of records are bad ones, without more.
async fn write(
    state: &AppState,
    settings: &AppSettings,
    sender: &Sender,
    head: &Parts,
    request: InnerRequest,
) -> Result<WriteRequest, Refusal> {
    let InnerRequest { method, url, headers, body } = request;
    let (method, url) = (method.unwrap_or_default(), url.unwrap_or_default());
    let (path, query) = url.split_once('?').unwrap_or((url.as_str(), ""));
    let (name, id) = target(path).ok_or_else(Refusal::generic)?;
    let write = match (method.as_str(), id) {
        ("POST", None) => Write::Create,
        ("PUT", None) => Write::Upsert,
        ("PATCH", Some(id)) => Write::Update(id),
        ("DELETE", Some(id)) => Write::Delete(id),
        _ => return Err(Refusal::generic()),
    };
    let found =
        state.services()?.typed()?.collection(&name).await.map_err(|error| Operation::Read.refuses(error))?;
    let collection =
        found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "Missing collection context."))?;
    // Each request counts as one of its own.
    if let Some(client) = head.extensions.get::<ClientAddress>() {
        let (action, method) = match &write {
            Write::Create | Write::Upsert => ("create", Method::POST),
            Write::Update(_) => ("update", Method::PATCH),
            Write::Delete(_) => ("delete", Method::DELETE),
        };
        let limited = Limited::new(sender, client.ip);
        rate::take(state, settings, limited, Some(&collection), &[action], &method, path)?;
    }
    let (query, body) = (Query::parse(query), body.unwrap_or_default());
    let mut caller = sender.caller(&collection, || {
        let mut values = caller::request_values("batch", head, &query, Some(&body));
        values.method = method;
        values
    });
    for (name, value) in headers.into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        caller.request.headers.insert(name.to_ascii_lowercase().replace('-', "_"), value.into());
    }
    let (expand, fields) = (Expand::parse(query.get("expand")), query.projection()?);
    let password_of = match &write {
        Write::Delete(_) => None,
        Write::Update(id) => Some(id.as_str()),
        // An upsert may be a guess of an old password, too.
        Write::Create | Write::Upsert => Some(body.get("id").and_then(Value::as_str).unwrap_or_default()),
    };
    if let Some(id) = password_of {
        take_password(state, head, &caller, &collection, id, &body)?;
    }
    Ok(WriteRequest { collection, caller, write, body, expand, fields })
}

/// The collection of a path, and the id of a record. `None`: it is none of records.
fn target(path: &str) -> Option<(String, Option<String>)> {
    let mut parts = path.strip_prefix("/api/collections/")?.split('/');
    let decoded = |part: &str| percent_decode_str(part).decode_utf8().ok().map(|part| part.into_owned());
    let (name, records, id) = (decoded(parts.next()?)?, parts.next()?, parts.next());
    if name.is_empty() || records != "records" || parts.next().is_some() {
        return None;
    }
    match id {
        None => Some((name, None)),
        Some("") => None,
        Some(id) => Some((name, Some(decoded(id)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_records_are_those_of_a_batch() {
        let of = |path| target(path);
        assert_eq!(of("/api/collections/posts/records"), Some(("posts".into(), None)));
        assert_eq!(of("/api/collections/a%20b/records/x"), Some(("a b".into(), Some("x".into()))));
        for other in [
            "",
            "/",
            "api/collections/posts/records",
            "/api/collections/posts/records/",
            "/api/collections//records",
            "/api/collections/posts/auth-with-password",
            "/api/collections/posts/records/a/b",
            "http://127.0.0.1:1/api/collections/posts/records",
            "/x/../api/collections/posts/records",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
