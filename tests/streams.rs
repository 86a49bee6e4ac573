//! Durable Streams: what the outside suite (`tests/outside/durable-streams.sh`) does not test.

use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service};

/// The variables of a service with streams in memory.
const MEMORY: [(&str, &str); 2] = [("MODULES", "events,streams"), ("STREAMS_STORE", "memory")];
const TEXT: [(&str, &str); 1] = [("content-type", "text/plain")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn with<'a>(variables: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    MEMORY.iter().chain(variables).copied().collect()
}

async fn put(service: &Service, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    service.request("PUT", &format!("/v1/stream/{path}"), headers, body.to_owned()).await
}

async fn get(service: &Service, path: &str, headers: &[(&str, &str)]) -> Answer {
    service.request("GET", &format!("/v1/stream/{path}"), headers, "").await
}

#[tokio::test]
async fn settings_decide_on_urls_cursors_waits_sizes_and_the_registry() {
    let database = TestDatabase::create().await;
    let variables = with(&[
        ("PUBLIC_URL", "https://streams.example/base"),
        ("STREAMS_CURSOR_INTERVAL_S", "60"),
        ("STREAMS_CURSOR_EPOCH", "2026-01-01T00:00:00Z"),
        ("STREAMS_LONG_POLL_TIMEOUT_MS", "50"),
        ("STREAMS_MAX_ANSWER_BYTES", "128"),
        ("STREAMS_REGISTRY_PATH", "__registry__"),
    ]);
    let service = Service::start(database.url(), &variables).await;
    let made = put(&service, "a/b", &TEXT, &"x".repeat(300)).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.header("location"), "https://streams.example/base/v1/stream/a/b");
    let first = get(&service, "a/b", &[]).await;
    assert_eq!((first.body.len(), first.header("stream-up-to-date")), (128, ""));
    assert_eq!(first.header("stream-next-offset"), "0000000000000000_0000000000000128");
    let waited = get(&service, "a/b?offset=now&live=long-poll", &[]).await;
    assert_eq!((waited.status.as_u16(), waited.header("stream-up-to-date")), (204, "true"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (cursor, expected) =
        (waited.header("stream-cursor").parse::<u64>().unwrap(), (now - 1_767_225_600) / 60);
    assert!(cursor == expected || cursor + 1 == expected, "{cursor} {expected}");
    for method in ["PUT", "POST", "DELETE"] {
        let refused = service.request(method, "/v1/stream/__registry__", &JSON, "1").await;
        assert_eq!(refused.status, 405, "{method}");
    }
}
