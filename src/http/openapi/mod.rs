//! The API's description (OpenAPI 3.1), and a page to try it.
//!
//! Each handler describes its parameters and answers. The parts that all operations share are added here: the required
//! access, from the routes' declarations, and the form of every error.

pub(super) mod bodies;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::Method;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response as Answer};
use utoipa::{OpenApi as _, ToSchema};
use utoipa_swagger_ui::SwaggerUi;

use super::AppState;
use super::edge::routes::{Access, Route, Routes, operations};
use super::pocketbase::RefusalResponse;
use super::wire::error::Envelope;
use crate::auth::Scope;

/// The path of the description.
pub(super) const PATH: &str = "/api/openapi.json";
/// The path of the page.
const PAGE: &str = "/api/docs";
const BEARER: &str = "bearer";
const API_KEY: &str = "api_key";
/// The tag of the routes whose errors have PocketBase's form.
const COLLECTIONS: &str = "collections";

/// The policy of a page that runs scripts of this service only, with inline styles and images.
const POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Tidegate",
        description = "Takes events at line rate and lands them in Postgres; beside it records, conversations, messages and \
                       files. Every refusal has one form, and names what is at fault."
    ),
    paths(crate::http::events::post, crate::http::batch::post),
    components(schemas(Envelope, RefusalResponse)),
    tags(
        (name = "events", description = "Events and their states"),
        (name = "other SDKs", description = "Events in the protocols of other SDKs"),
        (name = "routes", description = "Tables of users that events land in"),
        (name = "conversations", description = "Conversations and their messages"),
        (name = "files", description = "Files, and the import of their lines"),
        (name = "users", description = "Users and their sessions"),
        (name = "keys", description = "Keys for programs"),
        (name = "records", description = "JSON records in collections"),
        (name = "collections", description = "Typed collections and their records, in the protocol of PocketBase"),
        (name = "realtime", description = "What changes, live"),
        (name = "streams", description = "Durable Streams: append-only streams with offsets"),
        (name = "stress", description = "For the authors of clients: large payloads, streams, failures"),
        (name = "faults", description = "Faults on demand"),
        (name = "operations", description = "Health and metrics"),
    )
)]
struct Base;

/// The description of the event routes, and of what all routes share.
pub(super) fn base() -> OpenApi {
    Base::openapi()
}

/// The routes of the description and of its page.
pub(super) fn routes() -> Routes {
    Routes::default().undescribed(Access::Optional, &[PATH, "/api/docs", "/api/docs/", "/api/docs/{*rest}"])
}

/// The router of `routes`, with the description and its page, and the table of all of them.
pub(super) fn served(routes: Routes) -> (Router<Arc<AppState>>, Vec<Route>) {
    let (router, mut api, table) = routes.into_parts();
    complete(&mut api, &table);
    let page = Router::from(SwaggerUi::new(PAGE).url(PATH, api)).layer(middleware::from_fn(with_policy));
    (router.merge(page), table)
}

async fn with_policy(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Adds the parts that all operations share.
fn complete(api: &mut OpenApi, table: &[Route]) {
    let components = api.components.get_or_insert_default();
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    let key = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
    components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(key));
    let mut tags = BTreeSet::new();
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            tags.extend(operation.tags.iter().flatten().cloned());
            let declared = table.iter().find(|route| route.method == method && route.path == *path);
            if let Some(route) = declared {
                operation.operation_id = Some(operation_id(&method, path));
                guard(operation, route.access);
                refuse(operation);
            }
        }
    }
    // A parameter that takes the rest of a path has a plain name in a description.
    let paths = std::mem::take(&mut api.paths.paths);
    api.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    // Those of modules that are off have no operations.
    if let Some(described) = &mut api.tags {
        described.retain(|tag| tags.contains(&tag.name));
    }
}

/// A unique name for each operation: generated clients are named by it.
fn operation_id(method: &Method, path: &str) -> String {
    // Our own version is left out, those of other protocols are not.
    let version = if path.starts_with("/api/") { "v1" } else { "" };
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty() && *word != version);
    let words = words.map(str::to_lowercase);
    [method.as_str().to_lowercase()].into_iter().chain(words).collect::<Vec<_>>().join("_")
}

/// Adds the access that an operation requires.
fn guard(operation: &mut Operation, access: Access) {
    let scopes: &[&str] = match &access {
        Access::Scope(scope) | Access::Paths(scope) => &[scope.name()],
        Access::Events => &[Scope::EventsWrite.name()],
        _ => &[],
    };
    let schemes = [BEARER, API_KEY].map(|scheme| SecurityRequirement::new(scheme, scopes.iter().copied()));
    let no_token = || SecurityRequirement::default();
    operation.security = Some(match access {
        Access::Public | Access::Fixed | Access::WakeToken => vec![no_token()],
        Access::Rules => [vec![no_token()], schemes.into()].concat(),
        // Without one, the key is in the body.
        Access::Optional | Access::Events => [vec![no_token()], schemes.into()].concat(),
        Access::SignedIn | Access::Topics | Access::Paths(_) | Access::Scope(_) => schemes.into(),
    });
    let mut add = |status: &str, description: String| {
        operation.responses.responses.entry(status.into()).or_insert_with(|| Answer::new(description).into());
    };
    if !matches!(access, Access::Public | Access::Rules | Access::Fixed | Access::WakeToken) {
        add("401", "The token is invalid, or missing and required".into());
    }
    if let [scope, ..] = scopes {
        add("403", format!("The token lacks the permission {scope}"));
    }
    add("429", "Too many requests; Retry-After has the seconds until the next one".into());
    add("default", "An error".into());
}

/// Adds the common form of errors to every error without another form.
fn refuse(operation: &mut Operation) {
    let is_of_collections = operation.tags.iter().flatten().any(|tag| tag == COLLECTIONS);
    let name = if is_of_collections { RefusalResponse::name() } else { Envelope::name() };
    for (status, response) in &mut operation.responses.responses {
        let is_refusal = status == "default" || status.starts_with(['4', '5']);
        if let RefOr::T(response) = response
            && is_refusal
            && response.content.is_empty()
        {
            let form = Ref::from_schema_name(name.clone());
            response.content.insert("application/json".into(), Content::new(Some(form)).into());
        }
    }
}
