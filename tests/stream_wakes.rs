//! Subscriptions to streams: scopes, the rotation of keys, and wakes through failures.

use serde_json::{Value, json};

use crate::stream_subscriptions::{
    JSON, Receiver, SUBSCRIPTIONS, acked, act, append, claim, create, error, get, offset, put, verify,
};
use crate::support::accounts::{guarded, key};
use crate::support::postgres::{PrivateServer, TestDatabase};
use crate::support::service::{Answer, Service, eventually};

const WEBHOOKS: [(&str, &str); 2] = [("MODULES", "events,streams"), ("WEBHOOK_ALLOW_PRIVATE", "on")];

/// A request with a key.
async fn ask(service: &Service, key: &str, method: &str, path: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [JSON[0], ("authorization", &*bearer)];
    let headers = if key.is_empty() { &headers[..1] } else { &headers[..] };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    service.request(method, &format!("/v1/stream/{path}"), headers, body).await
}

#[tokio::test]
async fn a_claim_limited_to_a_prefix_reaches_no_other_subscription() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &WEBHOOKS).await;
    let of = |scopes: &[&'static str]| scopes.iter().flat_map(|scope| ["--scope", scope]).collect::<Vec<_>>();
    let operator =
        key(&database, &of(&["streams:create", "streams:write", "streams:claim", "streams:delete"])).await;
    let tenant = key(&database, &of(&["streams:claim:a/", "streams:write:a/"])).await;
    let writer = key(&database, &of(&["streams:write", "streams:read"])).await;
    for path in ["a/wake", "wake", "a/1", "b/1"] {
        assert_eq!(ask(&service, &operator, "PUT", path, Value::Null).await.status, 201, "{path}");
    }
    let sub = |id: &str| format!("__ds/subscriptions/{id}");
    let config =
        |pattern: &str, wake: &str| json!({"type": "pull-wake", "pattern": pattern, "wake_stream": wake});
    let by_name =
        |streams: &[&str]| json!({"type": "pull-wake", "streams": streams, "wake_stream": "a/wake"});
    for (body, status) in [
        (config("a/*/x", "a/wake"), 201),
        (config("a/**", "a/wake"), 403),
        (config("**", "a/wake"), 403),
        (config("*/1", "a/wake"), 403),
        (config("b/*/x", "a/wake"), 403),
        (config("a/*/x", "wake"), 403),
        (by_name(&["a/1"]), 201),
        (by_name(&["a/1", "b/1"]), 403),
    ] {
        let made = ask(&service, &tenant, "PUT", &sub("try"), body.clone()).await;
        assert_eq!(made.status, status, "{body}: {made:?}");
        for (key, status) in [("", 401), (&*writer, 403)] {
            assert_eq!(ask(&service, key, "PUT", &sub("try"), body.clone()).await.status, status, "{body}");
        }
        if status == 201 {
            assert_eq!(ask(&service, &tenant, "DELETE", &sub("try"), Value::Null).await.status, 204);
        }
    }
    assert_eq!(ask(&service, &operator, "PUT", &sub("other"), config("b/*", "wake")).await.status, 201);
    let worker = json!({"worker": "w"});
    let named = json!({"streams": ["a/1"]});
    for key in [&*tenant, &*writer, ""] {
        let refused = if key.is_empty() { 401 } else { 403 };
        for (method, path, body) in [
            ("GET", sub("other"), Value::Null),
            ("POST", sub("other") + "/streams", named.clone()),
            ("DELETE", sub("other") + "/streams/b/1", Value::Null),
            ("POST", sub("other") + "/claim", worker.clone()),
            ("DELETE", sub("other"), Value::Null),
        ] {
            assert_eq!(
                ask(&service, key, method, &path, body).await.status,
                refused,
                "{key} {method} {path}"
            );
        }
    }
    // Its own, from the claim to the end.
    assert_eq!(ask(&service, &tenant, "PUT", &sub("own"), by_name(&["a/1"])).await.status, 201);
    let more = json!({"streams": ["b/1"]});
    assert_eq!(ask(&service, &tenant, "POST", &(sub("own") + "/streams"), more).await.status, 403);
    assert_eq!(ask(&service, &operator, "POST", "a/1", json!(1)).await.status, 204);
    let claimed = eventually("a claim", async || {
        let claimed = ask(&service, &tenant, "POST", &(sub("own") + "/claim"), worker.clone()).await;
        (claimed.status == 200).then(|| claimed.json())
    })
    .await;
    let done = json!({
        "wake_id": claimed["wake_id"], "generation": 1, "acks": [{"stream": "a/1", "offset": offset(2)}], "done": true,
    });
    // The token of the wake is what counts from here on.
    assert_eq!(ask(&service, &tenant, "POST", &(sub("own") + "/ack"), done.clone()).await.status, 401);
    let token = claimed["token"].as_str().unwrap();
    let answer = ask(&service, token, "POST", &(sub("own") + "/ack"), done).await;
    assert_eq!(answer.json(), json!({"ok": true, "next_wake": false}));
    assert_eq!(ask(&service, &operator, "GET", &sub("other"), Value::Null).await.status, 200);
}

/// The ids of the published keys.
async fn published(service: &Service) -> (Value, Vec<String>) {
    let keys = service.get("/v1/stream/__ds/jwks.json").await.json();
    let mut kids: Vec<String> =
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
    kids.sort_unstable();
    (keys, kids)
}

#[tokio::test]
async fn a_key_is_published_by_all_nodes_before_it_signs_and_after_it_has() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let start = async || Service::start(database.url(), &WEBHOOKS).await;
    let signed_since = async |kid: &str, age: &str| {
        let move_it =
            "update stream_secrets set since = now() - $2::text::interval where kind = 'signing' and id = $1";
        assert_eq!(client.execute(move_it, &[&kid, &age]).await.unwrap(), 1);
    };
    let mut receiver = Receiver::start(&[(200, "{\"done\":true}")]).await;
    let service = start().await;
    create(&service, "a", "[1]").await;
    let config = json!({"type": "webhook", "streams": ["a"], "webhook": {"url": receiver.url}});
    let made = put(&service, "sub", &config).await.json();
    let (_, first) = published(&service).await;
    assert_eq!((first.len(), &made["webhook"]["signing"]["kid"]), (1, &json!(first[0])));
    // A day before its time is over, two nodes that start at once make one successor.
    signed_since(&first[0], "89 days 1 hour").await;
    assert!(service.stop().await.status.success());
    let (one, other) = tokio::join!(start(), start());
    let ((keys, both), (_, elsewhere)) = tokio::join!(published(&one), published(&other));
    assert_eq!((both.len(), &both), (2, &elsewhere));
    append(&one, "a", "2").await;
    let received = receiver.next().await;
    assert!(received.signature.contains(&format!("kid={}", first[0])), "{}", received.signature);
    verify(&received, &keys);
    let second = both.iter().find(|kid| **kid != first[0]).unwrap();
    // It signs from its time on, and the first one is still published.
    signed_since(second, "1 minute").await;
    assert!(one.stop().await.status.success() && other.stop().await.status.success());
    let service = start().await;
    let (keys, kids) = published(&service).await;
    assert_eq!(kids, both);
    append(&service, "a", "3").await;
    let received = receiver.next().await;
    assert!(received.signature.contains(&format!("kid={second}")), "{}", received.signature);
    verify(&received, &keys);
    assert_eq!(get(&service, "sub").await["webhook"]["signing"]["kid"], json!(second));
    // A day later nothing that it signed is accepted any more.
    signed_since(second, "1 day 1 minute").await;
    assert!(service.stop().await.status.success());
    let service = start().await;
    assert_eq!(published(&service).await.1, std::slice::from_ref(second));
    let kept = "select count(*) from stream_secrets where kind = 'signing'";
    assert_eq!(client.query_one(kept, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn a_wake_whose_outcome_postgres_misses_is_recorded_later_or_repeated() {
    let mut server = PrivateServer::start(&[]).await;
    let service = Service::start(server.url(), &WEBHOOKS).await;
    let mut receiver = Receiver::waiting(&[(200, "{\"done\":true}")]).await;
    let config = json!({
        "type": "webhook", "streams": ["a"], "webhook": {"url": receiver.url}, "lease_ttl_ms": 5_000,
    });
    assert_eq!(put(&service, "sub", &config).await.status, 201);
    create(&service, "a", "[1]").await;
    let first = receiver.next().await.body;
    server.stop_immediate().await;
    receiver.answers.add_permits(tokio::sync::Semaphore::MAX_PERMITS);
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    server.start_again().await;
    let shown = eventually("it is acknowledged", async || {
        let answer = service.get(&format!("{SUBSCRIPTIONS}/sub")).await;
        let shown = (answer.status == 200).then(|| answer.json())?;
        (acked(&shown, "a") == Some(offset(2))).then_some(shown)
    })
    .await;
    assert_eq!(shown["status"], "active");
    // Whatever was delivered again was the same wake, or the next one.
    while let Some(again) = receiver.received() {
        assert!(again.body["generation"].as_u64() >= first["generation"].as_u64(), "{:?}", again.body);
    }
    append(&service, "a", "2").await;
    let next = receiver.next().await.body;
    assert_eq!(next["streams"][0]["tail_offset"], offset(4));
    assert_ne!(next["wake_id"], first["wake_id"]);
    eventually("the next one too", async || {
        (acked(&get(&service, "sub").await, "a") == Some(offset(4))).then_some(())
    })
    .await;
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_asked_again_at_the_public_url_of_the_service() {
    let database = TestDatabase::create().await;
    let public = "https://streams.example/base";
    let variables = [&WEBHOOKS[..], &[("PUBLIC_URL", public)]].concat();
    let service = Service::start(database.url(), &variables).await;
    let mut receiver = Receiver::waiting(&[(204, "")]).await;
    let config = json!({
        "type": "webhook", "streams": ["a"], "webhook": {"url": receiver.url}, "lease_ttl_ms": 1_000,
    });
    // The `Host` of the request does not count.
    let made = put(&service, "sub", &config).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.json()["webhook"]["signing"]["jwks_url"], format!("{public}/v1/stream/__ds/jwks.json"));
    create(&service, "a", "[1]").await;
    let first = receiver.next().await.body;
    assert_eq!(first["callback_url"], format!("{public}/v1/stream/__ds/subscriptions/sub/callback"));
    let shown = eventually("it has failed", async || {
        let shown = get(&service, "sub").await;
        (shown["status"] == "failed").then_some(shown)
    })
    .await;
    assert_eq!(shown["last_error"], "the receiver did not answer within 900 ms");
    receiver.answers.add_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let again = receiver.next().await.body;
    assert_eq!((&again["wake_id"], &again["generation"]), (&first["wake_id"], &first["generation"]));
    eventually("it is delivered", async || (get(&service, "sub").await["status"] == "active").then_some(()))
        .await;
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn numbers_and_names_of_any_length_are_refused_by_subscriptions() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &WEBHOOKS).await;
    create(&service, "w", "[]").await;
    let config = |lease: &str| {
        format!(
            "{{\"type\":\"pull-wake\",\"pattern\":\"a/*\",\"wake_stream\":\"w\",\"lease_ttl_ms\":{lease}}}"
        )
    };
    let digits = "9".repeat(400);
    for lease in [&*digits, "1e400", "-0.5", "30000.5", "\"30000\"", "true"] {
        let path = format!("{SUBSCRIPTIONS}/sub");
        let answer = service.request("PUT", &path, &JSON, config(lease)).await;
        assert_eq!(error(&answer), (400, "INVALID_REQUEST".into()), "{lease:.20}");
    }
    assert_eq!(
        service.request("PUT", &format!("{SUBSCRIPTIONS}/sub"), &JSON, config("30000")).await.status,
        201
    );
    create(&service, "a/1", "[1]").await;
    let claimed = eventually("a claim", async || {
        let answer = claim(&service, "sub", "one").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    let (token, wake) = (claimed["token"].as_str().unwrap(), &claimed["wake_id"]);
    for (generation, acks) in [
        (&*digits, "[]"),
        ("-1", "[]"),
        ("1.5", "[]"),
        ("1", "[{\"stream\":\"a/1\",\"offset\":2}]"),
        ("1", "{}"),
    ] {
        let body = format!("{{\"wake_id\":{wake},\"generation\":{generation},\"acks\":{acks}}}");
        let headers = [JSON[0], ("authorization", &*format!("Bearer {token}"))];
        let answer = service.request("POST", &format!("{SUBSCRIPTIONS}/sub/ack"), &headers, body).await;
        assert_eq!(error(&answer), (400, "INVALID_REQUEST".into()), "{generation:.20} {acks}");
    }
    for bad in ["", "x", "a.b", &*"x".repeat(8 * 1024)] {
        let ack = json!({"wake_id": wake, "generation": 1, "done": true});
        assert_eq!(error(&act(&service, "sub", "ack", bad, &ack).await), (401, "TOKEN_INVALID".into()));
    }
    for id in ["x".repeat(8 * 1024), "%00".to_owned(), "%ff".to_owned(), "a%0ab".to_owned()] {
        let answer = service.request("PUT", &format!("{SUBSCRIPTIONS}/{id}"), &JSON, config("30000")).await;
        assert_eq!(error(&answer), (400, "INVALID_REQUEST".into()), "{id:.20}");
    }
    for path in ["a%2F..%2Fb", "..", "%00", "a//b", &*"x".repeat(8 * 1024)] {
        let url = format!("{SUBSCRIPTIONS}/sub/streams/{path}");
        let answer = service.request("DELETE", &url, &[], "").await;
        assert_eq!(error(&answer), (400, "INVALID_REQUEST".into()), "{path:.20}");
    }
    assert_eq!(acked(&get(&service, "sub").await, "a/1"), Some(offset(0)));
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn acknowledgements_are_no_log_ins_and_have_the_budget_of_writes() {
    let database = TestDatabase::create().await;
    let variables = [&WEBHOOKS[..], &[("RATE_LOGINS", "1")]].concat();
    let service = Service::start(database.url(), &variables).await;
    let ack = json!({"wake_id": "w", "generation": 1, "done": true});
    for action in ["ack", "release", "callback"].repeat(3) {
        assert_eq!(error(&act(&service, "sub", action, "x.y", &ack).await), (401, "TOKEN_INVALID".into()));
    }
    for _ in 0..3 {
        assert_eq!(service.get("/v1/stream/__ds/jwks.json").await.status, 200);
    }
    // Where writes are counted, all of a stream's are; a third of the budget can be used at once.
    let database = TestDatabase::create().await;
    let variables = [&WEBHOOKS[..], &[("RATE_WRITES", "9")]].concat();
    let service = Service::start(database.url(), &variables).await;
    create(&service, "a", "[1]").await;
    append(&service, "a", "2").await;
    assert_eq!(act(&service, "sub", "ack", "x.y", &ack).await.status, 401);
    let refused = service.request("POST", "/v1/stream/a", &JSON, "3").await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (429, "too_many_requests"));
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|wait_s| wait_s > 0), "{refused:?}");
}
