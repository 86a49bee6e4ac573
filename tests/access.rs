//! Budgets of requests, client addresses, CORS and security headers.

use serde_json::{Value, json};
use tidegate::auth::users::Email;

use crate::support::accounts::{PASSWORD, SECRET, guarded, key, register, send, token_with};
use crate::support::imports::count;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};

fn is_limited(answer: &Answer) -> bool {
    if answer.status.as_u16() != 429 {
        return false;
    }
    assert_eq!(answer.error_code(), "too_many_requests");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(answer.header("ratelimit").contains(";r=0;t="), "{:?}", answer.headers);
    true
}

#[tokio::test]
async fn each_key_and_user_has_budgets_of_their_own_for_reads_and_writes() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("RATE_WRITES", "3"), ("MODULES", "all")]).await;
    let [one, other] = [key(&database, &["--admin"]).await, key(&database, &["--admin"]).await];
    // Typed collections find their callers themselves, so that their routes, and with them /api/health, take from the address's budget.
    let read = async |token: &str| send(&service, "GET", "/api/keys", token, &Value::Null).await;
    let write =
        async |token: &str| send(&service, "POST", "/api/stress/records/items", token, &json!({})).await;
    let first = read(&one).await;
    assert_eq!((first.status.as_u16(), first.header("ratelimit-policy")), (200, "\"reads\";q=6;w=60"));
    assert!(first.header("ratelimit").starts_with("\"reads\";r=1;t="), "{:?}", first.headers);
    assert!(!is_limited(&read(&one).await));
    assert!(is_limited(&read(&one).await), "a third of a minute's budget is all that there is at once");
    assert!(!is_limited(&write(&one).await) && is_limited(&write(&one).await), "writes are another budget");
    assert!(!is_limited(&read(&other).await), "another key is another budget");
    // Events are not limited by default, and neither are probes.
    for _ in 0..20 {
        assert_eq!(send(&service, "POST", "/api/v1/events", &one, &json!({})).await.status.as_u16(), 202);
        assert_eq!(service.get("/health").await.status.as_u16(), 200);
    }
    let limited = guarded(&database, &[("RATE_EVENTS", "3")]).await;
    let event = async || send(&limited, "POST", "/api/v1/events", &one, &json!({})).await;
    let first = event().await;
    assert_eq!((first.status.as_u16(), first.header("ratelimit-policy")), (202, "\"events\";q=3;w=60"));
    assert!(is_limited(&event().await));
}

#[tokio::test]
async fn log_ins_are_counted_by_account_and_by_address() {
    let database = TestDatabase::create().await;
    let limits = [("RATE_LOGINS", "60"), ("TRUSTED_PROXIES", "127.0.0.1")];
    let service = guarded(&database, &limits).await;
    let log_in = async |email: &str, from: &str| {
        let body = json!({"email": email, "password": PASSWORD}).to_string();
        service.request("POST", "/api/auth/login", &[("x-forwarded-for", from)], body).await
    };
    register(&service, "ada@example.com").await;
    // From any address, and in any spelling.
    for (place, email) in ["ada@example.com", "ADA@example.com"].into_iter().enumerate() {
        assert_eq!(log_in(email, &format!("203.0.113.{place}")).await.status.as_u16(), 200);
    }
    assert!(is_limited_account(&log_in("ada@example.com", "203.0.113.9").await));
    // From one network, to any account. The budget refills meanwhile, so a slow machine needs more log-ins.
    let mut taken = 0;
    while !is_limited(&log_in(&format!("{taken}@example.com"), &format!("2001:db8::{taken}")).await) {
        taken += 1;
        assert!(taken < 120, "never limited");
    }
    assert!(taken >= 20, "{taken}");
    // The client's own entries are at the left, and ignored.
    assert!(is_limited(&log_in("y@example.com", "9.9.9.9, 2001:db8::1").await));
    assert!(!is_limited(&log_in("x@example.com", "2001:db8:0:1::1").await), "another network");
}

fn is_limited_account(answer: &Answer) -> bool {
    is_limited(answer) && answer.header("ratelimit-policy") == "\"accounts\";q=6;w=60"
}

#[tokio::test]
async fn every_spelling_of_an_email_takes_from_one_budget() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("RATE_LOGINS", "120")]).await;
    register(&service, "iris.kim@stra\u{df}e.example").await;
    let spellings = [
        "iris.kim@stra\u{df}e.example",
        "IRIS.KIM@STRA\u{df}E.EXAMPLE",
        "\u{130}r\u{130}s.kim@stra\u{df}e.example",
        "i\u{307}ris.kim@stra\u{df}e.example",
        "\u{131}r\u{131}s.kim@stra\u{df}e.example",
        "iris.\u{212a}im@stra\u{df}e.example",
        "iri\u{17f}.kim@stra\u{df}e.example",
        "\u{ff49}ris.kim@stra\u{1e9e}e.example",
    ];
    let mut taken = 0;
    for email in spellings {
        let body = json!({"email": email, "password": "wrong password"});
        let answer = send(&service, "POST", "/api/auth/login", "", &body).await;
        taken += i32::from(!is_limited(&answer));
    }
    assert_eq!(taken, 4, "a third of a minute's budget, however the email is spelt");
    // An accent distinguishes two accounts.
    let other = json!({"email": "\u{ed}ris.kim@stra\u{df}e.example", "password": PASSWORD});
    assert_eq!(send(&service, "POST", "/api/auth/login", "", &other).await.status.as_u16(), 401);
}

/// Spellings of one account have one budget, for any case mapping of the collation.
#[tokio::test]
async fn spellings_that_postgres_considers_equal_share_one_budget() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let mut compared = 0;
    for collation in ["default", "C", "und-x-icu", "en-x-icu", "tr-x-icu", "az-x-icu", "lt-x-icu"] {
        if count(&client, &format!("pg_collation where collname = '{collation}'")).await == 0 {
            continue;
        }
        let lower = format!(
            "select chr(c), lower(chr(c) collate \"{collation}\") from generate_series(33, 1114109) as c
             where c not between 55296 and 57343 and lower(chr(c) collate \"{collation}\") <> chr(c)"
        );
        for row in client.query(&lower, &[]).await.unwrap() {
            let [upper, lower]: [String; 2] = [row.get(0), row.get(1)];
            let account = |name: &str| Email::parse(&format!("x{name}x@example.com")).unwrap().account();
            assert_eq!(account(&upper), account(&lower), "{collation}: {upper:?} {lower:?}");
            compared += 1;
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[tokio::test]
async fn without_a_trusted_proxy_forwarded_addresses_are_ignored() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("RATE_LOGINS", "6")]).await;
    let mut limited = 0;
    for n in 0..4 {
        let from = format!("203.0.113.{n}");
        let answer = service.request("POST", "/api/auth/refresh", &[("x-forwarded-for", &from)], "{}").await;
        limited += i32::from(is_limited(&answer));
    }
    assert_eq!(limited, 2);
}

#[tokio::test]
async fn look_ups_of_unknown_keys_count_like_log_ins() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("RATE_LOGINS", "9")]).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        // Each is valid, and not cached here yet.
        let api_key = key(&database, &["--scope", "events:write"]).await;
        let answer = send(&service, "POST", "/api/v1/events", &api_key, &json!({})).await;
        statuses.push(answer.status.as_u16());
        if answer.status.as_u16() == 202 {
            let again = send(&service, "POST", "/api/v1/events", &api_key, &json!({})).await;
            assert_eq!(again.status.as_u16(), 202, "one that is known costs nothing");
        } else {
            assert!(is_limited(&answer));
        }
    }
    assert_eq!(&statuses[..3], [202, 202, 202]);
    assert!(statuses[3..].contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn an_open_service_counts_neither_reads_nor_writes() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("JWT_SECRET", SECRET)]).await;
    for _ in 0..50 {
        let answer = service.get("/api/health").await;
        assert!(answer.status.is_success() && !answer.headers.contains_key("ratelimit"));
    }
}

#[tokio::test]
async fn every_answer_has_security_headers_and_a_request_id() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    for path in ["/health", "/api/health", "/nothing", "/api/auth/me"] {
        let answer = service.get(path).await;
        for (name, value) in [
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("strict-transport-security", ""),
        ] {
            assert_eq!(answer.header(name), value, "{path}");
        }
        assert!(answer.header("permissions-policy").contains("camera=()"), "{path}");
        assert_eq!(answer.header("x-request-id").len(), 36, "{path}");
        assert!(
            !answer.headers.contains_key("set-cookie")
                && !answer.headers.contains_key("access-control-allow-origin")
        );
    }
    let own = service
        .request("GET", "/health", &[("x-request-id", "mine-1"), ("x-forwarded-proto", "https")], "")
        .await;
    assert_eq!(
        (own.header("x-request-id"), own.header("strict-transport-security")),
        ("mine-1", "max-age=31536000")
    );
    let long = "x".repeat(129);
    assert_ne!(
        service.request("GET", "/health", &[("x-request-id", &long)], "").await.header("x-request-id"),
        long
    );
    let event = send(&service, "POST", "/api/v1/events", &token_with(&["events:write"]), &json!({})).await;
    assert_eq!(event.header("x-content-type-options"), "nosniff");
    // Tokens in URLs and cookies are ignored.
    let token = token_with(&["admin"]);
    for name in ["access_token", "token", "api_key"] {
        assert_eq!(service.get(&format!("/api/health?{name}={token}")).await.status.as_u16(), 401);
    }
    let cookie = format!("token={token}; access_token={token}");
    assert_eq!(service.request("GET", "/api/health", &[("cookie", &cookie)], "").await.status.as_u16(), 401);
}

#[tokio::test]
async fn only_pages_of_named_origins_may_call() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("CORS_ORIGINS", "https://app.example")]).await;
    let ours = ("origin", "https://app.example");
    let asks = ("access-control-request-method", "POST");
    for path in ["/api/v1/events", "/api/health", "/api/keys"] {
        let preflight = service.request("OPTIONS", path, &[ours, asks], "").await;
        assert_eq!(
            (preflight.status.as_u16(), preflight.header("access-control-allow-origin")),
            (204, ours.1)
        );
        assert!(preflight.header("access-control-allow-headers").contains("authorization"));
        // Beacons are always sent with credentials, which are ignored.
        assert_eq!(preflight.header("access-control-allow-credentials"), "true");
        // Tracers add headers, and a header that is not allowed would block the request.
        let traced = "baggage,ce-id, content-type,sentry-trace,traceparent";
        let names = ("access-control-request-headers", traced);
        let preflight = service.request("OPTIONS", path, &[ours, asks, names], "").await;
        assert_eq!(preflight.header("access-control-allow-headers"), traced, "{path}");
        let theirs = service.request("OPTIONS", path, &[("origin", "https://evil.example"), asks], "").await;
        assert!(!theirs.headers.contains_key("access-control-allow-origin"), "{path}");
    }
    for (method, path) in [("POST", "/api/v1/events"), ("GET", "/api/health")] {
        let answer = service.request(method, path, &[ours], "{}").await;
        assert!(answer.status.is_success(), "{path}");
        assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), (ours.1, "origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        for name in ["x-ack", "x-duplicate", "content-disposition", "content-range", "accept-ranges", "etag"]
        {
            assert!(answer.header("access-control-expose-headers").contains(name), "{name}");
        }
        let theirs = service.request(method, path, &[("origin", "https://evil.example")], "{}").await;
        assert_eq!((theirs.status.as_u16(), theirs.header("access-control-allow-origin")), (403, ""));
        assert!(!theirs.headers.contains_key("access-control-allow-credentials"));
    }
}
