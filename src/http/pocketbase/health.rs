//! `GET /api/health` in the form of PocketBase, whose clients ask for it without a token.

use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::Query;
use super::caller::Sender;
use crate::auth::{Decision, Scope};
use crate::http::AppState;
use crate::http::edge::authorize;
use crate::http::edge::client::ClientAddress;
use crate::http::wire::error::ApiError;

/// The answer with the status of the service, for everyone; `full` is for callers with `ops:read`.
pub(in crate::http) async fn health(
    state: &AppState,
    head: &Parts,
    (code, status): (u16, &str),
    full: Value,
) -> Result<Value, ApiError> {
    let client = head.extensions.get::<ClientAddress>();
    // Without a database every record is a guest.
    let is_superuser = Sender::of(state, head).await.is_ok_and(|sender| sender.is_superuser());
    let data = match client.filter(|_| is_superuser) {
        Some(client) => {
            json!({"canBackup": false, "realIP": client.ip.to_string(), "possibleProxyHeader": ""})
        }
        None => json!({}),
    };
    let message = if code == 200 { "API is healthy." } else { "API is not healthy." };
    let mut shown = json!({"message": message, "code": code, "data": data, "status": status});
    let sees_all = match client {
        Some(client) => {
            let principal = authorize::of_raw_token(state, &head.headers, client.peer).await?;
            principal.may(Scope::OpsRead, state.verifier.is_open()) == Decision::Allowed
        }
        None => false,
    };
    if let (Value::Object(shown), Value::Object(full), true) = (&mut shown, full, sees_all) {
        shown.extend(full);
    }
    let fields = Query::of(&head.uri).projection();
    let fields = fields.map_err(|_| ApiError::invalid("fields has an unknown modifier").field("fields"))?;
    Ok(match fields {
        None => shown,
        Some(fields) => fields.apply(&shown),
    })
}
