//! The web page: its documents and files, its cookie, its own routes. `tests/outside/web.sh` tries it in a browser.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::accounts::{PASSWORD, guarded, key, log_in, register, send, token_with};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};
use crate::support::sse::EventStream;

/// The mark of a request of the service's own page, as browsers set it.
const OWN: (&str, &str) = ("sec-fetch-site", "same-origin");

async fn get(service: &Service, path: &str) -> Answer {
    service.request("GET", path, &[], "").await
}

/// A browser's cookies, by their names.
#[derive(Default)]
struct Jar(Vec<(String, String)>);

impl Jar {
    /// Takes the cookies of an answer; returns their attributes.
    fn take(&mut self, answer: &Answer) -> Vec<String> {
        let mut attributes = Vec::new();
        for value in answer.headers.get_all("set-cookie") {
            let text = value.to_str().unwrap();
            let (pair, rest) = text.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.0.retain(|(own, _)| own != name);
            if !rest.contains("Max-Age=0") {
                self.0.push((name.to_owned(), value.to_owned()));
            }
            attributes.push(format!("{name};{rest}"));
        }
        attributes
    }

    fn header(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// A request of the page, with its cookies.
    async fn send(&self, service: &Service, method: &str, path: &str, body: &Value) -> Answer {
        let cookies = self.header();
        let headers = [OWN, ("cookie", cookies.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        service.request(method, path, &headers, body).await
    }

    async fn status(&self, service: &Service, method: &str, path: &str) -> u16 {
        self.send(service, method, path, &Value::Null).await.status.as_u16()
    }
}

/// Signs a user in by the page.
async fn sign_in(service: &Service, email: &str) -> Jar {
    let mut jar = Jar::default();
    let body = json!({"email": email, "password": PASSWORD});
    let answer = jar.send(service, "POST", "/ui/session", &body).await;
    assert_eq!(answer.status.as_u16(), 204, "{:?}", answer.body);
    jar.take(&answer);
    jar
}

/// The values of an attribute in a document.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    html.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[tokio::test]
async fn documents_have_a_strict_policy_and_their_files_are_kept_for_ever() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut files = BTreeSet::new();
    for path in ["/", "/stress"] {
        let page = get(&service, path).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        for unsafe_source in ["unsafe-inline", "unsafe-eval", "*", "data:", "http"] {
            assert!(!policy.contains(unsafe_source), "{policy}");
        }
        assert_eq!(page.header("cache-control"), "no-cache");
        let again = service.request("GET", path, &[("if-none-match", page.header("etag"))], "").await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
        let html = String::from_utf8(page.body.to_vec()).unwrap();
        assert!(!html.contains(['{', '}']), "a placeholder is left");
        // Nothing inline, which the policy would block.
        assert!(
            !html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick"),
            "{html}"
        );
        assert_eq!(html.matches("<script").count(), html.matches("<script src=\"").count(), "{html}");
        files.extend(values(&html, "src=\"").into_iter().map(str::to_owned));
        files.extend(values(&html, "href=\"/ui/").into_iter().map(|rest| format!("/ui/{rest}")));
    }
    assert_eq!(files.len(), 7, "{files:?}");
    for file in &files {
        let answer = get(&service, file).await;
        assert_eq!(answer.status.as_u16(), 200, "{file}");
        assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable", "{file}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        let known = service.request("GET", file, &[("if-none-match", answer.header("etag"))], "").await;
        assert_eq!((known.status.as_u16(), known.body.len()), (304, 0), "{file}");
        // The page of another binary gets a file that it must not keep.
        let version = file.split('/').nth(3).unwrap();
        let other = get(&service, &file.replace(version, "0123456789ab")).await;
        assert_eq!((other.status.as_u16(), other.header("cache-control")), (200, "no-cache"), "{file}");
    }
    for missing in ["/ui/assets/x/none.js", "/ui/assets/x/..%2Fmod.rs", "/ui/assets/x", "/ui/", "/ui"] {
        assert_eq!(get(&service, missing).await.status.as_u16(), 404, "{missing}");
    }
}

#[tokio::test]
async fn the_cookie_counts_below_ui_and_nowhere_else() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("MODULES", "all")]).await;
    register(&service, "ada@example.com").await;
    assert_eq!(get(&service, "/ui/session").await.json()["kind"], "anonymous");
    let mut jar = Jar::default();
    let body = json!({"email": "ada@example.com", "password": "a wrong password"});
    assert_eq!(jar.send(&service, "POST", "/ui/session", &body).await.error_code(), "wrong_credentials");
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let answer = jar.send(&service, "POST", "/ui/session", &body).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0), "scripts see no token");
    let attributes = jar.take(&answer);
    assert_eq!(attributes.len(), 2);
    for (attribute, path) in attributes.iter().zip(["/ui", "/ui/session"]) {
        assert!(
            attribute.contains(&format!("; Path={path}; HttpOnly; SameSite=Strict; Max-Age=")),
            "{attribute}"
        );
        assert!(!attribute.contains("Secure"), "there is no TLS: {attribute}");
    }
    let session = jar.send(&service, "GET", "/ui/session", &Value::Null).await.json();
    assert_eq!((&session["kind"], &session["email"]), (&json!("user"), &json!("ada@example.com")));

    assert_eq!(jar.status(&service, "GET", "/ui/api/auth/me").await, 200);
    assert_eq!(jar.status(&service, "GET", "/ui/api/conversations").await, 200);
    // The same token lacks what the user lacks.
    for path in ["/ui/events", "/ui/collections", "/ui/streams", "/ui/api/v1/routes"] {
        assert_eq!(jar.status(&service, "GET", path).await, 403, "{path}");
    }
    // With the module pocketbase everyone may see the status, and operators the rest.
    let health = jar.send(&service, "GET", "/ui/api/health", &Value::Null).await;
    assert_eq!((health.status.as_u16(), health.json().get("tasks")), (200, None));
    for (method, path) in [
        ("GET", "/api/auth/me"),
        ("GET", "/api/conversations"),
        ("POST", "/api/conversations"),
        ("GET", "/api/files"),
        ("POST", "/api/v1/events"),
        ("POST", "/api/v1/events/batch"),
        ("POST", "/v1/batch"),
        ("GET", "/v1/stream/a"),
        ("GET", "/api/events/stream?topics=stats"),
        ("GET", "/metrics"),
    ] {
        let answer = jar.send(&service, method, path, &json!({})).await;
        assert_eq!(answer.status.as_u16(), 401, "{method} {path}: {:?}", answer.body);
    }
    // The API is at its own path below /ui, and nothing else is.
    for path in ["/ui/health", "/ui/metrics", "/ui/ui/api/auth/me", "/ui//api/auth/me", "/ui/API/auth/me"] {
        assert_eq!(jar.status(&service, "GET", path).await, 404, "{path}");
    }
    // A token in a header goes before the cookie.
    let bearer = format!("Bearer {}", token_with(&["ops:read"]));
    let cookies = jar.header();
    let headers = [OWN, ("cookie", cookies.as_str()), ("authorization", bearer.as_str())];
    assert_eq!(service.request("GET", "/ui/api/health", &headers, "").await.status.as_u16(), 200);

    // Two cookies of a name are none: another one may have been set by a sibling domain.
    let twice = format!("{cookies}; {cookies}");
    let answer = service.request("GET", "/ui/api/auth/me", &[OWN, ("cookie", &twice)], "").await;
    assert_eq!(answer.status.as_u16(), 401);

    // The next tokens of the session, by the cookie that only this route gets.
    let before = jar.header();
    let refreshed = jar.send(&service, "POST", "/ui/session/refresh", &Value::Null).await;
    assert_eq!(refreshed.status.as_u16(), 204);
    jar.take(&refreshed);
    assert_ne!(jar.header(), before);
    assert_eq!(jar.status(&service, "GET", "/ui/api/auth/me").await, 200);

    // Signed out, both sessions' cookies are useless.
    let access = log_in(&service, "ada@example.com").await.access;
    let out = jar.send(&service, "DELETE", "/ui/session", &Value::Null).await;
    assert_eq!(out.status.as_u16(), 204);
    let old = Jar(jar.0.clone());
    assert!(jar.take(&out).iter().all(|attribute| attribute.contains("Max-Age=0")));
    assert_eq!(jar.header(), "");
    assert_eq!(old.status(&service, "GET", "/ui/api/auth/me").await, 401);
    let refused = old.send(&service, "POST", "/ui/session/refresh", &Value::Null).await;
    assert_eq!((refused.status.as_u16(), refused.headers.get_all("set-cookie").iter().count()), (401, 2));
    assert_eq!(send(&service, "GET", "/api/auth/me", &access, &Value::Null).await.status.as_u16(), 200);
    assert_eq!(Jar::default().status(&service, "DELETE", "/ui/session").await, 204);
    assert_eq!(Jar::default().status(&service, "POST", "/ui/session/refresh").await, 401);
}

#[tokio::test]
async fn a_key_signs_in_until_it_is_revoked_and_a_write_only_key_does_not() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("STRESS_TOKEN", "operators;token,\"x\"")]).await;
    let own = key(&database, &["--scope", "ops:read"]).await;
    let mut jar = Jar::default();
    let answer = jar.send(&service, "POST", "/ui/session", &json!({"token": format!(" {own}\n")})).await;
    assert_eq!(answer.status.as_u16(), 204, "{:?}", answer.body);
    let attributes = jar.take(&answer);
    assert!(attributes[0].ends_with("HttpOnly; SameSite=Strict"), "it ends with the browser: {attributes:?}");
    assert_eq!(jar.status(&service, "GET", "/ui/api/health").await, 200);
    assert_eq!(jar.send(&service, "GET", "/ui/session", &Value::Null).await.json()["kind"], "key");
    let admin = token_with(&["admin"]);
    let keys = send(&service, "GET", "/api/keys", &admin, &Value::Null).await.json();
    let path = format!("/api/keys/{}", keys[0]["id"].as_str().unwrap());
    assert_eq!(send(&service, "DELETE", &path, &admin, &Value::Null).await.status.as_u16(), 204);
    assert_eq!(jar.status(&service, "GET", "/ui/api/health").await, 401);

    let answer = jar.send(&service, "POST", "/ui/session", &json!({"token": "operators;token,\"x\""})).await;
    jar.take(&answer);
    assert_eq!(jar.send(&service, "GET", "/ui/session", &Value::Null).await.json()["kind"], "operator");

    let published = key(&database, &["--write-only", "--origin", "https://app.example"]).await;
    for (body, code) in [
        (json!({"token": published}), "forbidden"),
        (json!({"token": "tg_x"}), "unauthorized"),
        (json!({"token": ""}), "unauthorized"),
        (json!({}), "invalid_request"),
        (json!({"email": "ada@example.com"}), "invalid_request"),
        (json!({"email": "ada@example.com", "password": PASSWORD, "token": "x"}), "invalid_request"),
        (json!({"email": "ada@example.com", "password": PASSWORD, "x": 1}), "invalid_request"),
    ] {
        let refused = Jar::default().send(&service, "POST", "/ui/session", &body).await;
        assert_eq!(refused.error_code(), code, "{body}");
        assert!(!refused.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn pages_of_others_reach_nothing_below_ui() {
    let database = TestDatabase::create().await;
    // Pages of this origin may call the API, but they are no pages of the service.
    let allowed = [("CORS_ORIGINS", "https://app.example"), ("REGISTRATION", "on")];
    let service = guarded(&database, &allowed).await;
    register(&service, "ada@example.com").await;
    let jar = sign_in(&service, "ada@example.com").await;
    let cookies = jar.header();
    let ask = async |method: &str, path: &str, marks: &[(&str, &str)]| {
        let headers = [marks, &[("cookie", cookies.as_str()), ("content-type", "application/json")]].concat();
        let body = if method == "GET" { "" } else { "{}" };
        service.request(method, path, &headers, body).await
    };
    for (method, marks) in [
        ("POST", &[OWN][..]),
        ("POST", &[("origin", "http://localhost")]),
        ("GET", &[OWN]),
        ("GET", &[("sec-fetch-site", "none")]),
        ("GET", &[]),
        ("GET", &[OWN, ("sec-fetch-dest", "empty")]),
        ("GET", &[OWN, ("sec-fetch-dest", "document")]),
    ] {
        let answer = ask(method, "/ui/api/conversations", marks).await;
        assert!(answer.status.is_success(), "{method} {marks:?}: {:?}", answer.body);
    }
    // The service is `localhost` for the client of these tests.
    let foreign: [(&str, &[(&str, &str)]); 12] = [
        ("POST", &[]),
        ("POST", &[("sec-fetch-site", "none")]),
        ("POST", &[("sec-fetch-site", "cross-site")]),
        ("POST", &[("sec-fetch-site", "same-site")]),
        ("POST", &[("origin", "null")]),
        ("POST", &[("origin", "https://app.example")]),
        ("POST", &[("origin", "https://app.example"), ("sec-fetch-site", "same-site")]),
        ("OPTIONS", &[("origin", "https://app.example"), ("access-control-request-method", "POST")]),
        ("GET", &[("sec-fetch-site", "cross-site")]),
        ("GET", &[("sec-fetch-site", "same-site")]),
        ("GET", &[("origin", "http://evil.example")]),
        ("DELETE", &[("origin", "http://evil.example")]),
    ];
    for path in ["/ui/api/conversations", "/ui/session", "/ui/session/refresh", "/ui/events", "/ui/none"] {
        for (method, marks) in foreign {
            let refused = ask(method, path, marks).await;
            let code = (refused.status.as_u16(), refused.error_code());
            assert_eq!(code, (403, "cross_site".into()), "{method} {path} {marks:?}");
            assert!(
                !refused.headers.contains_key("access-control-allow-origin"),
                "{method} {path} {marks:?}"
            );
        }
    }
    // What a user stored must not run as a script of the page, whose policy trusts this origin.
    for dest in ["script", "style", "worker", "serviceworker", "iframe", "object", "image"] {
        let refused = ask("GET", "/ui/api/files", &[OWN, ("sec-fetch-dest", dest)]).await;
        assert_eq!(refused.status.as_u16(), 403, "{dest}");
    }
    // The API itself takes the calls of those pages, without cookies.
    let of_api = ask("GET", "/api/conversations", &[("origin", "https://app.example")]).await;
    assert_eq!(
        (of_api.status.as_u16(), of_api.header("access-control-allow-origin")),
        (401, "https://app.example")
    );
}

#[tokio::test]
async fn nobody_sees_anothers_data_below_ui() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("MODULES", "all")]).await;
    for email in ["ada@example.com", "bob@example.com"] {
        register(&service, email).await;
    }
    let (ada, bob) = (sign_in(&service, "ada@example.com").await, sign_in(&service, "bob@example.com").await);
    let made = ada.send(&service, "POST", "/ui/api/conversations", &json!({"title": "Ada's"})).await;
    assert_eq!(made.status.as_u16(), 201, "{:?}", made.body);
    let path = format!("/ui/api/conversations/{}", made.json()["id"].as_str().unwrap());
    let key = ada.send(&service, "POST", "/ui/api/keys", &json!({"scopes": ["files:read"]})).await.json();
    let key_path = format!("/ui/api/keys/{}", key["id"].as_str().unwrap());
    let sessions = ada.send(&service, "GET", "/ui/api/auth/sessions", &Value::Null).await.json();
    let session_path = format!("/ui/api/auth/sessions/{}", sessions[0]["id"].as_str().unwrap());
    assert_eq!(ada.status(&service, "GET", &path).await, 200);
    for (method, path) in
        [("GET", &path), ("DELETE", &path), ("DELETE", &key_path), ("DELETE", &session_path)]
    {
        assert_eq!(bob.status(&service, method, path).await, 404, "{method} {path}");
    }
    for list in ["/ui/api/conversations", "/ui/api/files", "/ui/api/keys"] {
        assert_eq!(bob.send(&service, "GET", list, &Value::Null).await.json(), json!([]), "{list}");
    }
    let own = bob.send(&service, "GET", "/ui/api/auth/sessions", &Value::Null).await.json();
    assert!(own.as_array().unwrap().iter().all(|session| session["id"] != sessions[0]["id"]), "{own}");

    // A list of streams has those that the caller may read.
    let admin = token_with(&["admin"]);
    for name in ["a/1", "b/1"] {
        let created = send(&service, "PUT", &format!("/v1/stream/{name}"), &admin, &Value::Null).await;
        assert_eq!(created.status.as_u16(), 201);
    }
    let list = async |token: &str, query: &str| {
        send(&service, "GET", &format!("/ui/streams{query}"), token, &Value::Null).await.json()
    };
    let some = list(&token_with(&["streams:read:b/"]), "").await;
    assert_eq!(some, json!({"streams": [{"path": "b/1", "tail": 0}], "next": null}));
    assert_eq!(list(&admin, "?prefix=a").await["streams"].as_array().unwrap().len(), 1);
    assert_eq!(list(&admin, "?after=a/1").await["streams"][0]["path"], "b/1");
    assert_eq!(list(&admin, "?after=a//1").await["error"]["field"], "after");
    let made = send(&service, "POST", "/api/stress/records/items", &admin, &json!({"n": 1})).await.status;
    assert_eq!(made.as_u16(), 404, "collections are made on purpose here");
    assert_eq!(send(&service, "GET", "/ui/collections", &admin, &Value::Null).await.json(), json!([]));
}

#[tokio::test]
async fn the_figures_need_neither_a_feed_nor_postgres_and_are_shared() {
    let database = TestDatabase::create_empty().await;
    let service = guarded(&database, &[("MODULES", "events,web")]).await;
    let bearer = format!("Bearer {}", token_with(&["ops:read"]));
    let headers = [("authorization", bearer.as_str())];
    let mut one = EventStream::open(&service, "/ui/events", &headers).await;
    let mut other = EventStream::open(&service, "/ui/events", &headers).await;
    assert_eq!(one.status.as_u16(), 200);
    let (mut own, mut others) = (Vec::new(), BTreeSet::new());
    for _ in 0..4 {
        let event = one.take(1).await.remove(0);
        assert_eq!(event.event, "stats");
        own.push(event.data);
        others.insert(other.take(1).await.remove(0).data);
    }
    assert!(own.iter().filter(|one| others.contains(*one)).count() >= 3, "{own:?} {others:?}");
    let figures: Value = serde_json::from_str(&own[3]).unwrap();
    assert!(figures["ledger"]["balanced"].is_boolean() && figures["last_second"].is_object(), "{figures}");
    let mut counted = EventStream::open(&service, "/ui/events?count=2", &headers).await;
    counted.take(2).await;
    assert!(counted.next().await.is_none(), "it ends after two");
    for query in ["count=0", "count=x", "counts=1"] {
        let refused = service.request("GET", &format!("/ui/events?{query}"), &headers, "").await;
        assert_eq!(refused.json()["error"]["field"], "count", "{query}");
    }
}

/// The first two events of a page: the figures of the last minutes, and those of now.
async fn figures(service: &Service) -> [Value; 2] {
    let mut stream = EventStream::open(service, "/ui/events?count=1&history=true", &[]).await;
    let events = stream.take(2).await;
    assert_eq!((events[0].event.as_str(), events[1].event.as_str()), ("history", "stats"));
    [0, 1].map(|place: usize| serde_json::from_str(&events[place].data).unwrap())
}

#[tokio::test]
async fn the_charts_begin_with_the_last_minutes_and_each_lane_shows_what_it_does() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "events,web"), ("WRITERS", "2")]).await;
    assert_eq!(service.post(&[], r#"{"n": 1}"#).await.status.as_u16(), 202);
    service.settled().await;
    // Nobody watches meanwhile.
    let [past, now] = eventually("the event is in the figures of the past", async || {
        let [past, now] = figures(&service).await;
        let sum: f64 = past["committed"].as_array().unwrap().iter().filter_map(Value::as_f64).sum();
        (sum > 0.0 && past["x"].as_array().unwrap().len() >= 2).then_some([past, now])
    })
    .await;
    let length = past["x"].as_array().unwrap().len();
    for (name, line) in past.as_object().unwrap() {
        assert_eq!(line.as_array().unwrap().len(), length, "{name}");
    }
    assert!(past["p99"].as_array().unwrap().iter().any(Value::is_number), "{past}");
    let lanes = now["lanes"]["each"].as_array().unwrap();
    let batches: u64 = lanes.iter().map(|lane| lane["batches"].as_u64().unwrap()).sum();
    assert!(lanes.len() == 2 && batches >= 1, "{now}");
    assert!(lanes.iter().all(|lane| lane["state"] == "waiting" && lane["events"] == 0), "{now}");
    let figures_task =
        now["tasks"].as_array().unwrap().iter().find(|task| task["name"] == "figures").unwrap();
    assert!(figures_task["steps"].as_u64() >= Some(1) && figures_task["last_step_ms"].is_number(), "{now}");

    database
        .connect()
        .await
        .batch_execute("alter table requests rename column payload to gone")
        .await
        .unwrap();
    service.post(&[], r#"{"n": 2}"#).await;
    let lanes = eventually("a lane is halted", async || {
        let [_, now] = figures(&service).await;
        let is_halted = now["lanes"]["each"].as_array().unwrap().iter().any(|lane| lane["state"] == "halted");
        is_halted.then_some(now["lanes"].clone())
    })
    .await;
    assert_eq!((&lanes["busy"], &lanes["count"]), (&json!(1), &json!(2)), "{lanes}");
    assert!(lanes["each"].as_array().unwrap().iter().any(|lane| lane["events"] == 1), "{lanes}");
    database
        .connect()
        .await
        .batch_execute("alter table requests rename column gone to payload")
        .await
        .unwrap();
    service.settled().await;
    let refused = service.request("GET", "/ui/events?history=x", &[], "").await;
    assert_eq!(refused.status.as_u16(), 400);
}

#[tokio::test]
async fn a_page_that_is_off_is_not_there_and_shows_only_modules_that_are_on() {
    let database = TestDatabase::create_empty().await;
    let service = Service::start(database.url(), &[("MODULES", "events")]).await;
    for path in ["/", "/stress", "/ui/session", "/ui/events", "/ui/assets/x/app.js", "/ui/api/health"] {
        assert_eq!(get(&service, path).await.status.as_u16(), 404, "{path}");
    }
    drop(service);
    let service = Service::start(database.url(), &[("MODULES", "events,files,web")]).await;
    let page = String::from_utf8(get(&service, "/").await.body.to_vec()).unwrap();
    assert_eq!(values(&page, "data-modules=\""), ["events files web"]);
    assert!(!page.contains("href=\"/stress\""), "{page}");
    for path in ["/stress", "/ui/collections", "/ui/streams", "/ui/api/conversations", "/ui/v1/stream/a"] {
        assert_eq!(get(&service, path).await.status.as_u16(), 404, "{path}");
    }
    assert_eq!(get(&service, "/ui/api/files").await.status.as_u16(), 200);
}
