//! Every route admits the callers of its declaration, and no others.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tidegate::auth::{ALL_SCOPES, Scope, Scopes};
use tidegate::http::{Access, Route, routes};

use crate::support::accounts::{
    PASSWORD, SECRET, guarded, key, log_in, now, register, send, signed, tidegate, token_with,
};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, run};

/// A route's path with made-up resources in it.
fn path(route: &Route) -> String {
    route
        .path
        .replace("{collection}", "items")
        .replace("/dead-letters/{id}", "/dead-letters/00000000-0000-4000-8000-000000000000")
        .replace("/sessions/{id}", "/sessions/00000000-0000-4000-8000-000000000000")
        .replace("/files/{id}", "/files/00000000-0000-4000-8000-000000000000")
        .replace("/keys/{id}", "/keys/00000000-0000-4000-8000-000000000000")
        .replace("/conversations/{id}", "/conversations/00000000-0000-7000-8000-000000000000")
        .replace("{message}", "00000000-0000-7000-8000-000000000000")
        .replace("{*rest}", "index.css")
        .replace("{*path}", "a")
        // An existing task that restarts.
        .replace("{task}", "change-retention")
        .replace("{id}", "abcdefghij01234")
        .replace("{version}/{name}", "x/app.js")
        .replace("/ui/events", "/ui/events?count=1")
        .replace("/sse-stream", "/sse-stream?count=1")
}

fn body(route: &Route) -> Value {
    match route.path.as_str() {
        "/api/auth/login" => json!({"email": "ada@example.com", "password": PASSWORD}),
        "/api/auth/register" => json!({"email": "new@example.com", "password": PASSWORD}),
        _ => json!({}),
    }
}

async fn ask(service: &Service, route: &Route, token: &str) -> Answer {
    send(service, route.method.as_str(), &path(route), token, &body(route)).await
}

/// Whether its answer has no end, for any caller.
pub(crate) fn is_endless(route: &Route) -> bool {
    route.method == "GET" && route.path == "/api/realtime"
}

/// Whether the answer is the route's own, and not that of the pipeline or of an unknown path.
fn is_admitted(answer: &Answer, route: &Route) -> bool {
    let status = answer.status.as_u16();
    let is_missing = status == 404 && answer.json()["error"]["message"] == "there is nothing at this path";
    // This route's own answer is that to an invalid token.
    let is_its_own = route.path == "/api/stress/error/auth" && status == 401;
    (!matches!(status, 401 | 403 | 405) || is_its_own) && !is_missing
}

#[tokio::test]
async fn each_route_admits_the_callers_of_its_declaration_and_no_others() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("MODULES", "all"), ("FAULTS", "on"), ("REGISTRATION", "on")]).await;
    register(&service, "ada@example.com").await;
    let client = database.connect().await;
    let scopes = |wanted: &dyn Fn(&Scope) -> bool| {
        ALL_SCOPES.iter().filter(|scope| wanted(scope)).map(|scope| scope.name()).collect::<Vec<_>>()
    };

    // Keys and tokens that would give all access if they were valid.
    let [expired_key, revoked_key] = [key(&database, &["--admin"]).await, key(&database, &["--admin"]).await];
    client
        .execute(
            "update api_keys set expires = now() - interval '1 s' where prefix = $1",
            &[&&expired_key[..11]],
        )
        .await
        .unwrap();
    tidegate(&database, &["keys", "revoke", &revoked_key[..11]], "").await.unwrap();
    let all = json!({"sub": "ada", "exp": now() + 600, "permissions": ["admin"]});
    let past = json!({"sub": "ada", "exp": now() - 1, "permissions": ["admin"]});
    let mut forged_key = expired_key.clone();
    forged_key.replace_range(20..21, if &forged_key[20..21] == "x" { "y" } else { "x" });
    let logged_out = log_in(&service, "ada@example.com").await.access;
    assert_eq!(
        send(&service, "POST", "/api/auth/logout", &logged_out, &Value::Null).await.status.as_u16(),
        204
    );
    let bad = [
        ("forged", signed(Algorithm::HS256, &all, "another secret of thirty-two bytes!")),
        ("forged key", forged_key),
        ("expired", signed(Algorithm::HS256, &past, SECRET)),
        ("expired key", expired_key),
        ("revoked key", revoked_key),
        ("logged out", logged_out),
    ];

    for route in routes().iter().filter(|route| !is_endless(route)) {
        let name = format!("{} {}", route.method, route.path);
        for (what, token) in &bad {
            let answer = ask(&service, route, token).await;
            match route.access {
                // A client that logs in may hold an expired token, and a guest of rules too.
                Access::Public | Access::Rules | Access::Fixed | Access::WakeToken => {
                    assert_ne!(answer.header("www-authenticate"), INVALID, "{name}: {what}");
                }
                _ => {
                    assert_eq!(answer.status.as_u16(), 401, "{name}: {what}");
                    assert_eq!(answer.error_code(), "unauthorized", "{name}: {what}");
                    assert_eq!(answer.header("www-authenticate"), INVALID, "{name}: {what}");
                }
            }
        }
        let nobody = ask(&service, route, "").await;
        match route.access {
            Access::WakeToken => assert_eq!(nobody.status.as_u16(), 401, "{name}: {nobody:?}"),
            Access::Public | Access::Fixed | Access::Optional => {
                let is_own = nobody.status.as_u16() == 401 && route.path.ends_with("refresh");
                assert!(is_own || is_admitted(&nobody, route), "{name}: {nobody:?}");
            }
            // Which scopes it takes depends on its topics: tests/realtime.rs.
            Access::Topics => {}
            // Which callers it takes depends on rules: tests/pocketbase.rs.
            Access::Rules => {}
            Access::SignedIn => {
                assert_eq!(
                    (nobody.status.as_u16(), nobody.header("www-authenticate")),
                    (401, "Bearer"),
                    "{name}"
                );
                let user = log_in(&service, "ada@example.com").await.access;
                let answer = ask(&service, route, &user).await;
                assert!(is_admitted(&answer, route), "{name}: {answer:?}");
            }
            Access::Scope(_) | Access::Paths(_) | Access::Events => {
                let scope = match route.access {
                    Access::Scope(scope) | Access::Paths(scope) => scope,
                    _ => Scope::EventsWrite,
                };
                assert_eq!(
                    (nobody.status.as_u16(), nobody.header("www-authenticate")),
                    (401, "Bearer"),
                    "{name}"
                );
                let others = scopes(&|other| *other != scope && *other != Scope::Admin);
                let user = log_in(&service, "ada@example.com").await.access;
                let is_a_users = Scopes::of_a_registered_user().allow(scope);
                let users = [user].into_iter().filter(|_| !is_a_users);
                for without in [token_with(&[]), token_with(&others)].into_iter().chain(users) {
                    let answer = ask(&service, route, &without).await;
                    assert_eq!(
                        (answer.status.as_u16(), answer.error_code().as_str()),
                        (403, "forbidden"),
                        "{name}"
                    );
                    let challenge =
                        format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", scope.name());
                    assert_eq!(answer.header("www-authenticate"), challenge);
                }
                let with_key = key(&database, &["--scope", scope.name()]).await;
                for with in [token_with(&[scope.name()]), token_with(&["admin"]), with_key] {
                    let answer = ask(&service, route, &with).await;
                    assert!(is_admitted(&answer, route), "{name}: {answer:?}");
                }
            }
        }
        // An undeclared method is rejected for any caller.
        let answer = send(&service, "OPTIONS", &path(route), &token_with(&["admin"]), &Value::Null).await;
        let is_of_rules = route.access == Access::Rules && route.path != "/api/health";
        if is_of_rules || route.path.starts_with("/api/oauth2-redirect") {
            // As PocketBase answers.
            assert_eq!(answer.status.as_u16(), 404, "{name}");
            continue;
        }
        assert_eq!(answer.status.as_u16(), 405, "{name}");
        assert!(answer.header("allow").contains(route.method.as_str()), "{name}");
    }
}

const INVALID: &str = "Bearer error=\"invalid_token\"";

#[tokio::test]
async fn an_open_service_requires_no_token_and_rejects_pages_of_other_sites() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("JWT_SECRET", SECRET)]).await;
    for (method, path) in
        [("POST", "/api/v1/events"), ("POST", "/api/v1/events/batch"), ("GET", "/api/health")]
    {
        let ask = async |headers: &[(&str, &str)]| {
            let json = [("content-type", "application/json")];
            service.request(method, path, &[headers, &json[..]].concat(), "[]").await
        };
        assert!(ask(&[]).await.status.is_success());
        for (headers, code) in [
            (&[("origin", "http://evil.example")][..], "cross_site"),
            (&[("origin", "null")], "cross_site"),
            (&[("sec-fetch-site", "cross-site")], "cross_site"),
            (&[("sec-fetch-site", "same-site")], "cross_site"),
            (&[("x-forwarded-for", "203.0.113.9")], "behind_proxy"),
            (&[("x-forwarded-host", "events.example")], "behind_proxy"),
            (&[("forwarded", "for=203.0.113.9")], "behind_proxy"),
            (&[("via", "1.1 caddy")], "behind_proxy"),
        ] {
            let refused = ask(headers).await;
            assert_eq!(
                (refused.status.as_u16(), refused.error_code().as_str()),
                (403, code),
                "{path} {headers:?}"
            );
        }
        assert!(ask(&[("sec-fetch-site", "same-origin")]).await.status.is_success());
        assert_eq!(ask(&[("authorization", "Bearer bad")]).await.status.as_u16(), 401);
        // A token's permissions apply; a token without permissions has those of anonymous callers.
        let bearer = format!("Bearer {}", token_with(&["files:read"]));
        assert_eq!(ask(&[("authorization", &bearer)]).await.status.as_u16(), 403);
        let says_nothing = signed(Algorithm::HS256, &json!({"sub": "ada", "exp": now() + 60}), SECRET);
        assert!(ask(&[("authorization", &format!("Bearer {says_nothing}"))]).await.status.is_success());
    }
    let rebound = "GET /api/health HTTP/1.1\r\nhost: evil.example:3000\r\nconnection: close\r\n\r\n";
    // The error names the setting.
    let proxied = service.request("GET", "/health", &[("x-forwarded-for", "203.0.113.9")], "").await;
    let message = proxied.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("AUTH=required") && message.contains("TRUSTED_PROXIES"), "{message}");
    let answer = service.raw(rebound.as_bytes(), std::time::Duration::from_secs(5)).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("foreign_host"), "{answer}");
    // An anonymous caller creates no keys.
    let anonymous = send(&service, "POST", "/api/keys", "", &json!({"scopes": ["admin"]})).await;
    assert_eq!(anonymous.status.as_u16(), 401);
}

#[tokio::test]
async fn off_loopback_without_a_secret_the_service_names_the_setting_and_exits_2() {
    let database = TestDatabase::create().await;
    for (variables, line) in [
        (
            &[("HOST", "0.0.0.0")][..],
            "tidegate: HOST: got \"0.0.0.0\", takes a loopback address, unless AUTH=required",
        ),
        (&[("HOST", "0.0.0.0"), ("AUTH", "open")], "tidegate: HOST: got \"0.0.0.0\", takes"),
        (&[("AUTH", "closed")], "tidegate: AUTH: got \"closed\", takes open or required"),
        (&[("AUTH", "required")], "tidegate: JWT_SECRET: got nothing, takes at least 32 bytes"),
        (
            &[("AUTH", "required"), ("JWT_SECRET", "short")],
            "tidegate: JWT_SECRET: got a value that is not shown",
        ),
    ] {
        let variables = [&[("DATABASE_URL", database.url()), ("PORT", "0")][..], variables].concat();
        let (status, _, stderr) = run(&["serve"], &variables).await;
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with(line) && stderr.lines().count() == 1, "{stderr}");
    }
    // A service in production behind a proxy listens on loopback too: the address alone enables nothing.
    let variables = [("AUTH", "required"), ("JWT_SECRET", SECRET), ("HOST", "127.0.0.1")];
    let proxied = Service::start(database.url(), &variables).await;
    let from = ("x-forwarded-for", "203.0.113.9");
    let user = json!({"email": "ada@example.com", "password": PASSWORD}).to_string();
    let answer = proxied.request("POST", "/api/auth/register", &[from], user).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (403, "registration_off"));
    let bearer = format!("Bearer {}", token_with(&["admin"]));
    let admin = [from, ("authorization", bearer.as_str())];
    let answer = proxied.request("POST", "/api/stress/records/items", &admin, "{}").await;
    assert_eq!(answer.status.as_u16(), 404, "{answer:?}");
    let answer = proxied.request("POST", "/api/v1/events", &admin, "{}").await;
    assert_eq!(answer.status.as_u16(), 202, "a proxy in front is no reason to reject with AUTH=required");
    // With a secret of its own it listens everywhere, under any name.
    let service = guarded(&database, &[("HOST", "127.0.0.1")]).await;
    let named = "GET /health HTTP/1.1\r\nhost: tidegate.example\r\nconnection: close\r\n\r\n";
    let answer = service.raw(named.as_bytes(), std::time::Duration::from_secs(5)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let open = Service::start(database.url(), &[]).await;
    assert!(open.log().contains("JWT_SECRET is not set"), "{}", open.log());
}
