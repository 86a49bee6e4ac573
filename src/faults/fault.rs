//! One fault: its request, its matching and its strikes.

use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{BodyFault, InjectedError, OWN_PATHS, Strike};
use crate::typed::TypeError;

/// Bytes of a path.
const MAX_PATH: usize = 1024;
/// Bytes of a method.
const MAX_METHOD: usize = 32;
/// The most strikes of one fault.
const MAX_COUNT: u64 = 1_000_000_000;
/// A day, in seconds.
const MAX_RETRY_AFTER_S: u64 = 86_400;
/// Bytes of an injected event's data, and of its name and id.
const MAX_EVENT_DATA: usize = 16 * 1024;
const MAX_EVENT_NAME: usize = 256;
/// The status of a fault with a `retryAfter` and no status.
const RETRY_STATUS: u16 = 503;

/// Limits of faults.
#[derive(Debug, Clone, Copy)]
pub struct FaultLimits {
    /// The longest delay, its jitter included.
    pub max_delay: Duration,
}

/// A fault that is set, serialized as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    count: u64,
    remaining: u64,
    probability: f64,
    #[serde(skip_serializing_if = "is_zero")]
    delay_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    jitter_ms: u64,
    #[serde(skip_serializing_if = "is_false")]
    drop_connection: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    corrupt_body: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate_body_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inject_sse_event: Option<InjectedEvent>,
}

/// A fault as a client requests it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Fault)]
pub struct FaultRequest {
    /// The path of the requests that are hit: exact, or a prefix with a trailing `*`.
    #[schema(example = "/api/v1/events")]
    path: String,
    /// Only requests of this method.
    method: Option<String>,
    /// Strikes until it is removed.
    #[schema(minimum = 1)]
    count: Option<u64>,
    /// Of a strike.
    #[schema(minimum = 0, maximum = 1)]
    probability: Option<f64>,
    delay_ms: Option<u64>,
    jitter_ms: Option<u64>,
    drop_connection: Option<bool>,
    #[schema(minimum = 400, maximum = 599)]
    status: Option<u64>,
    /// Seconds.
    retry_after: Option<u64>,
    corrupt_body: Option<bool>,
    truncate_body_bytes: Option<u64>,
    /// Text, or an object of `event`, `id` and `data`.
    #[schema(value_type = Option<Value>)]
    inject_sse_event: Option<InjectedEvent>,
}

/// A server-sent event that is no part of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Value")]
pub struct InjectedEvent {
    /// Its name; without one it is a `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its data.
    pub data: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(switch: &bool) -> bool {
    !*switch
}

impl Fault {
    /// A fault as a client requests it. One with a `retryAfter` and without a status answers 503; one without an effect is refused.
    ///
    /// # Errors
    ///
    /// [`TypeError`] names the first wrong member.
    pub fn new(request: FaultRequest, limits: &FaultLimits) -> Result<Self, TypeError> {
        let max_delay_ms = limits.max_delay.as_millis() as u64;
        let mut fault = Self {
            path: path(request.path)?,
            method: request.method.map(|text| method(&text)).transpose()?,
            count: within("count", request.count, 1..=MAX_COUNT)?.unwrap_or(1),
            remaining: 0,
            probability: request.probability.unwrap_or(1.0),
            delay_ms: within("delayMs", request.delay_ms, 0..=max_delay_ms)?.unwrap_or(0),
            jitter_ms: within("jitterMs", request.jitter_ms, 0..=max_delay_ms)?.unwrap_or(0),
            drop_connection: request.drop_connection.unwrap_or(false),
            status: within("status", request.status, 400..=599)?.map(|status| status as u16),
            retry_after: within("retryAfter", request.retry_after, 0..=MAX_RETRY_AFTER_S)?,
            corrupt_body: request.corrupt_body.unwrap_or(false),
            truncate_body_bytes: within(
                "truncateBodyBytes",
                request.truncate_body_bytes,
                0..=u64::from(u32::MAX),
            )?,
            inject_sse_event: request.inject_sse_event,
        };
        if !(0.0..=1.0).contains(&fault.probability) {
            return Err(TypeError::member("probability", "takes a number from 0 to 1"));
        }
        if fault.delay_ms + fault.jitter_ms > max_delay_ms {
            let takes = format!("and delayMs together take at most {max_delay_ms}");
            return Err(TypeError::member("jitterMs", &takes));
        }
        if fault.retry_after.is_some() {
            fault.status.get_or_insert(RETRY_STATUS);
        }
        if !fault.has_effect() {
            let takes = "or retryAfter, delayMs, jitterMs, dropConnection, corruptBody, truncateBodyBytes, injectSseEvent: a fault has an effect";
            return Err(TypeError::member("status", takes));
        }
        fault.remaining = fault.count;
        Ok(fault)
    }

    fn has_effect(&self) -> bool {
        self.delay_ms + self.jitter_ms > 0
            || self.drop_connection
            || self.status.is_some()
            || self.corrupt_body
            || self.truncate_body_bytes.is_some()
            || self.inject_sse_event.is_some()
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The remaining strikes.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.remaining == 0
    }

    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        let path_matches = match self.path.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == self.path,
        };
        path_matches && self.method.as_ref().is_none_or(|wanted| wanted == method)
    }

    /// The precedence among matching faults: the length of the match, then exact paths.
    pub(super) fn precedence(&self) -> (usize, bool) {
        match self.path.strip_suffix('*') {
            Some(prefix) => (prefix.len(), false),
            None => (self.path.len(), true),
        }
    }

    /// Decides whether it strikes; a strike uses up one of the count.
    pub(super) fn strike(&mut self, rng: &mut Rng) -> Option<Strike> {
        if rng.f64() >= self.probability {
            return None;
        }
        self.remaining = self.remaining.saturating_sub(1);
        let jitter_ms = rng.u64(0..=self.jitter_ms);
        Some(Strike {
            delay: Duration::from_millis(self.delay_ms + jitter_ms),
            drops: self.drop_connection,
            error: self.status.map(|status| InjectedError { status, retry_after_s: self.retry_after }),
            body: BodyFault {
                event: self.inject_sse_event.clone(),
                corruption: self.corrupt_body.then(|| rng.u64(..)),
                cut_at: self.truncate_body_bytes,
            },
        })
    }
}

/// A number within its bounds.
fn within(field: &str, number: Option<u64>, bounds: RangeInclusive<u64>) -> Result<Option<u64>, TypeError> {
    match number {
        Some(number) if !bounds.contains(&number) => {
            let takes = format!("takes a whole number from {} to {}", bounds.start(), bounds.end());
            Err(TypeError::member(field, &takes))
        }
        number => Ok(number),
    }
}

fn path(path: String) -> Result<String, TypeError> {
    let wrong = |takes: &str| Err(TypeError::member("path", takes));
    if path.len() > MAX_PATH {
        return wrong(&format!("takes text of at most {MAX_PATH} bytes"));
    }
    if !path.starts_with('/') && path != "*" {
        return wrong("takes a path that begins with /, exact or with a trailing *");
    }
    let exact = path.strip_suffix('*').unwrap_or(&path);
    if exact.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control() || "?#*".contains(c)) {
        return wrong("takes a request's path: no query, no white space, and no * but at its end");
    }
    if path.starts_with(OWN_PATHS) {
        return wrong("takes no path of /_test/: faults could not be cleared any more");
    }
    Ok(path)
}

/// Methods are case-sensitive (RFC 9110, section 9.1), and those in use are upper-case.
fn method(method: &str) -> Result<String, TypeError> {
    if !(1..=MAX_METHOD).contains(&method.len()) || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(TypeError::member("method", "takes an HTTP method such as POST"));
    }
    Ok(method.to_ascii_uppercase())
}

/// An event as an object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventObject {
    /// The reference server of Durable Streams calls it `eventType`.
    #[serde(alias = "eventType")]
    event: Option<String>,
    id: Option<String>,
    data: Option<String>,
}

/// Text becomes the data of an event without a name; an object has all of its parts.
impl TryFrom<Value> for InjectedEvent {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let takes = || {
            format!(
                "takes text, or an object of data (to {MAX_EVENT_DATA} bytes), event and id (to {MAX_EVENT_NAME}, no line ends)"
            )
        };
        let event = match value {
            Value::String(data) => Self { event: None, id: None, data },
            object @ Value::Object(_) => {
                let EventObject { event, id, data } =
                    serde_json::from_value(object).map_err(|_not_its_members| takes())?;
                Self { event, id, data: data.unwrap_or_default() }
            }
            _ => return Err(takes()),
        };
        let is_name = |text: &Option<String>| {
            text.as_ref().is_none_or(|text| {
                text.len() <= MAX_EVENT_NAME && !text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
            })
        };
        if event.data.len() > MAX_EVENT_DATA || !is_name(&event.event) || !is_name(&event.id) {
            return Err(takes());
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::typed;

    const LIMITS: FaultLimits = FaultLimits { max_delay: Duration::from_secs(60) };

    fn parse(json: &Value) -> Result<Fault, TypeError> {
        let request = typed::from_slice(json.to_string().as_bytes())?;
        Fault::new(request, &LIMITS)
    }

    fn field(json: &Value) -> String {
        parse(json).unwrap_err().field().to_owned()
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, wanted) in [
            (json!([]), "body"),
            (json!({}), "path"),
            (json!({"path": 1}), "path"),
            (json!({"path": "health"}), "path"),
            (json!({"path": "/_test/inject-error"}), "path"),
            (json!({"path": "/".repeat(1025)}), "path"),
            (json!({"path": "/a", "status": 200}), "status"),
            (json!({"path": "/a", "status": 600}), "status"),
            (json!({"path": "/a", "status": "500"}), "status"),
            (json!({"path": "/a", "status": 500.5}), "status"),
            (json!({"path": "/a", "status": null, "count": 0}), "count"),
            (json!({"path": "/a", "count": -1}), "count"),
            (json!({"path": "/a", "method": "GET POST"}), "method"),
            (json!({"path": "/a", "method": ""}), "method"),
            (json!({"path": "/a", "delayMs": 60_001}), "delayMs"),
            (json!({"path": "/a", "delayMs": 50_000, "jitterMs": 20_000}), "jitterMs"),
            (json!({"path": "/a", "dropConnection": "yes"}), "dropConnection"),
            (json!({"path": "/a", "corruptBody": 1}), "corruptBody"),
            (json!({"path": "/a", "truncateBodyBytes": -1}), "truncateBodyBytes"),
            (json!({"path": "/a", "probability": 1.1}), "probability"),
            (json!({"path": "/a", "probability": "often"}), "probability"),
            (json!({"path": "/a", "retryAfter": 90_000}), "retryAfter"),
            (json!({"path": "/a", "injectSseEvent": 1}), "injectSseEvent"),
            (json!({"path": "/a", "injectSseEvent": {"event": "a\nb"}}), "injectSseEvent"),
            (json!({"path": "/a", "injectSseEvent": {"name": "a"}}), "injectSseEvent"),
            (json!({"path": "/a", "injectSseEvent": "x".repeat(16_385)}), "injectSseEvent"),
            (json!({"path": "/a"}), "status"),
            (json!({"path": "/a", "delay_ms": 1}), "delay_ms"),
            (json!({"path": "/a", "__proto__": {}}), "__proto__"),
        ] {
            assert_eq!(field(&json), wanted, "{json}");
        }
        assert!(field(&json!({"path": "/a", "x".repeat(100_000): 1})).len() < 200);
    }

    #[test]
    fn a_fault_has_an_effect_and_a_retry_is_one() {
        let status = |json| parse(&json).unwrap().status;
        assert_eq!(field(&json!({"path": "/a", "count": 2, "delayMs": 0})), "status");
        let event =
            parse(&json!({"path": "/a", "injectSseEvent": {"eventType": "odd", "data": "x"}})).unwrap();
        assert_eq!(event.inject_sse_event.unwrap().event.as_deref(), Some("odd"));
        assert_eq!(status(json!({"path": "/a", "retryAfter": 3})), Some(503));
        assert_eq!(status(json!({"path": "/a", "status": 429, "retryAfter": 3})), Some(429));
        assert_eq!(status(json!({"path": "/a", "delayMs": 3})), None);
        assert_eq!(status(json!({"path": "/a", "corruptBody": true})), None);
    }

    #[test]
    fn jitter_is_added_to_the_delay() {
        let json = json!({"path": "/a", "count": 1000, "delayMs": 100, "jitterMs": 50});
        let mut fault = parse(&json).unwrap();
        let mut rng = Rng::with_seed(3);
        let delays: Vec<u128> =
            (0..1000).map(|_| fault.strike(&mut rng).unwrap().delay.as_millis()).collect();
        assert_eq!((delays.iter().min(), delays.iter().max()), (Some(&100), Some(&150)));
    }

    #[test]
    fn clients_see_what_was_taken() {
        let json = json!({"path": "/a*", "method": "post", "delayMs": 5, "injectSseEvent": "hello"});
        let fault = parse(&json).unwrap();
        let wanted = json!({
            "path": "/a*", "method": "POST", "count": 1, "remaining": 1, "probability": 1.0, "delayMs": 5,
            "injectSseEvent": {"data": "hello"},
        });
        assert_eq!(serde_json::to_value(&fault).unwrap(), wanted);
    }
}
