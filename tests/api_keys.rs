//! API keys: made, used, listed, replaced, revoked.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::http::{Access, routes};

use crate::permissions::is_endless;
use crate::support::accounts::{guarded, key, log_in, me, register, send, tidegate, token_with};
use crate::support::imports::count;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};

async fn post_event(service: &Service, api_key: &str) -> u16 {
    service.request("POST", "/api/v1/events", &[("x-api-key", api_key)], "{}").await.status.as_u16()
}

#[tokio::test]
async fn a_key_is_good_from_its_making_to_its_revocation_on_every_node() {
    let database = TestDatabase::create().await;
    let (service, other) = tokio::join!(guarded(&database, &[]), guarded(&database, &[]));
    let api_key = key(&database, &["--scope", "events:write", "--name", "sensors", "--expires", "1d"]).await;
    assert!(api_key.starts_with("tg_") && api_key.len() == 52, "{api_key}");
    assert_eq!((post_event(&service, &api_key).await, post_event(&other, &api_key).await), (202, 202));
    assert_eq!(send(&service, "POST", "/api/v1/events", &api_key, &json!({})).await.status.as_u16(), 202);
    let listed = tidegate(&database, &["keys", "list"], "").await.unwrap();
    assert!(
        listed.contains(&api_key[..11]) && listed.contains("sensors") && !listed.contains(&api_key),
        "{listed}"
    );
    let stored: i64 = database
        .connect()
        .await
        .query_one(
            "select count(*) from api_keys where api_keys::text like '%' || $1 || '%'",
            &[&&api_key[11..]],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(stored, 0, "the key itself is nowhere");

    tidegate(&database, &["keys", "revoke", &api_key[..11]], "").await.unwrap();
    let revoked = Instant::now();
    for node in [&service, &other] {
        eventually("the node knows", async || (post_event(node, &api_key).await == 401).then_some(())).await;
    }
    assert!(revoked.elapsed() < Duration::from_millis(1500), "{:?}", revoked.elapsed());
    assert!(
        tidegate(&database, &["keys", "revoke", &api_key[..11]], "").await.is_err(),
        "it is revoked already"
    );
    assert!(tidegate(&database, &["keys", "create", "--scope", "everything"], "").await.is_err());
}

#[tokio::test]
async fn an_api_key_may_come_by_basic_auth_as_user_or_as_password() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    let post = async |credentials: &str, more: &[(&str, &str)]| {
        let basic = format!("Basic {}", STANDARD.encode(credentials));
        let headers = [&[("authorization", basic.as_str())], more].concat();
        service.request("POST", "/api/v1/events", &headers, "{}").await.status.as_u16()
    };
    for credentials in
        [format!("{api_key}:"), api_key.clone(), format!(":{api_key}"), format!("ada:{api_key}")]
    {
        assert_eq!(post(&credentials, &[]).await, 202, "{credentials}");
    }
    let mut forged = api_key.clone();
    forged.replace_range(20..21, if &forged[20..21] == "x" { "y" } else { "x" });
    for bad in [forged.as_str(), "ada:secret", "", &format!("ada:x:{api_key}")] {
        assert_eq!(post(bad, &[]).await, 401, "{bad}");
    }
    // A browser adds the credentials that it knows to whatever page asks.
    assert_eq!(
        post(&api_key, &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")]).await,
        401
    );
    assert_eq!(post(&api_key, &[("sec-fetch-site", "same-origin")]).await, 202);
}

/// Makes a write-only key for pages of an origin.
async fn write_only_key(database: &TestDatabase, origin: &str) -> String {
    key(database, &["--write-only", "--origin", origin]).await
}

const PAGE: (&str, &str) = ("origin", "https://app.example");

#[tokio::test]
async fn a_write_only_key_sends_events_from_pages_of_its_origins_and_does_nothing_else() {
    let database = TestDatabase::create().await;
    let guarded_service = guarded(&database, &[("MODULES", "all"), ("FAULTS", "on")]).await;
    let open = Service::start(database.url(), &[("FAULTS", "on")]).await;
    let origins = ["--origin", "https://app.example", "--origin", "http://localhost:5173"];
    let published = key(&database, &[&["--write-only", "--name", "site"], &origins[..]].concat()).await;
    assert!(published.starts_with("tg_w_") && published.len() == 54, "{published}");
    let listed = tidegate(&database, &["keys", "list"], "").await.unwrap();
    let line = "[events:write] from https://app.example http://localhost:5173  site";
    assert!(
        listed.contains(&published[..13]) && listed.replace("  from", " from").contains(line),
        "{listed}"
    );

    for service in [&guarded_service, &open] {
        let post = async |path: &str, headers: &[(&str, &str)]| {
            let path = format!("{path}key={published}");
            service.request("POST", &path, headers, "{\"via\":\"page\"}\n").await
        };
        let text = ("content-type", "text/plain;charset=UTF-8");
        for (path, headers) in [
            ("/api/v1/events?", &[PAGE][..]),
            ("/api/v1/events/?ack=journaled&", &[PAGE, ("sec-fetch-site", "cross-site")]),
            ("/api/v1/events/batch?", &[PAGE, text, ("sec-fetch-site", "cross-site")]),
            ("/api/v1/events?", &[("origin", "http://localhost:5173"), text]),
        ] {
            let answer = post(path, headers).await;
            assert_eq!(answer.status.as_u16(), 202, "{path} {answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), headers[0].1);
            assert_eq!(answer.header("access-control-allow-credentials"), "true");
            assert_eq!(answer.header("ratelimit-policy"), "\"write-only\";q=600;w=60");
        }
        // By a header as well, where the origin is one of CORS_ORIGINS or the page's own.
        let by_header = [PAGE, ("x-api-key", published.as_str())];
        assert_eq!(service.post(&by_header, "{}").await.status.as_u16(), 202);
        // The preflight has no key but the one in the URL.
        let asks = [PAGE, ("access-control-request-method", "POST")];
        let path = format!("/api/v1/events?key={published}");
        let preflight = service.request("OPTIONS", &path, &asks, "").await;
        assert_eq!(
            (preflight.status.as_u16(), preflight.header("access-control-allow-origin")),
            (204, PAGE.1)
        );
        assert_eq!(preflight.header("access-control-allow-credentials"), "true");
        let none = service.request("OPTIONS", "/api/v1/events", &asks, "").await;
        assert!(!none.headers.contains_key("access-control-allow-origin"));

        for foreign in [
            &[][..],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
            &[("origin", "https://app.example.evil.example")],
            &[("sec-fetch-site", "same-origin")],
        ] {
            let refused = post("/api/v1/events?", foreign).await;
            assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (403, "foreign_origin"));
        }
        // Nothing but events, on any route, open or not: not its owner's account either.
        for route in routes().into_iter().filter(|route| !is_endless(route)) {
            let path = route.path.replace("{id}", "00000000-0000-4000-8000-000000000000");
            let path = path
                .replace("{collection}", "items")
                .replace("{message}", "x")
                .replace("{*rest}", "index.css")
                .replace("{*path}", "a");
            // The page's own requests are marked as such.
            let headers = [("x-api-key", published.as_str()), ("sec-fetch-site", "same-origin")];
            let answer = service.request(route.method.as_str(), &path, &headers, "{}").await;
            let status = answer.status.as_u16();
            match route.access {
                // It takes a cookie.
                Access::Public if route.path == "/ui/session/refresh" => assert_eq!(status, 401, "{route:?}"),
                // They take the token of a wake.
                Access::WakeToken => assert_eq!(status, 401, "{route:?}"),
                // With the module pocketbase everyone may see the status; the other fields are for operators.
                Access::Rules if route.path == "/api/health" => {
                    assert!(matches!(status, 200 | 403), "{route:?} {status}");
                    assert!(answer.json().get("tasks").is_none(), "{answer:?}");
                }
                // Rules decide; the key is no superuser's. Without the module another one may have the path, by other methods.
                Access::Rules => assert!(matches!(status, 400 | 401 | 403..=405), "{route:?} {status}"),
                Access::Public | Access::Fixed | Access::Optional => {
                    assert!(!matches!(status, 401 | 403), "{route:?} {status}");
                }
                Access::SignedIn | Access::Topics | Access::Paths(_) | Access::Scope(_) | Access::Events => {
                    assert_eq!(status, 403, "{route:?}");
                }
            }
        }
        // Only routes of events take it in the URL, and they take no other key there.
        let path = format!("/api/health?key={published}");
        let health = service.request("GET", &path, &[("sec-fetch-site", "none")], "").await;
        let without = service.request("GET", "/api/health", &[], "").await;
        assert_eq!(health.status, without.status);
    }
    let other = key(&database, &["--admin"]).await;
    for (query, message) in [
        (format!("key={other}"), "revoke this key"),
        (format!("key={published}&key={published}"), "not valid"),
        (format!("key={published}x"), "not valid"),
    ] {
        let path = format!("/api/v1/events?{query}");
        let refused = guarded_service.request("POST", &path, &[PAGE], "{}").await;
        assert_eq!(refused.status.as_u16(), 401);
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains(message), "{refused:?}");
    }
    // What a page sends is small, and a beacon smaller.
    let headers = [PAGE, ("content-type", "text/plain"), ("x-api-key", published.as_str())];
    let beacon = format!("/api/v1/events/batch?key={published}");
    let line = |bytes: usize| format!("\"{}\"\n", "x".repeat(bytes - 3));
    for (path, headers, bytes, status) in [
        (beacon.as_str(), &headers[..2], 65_536, 202),
        (&beacon, &headers[..2], 65_537, 413),
        ("/api/v1/events/batch", &headers, 1_048_576, 202),
        ("/api/v1/events/batch", &headers, 1_048_577, 413),
    ] {
        let answer = guarded_service.request("POST", path, headers, line(bytes)).await;
        assert_eq!(answer.status.as_u16(), status, "{bytes} {answer:?}");
    }
    tidegate(&database, &["keys", "revoke", &published[..13]], "").await.unwrap();
    let path = format!("/api/v1/events?key={published}");
    eventually("it is revoked", async || {
        (guarded_service.request("POST", &path, &[PAGE], "{}").await.status.as_u16() == 401).then_some(())
    })
    .await;
    for service in [guarded_service, open] {
        assert!(!service.stop().await.log.contains(&published[13..]));
    }
}

#[tokio::test]
async fn idempotency_keys_of_a_write_only_key_do_not_suppress_events_of_others() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let [published, other] =
        [write_only_key(&database, PAGE.1).await, write_only_key(&database, PAGE.1).await];
    let trusted = key(&database, &["--scope", "events:write"]).await;
    let ndjson = ("content-type", "application/x-ndjson");
    let by = ("idempotency-key", "order-1");
    let [source, id] = [("ce-source", "shop"), ("ce-id", "1")];
    for (path, headers) in [
        ("/api/v1/events?ack=committed", &[by][..]),
        ("/api/v1/events?ack=committed", &[source, id]),
        ("/api/v1/events/batch?ack=committed", &[by, ndjson]),
        ("/api/v1/events/batch?ack=committed&id_field=id", &[ndjson]),
    ] {
        for (api_key, is_repeated) in
            [(&published, false), (&published, true), (&other, false), (&trusted, false), (&trusted, true)]
        {
            let shown = [&[PAGE, ("x-api-key", api_key.as_str())], headers].concat();
            let answer = service.request("POST", path, &shown, "{\"id\":1}").await;
            assert_eq!(answer.status.as_u16(), 201, "{path} {answer:?}");
            assert_eq!(answer.headers.contains_key("x-duplicate"), is_repeated, "{path} {headers:?}");
        }
    }
}

#[tokio::test]
async fn a_write_only_key_has_a_budget_of_its_own_for_each_address() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("RATE_EVENTS", "3"), ("TRUSTED_PROXIES", "127.0.0.1")]).await;
    let published = write_only_key(&database, PAGE.1).await;
    let path = format!("/api/v1/events?key={published}");
    let post = async |from: &str| {
        service.request("POST", &path, &[PAGE, ("x-forwarded-for", from)], "{}").await.status.as_u16()
    };
    let mut taken = 0;
    // A third of it is there at once, and it fills up by ten a second.
    while post("203.0.113.1").await == 202 {
        taken += 1;
        assert!(taken < 100_000, "never");
    }
    assert!(taken >= 200, "{taken}");
    assert_eq!(post("203.0.113.2").await, 202, "another address is another budget");
    let api_key = key(&database, &["--scope", "events:write"]).await;
    assert_eq!(post_event(&service, &api_key).await, 202, "other keys have another one");
}

#[tokio::test]
async fn write_only_keys_are_made_by_the_api_too_and_bound_to_origins() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let add = ["users", "add", "ada@example.com", "--permission", "events:write"];
    tidegate(&database, &add, "correct horse").await.unwrap();
    let ada = log_in(&service, "ada@example.com").await.access;
    let mint = async |body: Value| send(&service, "POST", "/api/keys", &ada, &body).await;
    for (body, field) in [
        (json!({"write_only": true}), "origins"),
        (json!({"write_only": true, "origins": []}), "origins"),
        (json!({"write_only": true, "origins": ["*"]}), "origins"),
        (json!({"write_only": true, "origins": ["null"]}), "origins"),
        (json!({"write_only": true, "origins": ["https://app.example/"]}), "origins"),
        (json!({"write_only": true, "origins": vec!["https://app.example"; 21]}), "origins"),
        (json!({"write_only": true, "origins": [format!("https://{}", "a".repeat(300))]}), "origins"),
        (json!({"write_only": "yes", "origins": ["https://app.example"]}), "write_only"),
        (json!({"scopes": ["events:write"], "origins": ["https://app.example"]}), "origins"),
        (json!({"write_only": true, "origins": [PAGE.1], "scopes": ["events:write", "ops:read"]}), "scopes"),
    ] {
        let refused = mint(body.clone()).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["field"]),
            (400, &json!(field)),
            "{body}"
        );
    }
    let made = mint(json!({"write_only": true, "origins": [PAGE.1], "name": "site"})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let made = made.json();
    assert_eq!((&made["scopes"], &made["origins"]), (&json!(["events:write"]), &json!([PAGE.1])));
    let path = format!("/api/v1/events?key={}", made["key"].as_str().unwrap());
    let post = async || service.request("POST", &path, &[PAGE], "{}").await.status.as_u16();
    assert_eq!(post().await, 202);
    let listed = send(&service, "GET", "/api/keys", &ada, &Value::Null).await.json();
    assert_eq!((&listed[0]["origins"], &listed[0]["prefix"]), (&json!([PAGE.1]), &made["prefix"]));
    // It does no more than its owner may, and goes with them.
    tidegate(&database, &["users", "permissions", "ada@example.com", "--permission", "ops:read"], "")
        .await
        .unwrap();
    eventually("the key lost it too", async || (post().await == 403).then_some(())).await;
    let refused = mint(json!({"write_only": true, "origins": [PAGE.1]})).await;
    assert!(matches!(refused.status.as_u16(), 401 | 403), "{refused:?}");
    for arguments in [
        &["keys", "create", "--write-only"][..],
        &["keys", "create", "--write-only", "--origin", "https://app.example/"],
        &["keys", "create", "--write-only", "--origin", PAGE.1, "--admin"],
        &["keys", "create", "--write-only", "--origin", PAGE.1, "--scope", "ops:read"],
        &["keys", "create", "--scope", "events:write", "--origin", PAGE.1],
    ] {
        assert!(tidegate(&database, arguments, "").await.is_err(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_user_mints_keys_within_his_rights_and_loses_them_with_his_rights() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    for (email, permissions) in [("ada@example.com", "events:write"), ("bob@example.com", "ops:read")] {
        tidegate(&database, &["users", "add", email, "--permission", permissions], "correct horse")
            .await
            .unwrap();
    }
    let (ada, bob) = (log_in(&service, "ada@example.com").await, log_in(&service, "bob@example.com").await);
    let mint = async |token: &str, body: Value| send(&service, "POST", "/api/keys", token, &body).await;
    for beyond in [json!(["ops:read"]), json!(["admin"]), json!(["events:write", "stress"])] {
        let refused = mint(&ada.access, json!({"scopes": beyond})).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["error"]["field"]), (403, &json!("scopes")));
    }
    for (body, field) in [
        (json!({"scopes": []}), "scopes"),
        (json!({}), "scopes"),
        (json!({"scopes": ["nothing"]}), "scopes"),
        (json!({"scopes": "events:write"}), "scopes"),
        (json!({"scopes": ["events:write"], "name": 1}), "name"),
        (json!({"scopes": ["events:write"], "name": "a\u{0}"}), "name"),
        (json!({"scopes": ["events:write"], "expires": "tomorrow"}), "expires"),
        (json!({"scopes": ["events:write"], "expires": "2020-01-01T00:00:00Z"}), "expires"),
        (json!({"scopes": ["events:write"], "replaces": "x"}), "replaces"),
        (json!({"scopes": ["events:write"], "admin": true}), "admin"),
    ] {
        let refused = mint(&ada.access, body.clone()).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["field"]),
            (400, &json!(field)),
            "{body}"
        );
    }
    let made = mint(&ada.access, json!({"scopes": ["events:write"], "name": "mine"})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let (api_key, id) =
        (made.json()["key"].as_str().unwrap().to_owned(), made.json()["id"].as_str().unwrap().to_owned());
    assert_eq!((post_event(&service, &api_key).await, me(&service, &api_key).await), (202, 200));
    // A key makes no keys, and nobody sees or revokes another's.
    assert_eq!(mint(&api_key, json!({"scopes": ["events:write"]})).await.status.as_u16(), 403);
    let list = async |token: &str| send(&service, "GET", "/api/keys", token, &Value::Null).await.json();
    assert_eq!((list(&ada.access).await.as_array().unwrap().len(), list(&bob.access).await), (1, json!([])));
    assert_eq!(list(&token_with(&["admin"])).await.as_array().unwrap().len(), 1);
    assert!(list(&ada.access).await[0].get("key").is_none());
    let path = format!("/api/keys/{id}");
    assert_eq!(send(&service, "DELETE", &path, &bob.access, &Value::Null).await.status.as_u16(), 404);
    assert_eq!(post_event(&service, &api_key).await, 202);
    for _ in 0..99 {
        assert_eq!(mint(&ada.access, json!({"scopes": ["events:write"]})).await.status.as_u16(), 201);
    }
    assert_eq!(mint(&ada.access, json!({"scopes": ["events:write"]})).await.error_code(), "too_many_keys");
    assert_eq!(send(&service, "DELETE", &path, &ada.access, &Value::Null).await.status.as_u16(), 204);
    assert_eq!(post_event(&service, &api_key).await, 401, "on the node that was asked, at once");

    let made = mint(&ada.access, json!({"scopes": ["events:write"]})).await.json();
    let api_key = made["key"].as_str().unwrap();
    assert_eq!(post_event(&service, api_key).await, 202);
    tidegate(&database, &["users", "permissions", "ada@example.com", "--permission", "ops:read"], "")
        .await
        .unwrap();
    eventually("the key lost it too", async || (post_event(&service, api_key).await == 403).then_some(()))
        .await;
    tidegate(&database, &["users", "delete", "ada@example.com"], "").await.unwrap();
    eventually("the key went with its user", async || {
        (post_event(&service, api_key).await == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_is_replaced_with_an_overlap_and_expires() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let admin = token_with(&["admin"]);
    let mint = async |body: Value| send(&service, "POST", "/api/keys", &admin, &body).await.json();
    let text = |json: &Value, name: &str| json[name].as_str().unwrap().to_owned();
    let first = mint(json!({"scopes": ["events:write"], "name": "till 4"})).await;
    let (old, id) = (text(&first, "key"), text(&first, "id"));
    assert_eq!(post_event(&service, &old).await, 202);
    let second = mint(json!({"scopes": ["events:write"], "replaces": id, "overlap_s": 4})).await;
    let new = text(&second, "key");
    assert_eq!((post_event(&service, &old).await, post_event(&service, &new).await), (202, 202));
    let listed = send(&service, "GET", "/api/keys", &admin, &Value::Null).await.json();
    assert_eq!(listed[1]["replaced_by"], second["id"], "{listed}");
    assert_eq!(
        (&second["name"], &listed[0]["name"]),
        (&json!("till 4"), &json!("till 4")),
        "it keeps its name"
    );
    eventually("the overlap is over", async || (post_event(&service, &old).await == 401).then_some(())).await;
    assert_eq!(post_event(&service, &new).await, 202);
    let again =
        send(&service, "POST", "/api/keys", &admin, &json!({"scopes": ["stress"], "replaces": id})).await;
    let renamed = mint(json!({"scopes": ["stress"], "replaces": second["id"], "name": ""})).await;
    assert_eq!(renamed["name"], "", "unless it is given another one");
    assert_eq!(again.status.as_u16(), 404, "one that is over is not replaced, and no key is made");
    assert_eq!(
        send(&service, "GET", "/api/keys", &admin, &Value::Null).await.json().as_array().unwrap().len(),
        3
    );
}

#[tokio::test]
async fn known_keys_work_while_postgres_is_away_and_unknown_ones_are_told_so() {
    use crate::support::postgres::PrivateServer;
    let mut server = PrivateServer::start(&[]).await;
    let variables = [
        ("AUTH", "required"),
        ("JWT_SECRET", crate::support::accounts::SECRET),
        ("STATEMENT_TIMEOUT_MS", "500"),
    ];
    let service = Service::start(server.url(), &variables).await;
    // A start makes all keys known that there are; these are to come afterwards.
    let admin = token_with(&["admin"]);
    service.has_run("revocations", &admin).await;
    let mint = async || {
        let made = send(&service, "POST", "/api/keys", &admin, &json!({"scopes": ["events:write"]})).await;
        made.json()["key"].as_str().unwrap().to_owned()
    };
    let (known, unknown) = (mint().await, mint().await);
    assert_eq!(post_event(&service, &known).await, 202);
    server.stop_immediate().await;
    assert_eq!(post_event(&service, &known).await, 202);
    assert_eq!(post_event(&service, &unknown).await, 503);
    server.start_again().await;
    eventually("it is asked again", async || (post_event(&service, &unknown).await == 202).then_some(()))
        .await;
}

#[tokio::test]
async fn the_last_use_of_a_key_is_written_later_and_made_up_keys_ask_nobody() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    register(&service, "ada@example.com").await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    assert_eq!(post_event(&service, &api_key).await, 202);
    let client = database.connect().await;
    let scans = "select coalesce(idx_scan, 0) + coalesce(seq_scan, 0) from pg_stat_user_tables where relname = 'api_keys'";
    for n in 0..50 {
        let mut made_up = api_key.clone();
        made_up.replace_range(12..14, &format!("{n:02}"));
        let expected = if made_up == api_key { 202 } else { 401 };
        assert_eq!(post_event(&service, &made_up).await, expected);
    }
    let asked: i64 = client.query_one(scans, &[]).await.unwrap().get(0);
    assert!(asked < 20, "{asked}: a wrong checksum is told without asking");
}

#[tokio::test]
async fn what_a_user_makes_does_not_wait_for_a_key_of_his_that_is_being_made() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("STATEMENT_TIMEOUT_MS", "30000")]).await;
    register(&service, "ada@example.com").await;
    let ada = log_in(&service, "ada@example.com").await.access;
    let (client, holder) = (database.connect().await, database.connect().await);
    // A key is counted and then added, behind its owner's lock: it stays there.
    holder.batch_execute("begin; lock table api_keys in access exclusive mode").await.unwrap();
    let key = json!({"scopes": ["conversations:read"]});
    let minting = send(&service, "POST", "/api/keys", &ada, &key);
    let making = async {
        let waiting = "pg_locks where not granted and relation = 'api_keys'::regclass";
        eventually("the owner is locked", async || (count(&client, waiting).await > 0).then_some(())).await;
        let begun = send(&service, "POST", "/api/conversations", &ada, &json!({})).await;
        assert_eq!(begun.status.as_u16(), 201, "{:?}", begun.body);
        assert!(count(&client, waiting).await > 0, "the key is still being made");
        holder.batch_execute("rollback").await.unwrap();
    };
    let (minted, ()) = tokio::join!(minting, making);
    assert_eq!(minted.status.as_u16(), 201, "{:?}", minted.body);
}
