//! Entries of the log of requests: what the log keeps of a request and its answer.
//!
//! The pipeline begins an entry before the handler and ends it with the answer. Between them the handler adds the record that signed in, and
//! a refusal its message. Secrets are not kept: no header but the referer and the user agent, and no value of a parameter in [`SECRETS`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use hyper::header::{HeaderValue, REFERER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::caller::Sender;
use super::speaks;
use crate::http::AppState;
use crate::http::edge::client::ClientAddress;
use crate::records::typed::logs::{LogEntry, LogLevel};
use crate::records::typed::{CollectionHandle, SUPERUSERS};

/// The most characters of a URL, of the other texts, and bytes of the reasons by member.
const MAX_URL: usize = 1_000;
const MAX_TEXT: usize = 300;
const MAX_DETAILS: usize = 1_000;
/// Parameters of URLs whose values are not logged, in lower case.
const SECRETS: [&str; 12] = [
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "code",
    "state",
    "ticket",
    "key",
    "secret",
    "password",
    "otp",
    "mfaid",
];
/// The log itself is read without an entry.
const LOGS: &str = "/api/logs";

/// The record that signed in, once the handler knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct LoggedSender(Arc<OnceLock<LoggedAuth>>);

#[derive(Debug)]
enum LoggedAuth {
    /// A key of the service.
    Key,
    Record(CollectionHandle, String),
}

impl LoggedSender {
    /// Records the sender of the request.
    pub(super) fn set(&self, sender: &Sender) {
        let auth = match (sender, sender.record()) {
            (_, Some(record)) => LoggedAuth::Record(record.collection().clone(), record.id().to_owned()),
            (Sender::Admin, None) => LoggedAuth::Key,
            _ => return,
        };
        // The sender stays the same.
        let _again = self.0.set(auth);
    }
}

/// The reason of a refusal, beside its answer.
#[derive(Debug, Clone)]
pub(super) struct LoggedRefusal {
    pub(super) message: String,
    pub(super) data: Value,
}

/// A request whose answer is to be logged.
pub(in crate::http) struct RequestLog {
    method: Method,
    uri: Uri,
    referer: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    sender: LoggedSender,
}

impl RequestLog {
    /// Begins an entry. `None`: the request is not of this face, or nothing is logged.
    pub(in crate::http) fn begin<B>(state: &AppState, request: &mut Request<B>) -> Option<Box<Self>> {
        if !speaks(state.modules, request.uri().path()) {
            return None;
        }
        let logs = state.services.get()?.request_logs().ok()?;
        if logs.settings().max_days == 0 {
            return None;
        }
        let header = |headers: &HeaderMap, name| headers.get(name).cloned();
        let log = Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            referer: header(request.headers(), REFERER),
            agent: header(request.headers(), USER_AGENT),
            sender: LoggedSender::default(),
        };
        request.extensions_mut().insert(log.sender.clone());
        Some(Box::new(log))
    }

    /// Ends the entry with the answer.
    pub(in crate::http) fn end(
        self,
        state: &AppState,
        response: &Response<Body>,
        client: ClientAddress,
        elapsed: Duration,
    ) {
        let Some(logs) = state.services.get().and_then(|services| services.request_logs().ok()) else {
            return;
        };
        let settings = logs.settings();
        let status = response.status();
        let is_failed = status.is_client_error() || status.is_server_error();
        let level = if is_failed { LogLevel::Error } else { LogLevel::Info };
        let path = self.uri.path();
        let reads_log = path.strip_prefix(LOGS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if settings.max_days == 0
            || i64::from(level.number()) < settings.min_level
            || (reads_log && !is_failed)
        {
            return;
        }
        let method = self.method.as_str();
        let url = cut(&masked(&self.uri.to_string()), MAX_URL);
        let decoded = percent_decode_str(&url).decode_utf8_lossy();
        let message = plain(&format!("{method} {decoded}"));
        let text = |header: &Option<HeaderValue>| {
            let text = header.as_ref().and_then(|header| header.to_str().ok()).unwrap_or_default();
            Value::from(cut(&masked(text), MAX_TEXT))
        };
        let mut data = Map::new();
        let mut add = |name: &str, value: Value| data.insert(name.to_owned(), value);
        add("type", "request".into());
        add("execTime", (elapsed.as_secs_f64() * 1_000.0).into());
        add("url", url.into());
        add("method", method.into());
        add("status", status.as_u16().into());
        add("referer", text(&self.referer));
        add("userAgent", text(&self.agent));
        match self.sender.0.get() {
            None => add("auth", "".into()),
            Some(LoggedAuth::Key) => add("auth", SUPERUSERS.into()),
            Some(LoggedAuth::Record(collection, id)) => {
                if settings.log_auth_id {
                    add("authId", id.as_str().into());
                }
                add("auth", collection.name().as_str().into())
            }
        };
        if settings.log_ip {
            add("userIP", client.ip.to_string().into());
            add("remoteIP", client.peer.to_string().into());
        }
        if let Some(LoggedRefusal { message, data }) = response.extensions().get() {
            add("error", plain(&cut(message, MAX_TEXT)).into());
            add("details", details(data));
        }
        logs.add(LogEntry::new(level, message, data));
    }
}

/// The messages of violations, by member. Null: there are none, or too many.
fn details(data: &Value) -> Value {
    let Value::Object(members) = data else { return Value::Null };
    let message = |value: &Value| match value.get("message") {
        Some(Value::String(message)) => plain(&cut(message, MAX_TEXT)).into(),
        // Of an element of a list.
        _ => details(value),
    };
    let messages: Map<String, Value> =
        members.iter().map(|(name, value)| (plain(name), message(value))).collect();
    let messages = Value::Object(messages);
    let is_small = messages.to_string().len() <= MAX_DETAILS;
    if members.is_empty() || !is_small { Value::Null } else { messages }
}

/// The first characters of a text.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// A text without control characters, among them the zero character.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// A URL without the values of secret parameters.
fn masked(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else { return url.to_owned() };
    let mut masked = format!("{path}?");
    for (at, pair) in query.split('&').enumerate() {
        if at > 0 {
            masked.push('&');
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plain_name = percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
        match !value.is_empty() && SECRETS.contains(&plain_name.as_str()) {
            true => {
                masked.push_str(name);
                masked.push_str("=***");
            }
            false => masked.push_str(pair),
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_urls_are_not_logged() {
        for (url, expected) in [
            ("/api/logs", "/api/logs"),
            ("/a?page=1&filter=a%3Db", "/a?page=1&filter=a%3Db"),
            ("/a?token=secret", "/a?token=***"),
            ("/a?x=1&%74oken=secret&Token=two&token", "/a?x=1&%74oken=***&Token=***&token"),
            ("/a?token=one?token=two&b", "/a?token=***&b"),
            ("https://x.example/y?code=1&state=2#z", "https://x.example/y?code=***&state=***"),
            ("/a?", "/a?"),
        ] {
            assert_eq!(masked(url), expected);
        }
    }

    #[test]
    fn violations_are_logged_by_their_messages() {
        use serde_json::json;
        let data = json!({"id": {"code": "x", "message": "Too\u{0}short."}, "list": {"0": {"code": "y", "message": "Bad."}}});
        assert_eq!(details(&data), json!({"id": "Too\u{fffd}short.", "list": {"0": "Bad."}}));
        assert_eq!(details(&json!({})), Value::Null);
        let many: Map<String, Value> =
            (0..1_000).map(|n| (n.to_string(), json!({"code": "x", "message": "Bad."}))).collect();
        assert_eq!(details(&many.into()), Value::Null);
    }

    #[test]
    fn texts_are_cut_and_have_no_control_characters() {
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(plain("a\0b\nc"), "a\u{fffd}b\u{fffd}c");
    }
}
