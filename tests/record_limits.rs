//! The size of a record: that of its stored form.

use serde_json::json;

use crate::records::create;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};

const ITEMS: &str = "/api/stress/records/items";

fn told(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.error_code())
}

/// An object of 9 KB whose numbers have 78 million digits.
fn short_text_of_many_digits() -> String {
    let members: Vec<String> = (0..600).map(|n| format!("\"a{n}\":1e131000")).collect();
    format!("{{{}}}", members.join(","))
}

#[tokio::test]
async fn a_records_size_counts_all_stored_digits() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let record = create(&service, &json!({})).await;
    let path = format!("{ITEMS}/{}", record["id"].as_str().unwrap());
    let replace = format!("{path}?mode=replace");
    let body = short_text_of_many_digits();
    for (method, path) in [("POST", ITEMS), ("PATCH", &path), ("PUT", &replace)] {
        let answer = service.request(method, path, &[], body.clone()).await;
        assert_eq!(told(&answer), (413, "too_large".into()), "{method}");
    }
    // As many as fit are stored, by merges too.
    for n in 0..8 {
        let patch = format!("{{\"a{n}\":1e131000}}");
        assert_eq!(service.request("PATCH", &path, &[], patch).await.status.as_u16(), 200, "{n}");
    }
    let grown = service.get(&path).await.body.len();
    assert!((1_048_000..1_048_576).contains(&grown), "{grown}");
    let refused = service.request("PATCH", &path, &[], "{\"b\":1e1000}").await;
    assert_eq!(told(&refused), (413, "too_large".into()));
}

#[tokio::test]
async fn a_fetched_record_of_any_size_can_be_sent_back() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_EVENT_BYTES", "4096")]).await;
    // Of what is stored, jsonb's spaces are the larger the shorter its members are.
    let zeros = vec!["0"; (4096 - r#"{"a":[]}"#.len()) / 2].join(",");
    let made = service.request("POST", ITEMS, &[], format!("{{\"a\":[{zeros}]}}")).await;
    assert_eq!(made.status.as_u16(), 201);
    let path = format!("{ITEMS}/{}", made.json()["id"].as_str().unwrap());
    let fetched = service.get(&path).await.body;
    assert!(fetched.len() > 6_000, "{}", fetched.len());
    for path in [format!("{path}?mode=replace"), path.clone()] {
        let sent_back = service.request("PUT", &path, &[], fetched.clone()).await;
        assert_eq!(sent_back.status.as_u16(), 200, "{path}");
        assert_eq!(sent_back.json()["a"], made.json()["a"]);
    }
    // One member more is too much, by every route.
    let grown = service.request("PATCH", &path, &[], "{\"b\":1}").await;
    assert_eq!(told(&grown), (413, "too_large".into()));
    let more = service.request("POST", ITEMS, &[], format!("{{\"b\":1,\"a\":[{zeros}]}}")).await;
    assert_eq!(told(&more), (413, "too_large".into()));
}

#[tokio::test]
async fn too_deep_nesting_is_refused_by_every_route() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let record = create(&service, &json!({})).await;
    let path = format!("{ITEMS}/{}", record["id"].as_str().unwrap());
    let replace = format!("{path}?mode=replace");
    let deep = |levels: usize| "{\"a\":".repeat(levels) + "1" + &"}".repeat(levels);
    let large = "/api/stress/large-payload/items";
    for (method, path) in [("POST", ITEMS), ("PATCH", &path), ("PUT", &replace), ("POST", large)] {
        let refused = service.request(method, path, &[], deep(1001)).await;
        assert_eq!(told(&refused), (400, "invalid_request".into()), "{method} {path}");
        assert_eq!(refused.json()["error"]["field"], "body", "{method} {path}");
    }
    for (path, status) in [(ITEMS, 201), (large, 201)] {
        assert_eq!(service.request("POST", path, &[], deep(100)).await.status.as_u16(), status, "{path}");
    }
}
