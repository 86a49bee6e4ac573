//! Requests to streams: topics of a client, and redirects of providers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use hyper::StatusCode;
use serde_json::{Map, Value};

use super::topics::Options;
use super::{Message, Reply};
use crate::http::pocketbase::caller::{self, Shown};
use crate::http::pocketbase::error::{Operation, Refusal};
use crate::http::pocketbase::{body, no_content};
use crate::http::wire::error::ApiError;
use crate::http::{AppState, Services};
use crate::realtime::clients::{ClientId, MAX_POSITIONS, RequestError};
use crate::records::schema::{Violation, Violations};
use crate::records::typed::TypedError;

/// The most topics of a client, and the longest one, in characters.
const MAX_TOPICS: usize = 1_000;
const MAX_TOPIC: usize = 2_500;
/// Bytes of a request.
const MAX_BYTES: usize = 4 << 20;
/// The longest id of a client.
const MAX_ID: usize = 255;

/// `POST /api/realtime`.
#[utoipa::path(
    post,
    path = "/api/realtime",
    tag = "collections",
    summary = "Sets the topics of a stream",
    request_body(content = Value, content_type = "application/json", description = "clientId, and subscriptions: the topics"),
    responses(
        (status = 204, description = "They are set; later changes are delivered"),
        (status = 400, description = "The id is missing, or topics are refused"),
        (status = 403, description = "The stream is of another caller"),
        (status = 404, description = "There is no such stream"),
    )
)]
pub(in crate::http::pocketbase) async fn subscribe(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Refusal> {
    let services = state.services()?;
    let read = body::read(services, request, MAX_BYTES).await?;
    let (id, topics) = parse(&read.members, read.is_form)?;
    let shown = caller::shown(&state, &read.head).await?;
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "Missing or invalid client id.");
    let id = ClientId::parse(&id).ok_or_else(unknown)?;
    let owner = shown.owner(&read.head);
    let message = serde_json::to_vec(&Message { shown, owner, topics, redirect: None })
        .map_err(|_| Refusal::internal())?;
    let answered = services.realtime()?.clients().request(&id, message.into()).await;
    let away = || {
        ApiError::unavailable("overloaded", "the stream does not answer; try again", Duration::from_secs(1))
    };
    let answer = answered.map_err(|error| match error {
        RequestError::Unknown => unknown(),
        RequestError::TooLarge => ApiError::too_large("too many bytes of topics").into(),
        RequestError::NoAnswer | RequestError::Busy => away().into(),
        RequestError::Database(error) => ApiError::from(error).into(),
    })?;
    match serde_json::from_slice(&answer) {
        Ok(Reply::Set) => Ok(no_content()),
        Ok(Reply::OtherCaller) => {
            let message = "The current and the previous request authorization don't match.";
            Err(Refusal::new(StatusCode::FORBIDDEN, message))
        }
        Ok(Reply::TooManyPositions) => {
            let message = format!("There are {MAX_POSITIONS} subscriptions with resume already.");
            let mut violations = Violations::default();
            violations.add("subscriptions", Violation::new("too_many_values", message));
            Err(Operation::Read.refuses(TypedError::Refused(violations)))
        }
        Ok(Reply::Failed | Reply::NotAwaited) | Err(_) => Err(away().into()),
    }
}

/// Sends the data of a provider's redirect to the client that waits for it, on any node. Whether there is one.
pub(in crate::http::pocketbase) async fn send_redirect(
    services: &Services,
    id: &str,
    data: Value,
) -> Result<bool, Refusal> {
    let Some(id) = ClientId::parse(id) else { return Ok(false) };
    let message =
        Message { shown: Shown::default(), owner: String::new(), topics: Vec::new(), redirect: Some(data) };
    let message = serde_json::to_vec(&message).map_err(|_| Refusal::internal())?;
    match services.realtime()?.clients().request(&id, message.into()).await {
        Ok(answer) => Ok(matches!(serde_json::from_slice(&answer), Ok(Reply::Set))),
        Err(RequestError::Database(error)) => Err(ApiError::from(error).into()),
        Err(_) => Ok(false),
    }
}

/// The id and the topics of a request.
fn parse(members: &Map<String, Value>, is_form: bool) -> Result<(String, Vec<String>), Refusal> {
    let id = match members.get("clientId") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(id)) => id.clone(),
        // A form's value in its shortest spelling.
        Some(Value::Number(id)) if is_form => id.to_string(),
        Some(_) => return Err(Refusal::generic()),
    };
    let topics: Vec<Value> = match members.get("subscriptions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(topics)) => topics.clone(),
        Some(topic) if is_form => vec![topic.clone()],
        Some(_) => return Err(Refusal::generic()),
    };
    let text = |topic: &Value| match topic {
        Value::String(topic) => Ok(topic.clone()),
        topic if is_form => Ok(topic.to_string()),
        _ => Err(Refusal::generic()),
    };
    let topics: Vec<String> = topics.iter().map(text).collect::<Result<_, _>>()?;
    let mut violations = Violations::default();
    let too_long = |most: usize| {
        Violation::new("length_too_long", format!("The length must be no more than {most}."))
            .with("max", most)
            .with("min", 0)
    };
    if id.is_empty() {
        violations.add("clientId", Violation::required());
    } else if id.chars().count() > MAX_ID {
        let message = format!("The length must be between 1 and {MAX_ID}.");
        let violation = Violation::new("length_out_of_range", message).with("max", MAX_ID).with("min", 1);
        violations.add("clientId", violation);
    }
    if topics.len() > MAX_TOPICS {
        violations.add("subscriptions", too_long(MAX_TOPICS));
    }
    let mut of_topics = Violations::default();
    let is_long = |(_, topic): &(usize, &String)| topic.chars().count() > MAX_TOPIC;
    for (at, _) in topics.iter().enumerate().filter(is_long) {
        of_topics.add(&at.to_string(), too_long(MAX_TOPIC));
    }
    for (at, topic) in topics.iter().enumerate().take(MAX_TOPICS) {
        if Options::of_topic(topic).resume().is_err() {
            let violation = Violation::new("invalid_format", "The option resume must be a UUID.".to_owned());
            of_topics.add(&at.to_string(), violation);
        }
    }
    violations.add_all("subscriptions", of_topics);
    match violations.into_result() {
        Ok(()) => Ok((id, topics.into_iter().filter(|topic| !topic.is_empty()).collect())),
        Err(violations) => Err(Operation::Read.refuses(TypedError::Refused(violations))),
    }
}
