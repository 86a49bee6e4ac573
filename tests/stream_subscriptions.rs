//! Subscriptions to streams: webhooks, claims, leases and their fencing, in every store.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};

const STORES: [&str; 2] = ["memory", "postgres"];
pub(crate) const SUBSCRIPTIONS: &str = "/v1/stream/__ds/subscriptions";
pub(crate) const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn service(database: &TestDatabase, store: &str) -> Service {
    Service::start(database.url(), &[("STREAMS_STORE", store), ("WEBHOOK_ALLOW_PRIVATE", "on")]).await
}

/// A request as the receiver of webhooks got it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) signature: String,
    raw: Vec<u8>,
    pub(crate) body: Value,
}

/// A receiver of webhooks, which gives one answer after another, and then the last one.
pub(crate) struct Receiver {
    pub(crate) url: String,
    requests: UnboundedReceiver<Received>,
    /// One permit for each answer.
    pub(crate) answers: Arc<Semaphore>,
}

impl Receiver {
    pub(crate) async fn start(answers: &'static [(u16, &'static str)]) -> Self {
        let receiver = Self::waiting(answers).await;
        receiver.answers.add_permits(Semaphore::MAX_PERMITS);
        receiver
    }

    /// One that answers as often as it is permitted to.
    pub(crate) async fn waiting(answers: &'static [(u16, &'static str)]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, requests) = unbounded_channel();
        let permits = Arc::new(Semaphore::new(0));
        let permitted = Arc::clone(&permits);
        tokio::spawn(async move {
            let mut given = 0;
            while let Ok((mut socket, _)) = listener.accept().await {
                let (status, body) = answers[given.min(answers.len() - 1)];
                given += 1;
                receive(&mut socket, &sender).await;
                let permitted = Arc::clone(&permitted);
                tokio::spawn(async move {
                    permitted.acquire_owned().await.unwrap().forget();
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    let _gone = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { url, requests, answers: permits }
    }

    pub(crate) async fn next(&mut self) -> Received {
        tokio::time::timeout(Duration::from_secs(20), self.requests.recv())
            .await
            .expect("no webhook came")
            .unwrap()
    }

    /// A request that has come.
    pub(crate) fn received(&mut self) -> Option<Received> {
        self.requests.try_recv().ok()
    }
}

async fn receive(socket: &mut tokio::net::TcpStream, sender: &UnboundedSender<Received>) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut piece = [0; 4096];
        let read = socket.read(&mut piece).await.unwrap_or(0);
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                head.lines().find_map(|line| {
                    let (found, value) = line.split_once(':')?;
                    found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
            };
            let length: usize = header("content-length").unwrap_or_default().parse().unwrap_or(0);
            break ((head.len() + 4, header("webhook-signature").unwrap_or_default()), length);
        }
        if read == 0 {
            return;
        }
    };
    let (head, signature) = head;
    while bytes.len() < head + length {
        let mut piece = [0; 4096];
        let read = socket.read(&mut piece).await.unwrap_or(0);
        bytes.extend_from_slice(&piece[..read]);
    }
    let raw = bytes[head..].to_vec();
    let body = serde_json::from_slice(&raw).unwrap_or_default();
    let _closed = sender.send(Received { signature, raw, body });
}

pub(crate) async fn put(service: &Service, id: &str, body: &Value) -> Answer {
    service.request("PUT", &format!("{SUBSCRIPTIONS}/{id}"), &JSON, body.to_string()).await
}

pub(crate) async fn get(service: &Service, id: &str) -> Value {
    let answer = service.get(&format!("{SUBSCRIPTIONS}/{id}")).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    answer.json()
}

pub(crate) async fn act(service: &Service, id: &str, action: &str, token: &str, body: &Value) -> Answer {
    let authorization = format!("Bearer {token}");
    let headers = [JSON[0], ("authorization", authorization.as_str())];
    let headers = if token.is_empty() { &headers[..1] } else { &headers[..] };
    service.request("POST", &format!("{SUBSCRIPTIONS}/{id}/{action}"), headers, body.to_string()).await
}

pub(crate) async fn claim(service: &Service, id: &str, worker: &str) -> Answer {
    act(service, id, "claim", "", &json!({"worker": worker})).await
}

pub(crate) async fn create(service: &Service, path: &str, body: &str) {
    let created = service.request("PUT", &format!("/v1/stream/{path}"), &JSON, body.to_owned()).await;
    assert_eq!(created.status.as_u16(), 201, "{created:?}");
}

pub(crate) async fn append(service: &Service, path: &str, body: &str) -> String {
    let appended = service.request("POST", &format!("/v1/stream/{path}"), &JSON, body.to_owned()).await;
    assert_eq!(appended.status.as_u16(), 204, "{appended:?}");
    appended.header("stream-next-offset").to_owned()
}

async fn messages(service: &Service, path: &str) -> Vec<Value> {
    service.get(&format!("/v1/stream/{path}")).await.json().as_array().unwrap().clone()
}

pub(crate) fn acked(subscription: &Value, path: &str) -> Option<String> {
    let streams = subscription["streams"].as_array().unwrap();
    let stream = streams.iter().find(|stream| stream["path"] == path)?;
    Some(stream["acked_offset"].as_str().unwrap().to_owned())
}

pub(crate) fn error(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.error_code())
}

pub(crate) fn offset(bytes: u64) -> String {
    format!("0000000000000000_{bytes:016}")
}

#[tokio::test]
async fn a_webhook_is_signed_and_its_done_acknowledges_what_it_was_sent() {
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        let mut receiver = Receiver::start(&[(200, "{\"done\":true}")]).await;
        create(&service, "events/old", "[1,2,3]").await;
        let config = json!({"type": "webhook", "pattern": "events/*", "webhook": {"url": receiver.url}});
        let created = put(&service, "sub", &config).await;
        assert_eq!(created.status.as_u16(), 201, "{created:?}");
        assert_eq!(put(&service, "sub", &config).await.status.as_u16(), 200);
        let other = json!({"type": "webhook", "pattern": "other/*", "webhook": {"url": receiver.url}});
        assert_eq!(error(&put(&service, "sub", &other).await), (409, "SUBSCRIPTION_ALREADY_EXISTS".into()));
        // What is there already is not sent.
        assert_eq!(acked(&created.json(), "events/old"), Some(offset(6)));

        create(&service, "events/new", "{\"n\":1}").await;
        let received = receiver.next().await;
        let body = &received.body;
        assert_eq!((&body["subscription_id"], &body["generation"]), (&json!("sub"), &json!(1)));
        let stream = &body["streams"][0];
        assert_eq!(
            stream,
            &json!({"path": "events/new", "link_type": "glob", "acked_offset": offset(0), "tail_offset": offset(8), "has_pending": true})
        );
        let keys = service.get("/v1/stream/__ds/jwks.json").await;
        assert_eq!(keys.header("content-type"), "application/jwk-set+json");
        assert_eq!(keys.header("cache-control"), "public, max-age=300");
        verify(&received, &keys.json());
        assert_eq!(created.json()["webhook"]["signing"]["kid"], keys.json()["keys"][0]["kid"]);
        let jwks_url = created.json()["webhook"]["signing"]["jwks_url"].as_str().unwrap().to_owned();
        assert!(jwks_url.starts_with("http://127.0.0.1:") && jwks_url.ends_with("/v1/stream/__ds/jwks.json"));
        eventually("it is acknowledged", async || {
            (acked(&get(&service, "sub").await, "events/new") == Some(offset(8))).then_some(())
        })
        .await;
        // The next append wakes again, with the next generation.
        append(&service, "events/new", "{\"n\":2}").await;
        let next = receiver.next().await.body;
        assert_eq!(next["generation"], 2);
        assert_ne!(next["wake_id"], body["wake_id"]);
        assert!(service.stop().await.status.success());
    }
}

pub(crate) fn verify(received: &Received, keys: &Value) {
    let parts: Vec<&str> =
        received.signature.split(',').map(|part| part.split_once('=').unwrap().1).collect();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == parts[1]).unwrap();
    let public = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
    let public = VerifyingKey::from_bytes(&public.try_into().unwrap()).unwrap();
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
    let signed = [format!("{}.", parts[0]).as_bytes(), &received.raw].concat();
    public.verify(&signed, &signature).unwrap();
}

#[tokio::test]
async fn a_failed_webhook_is_repeated_as_the_same_wake_and_shown_as_failed() {
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        let mut receiver = Receiver::start(&[(500, ""), (302, ""), (204, "")]).await;
        let config = json!({
            "type": "webhook", "streams": ["a"], "webhook": {"url": receiver.url}, "lease_ttl_ms": 600_000,
        });
        put(&service, "sub", &config).await;
        // A stream that did not exist when it was linked.
        create(&service, "a", "[1]").await;
        let first = receiver.next().await.body;
        let failed = eventually("it has failed", async || {
            let shown = get(&service, "sub").await;
            (shown["status"] == "failed").then_some(shown)
        })
        .await;
        assert_eq!(failed["last_error"], "the receiver answered with status 500");
        assert!(failed["next_attempt_at"].is_string(), "{failed}");
        let second = receiver.next().await.body;
        let third = receiver.next().await.body;
        for repeated in [&second, &third] {
            assert_eq!(
                (&repeated["wake_id"], &repeated["generation"]),
                (&first["wake_id"], &first["generation"])
            );
        }
        let delivered = eventually("it works again", async || {
            let shown = get(&service, "sub").await;
            (shown["status"] == "active").then_some(shown)
        })
        .await;
        assert_eq!((&delivered["last_error"], &delivered["next_attempt_at"]), (&Value::Null, &Value::Null));
        let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
        assert!(
            metrics.contains("tidegate_stream_wakes_total{outcome=\"failed\",type=\"webhook\"} 2"),
            "{metrics}"
        );
        // Its receiver calls back.
        let token = third["callback_token"].as_str().unwrap();
        let acks = json!({
            "wake_id": third["wake_id"], "generation": 1, "acks": [{"stream": "a", "offset": offset(2)}], "done": true,
        });
        let answer = act(&service, "sub", "callback", token, &acks).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"ok": true, "next_wake": false})));
        let again = act(&service, "sub", "callback", token, &acks).await;
        assert_eq!(error(&again), (409, "FENCED".into()));
        assert_eq!(error(&act(&service, "sub", "ack", token, &acks).await), (400, "INVALID_REQUEST".into()));
        assert!(service.stop().await.status.success());
    }
}

#[tokio::test]
async fn one_worker_holds_a_claim_until_it_is_done_releases_it_or_its_lease_ends() {
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        create(&service, "wake/pool", "[]").await;
        // It would match its own wake stream, too.
        let config = json!({"type": "pull-wake", "pattern": "**", "wake_stream": "/wake/pool/", "lease_ttl_ms": 4_000});
        let created = put(&service, "sub", &config).await;
        assert_eq!(created.status.as_u16(), 201, "{created:?}");
        assert_eq!(error(&claim(&service, "sub", "one").await), (409, "NO_PENDING_WORK".into()));
        create(&service, "a", "[1]").await;
        let event =
            eventually("a wake", async || messages(&service, "wake/pool").await.first().cloned()).await;
        assert_eq!(
            (&event["type"], &event["subscription_id"], &event["stream"], &event["generation"]),
            (&json!("wake"), &json!("sub"), &json!("a"), &json!(1))
        );
        assert!(event["ts"].as_u64().unwrap() > 1_700_000_000_000);

        let claimed = claim(&service, "sub", "one").await.json();
        assert_eq!((&claimed["generation"], &claimed["lease_ttl_ms"]), (&json!(1), &json!(4_000)));
        assert_eq!(claimed["streams"].as_array().unwrap().len(), 1, "not its wake stream");
        let busy = claim(&service, "sub", "two").await;
        assert_eq!(error(&busy), (409, "ALREADY_CLAIMED".into()));
        assert_eq!(
            (&busy.json()["error"]["current_holder"], &busy.json()["error"]["generation"]),
            (&json!("one"), &json!(1))
        );

        let token = claimed["token"].as_str().unwrap();
        let wake = |acks: Value, done: bool| json!({"wake_id": claimed["wake_id"], "generation": 1, "acks": acks, "done": done});
        // One wrong offset, and none counts.
        for bad in [
            json!([{"stream": "a", "offset": offset(2)}, {"stream": "b", "offset": offset(0)}]),
            json!([{"stream": "a", "offset": "-1"}]),
            json!([{"stream": "a", "offset": "now"}]),
            json!([{"stream": "a", "offset": offset(3)}]),
            json!([{"stream": "a", "offset": "9999999999999999_9999999999999999"}]),
        ] {
            let answer = act(&service, "sub", "ack", token, &wake(bad.clone(), true)).await;
            assert_eq!(error(&answer), (409, "INVALID_OFFSET".into()), "{bad}");
        }
        let answer =
            act(&service, "sub", "ack", token, &wake(json!([{"stream": "a", "offset": "x"}]), true)).await;
        assert_eq!(error(&answer), (400, "INVALID_REQUEST".into()));
        assert_eq!(acked(&get(&service, "sub").await, "a"), Some(offset(0)));
        for (token, code) in [("", "TOKEN_INVALID"), ("x.y", "TOKEN_INVALID")] {
            let answer = act(&service, "sub", "ack", token, &wake(json!([]), true)).await;
            assert_eq!(error(&answer), (401, code.into()));
        }
        // Nothing is acknowledged and the lease ends: another worker gets it with another generation.
        let again = eventually("the lease ends", async || {
            let answer = claim(&service, "sub", "two").await;
            (answer.status.as_u16() == 200).then(|| answer.json())
        })
        .await;
        assert_eq!(again["generation"], 2);
        let late =
            act(&service, "sub", "ack", token, &wake(json!([{"stream": "a", "offset": offset(2)}]), true))
                .await;
        assert_eq!(error(&late), (409, "FENCED".into()));
        let second = again["token"].as_str().unwrap();
        let release = json!({"wake_id": again["wake_id"], "generation": 2});
        assert_eq!(error(&act(&service, "sub", "release", token, &release).await), (409, "FENCED".into()));
        assert_eq!(act(&service, "sub", "release", second, &release).await.status.as_u16(), 204);
        // What was released wakes again.
        let events = eventually("the third wake", async || {
            let events = messages(&service, "wake/pool").await;
            events.iter().any(|event| event["generation"] == 3).then_some(events)
        })
        .await;
        let generations: Vec<&Value> = events.iter().map(|event| &event["generation"]).collect();
        assert!(generations.is_sorted_by_key(|generation| generation.as_u64()), "{generations:?}");
        let third = claim(&service, "sub", "one").await.json();
        let done = json!({
            "wake_id": third["wake_id"], "generation": 3, "acks": [{"stream": "/a", "offset": offset(2)}], "done": true,
        });
        let answer = act(&service, "sub", "ack", third["token"].as_str().unwrap(), &done).await;
        assert_eq!(answer.json(), json!({"ok": true, "next_wake": false}));

        // Deleted: its tokens are stale, also for one of the same name.
        append(&service, "a", "2").await;
        let claimed = eventually("a claim", async || {
            let answer = claim(&service, "sub", "one").await;
            (answer.status.as_u16() == 200).then(|| answer.json())
        })
        .await;
        let deleted = service.request("DELETE", &format!("{SUBSCRIPTIONS}/sub"), &[], "").await;
        assert_eq!(deleted.status.as_u16(), 204);
        let token = claimed["token"].as_str().unwrap();
        let ack = json!({"wake_id": claimed["wake_id"], "generation": claimed["generation"], "done": true});
        assert_eq!(error(&act(&service, "sub", "ack", token, &ack).await), (409, "FENCED".into()));
        assert_eq!(put(&service, "sub", &config).await.status.as_u16(), 201);
        assert_eq!(error(&act(&service, "sub", "ack", token, &ack).await), (409, "FENCED".into()));
        assert!(service.stop().await.status.success());
    }
}

#[tokio::test]
async fn a_link_by_name_begins_at_the_end_and_hides_that_of_the_pattern() {
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        for path in ["events/a", "other/b", "wake"] {
            create(&service, path, "[1]").await;
        }
        let config = json!({"type": "pull-wake", "pattern": "events/**", "wake_stream": "wake"});
        put(&service, "sub", &config).await;
        let streams = async |body: Value| {
            service.request("POST", &format!("{SUBSCRIPTIONS}/sub/streams"), &JSON, body.to_string()).await
        };
        let added = streams(json!({"streams": ["events/a", "/other/b", "later"]})).await;
        assert_eq!(added.status.as_u16(), 204, "{added:?}");
        let links = async || {
            let shown = get(&service, "sub").await;
            let link = |stream: &Value| {
                let text = |name: &str| stream[name].as_str().unwrap().to_owned();
                (text("path"), text("link_type"), text("acked_offset"))
            };
            shown["streams"].as_array().unwrap().iter().map(link).collect::<Vec<_>>()
        };
        let expected = |path: &str, kind: &str, bytes| (path.to_owned(), kind.to_owned(), offset(bytes));
        assert_eq!(
            links().await,
            [
                expected("events/a", "explicit", 2),
                expected("later", "explicit", 0),
                expected("other/b", "explicit", 2)
            ]
        );
        assert_eq!(error(&streams(json!({"streams": ["wake"]})).await), (400, "INVALID_REQUEST".into()));
        for path in ["events%2Fa", "other/b", "nowhere"] {
            let removed =
                service.request("DELETE", &format!("{SUBSCRIPTIONS}/sub/streams/{path}"), &[], "").await;
            assert_eq!(removed.status.as_u16(), 204, "{path}");
        }
        assert_eq!(links().await, [expected("events/a", "glob", 2), expected("later", "explicit", 0)]);
        // A stream that is deleted and made anew is another one: its data is new.
        let deleted = service.request("DELETE", "/v1/stream/events/a", &[], "").await;
        assert_eq!(deleted.status.as_u16(), 204);
        assert_eq!(links().await, [expected("later", "explicit", 0)]);
        create(&service, "events/a", "[1]").await;
        let claimed = eventually("a claim", async || {
            let answer = claim(&service, "sub", "one").await;
            (answer.status.as_u16() == 200).then(|| answer.json())
        })
        .await;
        assert_eq!(claimed["streams"][0]["acked_offset"], offset(0));
        let missing = service
            .request("POST", &format!("{SUBSCRIPTIONS}/none/streams"), &JSON, "{\"streams\":[\"a\"]}")
            .await;
        assert_eq!(error(&missing), (404, "SUBSCRIPTION_NOT_FOUND".into()));
        assert!(service.stop().await.status.success());
    }
}

#[tokio::test]
async fn bad_input_is_named_and_changes_nothing() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("STREAMS_STORE", "memory")]).await;
    let long = "x".repeat(2_000);
    let hook = |url: &str| json!({"type": "webhook", "pattern": "a/*", "webhook": {"url": url}});
    for (body, field) in [
        (json!({"pattern": "a/*"}), "type"),
        (json!({"type": "other", "pattern": "a/*"}), "type"),
        (json!({"type": "webhook", "pattern": "a/*"}), "webhook"),
        (json!({"type": "webhook", "pattern": "a/*", "webhook": {}}), "url"),
        (json!({"type": "pull-wake", "pattern": "a/*"}), "wake_stream"),
        (json!({"type": "pull-wake", "wake_stream": "w"}), "pattern"),
        (json!({"type": "pull-wake", "wake_stream": "w", "streams": []}), "pattern"),
        (json!({"type": "pull-wake", "wake_stream": "w", "streams": "a"}), "streams"),
        (json!({"type": "pull-wake", "wake_stream": "w", "streams": ["w"]}), "streams"),
        (json!({"type": "pull-wake", "wake_stream": "w", "streams": ["a//b"]}), "streams"),
        (json!({"type": "pull-wake", "wake_stream": "w", "streams": ["__ds/x"]}), "streams"),
        (json!({"type": "pull-wake", "wake_stream": "w", "streams": [long]}), "streams"),
        (json!({"type": "pull-wake", "wake_stream": "..", "pattern": "a/*"}), "wake_stream"),
        (json!({"type": "pull-wake", "wake_stream": "w", "pattern": "a*"}), "pattern"),
        (json!({"type": "pull-wake", "wake_stream": "w", "pattern": "__ds/**"}), "pattern"),
        (json!({"type": "pull-wake", "wake_stream": "w", "pattern": 7}), "pattern"),
        (
            json!({"type": "pull-wake", "wake_stream": "w", "pattern": "a/*", "lease_ttl_ms": 999}),
            "lease_ttl_ms",
        ),
        (
            json!({"type": "pull-wake", "wake_stream": "w", "pattern": "a/*", "lease_ttl_ms": 1e6}),
            "lease_ttl_ms",
        ),
        (
            json!({"type": "pull-wake", "wake_stream": "w", "pattern": "a/*", "lease_ttl_ms": -1}),
            "lease_ttl_ms",
        ),
        (
            json!({"type": "pull-wake", "wake_stream": "w", "pattern": "a/*", "description": long}),
            "description",
        ),
        (json!([]), "body"),
    ] {
        let answer = put(&service, "sub", &body).await;
        assert_eq!(error(&answer), (400, "INVALID_REQUEST".into()), "{body}");
        let named = answer.json()["error"]["field"].as_str().unwrap().to_owned();
        assert!(named == field || (field == "url" && named == "webhook"), "{body}: {named}");
    }
    for url in [
        "http://127.0.0.1:9/hook",
        "http://10.0.0.1/hook",
        "https://localhost/hook",
        "https://127.0.0.1/hook",
        "https://[::1]/hook",
        "https://192.168.1.1/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/",
        "ftp://example.com/",
        "hook",
    ] {
        assert_eq!(
            error(&put(&service, "sub", &hook(url)).await),
            (400, "WEBHOOK_URL_REJECTED".into()),
            "{url}"
        );
    }
    let missing = service.get(&format!("{SUBSCRIPTIONS}/sub")).await;
    assert_eq!(error(&missing), (404, "SUBSCRIPTION_NOT_FOUND".into()));
    for (method, path) in [
        ("POST", format!("{SUBSCRIPTIONS}/sub")),
        ("GET", format!("{SUBSCRIPTIONS}/sub/claim")),
        ("PUT", format!("{SUBSCRIPTIONS}/sub/streams")),
        ("POST", "/v1/stream/__ds/jwks.json".to_owned()),
    ] {
        let answer = service.request(method, &path, &JSON, "{}").await;
        assert_eq!(answer.status.as_u16(), 405, "{method} {path}");
    }
    for path in ["__ds", "__ds/other", "__ds/subscriptions", "__ds/subscriptions/a/b"] {
        let answer = service.get(&format!("/v1/stream/{path}")).await;
        assert_eq!(answer.status.as_u16(), 404, "{path}");
    }
    for (worker, field) in [(json!(""), "worker"), (json!(7), "worker"), (json!("x".repeat(257)), "worker")] {
        let answer = act(&service, "sub", "claim", "", &json!({"worker": worker})).await;
        assert_eq!(
            (error(&answer), &answer.json()["error"]["field"]),
            ((400, "INVALID_REQUEST".into()), &json!(field))
        );
    }
    assert_eq!(error(&claim(&service, "sub", "one").await), (404, "SUBSCRIPTION_NOT_FOUND".into()));
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn keys_tokens_and_claims_outlive_a_restart_and_hold_on_any_node() {
    let database = TestDatabase::create().await;
    let first = service(&database, "postgres").await;
    create(&first, "wake", "[]").await;
    let config =
        json!({"type": "pull-wake", "pattern": "a/*", "wake_stream": "wake", "lease_ttl_ms": 600_000});
    assert_eq!(put(&first, "sub", &config).await.status.as_u16(), 201);
    create(&first, "a/1", "[1]").await;
    // A wake that is claimed before it is announced never is.
    let announced = async || (messages(&first, "wake").await.len() == 1).then_some(());
    eventually("the first wake", announced).await;
    let claimed = claim(&first, "sub", "one").await;
    assert_eq!(claimed.status.as_u16(), 200);
    let claimed = claimed.json();
    let keys = first.get("/v1/stream/__ds/jwks.json").await.json();
    assert!(first.stop().await.status.success());

    let services = [service(&database, "postgres").await, service(&database, "postgres").await];
    for service in &services {
        assert_eq!(service.get("/v1/stream/__ds/jwks.json").await.json(), keys);
        assert_eq!(error(&claim(service, "sub", "two").await), (409, "ALREADY_CLAIMED".into()));
    }
    let ack = json!({
        "wake_id": claimed["wake_id"], "generation": 1, "acks": [{"stream": "a/1", "offset": offset(2)}], "done": true,
    });
    let answer = act(&services[1], "sub", "ack", claimed["token"].as_str().unwrap(), &ack).await;
    assert_eq!(answer.json(), json!({"ok": true, "next_wake": false}));
    // A stream made on one node wakes a subscription made on another; one of the two announces it, once.
    create(&services[1], "a/2", "[1]").await;
    let events = eventually("the second wake", async || {
        let events = messages(&services[0], "wake").await;
        (events.len() > 1).then_some(events)
    })
    .await;
    let generations: Vec<&Value> = events.iter().map(|event| &event["generation"]).collect();
    assert_eq!(generations, [1, 2]);
    // Of racing workers one gets it.
    let claims = futures_util::future::join_all((0..8).map(|n| {
        let service = &services[n % 2];
        async move { claim(service, "sub", &n.to_string()).await.status.as_u16() }
    }))
    .await;
    assert_eq!(claims.iter().filter(|status| **status == 200).count(), 1, "{claims:?}");
}

#[tokio::test]
async fn an_append_whose_node_is_killed_before_it_looks_wakes_all_the_same() {
    let database = TestDatabase::create().await;
    let first = service(&database, "postgres").await;
    create(&first, "wake", "[]").await;
    let config = json!({"type": "pull-wake", "pattern": "a/*", "streams": ["b"], "wake_stream": "wake"});
    assert_eq!(put(&first, "sub", &config).await.status.as_u16(), 201);
    first.signal(nix::sys::signal::Signal::SIGKILL);
    let _killed = first.ended().await;
    // As a node leaves it that ended between the commit and the look.
    let client = database.connect().await;
    let stream = "insert into streams (path, content_type, tail) values ('a/1', 'application/json', 2)";
    client.batch_execute(stream).await.unwrap();
    let second = service(&database, "postgres").await;
    let events = eventually("the wake", async || {
        let events = messages(&second, "wake").await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert_eq!((&events[0]["stream"], events.len()), (&json!("a/1"), 1));
    assert!(second.stop().await.status.success());
}
