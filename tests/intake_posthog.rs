//! PostHog's capture API: the forms of its bodies, flags, and what happens while the service cannot take events.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::intake_segment::settled;
use crate::support::accounts::{SECRET, guarded, key};
use crate::support::imports::count;
use crate::support::intake::{Stalled, gzip, payloads};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const TEXT: (&str, &str) = ("content-type", "text/plain");

type Headers = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn every_form_of_a_body_is_taken_and_the_key_is_not_stored() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    let event = |uuid: &str| {
        json!({"event": "paid + é", "distinct_id": "u", "uuid": uuid, "timestamp": "2026-11-29T00:00:00Z",
            "properties": {"$lib": "posthog-node", "token": api_key, "n": 1.50}})
    };
    let with_key = |mut event: Value| {
        event["api_key"] = json!(api_key);
        event
    };
    let batch = |uuid: &str| json!({"api_key": api_key, "batch": [event(uuid)], "sent_at": "s"}).to_string();
    let base64 = |text: &str| STANDARD.encode(text);
    let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let encoded: Headers = &[JSON, ("content-encoding", "gzip")];
    let cases: [(&str, Headers, Vec<u8>); 13] = [
        ("/batch/", &[JSON], batch("0").into()),
        ("/batch", encoded, gzip(batch("1"))),
        ("/capture/", &[JSON], with_key(event("2")).to_string().into()),
        ("/capture", &[], json!([event("3"), event("3")]).to_string().into()),
        ("/i/v0/e/", &[TEXT], json!({"token": api_key, "batch": [event("4")]}).to_string().into()),
        (
            "/e/?compression=base64",
            &[FORM],
            format!("data={}", escaped(&base64(&event("5").to_string()))).into(),
        ),
        // Without percent-encoding, and without padding.
        (
            "/e/?compression=base64",
            &[FORM],
            format!("data={}", base64(&event("6").to_string()).trim_end_matches('=')).into(),
        ),
        ("/e/?ip=1&compression=gzip-js&_=1", &[TEXT], gzip(event("7").to_string())),
        ("/e/", &[FORM], format!("ver=1&data={}", escaped(&event("8").to_string())).into()),
        ("/e/?compression=base64", &[TEXT], base64(&event("9").to_string()).into()),
        ("/i/v0/e", &[FORM], event("10").to_string().into()),
        ("/e/", &[FORM], format!("data={}", escaped(&base64(&event("11").to_string()))).into()),
        // Compressed without a word about it, as by posthog-js.
        ("/e/", &[TEXT], gzip(with_key(event("12")).to_string())),
    ];
    for (place, (path, headers, body)) in cases.into_iter().enumerate() {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}ack=committed");
        let answer = service.request("POST", &path, headers, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()),
            (200, json!({"status": "Ok"})),
            "{path} {answer:?}"
        );
        let stored = payloads(&database).await;
        assert_eq!(stored.len(), place + 1, "{path}");
        let mut expected = event(&place.to_string());
        expected["properties"].as_object_mut().unwrap().remove("token");
        if place < 2 {
            expected["sent_at"] = json!("s");
        }
        assert_eq!(stored[place], expected, "{path}");
    }
    // A retry has the same uuid.
    let again = service.request("POST", "/batch/?ack=committed", encoded, gzip(batch("7"))).await;
    assert_eq!(again.header("x-duplicate"), "true");
    // A token that is no key of ours is a member like any other, where tokens are expected of nobody.
    let open = Service::start(database.url(), &[("JWT_SECRET", SECRET)]).await;
    let theirs = json!({"api_key": "phc_x", "event": "e", "properties": {"token": "user's own"}});
    let answer = open.request("POST", "/capture/?ack=committed", &[JSON], theirs.to_string()).await;
    assert_eq!(answer.status.as_u16(), 200);
    let stored = payloads(&database).await.pop().unwrap();
    assert_eq!(stored, json!({"event": "e", "properties": {"token": "user's own"}}));
    assert!(!service.stop().await.log.contains(&api_key[11..]));
}

#[tokio::test]
async fn wrong_bodies_are_rejected() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    let auth = ("x-api-key", api_key.as_str());
    for (path, headers, body, status, field) in [
        ("/batch/", &[JSON, auth][..], &b"{\"batch\":[{\"event\":\"\"}]}"[..], 400, "body"),
        ("/batch/", &[JSON, auth], b"{\"batch\":[{\"event\":7}]}", 400, "body"),
        ("/batch/", &[JSON, auth], b"{\"batch\":[{\"event\":\"e\",\"uuid\":[]}]}", 400, "body"),
        ("/batch/", &[JSON, auth], b"\"text\"", 400, "body"),
        ("/batch/", &[JSON, auth], b"", 400, "body"),
        ("/e/", &[JSON, auth], b"[1,", 400, "body"),
        ("/e/", &[JSON, auth], b"data=%7B%22event%22%3A", 400, "body"),
        ("/e/", &[FORM, auth], b"data=!!!!", 400, "data"),
        ("/e/", &[FORM, auth], b"data=", 400, "body"),
        ("/e/", &[FORM, auth], b"event=e", 400, "data"),
        ("/e/?compression=base64", &[TEXT, auth], b"\xff\xff", 400, "data"),
        ("/e/?compression=base64", &[TEXT, auth], b"eA==", 400, "body"),
        ("/e/?compression=gzip-js", &[TEXT, auth], b"{\"event\":\"e\"}", 400, "content-encoding"),
        ("/e/?compression=%ff", &[TEXT, auth], b"{\"event\":\"e\"}", 400, "query"),
        ("/batch/", &[JSON, auth, ("content-encoding", "lzma")], b"{}", 415, "content-encoding"),
        ("/batch/", &[JSON, auth, ("x-trace-id", "a b")], b"{\"event\":\"e\"}", 400, "x-trace-id"),
        ("/batch/?ack=never", &[JSON, auth], b"{\"event\":\"e\"}", 400, "ack"),
        ("/batch/", &[JSON], b"{\"event\":\"e\"}", 401, ""),
        ("/batch/", &[JSON], b"{\"api_key\":7,\"event\":\"e\"}", 401, ""),
        ("/batch/", &[JSON, auth, auth], b"{\"event\":\"e\"}", 401, ""),
    ] {
        let answer = service.request("POST", path, headers, body.to_vec()).await;
        let text = String::from_utf8_lossy(body);
        assert_eq!(answer.status.as_u16(), status, "{path} {text} {answer:?}");
        let found = answer.json()["error"]["field"].as_str().unwrap_or_default().to_owned();
        assert_eq!(found, field, "{path} {text} {answer:?}");
    }
    let bomb = gzip(" ".repeat(40 << 20));
    for (path, headers) in [
        ("/e/?compression=gzip-js", &[TEXT, auth][..]),
        ("/e/", &[TEXT, auth]),
        ("/batch/", &[JSON, auth, ("content-encoding", "gzip")]),
    ] {
        let answer = service.request("POST", path, headers, bomb.clone()).await;
        assert_eq!(answer.status.as_u16(), 413, "{path}");
    }
    assert_eq!(service.get("/batch/").await.status.as_u16(), 405);
    assert_eq!(count(&database.connect().await, "requests").await, 0);
}

#[tokio::test]
async fn flags_and_settings_answer_everybody_that_nothing_is_on() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let page = ("origin", "https://anywhere.example");
    let theirs = ("authorization", "Bearer phx_personal");
    for (method, path, member) in [
        ("POST", "/flags/?v=2", "flags"),
        ("POST", "/flags?v=2&compression=base64", "errorsWhileComputingFlags"),
        ("GET", "/flags/definitions?token=phc_x&send_cohorts", "group_type_mapping"),
        ("GET", "/flags/definitions/", "cohorts"),
        ("POST", "/decide/?v=3", "featureFlags"),
        ("GET", "/array/phc_x/config", "supportedCompression"),
    ] {
        let answer = service.request(method, path, &[page, theirs], "{\"token\":\"phc_x\"}").await;
        assert_eq!(answer.status.as_u16(), 200, "{path} {answer:?}");
        assert!(answer.json().get(member).is_some(), "{path} {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), page.1, "{path}");
    }
    let script = service.get("/array/phc_x/config.js").await;
    assert_eq!((script.status.as_u16(), script.header("content-type")), (200, "application/javascript"));
    let open = Service::start(database.url(), &[("JWT_SECRET", SECRET)]).await;
    let cross_site = [page, ("sec-fetch-site", "cross-site")];
    assert_eq!(open.request("POST", "/flags/?v=2", &cross_site, "{}").await.status.as_u16(), 200);
    let proxied = [("x-forwarded-for", "192.0.2.1")];
    assert_eq!(open.request("POST", "/flags/?v=2", &proxied, "{}").await.status.as_u16(), 403);
}

/// The client drops a batch after an HTTP error, and keeps it when the connection breaks.
#[tokio::test]
async fn a_shortage_ends_the_connection_without_an_answer() {
    let database = TestDatabase::create().await;
    let stalled = Stalled::start(&database).await;
    let service = &stalled.service;
    let request = b"POST /capture/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 13\r\nconnection: close\r\n\r\n{\"event\":\"e\"}";
    eventually("the connection ends without an answer", async || {
        let answer = service.raw(request, Duration::from_secs(30)).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.is_empty().then_some(())
    })
    .await;
    let service = stalled.release().await;
    eventually("there is room again", async || {
        let answer = service.raw(request, Duration::from_secs(30)).await;
        answer.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("tidegate_http_requests_total{route=\"/capture\",status=\"503\"}"), "{metrics}");
}

#[tokio::test]
async fn a_request_that_comes_while_the_service_starts_is_held() {
    let database = TestDatabase::create().await;
    // The start reads which migrations there are.
    let blocker = database.connect().await;
    blocker.batch_execute("begin; lock table tidegate_migrations in access exclusive mode").await.unwrap();
    let service = Service::spawn(&[("DATABASE_URL", database.url()), ("JWT_SECRET", SECRET)]).await;
    let port = eventually("it listens", async || service.listening_port()).await;
    let service = service.at(&format!("127.0.0.1:{port}"));
    let post = service.request("POST", "/capture/", &[JSON], "{\"event\":\"early\"}");
    let release = async {
        eventually("it is starting", async || {
            let answer = service.post(&[], "{}").await;
            (answer.status.as_u16() == 503 && answer.error_code() == "starting").then_some(())
        })
        .await;
        blocker.batch_execute("rollback").await.unwrap();
    };
    let (answer, ()) = tokio::join!(post, release);
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    settled(&service, "").await;
    assert_eq!(count(&database.connect().await, "requests where payload->>'event' = 'early'").await, 1);
}
