//! Acknowledgement levels, the level that a request may ask for, and retries that store nothing twice.

use serde_json::{Value, json};

use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

async fn post(service: &Service, query: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    service.request("POST", &format!("/api/v1/events{query}"), headers, body.to_owned()).await
}

async fn count(database: &TestDatabase, which: &str) -> i64 {
    database.connect().await.query_one(&format!("select count(*) from {which}"), &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn committed_means_visible_when_the_answer_arrives() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::create().await;
        let service = Service::start(database.url(), &[("DURABILITY", durability)]).await;
        for n in 1..=5 {
            let answer = post(&service, "?ack=committed", &[], "{}").await;
            assert_eq!((answer.status.as_u16(), answer.header("x-ack")), (201, "committed"), "{durability}");
            assert_eq!(count(&database, "requests").await, n);
        }
        let answer =
            service.request("POST", "/api/v1/events/batch?ack=committed", &[NDJSON], "1\n2\n3\n").await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ack")), (201, "committed"), "{durability}");
        assert_eq!(count(&database, "requests").await, 8);
    }
}

#[tokio::test]
async fn a_request_gets_the_level_that_it_asks_for_or_the_one_reached_in_time() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let levels = [
        ("", "", 202, "journaled", ""),
        ("?ack=queued", "", 202, "queued", ""),
        ("?ack=journaled", "wait=5", 202, "journaled", ""),
        ("", "wait=5", 201, "committed", "wait"),
        ("", "respond-async", 202, "journaled", "respond-async"),
        ("", "respond-async, WAIT=3; foo=bar", 201, "committed", "wait"),
        ("", "handling=lenient", 202, "journaled", ""),
    ];
    for (query, prefer, status, ack, applied) in levels {
        let headers = [("prefer", prefer)];
        let headers = if prefer.is_empty() { &[][..] } else { &headers[..] };
        let answer = post(&service, query, headers, "{}").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-ack"), answer.header("preference-applied")),
            (status, ack, applied),
            "{query} {prefer}"
        );
    }
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in exclusive mode").await.unwrap();
    let started = std::time::Instant::now();
    let answer = post(&service, "?ack=committed", &[], "{}").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-ack")), (202, "journaled"));
    assert!(started.elapsed().as_millis() >= 5000);
    let started = std::time::Instant::now();
    let answer = post(&service, "", &[("prefer", "wait=1")], "{}").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-ack")), (202, "journaled"));
    assert!((1000..5000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    hold.commit().await.unwrap();

    let memory = Service::start(database.url(), &[("DURABILITY", "memory")]).await;
    for (service, ack) in [(&memory, "journaled"), (&service, "always")] {
        let answer = post(service, &format!("?ack={ack}"), &[], "{}").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["field"]), (400, &json!("ack")));
    }
}

#[tokio::test]
async fn a_request_that_waits_for_a_rejected_event_gets_its_sqlstate() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::refusing_evil().await;
        let service = Service::start(database.url(), &[("DURABILITY", durability)]).await;
        let answer = post(&service, "?ack=committed", &[("x-trace-id", "T")], "{\"evil\":1}").await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (422, "rejected"));
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("23514"));
        assert_eq!(answer.header("x-trace-id"), "T");
        let body = "not json\n{\"n\":1}\n\n{\"evil\":3}\n{\"n\":4}\n";
        let answer = service.request("POST", "/api/v1/events/batch?ack=committed", &[NDJSON], body).await;
        assert_eq!((answer.status.as_u16(), answer.json()["accepted"].as_u64()), (202, Some(3)));
        assert_eq!(
            answer.json()["dead_lettered"],
            json!([{"index": 3, "reason": "rejected", "sqlstate": "23514"}])
        );
        service.settled().await;
        assert_eq!((count(&database, "requests").await, count(&database, "dead_letters").await), (2, 2));
    }
}

#[tokio::test]
async fn a_retry_with_the_same_key_stores_nothing_and_gets_the_same_trace_id() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::create().await;
        let service = Service::start(database.url(), &[("DURABILITY", durability)]).await;
        let key = [("idempotency-key", "order-1")];
        let quoted = [("idempotency-key", "\"order-1\"")];
        let first = post(&service, "?ack=committed", &key, "{\"n\":1}").await;
        let again = post(&service, "?ack=committed", &quoted, "{\"n\":1}").await;
        assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
        assert_eq!(first.header("x-trace-id"), again.header("x-trace-id"));
        assert_eq!((first.header("x-duplicate"), again.header("x-duplicate")), ("", "true"));
        let cloud = [("ce-source", "/shop"), ("ce-id", "1")];
        for _ in 0..3 {
            post(&service, "", &cloud, "{}").await;
        }
        // Concurrently, and twice within one batch.
        let lines = "{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"a\"}\n{\"id\":7}\n{\"no\":1}\n";
        let path = "/api/v1/events/batch?id_field=id";
        let (one, two) = tokio::join!(
            service.request("POST", path, &[NDJSON], lines),
            service.request("POST", path, &[NDJSON], lines)
        );
        for answer in [one, two] {
            assert_eq!(answer.json()["accepted"], 4);
            assert_eq!(answer.json()["rejected"][0]["index"], 4);
            assert_eq!(answer.json()["rejected"][0]["code"], "invalid_id");
        }
        let keyed_batch = [NDJSON, ("idempotency-key", "batch-1")];
        let one = service.post_batch(&keyed_batch, "1\n2\n").await;
        let two = service.post_batch(&keyed_batch, "1\n2\n").await;
        assert_eq!(one.header("x-trace-id"), two.header("x-trace-id"));
        let health = service.settled().await;
        assert_eq!(count(&database, "requests").await, 1 + 1 + 3 + 2, "{durability}: {health}");
        assert_eq!(health["duplicates"], json!(1 + 2 + 5 + 2), "{durability}");
        // The duplicates of a batch, by index.
        let path = "/api/v1/events/batch?ack=committed&id_field=id";
        let lines = "{\"id\":\"a\"}\n\nnope\n{\"id\":\"new\"}\n{\"id\":7}\n{\"id\":\"new\"}\n";
        let some = service.request("POST", path, &[NDJSON], lines).await;
        assert_eq!((some.header("x-duplicate"), &some.json()["duplicates"]), ("", &json!([0, 4, 5])));
        let all = service.request("POST", path, &[NDJSON], lines).await;
        assert_eq!((all.status.as_u16(), all.header("x-duplicate")), (201, "true"));
        assert_eq!(all.json()["duplicates"], json!([0, 3, 4, 5]));
    }
}

#[tokio::test]
async fn keys_survive_a_restart_and_expire_with_their_window() {
    let database = TestDatabase::create().await;
    let key = [("idempotency-key", "k")];
    for _ in 0..2 {
        // Longer than any restart takes.
        let service = Service::start(database.url(), &[("IDEMPOTENCY_WINDOW_S", "3600")]).await;
        post(&service, "?ack=committed", &key, "{}").await;
        assert!(service.stop().await.status.success());
        assert_eq!(count(&database, "requests").await, 1);
    }
    let service = Service::start(database.url(), &[("IDEMPOTENCY_WINDOW_S", "2")]).await;
    eventually("its window is over", async || {
        post(&service, "?ack=committed", &key, "{}").await.header("x-duplicate").is_empty().then_some(())
    })
    .await;
    assert_eq!(count(&database, "requests").await, 2);
    let answer = post(&service, "", &[("idempotency-key", "")], "{}").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["field"]), (400, &json!("idempotency-key")));
}

#[tokio::test]
async fn a_receipt_names_the_ids_of_its_events() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::create().await;
        let service = Service::start(database.url(), &[("DURABILITY", durability)]).await;
        let one = post(&service, "?ack=committed", &[], "{}").await;
        let many =
            service.request("POST", "/api/v1/events/batch?ack=committed", &[NDJSON], "1\n2\n3\n").await;
        assert_eq!(count(&database, &format!("requests where id = '{}'", one.header("x-receipt"))).await, 1);
        let (first, events) = many.header("x-receipt").split_once('/').unwrap();
        assert_eq!(events, "3");
        let found = format!(
            "requests where id >= '{first}' and ingest_sequence(id) < ingest_sequence('{first}') + 3"
        );
        assert_eq!(count(&database, &found).await, 3, "{durability}");
        let body = json!({"receipts": [one.header("x-receipt"), many.header("x-receipt")]}).to_string();
        let answer: Value = service.request("POST", "/api/v1/reconcile", &[], body).await.json();
        assert_eq!(answer["receipts"][1]["counts"], json!({"committed": 3}));
    }
}
