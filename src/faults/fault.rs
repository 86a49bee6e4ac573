//! One fault: read from JSON, matched, and struck with.

use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;
use serde_json::Value;

use super::members::{Members, refuse};
use super::{BodyFault, FaultError, InjectedError, OWN_PATHS, Strike};

/// The longest path, in bytes.
const MAX_PATH: usize = 1024;
/// The most strikes that one fault may have.
const MAX_COUNT: u64 = 1_000_000_000;
/// A day, in seconds.
const MAX_RETRY_AFTER_S: u64 = 86_400;
/// The most bytes of an injected event's data, and of its name and id.
const MAX_EVENT_DATA: usize = 16 * 1024;
const MAX_EVENT_NAME: usize = 256;
/// What a fault that names no effect answers.
const DEFAULT_STATUS: u64 = 500;
/// What a fault answers that says when to come back, and not with what status.
const RETRY_STATUS: u64 = 503;

/// What faults may ask for.
#[derive(Debug, Clone, Copy)]
pub struct FaultLimits {
    /// The longest delay, its jitter included.
    pub max_delay: Duration,
}

/// A fault, as it was taken and with what is left of it. Serialized as clients see it.
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

/// A server-sent event that is no part of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// Reads a fault. One that names no effect answers 500, or 503 if it has a `retryAfter`.
    ///
    /// # Errors
    ///
    /// [`FaultError`] names the first member that is wrong.
    pub fn parse(json: &Value, limits: &FaultLimits) -> Result<Self, FaultError> {
        let mut members = Members::of(json)?;
        let max_delay_ms = limits.max_delay.as_millis() as u64;
        let mut fault = Self {
            path: path(members.text("path", MAX_PATH)?)?,
            method: members.text("method", 32)?.map(|text| method(&text)).transpose()?,
            count: members.integer("count", 1..=MAX_COUNT)?.unwrap_or(1),
            remaining: 0,
            probability: members.share("probability")?.unwrap_or(1.0),
            delay_ms: members.integer("delayMs", 0..=max_delay_ms)?.unwrap_or(0),
            jitter_ms: members.integer("jitterMs", 0..=max_delay_ms)?.unwrap_or(0),
            drop_connection: members.switch("dropConnection")?,
            status: members.integer("status", 400..=599)?.map(|status| status as u16),
            retry_after: members.integer("retryAfter", 0..=MAX_RETRY_AFTER_S)?,
            corrupt_body: members.switch("corruptBody")?,
            truncate_body_bytes: members.integer("truncateBodyBytes", 0..=u64::from(u32::MAX))?,
            inject_sse_event: members.take("injectSseEvent").map(InjectedEvent::parse).transpose()?,
        };
        members.refuse_others()?;
        if fault.delay_ms + fault.jitter_ms > max_delay_ms {
            let takes = format!("and delayMs together take at most {max_delay_ms} (MAX_FAULT_DELAY_MS)");
            return Err(refuse("jitterMs", takes));
        }
        if fault.status.is_none() && (fault.retry_after.is_some() || !fault.has_effect()) {
            let status = if fault.retry_after.is_some() { RETRY_STATUS } else { DEFAULT_STATUS };
            fault.status = Some(status as u16);
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

    /// The path that it is for.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The strikes that are left.
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

    /// The higher wins: the bytes that match, then that they are all.
    pub(super) fn precedence(&self) -> (usize, bool) {
        match self.path.strip_suffix('*') {
            Some(prefix) => (prefix.len(), false),
            None => (self.path.len(), true),
        }
    }

    /// Rolls the dice, and uses up one of the count if it strikes.
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

fn path(path: Option<String>) -> Result<String, FaultError> {
    let wrong = |takes: &str| refuse("path", takes.to_owned());
    let path = path.ok_or_else(|| wrong("is missing: the path whose requests are hit"))?;
    if !path.starts_with('/') && path != "*" {
        return Err(wrong("takes a path that begins with /, exact or with a trailing *"));
    }
    let exact = path.strip_suffix('*').unwrap_or(&path);
    if exact.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control() || "?#*".contains(c)) {
        return Err(wrong("takes a path as requests have it: no query, no blank, and no * but at its end"));
    }
    if path.starts_with(OWN_PATHS) {
        return Err(wrong("takes no path of /_test/: faults could not be taken back"));
    }
    Ok(path)
}

/// Methods are case-sensitive (RFC 9110, section 9.1), and those in use are upper-case.
fn method(method: &str) -> Result<String, FaultError> {
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(refuse("method", "takes an HTTP method such as POST".into()));
    }
    Ok(method.to_ascii_uppercase())
}

impl InjectedEvent {
    /// Reads text, which becomes the data of an event without a name, or an object.
    fn parse(value: &Value) -> Result<Self, FaultError> {
        const NAME: &str = "injectSseEvent";
        let takes = || {
            let takes = format!(
                "takes text, or an object of data (to {MAX_EVENT_DATA} bytes), event and id (to {MAX_EVENT_NAME}, no line ends)"
            );
            refuse(NAME, takes)
        };
        let event = match value {
            Value::String(data) => Self { event: None, id: None, data: data.clone() },
            Value::Object(_) => {
                let mut members = Members::of(value)?;
                let mut text = |name, most| members.text(name, most).map_err(|_| takes());
                let (event, id) = (text("event", MAX_EVENT_NAME)?, text("id", MAX_EVENT_NAME)?);
                let data = text("data", MAX_EVENT_DATA)?.unwrap_or_default();
                members.refuse_others().map_err(|_| takes())?;
                Self { event, id, data }
            }
            _ => return Err(takes()),
        };
        let one_line = |text: &Option<String>| {
            text.as_ref().is_none_or(|text| !text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)))
        };
        if event.data.len() > MAX_EVENT_DATA || !one_line(&event.event) || !one_line(&event.id) {
            return Err(takes());
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMITS: FaultLimits = FaultLimits { max_delay: Duration::from_secs(60) };

    fn field(json: &Value) -> String {
        match Fault::parse(json, &LIMITS).unwrap_err() {
            FaultError::Member { field, .. } => field.into_owned(),
            other => other.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, wanted) in [
            (json!([]), "a fault is a JSON object with a path"),
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
            (json!({"path": "/a", "delay_ms": 1}), "delay_ms"),
            (json!({"path": "/a", "__proto__": {}}), "__proto__"),
        ] {
            assert_eq!(field(&json), wanted, "{json}");
        }
        assert!(field(&json!({"path": "/a", "x".repeat(100_000): 1})).len() < 200);
    }

    #[test]
    fn a_fault_without_an_effect_is_an_error() {
        let status = |json| Fault::parse(&json, &LIMITS).unwrap().status;
        assert_eq!(status(json!({"path": "/a"})), Some(500));
        assert_eq!(status(json!({"path": "/a", "retryAfter": 3})), Some(503));
        assert_eq!(status(json!({"path": "/a", "status": 429, "retryAfter": 3})), Some(429));
        assert_eq!(status(json!({"path": "/a", "delayMs": 3})), None);
        assert_eq!(status(json!({"path": "/a", "corruptBody": true})), None);
    }

    #[test]
    fn jitter_is_added_to_the_delay() {
        let json = json!({"path": "/a", "count": 1000, "delayMs": 100, "jitterMs": 50});
        let mut fault = Fault::parse(&json, &LIMITS).unwrap();
        let mut rng = Rng::with_seed(3);
        let delays: Vec<u128> =
            (0..1000).map(|_| fault.strike(&mut rng).unwrap().delay.as_millis()).collect();
        assert_eq!((delays.iter().min(), delays.iter().max()), (Some(&100), Some(&150)));
    }

    #[test]
    fn clients_see_what_was_taken() {
        let json = json!({"path": "/a*", "method": "post", "delayMs": 5, "injectSseEvent": "hello"});
        let fault = Fault::parse(&json, &LIMITS).unwrap();
        let wanted = json!({
            "path": "/a*", "method": "POST", "count": 1, "remaining": 1, "probability": 1.0, "delayMs": 5,
            "injectSseEvent": {"data": "hello"},
        });
        assert_eq!(serde_json::to_value(&fault).unwrap(), wanted);
    }
}
