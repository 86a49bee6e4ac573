//! Routes: from their declarations and from the API's description.

use std::fmt::Write as _;

use serde_json::Value;
use tidegate::http::{Access, Route, routes};

use super::cell;

/// The access that a route requires, in words.
fn access(access: Access) -> String {
    match access {
        Access::Scope(scope) => format!("`{}`", scope.name()),
        Access::Paths(scope) => format!("`{}`, for the path", scope.name()),
        // By its name, so that a new kind needs no line here before it is documented.
        other => match format!("{other:?}").as_str() {
            "Public" | "Fixed" => "none".to_owned(),
            "Optional" => "none; a token that is sent has to be valid".to_owned(),
            "SignedIn" => "any valid token".to_owned(),
            "Topics" => "the scope of each topic".to_owned(),
            "Events" => "`events:write`; the key may be in the body".to_owned(),
            "Rules" => "the collection's rules".to_owned(),
            "WakeToken" => "the token of the wake".to_owned(),
            name => name.to_owned(),
        },
    }
}

fn line(text: &mut String, route: &Route, path: &str, summary: &str) {
    let (method, access) = (&route.method, access(route.access));
    writeln!(text, "| `{method} {path}` | {access} | {} |", cell(summary)).unwrap();
}

pub(super) fn write(text: &mut String, api: &Value) {
    text.push_str(
        "\n## Routes\n\n`/api/openapi.json` has their parameters, bodies and answers. Scopes count where a token is required or sent; \
         `GET` answers `HEAD` too. A route of a [module](#modules) that is off is 404.\n",
    );
    let routes = routes();
    let operation = |route: &Route| {
        &api["paths"][route.path.replace("{*", "{")][route.method.as_str().to_lowercase().as_str()]
    };
    for tag in api["tags"].as_array().unwrap() {
        write!(
            text,
            "\n### {}\n\n| request | access | |\n|---|---|---|\n",
            tag["description"].as_str().unwrap()
        )
        .unwrap();
        for route in routes.iter().filter(|route| operation(route)["tags"][0] == tag["name"]) {
            let summary = operation(route)["summary"].as_str().unwrap();
            line(text, route, &route.path.replace("{*", "{"), summary);
        }
    }
    text.push_str("\n### Pages, and the description itself\n\n| request | access | |\n|---|---|---|\n");
    for route in routes.iter().filter(|route| operation(route).is_null()) {
        let about = match route.path.as_str() {
            "/" | "/stress" => "the web page",
            path if path.starts_with("/ui/") => "of the web page",
            path if path.starts_with("/api/backups") => "501: the database's own tools make backups",
            path if path.starts_with("/api/oauth2-redirect") => {
                "a page for the user whom a provider sends back"
            }
            "/api/openapi.json" => "the API's description (OpenAPI 3.1)",
            _ => "a page of the description",
        };
        line(text, route, &route.path.replace("{*", "{"), about);
    }
}

/// The described routes that no document names. Those of PocketBase's API are explained by PocketBase: its document names each word of their paths.
pub(super) fn unexplained(api: &Value, documents: &str) -> Vec<String> {
    let collections = std::fs::read_to_string(super::of_repository("docs/POCKETBASE.md")).unwrap();
    let mut left = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let is_named = match operation["tags"][0].as_str() {
                None => true,
                Some("collections") => path
                    .split('/')
                    .filter(|part| !part.starts_with('{'))
                    .all(|part| collections.contains(part)),
                Some(_) => documents.contains(path.as_str()),
            };
            if !is_named {
                left.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    left
}
