//! The limits that superusers set (`rateLimits`, `superuserIPs`), before a request reaches its handler.

use std::net::IpAddr;

use axum::response::{IntoResponse, Response};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::caller::Sender;
use super::error::{Operation, Refusal};
use crate::http::AppState;
use crate::http::edge::client::ClientAddress;
use crate::records::typed::CollectionHandle;
use crate::records::typed::settings::{AppSettings, Audience};

/// What counts of the sender of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limited {
    address: IpAddr,
    is_superuser: bool,
    audience: Audience,
}

impl Limited {
    /// A sender who calls from an address.
    pub(super) fn new(sender: &Sender, address: IpAddr) -> Self {
        let audience = match sender {
            Sender::Guest => Audience::Guests,
            _ => Audience::SignedIn,
        };
        Self { address, is_superuser: sender.is_superuser(), audience }
    }
}

/// The actions of a route of a collection, as labels name them.
fn actions(method: &Method, path: &str) -> &'static [&'static str] {
    let Some(rest) = path.strip_prefix("/api/collections/{collection}/") else {
        return if path.starts_with("/api/files/{collection}/") { &["file"] } else { &[] };
    };
    match (method, rest) {
        (&Method::GET | &Method::HEAD, "records") => &["list"],
        (&Method::GET | &Method::HEAD, "records/{id}") => &["view"],
        (&Method::POST, "records") => &["create"],
        (&Method::PATCH, "records/{id}") => &["update"],
        (&Method::DELETE, "records/{id}") => &["delete"],
        (_, "auth-methods") => &["listAuthMethods"],
        (_, "auth-refresh") => &["authRefresh"],
        (_, "auth-with-password") => &["authWithPassword", "auth"],
        (_, "auth-with-oauth2") => &["authWithOAuth2", "auth"],
        (_, "auth-with-otp") => &["authWithOTP", "auth"],
        (_, "request-otp") => &["requestOTP"],
        (_, "request-password-reset") => &["requestPasswordReset"],
        (_, "confirm-password-reset") => &["confirmPasswordReset"],
        (_, "request-verification") => &["requestVerification"],
        (_, "confirm-verification") => &["confirmVerification"],
        (_, "request-email-change") => &["requestEmailChange"],
        (_, "confirm-email-change") => &["confirmEmailChange"],
        _ => &[],
    }
}

/// Refuses a request to `route` that exceeds a limit, or that comes from where superusers may not call.
pub(in crate::http) async fn refuse(
    state: &AppState,
    head: &Parts,
    route: &str,
    client: ClientAddress,
) -> Option<Response> {
    check(state, head, route, client).await.err().map(IntoResponse::into_response)
}

async fn check(state: &AppState, head: &Parts, route: &str, client: ClientAddress) -> Result<(), Refusal> {
    let typed = state.services()?.typed()?;
    let refuse = |error| Operation::Read.refuses(error);
    let settings = typed.settings().await.map_err(refuse)?;
    if !settings.rate_limits.enabled && settings.superuser_ips.is_empty() {
        return Ok(());
    }
    let sender = Sender::of(state, head).await?;
    let limited = Limited::new(&sender, client.ip);
    if limited.is_superuser && !settings.admits_superuser_from(client.ip) {
        return Err(Refusal::not_from_there());
    }
    let (method, path) = (&head.method, head.uri.path());
    let actions = actions(method, route);
    if actions.is_empty() {
        return take(state, &settings, limited, None, &[], method, path);
    }
    let name = path.split('/').nth(3).unwrap_or_default();
    // Its handler refuses an unknown one.
    let Some(collection) = typed.collection(name).await.map_err(refuse)? else { return Ok(()) };
    take(state, &settings, limited, Some(&collection), actions, method, path)
}

/// Takes a request from the window of its limit, if there is one: for actions on a collection, or by its path.
pub(super) fn take(
    state: &AppState,
    settings: &AppSettings,
    sender: Limited,
    collection: Option<&CollectionHandle>,
    actions: &[&str],
    method: &Method,
    path: &str,
) -> Result<(), Refusal> {
    let limits = &settings.rate_limits;
    if !limits.enabled || sender.is_superuser || limits.excludes(sender.address) {
        return Ok(());
    }
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let mut labels = Vec::new();
    if let Some(collection) = collection {
        labels.extend(actions.iter().map(|action| format!("{}:{action}", collection.name().as_str())));
        labels.extend(actions.iter().map(|action| format!("*:{action}")));
    }
    labels.extend([format!("{method} {path}"), path.to_owned()]);
    let Some(rule) = limits.find(&labels, sender.audience) else { return Ok(()) };
    // What one rule limits is counted together, but each action of a collection by itself.
    let bucket = match collection {
        Some(collection) => format!("{} {} {}", collection.definition().id, actions.join(" "), rule.audience),
        None => format!("{} {}", rule.label, rule.audience),
    };
    match state.services()?.typed()?.take_request(rule, &bucket, sender.address) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_of_a_collection_has_its_actions() {
        for (method, route, expected) in [
            (Method::GET, "/api/collections/{collection}/records", "list"),
            (Method::HEAD, "/api/collections/{collection}/records/{id}", "view"),
            (Method::POST, "/api/collections/{collection}/records", "create"),
            (Method::PATCH, "/api/collections/{collection}/records/{id}", "update"),
            (Method::DELETE, "/api/collections/{collection}/records/{id}", "delete"),
            (Method::POST, "/api/collections/{collection}/auth-with-password", "authWithPassword auth"),
            (Method::GET, "/api/collections/{collection}", ""),
            (Method::GET, "/api/settings", ""),
        ] {
            assert_eq!(actions(&method, route).join(" "), expected, "{method} {route}");
        }
    }
}
