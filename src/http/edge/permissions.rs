//! Every route, and what it needs. A route that is not in this table cannot be reached: what it needs is looked up here
//! before it is called, and without an entry the path takes no such method.

use hyper::Method;

use crate::auth::Scope;
use crate::http::{BATCH, EVENTS};

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing, and no token is looked at: who asks here may have one that is not good any more.
    Nothing,
    /// Nothing, but a token that is shown has to be good.
    GoodIfShown,
    /// To know who asks.
    SignedIn,
    /// A scope. Where the service is open, nobody has to say who he is for it.
    Scope(Scope),
}

/// A route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its method; `GET` stands for `HEAD` too.
    pub method: Method,
    /// Its path, as the router has it.
    pub path: &'static str,
    /// What it needs.
    pub needs: Needs,
}

const fn route(method: Method, path: &'static str, needs: Needs) -> Route {
    Route { method, path, needs }
}

const RECORDS: &str = "/api/stress/records/{collection}";
const RECORD: &str = "/api/stress/records/{collection}/{id}";

const CONVERSATIONS: &str = "/api/conversations";
const CONVERSATION: &str = "/api/conversations/{id}";
const MESSAGES: &str = "/api/conversations/{id}/messages";
const MESSAGE: &str = "/api/conversations/{id}/messages/{message}";
const APPEND: &str = "/api/conversations/{id}/messages/{message}/append";

/// Every route.
pub const ROUTES: &[Route] = &[
    route(Method::POST, EVENTS, Needs::Scope(Scope::EventsWrite)),
    route(Method::POST, BATCH, Needs::Scope(Scope::EventsWrite)),
    route(Method::GET, "/api/v1/dead-letters", Needs::Scope(Scope::DeadlettersRead)),
    route(Method::GET, "/api/v1/dead-letters/{id}", Needs::Scope(Scope::DeadlettersRead)),
    route(Method::DELETE, "/api/v1/dead-letters/{id}", Needs::Scope(Scope::DeadlettersWrite)),
    route(Method::POST, "/api/v1/dead-letters/redrive", Needs::Scope(Scope::DeadlettersWrite)),
    route(Method::POST, "/api/v1/reconcile", Needs::Scope(Scope::OpsRead)),
    route(Method::GET, RECORDS, Needs::Scope(Scope::RecordsRead)),
    route(Method::POST, RECORDS, Needs::Scope(Scope::RecordsWrite)),
    route(Method::GET, RECORD, Needs::Scope(Scope::RecordsRead)),
    route(Method::PUT, RECORD, Needs::Scope(Scope::RecordsWrite)),
    route(Method::PATCH, RECORD, Needs::Scope(Scope::RecordsWrite)),
    route(Method::DELETE, RECORD, Needs::Scope(Scope::RecordsWrite)),
    route(Method::POST, "/api/stress/large-payload/{collection}", Needs::Scope(Scope::Stress)),
    route(Method::GET, "/api/stress/large-payload/{collection}/{id}", Needs::Scope(Scope::Stress)),
    route(Method::GET, "/api/stress/config", Needs::Scope(Scope::Stress)),
    route(Method::POST, "/api/stress/config", Needs::Scope(Scope::Admin)),
    route(Method::GET, "/api/stress/sse-stream", Needs::Scope(Scope::Stress)),
    route(Method::GET, "/_test/inject-error", Needs::Scope(Scope::Admin)),
    route(Method::POST, "/_test/inject-error", Needs::Scope(Scope::Admin)),
    route(Method::DELETE, "/_test/inject-error", Needs::Scope(Scope::Admin)),
    route(Method::POST, "/_test/panic/{task}", Needs::Scope(Scope::Admin)),
    route(Method::GET, "/api/stress/error/404/{collection}/{id}", Needs::Scope(Scope::Stress)),
    route(Method::GET, "/api/stress/error/auth", Needs::Scope(Scope::Stress)),
    route(Method::GET, "/api/stress/error/500", Needs::Scope(Scope::Stress)),
    route(Method::GET, "/api/stress/error/timeout", Needs::Scope(Scope::Stress)),
    route(Method::POST, "/api/auth/register", Needs::Nothing),
    route(Method::POST, "/api/auth/login", Needs::Nothing),
    route(Method::POST, "/api/auth/refresh", Needs::Nothing),
    route(Method::POST, "/api/auth/logout", Needs::SignedIn),
    route(Method::GET, "/api/auth/me", Needs::SignedIn),
    route(Method::GET, "/api/auth/sessions", Needs::SignedIn),
    route(Method::DELETE, "/api/auth/sessions/{id}", Needs::SignedIn),
    route(Method::POST, "/api/keys", Needs::SignedIn),
    route(Method::GET, "/api/keys", Needs::SignedIn),
    route(Method::DELETE, "/api/keys/{id}", Needs::SignedIn),
    route(Method::GET, CONVERSATIONS, Needs::Scope(Scope::ConversationsRead)),
    route(Method::POST, CONVERSATIONS, Needs::Scope(Scope::ConversationsWrite)),
    route(Method::GET, CONVERSATION, Needs::Scope(Scope::ConversationsRead)),
    route(Method::PATCH, CONVERSATION, Needs::Scope(Scope::ConversationsWrite)),
    route(Method::DELETE, CONVERSATION, Needs::Scope(Scope::ConversationsWrite)),
    route(Method::GET, MESSAGES, Needs::Scope(Scope::ConversationsRead)),
    route(Method::POST, MESSAGES, Needs::Scope(Scope::ConversationsWrite)),
    route(Method::GET, MESSAGE, Needs::Scope(Scope::ConversationsRead)),
    route(Method::POST, APPEND, Needs::Scope(Scope::ConversationsWrite)),
    route(Method::POST, "/api/files/upload", Needs::Scope(Scope::FilesWrite)),
    route(Method::POST, "/api/files/process-jsonl", Needs::Scope(Scope::FilesWrite)),
    route(Method::GET, "/api/files/{id}/progress", Needs::Scope(Scope::FilesRead)),
    route(Method::GET, "/api/files/{id}/rejected", Needs::Scope(Scope::FilesRead)),
    route(Method::GET, "/api/files", Needs::Scope(Scope::FilesRead)),
    route(Method::GET, "/api/files/{id}", Needs::Scope(Scope::FilesRead)),
    route(Method::DELETE, "/api/files/{id}", Needs::Scope(Scope::FilesWrite)),
    route(Method::GET, "/api/health", Needs::Scope(Scope::OpsRead)),
    route(Method::GET, "/health", Needs::GoodIfShown),
    route(Method::GET, "/health/ready", Needs::GoodIfShown),
    route(Method::GET, "/metrics", Needs::Scope(Scope::OpsRead)),
    route(Method::GET, "/api/openapi.json", Needs::GoodIfShown),
    route(Method::GET, "/api/docs", Needs::GoodIfShown),
    route(Method::GET, "/api/docs/", Needs::GoodIfShown),
    route(Method::GET, "/api/docs/{*rest}", Needs::GoodIfShown),
];

/// What a request for a path of the router needs; or, if the path takes no such method, those that it takes.
pub(in crate::http) fn needs(method: &Method, path: &str) -> Result<Needs, String> {
    let asked = if *method == Method::HEAD { &Method::GET } else { method };
    let of_path = || ROUTES.iter().filter(|route| route.path == path);
    match of_path().find(|route| route.method == *asked) {
        Some(route) => Ok(route.needs),
        None => {
            let with_head = |route: &Route| match route.method {
                Method::GET => "GET,HEAD".to_owned(),
                ref other => other.to_string(),
            };
            Err(of_path().map(with_head).collect::<Vec<_>>().join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_without_an_entry_is_not_allowed_whatever_the_router_has() {
        assert_eq!(needs(&Method::HEAD, "/health"), Ok(Needs::GoodIfShown));
        assert_eq!(needs(&Method::DELETE, "/health"), Err("GET,HEAD".into()));
        assert_eq!(needs(&Method::GET, EVENTS), Err("POST".into()));
        assert_eq!(needs(&Method::GET, "/not/in/the/table"), Err(String::new()));
    }

    #[test]
    fn no_route_is_listed_twice() {
        for (place, route) in ROUTES.iter().enumerate() {
            let same = |other: &&Route| other.path == route.path && other.method == route.method;
            assert_eq!(ROUTES.iter().position(|other| same(&other)), Some(place), "{route:?}");
        }
    }
}
