//! Segment's HTTP tracking API: calls, batches, browsers, and what is wrong with them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::accounts::{guarded, key, send};
use crate::support::imports::count;
use crate::support::intake::{Stalled, gzip, payloads};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");
const TEXT: (&str, &str) = ("content-type", "text/plain");

async fn post(service: &Service, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    service.request("POST", path, headers, body.to_string()).await
}

#[tokio::test]
async fn calls_and_batches_are_stored_as_they_came_and_once() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    let basic = format!("Basic {}", STANDARD.encode(format!("{api_key}:")));
    let auth = [JSON, ("authorization", basic.as_str())];
    let track = json!({
        "type": "track", "messageId": "m-1", "userId": "u", "event": "Paid", "properties": {"total": 12.50, "n": {"deep": [1]}},
        "unknown": {"kept": true}, "context": {"library": {"name": "own"}},
    });
    let page = json!({"type": "page", "messageId": "m-2", "anonymousId": "a"});
    let batch = |sent_at: &str| {
        json!({
            "batch": [track, page, {"type": "track", "event": "without an id"}], "writeKey": api_key, "sentAt": sent_at,
            "context": {"ip": "192.0.2.1"}, "more": [1],
        })
    };
    for (path, sent_at) in [("/v1/batch", "1"), ("/v1/batch/", "2"), ("/v1/import", "3")] {
        let answer = post(&service, path, &auth, &batch(sent_at)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"success": true})), "{answer:?}");
        assert_eq!(answer.header("x-ack"), "journaled");
    }
    let health = settled(&service, &api_key_of_an_operator(&database).await).await;
    assert_eq!((&health["duplicates"], &health["committed"]), (&json!(4), &json!(5)), "{health}");
    let stored = payloads(&database).await;
    let mut expected = track.clone();
    expected["sentAt"] = json!("1");
    expected["more"] = json!([1]);
    assert_eq!(stored[0], expected, "an event keeps its own context, and gets the rest of the envelope");
    assert_eq!(
        stored[1],
        json!({"type": "page", "messageId": "m-2", "anonymousId": "a", "sentAt": "1", "context": {"ip": "192.0.2.1"}, "more": [1]})
    );
    assert!(stored.iter().all(|payload| payload.get("writeKey").is_none()));

    // Single calls, by the letters of the browser's library too, with the key in the body.
    for (path, kind) in [
        ("/v1/track", "track"),
        ("/v1/identify", "identify"),
        ("/v1/page", "page"),
        ("/v1/screen/", "screen"),
        ("/v1/group", "group"),
        ("/v1/alias", "alias"),
        ("/v1/t", "track"),
        ("/v1/i", "identify"),
        ("/v1/p", "page"),
        ("/v1/s", "screen"),
        ("/v1/g", "group"),
        ("/v1/a", "alias"),
    ] {
        let call = json!({"messageId": path, "userId": "u", "writeKey": api_key});
        let answer = post(&service, &format!("{path}?ack=committed"), &[TEXT], &call).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ack")), (200, "committed"), "{path} {answer:?}");
        let again = post(&service, &format!("{path}?ack=committed"), &[TEXT], &call).await;
        assert_eq!(again.header("x-duplicate"), "true");
        let last = payloads(&database).await.pop().unwrap();
        assert_eq!(last, json!({"messageId": path, "userId": "u", "type": kind}));
    }
    let in_browsers_batch = json!({"batch": [{"messageId": "b"}], "writeKey": api_key});
    assert_eq!(post(&service, "/v1/b", &[TEXT], &in_browsers_batch).await.status.as_u16(), 200);
}

/// A key that reads health and metrics.
async fn api_key_of_an_operator(database: &TestDatabase) -> String {
    key(database, &["--admin"]).await
}

/// The health once all events are settled.
pub(crate) async fn settled(service: &Service, api_key: &str) -> Value {
    eventually("everything is settled", async || {
        let health = send(service, "GET", "/api/health", api_key, &Value::Null).await.json();
        (health["pending"] == 0).then_some(health)
    })
    .await
}

#[tokio::test]
async fn pages_send_with_a_write_only_key_in_the_body_and_need_no_preflight() {
    let database = TestDatabase::create().await;
    let page = ("origin", "https://app.example");
    let published = key(&database, &["--write-only", "--origin", page.1]).await;
    for service in [guarded(&database, &[]).await, Service::start(database.url(), &[]).await] {
        let cross_site = ("sec-fetch-site", "cross-site");
        let call = json!({"event": "Seen", "writeKey": published});
        let answer = post(&service, "/v1/t", &[TEXT, page, cross_site], &call).await;
        assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), page.1);
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        assert_eq!(answer.header("ratelimit-policy"), "\"write-only\";q=600;w=60");
        let asks = [page, ("access-control-request-method", "POST")];
        let preflight = service.request("OPTIONS", "/v1/b", &asks, "").await;
        assert_eq!(
            (preflight.status.as_u16(), preflight.header("access-control-allow-origin")),
            (204, page.1)
        );
        let foreign = post(&service, "/v1/t", &[TEXT, ("origin", "https://evil.example")], &call).await;
        assert_eq!((foreign.status.as_u16(), foreign.error_code().as_str()), (403, "foreign_origin"));
        let none = post(&service, "/v1/t", &[TEXT, page, cross_site], &json!({"event": "Seen"})).await;
        assert!(matches!(none.status.as_u16(), 401 | 403), "{none:?}");
        let large = json!({"event": "x".repeat(1 << 20), "writeKey": published});
        assert_eq!(post(&service, "/v1/t", &[TEXT, page], &large).await.status.as_u16(), 413);
        assert!(!service.stop().await.log.contains(&published[13..]));
    }
}

#[tokio::test]
async fn wrong_bodies_are_rejected_and_bad_events_do_not_cost_their_neighbours() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("MAX_EVENT_BYTES", "2000")]).await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    let other = key(&database, &["--scope", "ops:read"]).await;
    let auth = [JSON, ("x-api-key", api_key.as_str())];
    let raw = async |path: &str, body: &[u8]| service.request("POST", path, &auth, body.to_vec()).await;
    for (path, body, field) in [
        ("/v1/batch", &b""[..], "body"),
        ("/v1/batch", b"[]", "body"),
        ("/v1/batch", b"{\"batch\":[1,]}", "body"),
        ("/v1/batch", b"{\"batch\":[", "body"),
        ("/v1/batch", b"{\"batch\":[]}x", "body"),
        ("/v1/batch", b"{\"a\":\"\xff\"}", "body"),
        ("/v1/batch", b"{}", "batch"),
        ("/v1/batch", b"{\"batch\":{}}", "batch"),
        ("/v1/batch", b"{\"batch\":null}", "batch"),
        ("/v1/track", b"7", "body"),
        ("/v1/track", b"{\"messageId\":7}", "body"),
        ("/v1/batch", b"{\"batch\":[7]}", "body"),
    ] {
        let answer = raw(path, body).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (400, "invalid_request"));
        assert_eq!(answer.json()["error"]["field"], field, "{answer:?}");
    }
    assert_eq!(raw("/v1/batch", b"\xff\xfe{\x00").await.status.as_u16(), 415);
    assert_eq!(raw("/v1/batch", b"{\"batch\":[]}").await.json(), json!({"success": true}));
    let mixed = json!({"batch": [
        {"messageId": "good"}, "text", {"messageId": {}}, {"messageId": "x".repeat(1025)}, {"long": "x".repeat(2000)},
        {"messageId": "", "no": "key"}, {"messageId": null}, {"nul": "\u{0}"},
    ]});
    let answer = raw("/v1/batch", mixed.to_string().as_bytes()).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    let json = answer.json();
    let rejected: Vec<_> = json["rejected"].as_array().unwrap().iter().map(|one| &one["index"]).collect();
    assert_eq!(rejected, [1, 2, 3, 4], "{json}");
    // An envelope's member goes to each event, so it may be no larger than 64 KiB, and no event larger than its limit.
    let shared = json!({"batch": [{}], "extra": "x".repeat(66_000)}).to_string();
    assert_eq!(raw("/v1/batch", shared.as_bytes()).await.json()["error"]["field"], "body");
    let many: Value = (0..17).map(|n| (format!("m{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    let mut many = many;
    many["batch"] = json!([{}]);
    assert_eq!(raw("/v1/batch", many.to_string().as_bytes()).await.status.as_u16(), 400);
    let grown = json!({"batch": [{"n": "x".repeat(1500)}], "extra": "y".repeat(1000)}).to_string();
    assert_eq!(raw("/v1/batch", grown.as_bytes()).await.status.as_u16(), 413);
    assert_eq!(raw("/v1/track", &vec![b' '; 3000]).await.status.as_u16(), 400);
    // Deep JSON costs no stack; its bytes are kept.
    let deep = format!("{{\"batch\":[{{\"d\":{}{}}}]}}", "[".repeat(990), "]".repeat(990));
    assert_eq!(raw("/v1/batch", deep.as_bytes()).await.status.as_u16(), 200);
    let deeper = format!("{{\"batch\":[{}{}]}}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(raw("/v1/batch", deeper.as_bytes()).await.status.as_u16(), 413);

    // Compressed: a bomb, and bytes that are no gzip.
    let compressed = [&auth[..], &[("content-encoding", "gzip")]].concat();
    let bomb = gzip(vec![b' '; 40 << 20]);
    assert_eq!(service.request("POST", "/v1/batch", &compressed, bomb).await.status.as_u16(), 413);
    let answer = service.request("POST", "/v1/batch", &compressed, "{}").await;
    assert_eq!(answer.json()["error"]["field"], "content-encoding");
    let small = gzip(b"{\"batch\":[{\"messageId\":\"gz\"}]}");
    assert_eq!(service.request("POST", "/v1/batch", &compressed, small).await.status.as_u16(), 200);

    // Tokens: none, a wrong one, one without the scope, two.
    let body = json!({"batch": [{}]});
    let forged = format!("{}x", &api_key[..api_key.len() - 1]);
    for (headers, key_in_body, status) in [
        (&[][..], None, 401),
        (&[], Some("a key of another service"), 401),
        (&[], Some(forged.as_str()), 401),
        (&[], Some(&other), 403),
        (&[("x-api-key", forged.as_str())], Some(&api_key), 401),
        (&[("x-api-key", api_key.as_str()), ("authorization", "Bearer x")], None, 401),
        (&[], Some(&api_key), 200),
    ] {
        let mut body = body.clone();
        body["writeKey"] = key_in_body.into();
        let answer = post(&service, "/v1/batch", &[&[JSON], headers].concat(), &body).await;
        assert_eq!(answer.status.as_u16(), status, "{headers:?} {key_in_body:?} {answer:?}");
    }
    // Before a token is known, a body is small.
    let large = json!({"batch": [], "writeKey": api_key, "x": "x".repeat(1 << 20)});
    assert_eq!(post(&service, "/v1/batch", &[JSON], &large).await.status.as_u16(), 413);
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.is_empty() || !metrics.contains(&api_key));
    let operator = format!("Bearer {}", api_key_of_an_operator(&database).await);
    let metrics = service.request("GET", "/metrics", &[("authorization", &operator)], "").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    // The mixed batch, the one that grew, the deep one, and the calls of one event.
    assert!(metrics.contains("tidegate_intake_rejected_total{protocol=\"segment\"} 8"), "{metrics}");
    let health = service.request("GET", "/api/health", &[("authorization", &operator)], "").await.json();
    assert_eq!(health["intake_rejected"], json!({"otlp": 0, "posthog": 0, "segment": 8}), "{health}");
    let log = service.stop().await.log;
    assert_eq!(log.matches("events of a client were rejected").count(), 1, "{log}");
}

#[tokio::test]
async fn a_shortage_is_429_with_a_time_to_retry() {
    let database = TestDatabase::create().await;
    let stalled = Stalled::start(&database).await;
    let call = json!({"event": "x"});
    let refused = eventually("the queue is full", async || {
        let answer = post(&stalled.service, "/v1/track", &[JSON], &call).await;
        (answer.status.as_u16() != 200).then_some(answer)
    })
    .await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (429, "overloaded"));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    stalled.release().await;
}

#[tokio::test]
async fn protocols_that_are_off_have_no_routes() {
    let database = TestDatabase::create().await;
    for (variables, segment) in
        [([("INTAKE", "otlp,posthog")], 404), ([("MODULES", "events")], 404), ([("INTAKE", "segment")], 200)]
    {
        let service = Service::start(database.url(), &variables).await;
        assert_eq!(
            post(&service, "/v1/track?ack=committed", &[JSON], &json!({})).await.status.as_u16(),
            segment
        );
        let others =
            post(&service, "/capture/?ack=committed", &[JSON], &json!({"event": "x"})).await.status.as_u16();
        assert_eq!(others == 200, variables[0].1 == "otlp,posthog", "{variables:?}");
        assert_eq!(post(&service, "/v1/traces", &[JSON], &json!({})).await.status.as_u16(), 404);
        let health = service.health().await;
        assert_eq!(
            health["modules"].as_array().unwrap().contains(&json!("intake")),
            variables[0].0 == "INTAKE"
        );
    }
    assert_eq!(count(&database.connect().await, "requests").await, 2);
}
