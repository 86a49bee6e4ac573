//! The API's description is complete and correct.

use std::collections::BTreeSet;

use serde_json::Value;
use tidegate::http::{Access, routes};

use crate::support::accounts::guarded;
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

/// The path of the description.
const DESCRIPTION: &str = "/api/openapi.json";

/// Whether a route is described: no part of the description, and not of the web page.
fn is_described(path: &str) -> bool {
    let is_of_page = path == "/" || path == "/stress" || path.starts_with("/ui/");
    // Backups are refused, and a user sees the page behind a provider's redirect.
    let is_of_page =
        is_of_page || path.starts_with("/api/backups") || path == "/api/oauth2-redirect/{outcome}";
    path != DESCRIPTION && !path.starts_with("/api/docs") && !is_of_page
}

/// All references within the description.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(to)) = members.get("$ref") {
                found.insert(to.clone());
            }
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(elements) => elements.iter().for_each(|element| references(element, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_has_every_route_with_its_access_and_errors() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("MODULES", "all"), ("FAULTS", "on")]).await;
    let answer = service.get(DESCRIPTION).await;
    assert_eq!(answer.status.as_u16(), 200);
    let api = answer.json();
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1."), "{}", api["openapi"]);

    let methods = ["get", "post", "put", "patch", "delete"];
    let mut described = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for method in methods.into_iter().filter(|method| item[method].is_object()) {
            described.insert((path.clone(), method.to_uppercase()));
        }
    }
    let routes = routes();
    let wanted = routes.iter().filter(|route| is_described(&route.path));
    let wanted: BTreeSet<_> =
        wanted.map(|route| (route.path.replace("{*", "{"), route.method.to_string())).collect();
    assert_eq!(described, wanted);

    let mut ids = BTreeSet::new();
    for route in routes.iter().filter(|route| is_described(&route.path)) {
        let name = format!("{} {}", route.method, route.path);
        let operation = &api["paths"][route.path.replace("{*", "{")][route.method.as_str().to_lowercase()];
        assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{name}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}");
        let security = operation["security"].as_array().unwrap();
        let schemes = |scopes: Value| {
            security.contains(&serde_json::json!({"bearer": scopes}))
                && security.contains(&serde_json::json!({"api_key": scopes}))
        };
        let is_open = security.contains(&serde_json::json!({}));
        let is_right = match route.access {
            Access::Public | Access::Fixed | Access::WakeToken => is_open && security.len() == 1,
            Access::Events => is_open && schemes(serde_json::json!(["events:write"])),
            Access::Optional | Access::Rules => is_open && schemes(serde_json::json!([])),
            Access::SignedIn | Access::Topics => !is_open && schemes(serde_json::json!([])),
            Access::Paths(scope) | Access::Scope(scope) => {
                !is_open && schemes(serde_json::json!([scope.name()]))
            }
        };
        assert!(is_right, "{name}: {security:?}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.contains_key("403") || !matches!(route.access, Access::Scope(_)), "{name}");
        let refusal = &responses["default"]["content"]["application/json"]["schema"]["$ref"];
        let form = if operation["tags"][0] == "collections" { "PocketBaseError" } else { "Error" };
        assert_eq!(refusal, format!("#/components/schemas/{form}").as_str(), "{name}");
        // The parts of the path in braces are its parameters.
        let named: BTreeSet<&str> = route
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| name.trim_start_matches('*'))
            .collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let said: BTreeSet<&str> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(said, named, "{name}");
    }
    let mut found = BTreeSet::new();
    references(&api, &mut found);
    for reference in found {
        assert!(api.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

/// Whether it describes bytes as a list of numbers.
fn has_numbers_for_bytes(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            let is_number = value["type"] == "array" && value["items"]["format"] == "int32";
            is_number || members.values().any(has_numbers_for_bytes)
        }
        Value::Array(elements) => elements.iter().any(has_numbers_for_bytes),
        _ => false,
    }
}

#[tokio::test]
async fn an_event_is_described_as_any_json_and_bytes_as_bytes() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "all")]).await;
    let api = service.get(DESCRIPTION).await.json();
    let body = &api["paths"]["/api/v1/events"]["post"]["requestBody"]["content"];
    let json = body["application/json"]["schema"].as_object().unwrap();
    assert!(!json.contains_key("type") && !json.contains_key("$ref"), "{body}");
    assert!(!has_numbers_for_bytes(&api));
}

#[tokio::test]
async fn routes_that_are_off_are_not_described() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "events")]).await;
    let api = service.get(DESCRIPTION).await.json();
    let paths: Vec<&String> = api["paths"].as_object().unwrap().keys().collect();
    assert!(paths.iter().any(|path| *path == "/api/v1/events"), "{paths:?}");
    assert!(
        !paths.iter().any(|path| path.starts_with("/api/stress") || path.starts_with("/_test")),
        "{paths:?}"
    );
}

#[tokio::test]
async fn the_page_is_in_the_binary_and_runs_no_other_scripts() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let moved = service.get("/api/docs").await;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (303, "/api/docs/"));
    let page = service.get("/api/docs/").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html"));
    assert!(page.header("content-security-policy").starts_with("default-src 'self';"), "{:?}", page.headers);
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    let mut assets = 0;
    for part in text.split(['"', '\'']).filter(|part| part.starts_with("./")) {
        let asset = service.get(&format!("/api/docs/{}", part.trim_start_matches("./"))).await;
        assert_eq!(asset.status.as_u16(), 200, "{part}");
        assets += usize::from(!asset.body.is_empty());
    }
    assert!(assets >= 4, "{text}");
    assert!(!text.contains("http://") && !text.contains("https://"), "{text}");
    let start = service.get("/api/docs/swagger-initializer.js").await;
    assert!(String::from_utf8_lossy(&start.body).contains(DESCRIPTION));
    assert_eq!(service.get("/api/docs/../../etc/passwd").await.status.as_u16(), 404);
    assert_eq!(service.get("/api/docs/nothing.js").await.status.as_u16(), 404);
}
