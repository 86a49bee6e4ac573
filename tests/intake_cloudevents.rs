//! CloudEvents 1.0 on the event routes: three modes, one stored form, one key; the handshake of webhooks.

use serde_json::{Value, json};

use crate::support::accounts::guarded;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};

const ROUTES: [&str; 2] = ["/api/v1/events", "/api/v1/events/batch"];
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
const BATCHED: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
const JSON: (&str, &str) = ("content-type", "application/json");

/// The headers of an event in binary mode.
fn binary(id: &str) -> [(&str, &str); 6] {
    [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/shop%20one"),
        ("ce-type", "order.paid"),
        ("ce-tenant", "a b%"),
        JSON,
    ]
}

/// The same event in the JSON format.
fn event(id: &str, data: &Value) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop one", "type": "order.paid", "tenant": "a b%",
        "datacontenttype": "application/json", "data": data,
    })
}

async fn stored(database: &TestDatabase) -> Vec<(Option<Value>, Option<Vec<u8>>, Option<String>)> {
    let client = database.connect().await;
    let rows = client.query("select payload, body, content_type from requests order by id", &[]).await;
    rows.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn refused(answer: &Answer, status: u16, field: &str) {
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (status, "invalid_request"));
    assert_eq!(answer.json()["error"]["field"], field, "{answer:?}");
}

#[tokio::test]
async fn the_three_modes_are_stored_alike_on_either_route_and_share_their_keys() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let data = json!({"n": 1});
    for (place, route) in ROUTES.iter().enumerate() {
        let id = |mode: &str| format!("{mode}-{place}");
        let (one, two, three) = (id("binary"), id("structured"), id("batched"));
        let post = async |headers: &[(&str, &str)], body: String| {
            let answer = service.request("POST", &format!("{route}?ack=committed"), headers, body).await;
            assert_eq!(answer.status.as_u16(), 201, "{answer:?}");
            answer
        };
        post(&binary(&one), data.to_string()).await;
        post(&[STRUCTURED], event(&two, &data).to_string()).await;
        let batch = json!([event(&three, &data), event(&two, &data), {"id": "no version"}, 7]);
        let answer = post(&[BATCHED], batch.to_string()).await.json();
        assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(2), &json!([1])));
        let rejected = answer["rejected"].as_array().unwrap();
        assert_eq!(rejected.iter().map(|one| &one["index"]).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(rejected[0]["code"], "invalid_event");
        // An event that comes again in another mode is the same event.
        for headers in [&binary(&two)[..], &binary(&three)] {
            assert_eq!(post(headers, data.to_string()).await.header("x-duplicate"), "true");
        }
        let again = post(&[STRUCTURED], event(&one, &data).to_string()).await;
        assert_eq!(again.header("x-duplicate"), "true");
        let rows = stored(&database).await;
        let expected = [&one, &two, &three].map(|id| Some(event(id, &data)));
        let payloads: Vec<_> = rows[place * 3..].iter().map(|row| row.0.clone()).collect();
        assert_eq!(payloads, expected);
        assert!(rows.iter().all(|row| row.2.as_deref() == Some("application/cloudevents+json")));
    }
}

#[tokio::test]
async fn data_of_any_type_and_unknown_members_are_kept() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let head = &binary("1")[..4];
    for (kind, body) in [
        ("text/plain", &b"two\nlines"[..]),
        ("application/octet-stream", b"\x00\xff"),
        ("application/json", b"not json"),
    ] {
        let headers = [&head[..1], &[("ce-id", kind)], &head[2..], &[("content-type", kind)]].concat();
        let answer = service.request("POST", ROUTES[0], &headers, body.to_vec()).await;
        assert_eq!(answer.status.as_u16(), 202, "{answer:?}");
    }
    let empty = [head, &[("ce-subject", "")]].concat();
    assert_eq!(service.post(&empty, "").await.status.as_u16(), 202);
    // What jsonb cannot hold is kept byte for byte, as it is of any event.
    let mut odd = event("odd", &json!(null));
    odd["unknown"] = json!({"a": [1]});
    let odd = odd.to_string().replace("null", "\"\\u0000\"");
    assert_eq!(service.post(&[STRUCTURED], odd.clone()).await.status.as_u16(), 202);
    service.settled().await;
    let rows = stored(&database).await;
    let payload = |row: usize| rows[row].0.as_ref().unwrap();
    assert_eq!(payload(0)["data"], "two\nlines");
    assert_eq!((&payload(1)["data_base64"], &payload(1)["data"]), (&json!("AP8="), &Value::Null));
    assert_eq!(payload(2)["data_base64"], "bm90IGpzb24=");
    assert_eq!((&payload(3)["subject"], payload(3).get("data")), (&json!(""), None));
    assert_eq!((&rows[4].0, rows[4].1.as_deref()), (&None, Some(odd.as_bytes())));
}

#[tokio::test]
async fn wrong_events_are_rejected_with_the_attribute_at_fault() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_EVENT_BYTES", "4096")]).await;
    let good = binary("1");
    for left_out in ["ce-id", "ce-source", "ce-type"] {
        let headers: Vec<_> = good.iter().copied().filter(|(name, _)| *name != left_out).collect();
        let field = if left_out == "ce-type" { "type" } else { left_out };
        refused(&service.post(&headers, "{}").await, 400, field);
    }
    for twice in ["ce-id", "ce-specversion", "ce-tenant"] {
        refused(&service.post(&[&good[..], &[(twice, "1.0")]].concat(), "{}").await, 400, twice);
    }
    let old: Vec<_> = [("ce-specversion", "0.3")].into_iter().chain(good[1..].iter().copied()).collect();
    refused(&service.post(&old, "{}").await, 400, "specversion");
    refused(&service.post(&[&good[..], &[("ce-data", "1")]].concat(), "{}").await, 400, "ce-data");
    let structured = async |event: Value| service.post(&[STRUCTURED], event.to_string()).await;
    let with = |name: &str, value: Value| {
        let mut event = event("1", &json!(1));
        event[name] = value;
        event
    };
    for (name, value) in [
        ("specversion", json!("2.0")),
        ("specversion", json!(1.0)),
        ("id", json!("")),
        ("id", json!("x".repeat(1025))),
        ("source", json!(["/shop"])),
        ("type", Value::Null),
        ("data_base64", json!("AP8=")),
    ] {
        refused(&structured(with(name, value)).await, 400, name);
    }
    refused(&structured(json!([])).await, 400, "body");
    refused(&service.post(&[STRUCTURED], "{\"specversion\":").await, 400, "body");
    refused(&service.post(&[STRUCTURED], "").await, 400, "body");
    refused(&service.post(&[STRUCTURED], b"{\"id\":\"\xff\"}".to_vec()).await, 400, "body");
    for route in ROUTES {
        for headers in [&good[..], &[STRUCTURED]] {
            let large = service.request("POST", route, headers, "x".repeat(5000)).await;
            assert_eq!((large.status.as_u16(), large.error_code().as_str()), (413, "too_large"));
        }
    }
    // One that is large in the form in which it is stored only.
    let bytes = [&good[..5], &[("content-type", "application/octet-stream")]].concat();
    assert_eq!(service.post(&bytes, vec![0xff; 4000]).await.status.as_u16(), 413);
    let utf_16 =
        service.post(&[("content-type", "application/cloudevents+json; charset=utf-16")], "{}").await;
    assert_eq!(utf_16.status.as_u16(), 415);
    // Deep data is no error: its bytes are kept.
    let deep = format!("{}{}", "[".repeat(1500), "]".repeat(1500));
    assert_eq!(service.post(&good, deep).await.status.as_u16(), 202);
    assert!(service.settled().await["accepted"].as_u64() == Some(1));
}

#[tokio::test]
async fn the_handshake_is_answered_and_a_preflight_is_none() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("RATE_EVENTS", "120")]).await;
    let origin = ("webhook-request-origin", "eventemitter.example.com");
    for route in ROUTES {
        let answer = service.request("OPTIONS", route, &[origin, ("webhook-request-rate", "1000")], "").await;
        assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
        let header = |name: &str| answer.header(name).to_owned();
        assert_eq!(
            (header("webhook-allowed-origin"), header("webhook-allowed-rate"), header("allow")),
            (origin.1.to_owned(), "120".to_owned(), "POST".to_owned())
        );
    }
    let asks = [origin, ("access-control-request-method", "POST"), ("origin", "https://app.example")];
    let preflight = service.request("OPTIONS", ROUTES[0], &asks, "").await;
    assert!(!preflight.headers.contains_key("webhook-allowed-origin"), "{preflight:?}");
    assert_eq!(service.request("OPTIONS", "/api/health", &[origin], "").await.status.as_u16(), 405);
    let unlimited = Service::start(database.url(), &[]).await;
    let answer = unlimited.request("OPTIONS", ROUTES[0], &[origin], "").await;
    assert_eq!(answer.header("webhook-allowed-rate"), "*");
    let page = [origin, ("origin", "https://evil.example")];
    assert_eq!(unlimited.request("OPTIONS", ROUTES[0], &page, "").await.status.as_u16(), 403);
}

#[tokio::test]
async fn where_the_protocol_is_off_events_are_stored_as_they_come() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("INTAKE", "segment")]).await;
    assert_eq!(service.post(&binary("1"), "{\"n\":1}").await.status.as_u16(), 202);
    assert_eq!(service.post(&[STRUCTURED], "{\"n\":2}").await.status.as_u16(), 202);
    assert_eq!(service.post_batch(&[BATCHED], "[]").await.status.as_u16(), 415);
    let origin = [("webhook-request-origin", "a.example")];
    assert_eq!(service.request("OPTIONS", ROUTES[0], &origin, "").await.status.as_u16(), 405);
    service.settled().await;
    let payloads: Vec<_> = stored(&database).await.into_iter().map(|row| row.0).collect();
    assert_eq!(payloads, [Some(json!({"n": 1})), Some(json!({"n": 2}))]);
}
