//! Messages of conversations: their order, their pages, and refusals.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::conversations::{CONVERSATIONS, link, make};
use crate::support::accounts::send;
use crate::support::imports::{ended, process};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};
use crate::support::sse::EventStream;

fn contents(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    json.as_array().unwrap_or_else(|| panic!("{json}")).iter().map(content).collect()
}

fn content(message: &Value) -> String {
    message["content"].as_str().unwrap().to_owned()
}

/// All pages from here on.
async fn walk(service: &Service, path: &str, rel: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next {
        let page = service.get(&path).await;
        pages.push(page.json().as_array().unwrap().clone());
        next = link(&page, rel);
    }
    pages
}

async fn say(service: &Service, path: &str, content: &str) -> Answer {
    send(service, "POST", path, "", &json!({"role": "user", "content": content})).await
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_sent_and_moves_its_conversation() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let path = format!("{conversation}/messages");
    assert_eq!(service.get(&path).await.json(), json!([]));
    let sent = json!({"role": "tool", "content": "\u{1F600}\n'; drop table messages; --", "token_count": 7,
        "metadata": {"n": 1.5, "tool": "x"}});
    let answer = send(&service, "POST", &path, "", &sent).await;
    assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    let added = answer.json();
    for name in ["role", "content", "token_count", "metadata"] {
        assert_eq!(added[name], sent[name]);
    }
    assert_eq!(
        (&added["done"], answer.header("location")),
        (&json!(true), &*format!("{path}/{}", added["id"].as_str().unwrap()))
    );
    assert_eq!(service.get(answer.header("location")).await.json(), added);
    assert_eq!(service.get(&path).await.json(), json!([added]));
    assert_eq!(service.get(&conversation).await.json()["updated_at"], added["timestamp"]);
}

#[tokio::test]
async fn an_array_is_added_as_a_whole_or_not_at_all() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let path = format!("{conversation}/messages");
    let message = |content: &str| json!({"role": "user", "content": content});
    let added = send(&service, "POST", &path, "", &json!([message("a"), message("b"), message("c")])).await;
    assert_eq!(added.status.as_u16(), 201);
    assert_eq!(contents(&added), ["a", "b", "c"]);
    let bad = json!([message("d"), {"role": "user", "content": 1}]);
    let refused = send(&service, "POST", &path, "", &bad).await;
    assert_eq!(
        (refused.status.as_u16(), refused.json()["error"]["field"].clone()),
        (400, json!("[1].content"))
    );
    let many = send(&service, "POST", &path, "", &Value::Array(vec![message("d"); 101])).await;
    assert_eq!((many.status.as_u16(), many.error_code().as_str()), (413, "too_large"));
    assert_eq!(send(&service, "POST", &path, "", &json!([])).await.status.as_u16(), 400);
    assert_eq!(service.get(&path).await.json(), added.json());
    assert_eq!(service.get(&conversation).await.json()["updated_at"], added.json()[2]["timestamp"]);
}

#[tokio::test]
async fn pages_continue_in_both_directions_without_gap_or_double() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = format!("{}/messages", make(&service, "").await);
    for n in 0..7 {
        say(&service, &path, &n.to_string()).await;
    }
    let forth = walk(&service, &format!("{path}?limit=3"), "next").await;
    assert_eq!(forth.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    let back = walk(&service, &format!("{path}?limit=3&before=end"), "prev").await;
    assert_eq!(back.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    let all: Vec<String> = forth.concat().iter().map(content).collect();
    assert_eq!(all, ["0", "1", "2", "3", "4", "5", "6"]);
    let reversed: Vec<Value> = back.into_iter().rev().flatten().collect();
    assert_eq!(reversed, forth.concat());
    let middle = service.get(&link(&service.get(&format!("{path}?limit=3")).await, "next").unwrap()).await;
    assert_eq!(contents(&service.get(&link(&middle, "prev").unwrap()).await), ["0", "1", "2"]);
}

#[tokio::test]
async fn concurrent_writers_leave_one_strictly_ascending_order() {
    let database = TestDatabase::create().await;
    let services = [Service::start(database.url(), &[]).await, Service::start(database.url(), &[]).await];
    let path = format!("{}/messages", make(&services[0], "").await);
    let write = |writer: usize| {
        let (service, path) = (&services[writer % 2], &path);
        async move {
            for n in 0..25 {
                let batch = json!([
                    {"role": "user", "content": format!("{writer}.{n}.a")},
                    {"role": "assistant", "content": format!("{writer}.{n}.b")},
                ]);
                assert_eq!(send(service, "POST", path, "", &batch).await.status.as_u16(), 201);
            }
        }
    };
    join_all((0..8).map(write)).await;
    let all = walk(&services[1], &format!("{path}?limit=7"), "next").await.concat();
    assert_eq!(all.len(), 400);
    let times: Vec<&str> = all.iter().map(|message| message["timestamp"].as_str().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "times rise strictly");
    for pair in all.chunks(2) {
        let (first, second) = (content(&pair[0]), content(&pair[1]));
        assert_eq!(first.strip_suffix(".a"), second.strip_suffix(".b"), "an array stays together");
    }
    let client = database.connect().await;
    let order = "select coalesce(bool_and(ok), true) from (
        select created > lag(created) over (order by xid, number) as ok from changes where topic like 'conversation:%') f";
    let in_order: bool = client.query_one(order, &[]).await.unwrap().get(0);
    assert!(in_order, "the feed has the order of the conversation");
}

#[tokio::test]
async fn a_key_makes_a_retry_harmless_and_belongs_to_one_body() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = format!("{}/messages", make(&service, "").await);
    let body = json!({"role": "user", "content": "once"}).to_string();
    let key = [("idempotency-key", "a key"), ("content-type", "application/json")];
    assert_eq!(
        service.request("POST", &path, &key, body.clone()).await.json()["error"]["field"],
        "idempotency-key"
    );
    let key = [("idempotency-key", "\"k-1\""), ("content-type", "application/json")];
    let answers = join_all((0..8).map(|_| service.request("POST", &path, &key, body.clone()))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201], "one of them made it");
    assert!(answers.iter().all(|answer| answer.body == answers[0].body), "all tell of the same message");
    assert_eq!(service.get(&path).await.json(), json!([answers[0].json()]));
    let other = service.request("POST", &path, &key, body.replace("once", "twice")).await;
    assert_eq!((other.status.as_u16(), other.error_code().as_str()), (422, "idempotency_conflict"));
    let elsewhere = format!("{}/messages", make(&service, "").await);
    let answer = service.request("POST", &elsewhere, &key, body.clone()).await;
    assert_eq!(answer.status.as_u16(), 201, "a key belongs to its conversation");

    let client = database.connect().await;
    client.execute("update message_keys set at = now() - interval '2 days'", &[]).await.unwrap();
    drop(service);
    let service = Service::start(database.url(), &[]).await;
    eventually("old keys go", async || {
        let left: i64 = client.query_one("select count(*) from message_keys", &[]).await.unwrap().get(0);
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(service.request("POST", &path, &key, body).await.status.as_u16(), 201);
}

#[tokio::test]
async fn invalid_members_are_refused_by_name() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_MESSAGE_BYTES", "1024")]).await;
    let conversation = make(&service, "").await;
    let path = format!("{conversation}/messages");
    let (long, longer) = ("x".repeat(1025), "x".repeat(65_536));
    for (body, status, field) in [
        ("", 400, "body"),
        ("{", 400, "body"),
        ("1", 400, "body"),
        ("{}", 400, "role"),
        (r#"{"role":"user"}"#, 400, "content"),
        (r#"{"role":"User","content":""}"#, 400, "role"),
        (r#"{"role":["user"],"content":""}"#, 400, "role"),
        (r#"{"role":"user\u0000","content":""}"#, 400, "role"),
        (r#"{"role":"user","content":7}"#, 400, "content"),
        (r#"{"role":"user","content":"a\u0000b"}"#, 400, "content"),
        (r#"{"role":"user","content":"\udc00"}"#, 400, "content"),
        (r#"{"role":"user","content":"","token_count":-1}"#, 400, "token_count"),
        (r#"{"role":"user","content":"","token_count":2147483648}"#, 400, "token_count"),
        (r#"{"role":"user","content":"","token_count":1.5}"#, 400, "token_count"),
        (r#"{"role":"user","content":"","metadata":[]}"#, 400, "metadata"),
        (r#"{"role":"user","content":"","metadata":{"a":"\u0000"}}"#, 400, "metadata"),
        (r#"{"role":"user","content":"","metadata":{"a":1e400000}}"#, 400, "metadata"),
        (r#"{"role":"user","content":"","done":"no"}"#, 400, "done"),
        (r#"{"role":"user","content":"","id":"1"}"#, 400, "id"),
        (r#"[{"role":"user","content":""},[]]"#, 400, "[1]"),
        (&format!(r#"{{"role":"user","content":"{long}"}}"#), 413, "content"),
        (&format!(r#"{{"role":"user","content":"","metadata":{{"a":"{longer}"}}}}"#), 413, "metadata"),
        (
            &format!(
                r#"{{"role":"user","content":"","metadata":{}1{}}}"#,
                "{\"a\":".repeat(1_010),
                "}".repeat(1_010)
            ),
            400,
            "metadata",
        ),
    ] {
        let refused = service.request("POST", &path, &[], body.to_owned()).await;
        assert_eq!(
            (refused.status.as_u16(), refused.json()["error"]["field"].clone()),
            (status, json!(field)),
            "{body:.60}"
        );
    }
    let deep = "[".repeat(100_000);
    assert_eq!(service.request("POST", &path, &[], deep).await.status.as_u16(), 400);
    assert_eq!(service.request("POST", &path, &[], vec![0xff, 0xfd]).await.status.as_u16(), 400);
    for declared in ["text/plain", "application/json; charset=utf-16"] {
        let other = service.request("POST", &path, &[("content-type", declared)], "{}").await;
        assert_eq!((other.status.as_u16(), other.error_code().as_str()), (415, "unsupported_media_type"));
    }
    let huge = service.request("POST", &path, &[], "x".repeat(5 << 20)).await;
    assert_eq!((huge.status.as_u16(), huge.error_code().as_str()), (413, "too_large"));
    for (body, field) in
        [(r#"{"title":1}"#, "title"), (r#"{"title":"\u0000"}"#, "title"), (r#"{"owner":"x"}"#, "owner")]
    {
        for (method, path) in [("POST", CONVERSATIONS), ("PATCH", &conversation)] {
            let refused = service.request(method, path, &[], body).await;
            assert_eq!(
                (refused.status.as_u16(), refused.json()["error"]["field"].clone()),
                (400, json!(field))
            );
        }
    }
    for id in ["1", "'%20or%20true--", "..%2f", "00000000-0000-0000-0000-000000000000", "%00"] {
        let nothing = service.get(&format!("{CONVERSATIONS}/{id}")).await;
        assert_eq!((nothing.status.as_u16(), nothing.error_code().as_str()), (404, "not_found"), "{id}");
    }
    assert_eq!(service.get(&path).await.json(), json!([]), "nothing of it was stored");
}

#[tokio::test]
async fn messages_of_chat_sdks_come_back_as_they_were_sent() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let path = format!("{conversation}/messages");
    let mut live = EventStream::open(&service, &format!("{path}?live=sse"), &[]).await;
    let calls =
        json!([{"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}]);
    let parts = json!([
        {"type": "text", "text": "What is on it?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
    ]);
    let sent = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "ada"},
        {"role": "assistant", "content": null, "tool_calls": calls, "refusal": null},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "function", "name": "time", "content": "noon"},
        {"role": "assistant", "content": "At noon.", "annotations": [{"type": "x"}]},
    ]);
    let answer = send(&service, "POST", &path, "", &sent).await;
    assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
    let added = answer.json();
    for (message, sent) in added.as_array().unwrap().iter().zip(sent.as_array().unwrap()) {
        for name in ["role", "content", "name", "tool_calls", "tool_call_id", "annotations"] {
            assert_eq!(message[name], sent[name], "{name} {message}");
        }
        assert!(message.get("content").is_some() && message.get("refusal").is_none(), "{message}");
        assert_eq!(message["done"], true);
    }
    // The same by every read.
    assert_eq!(service.get(&path).await.json(), added);
    for message in added.as_array().unwrap() {
        let one = service.get(&format!("{path}/{}", message["id"].as_str().unwrap())).await;
        assert_eq!(&one.json(), message);
        let event = live.next().await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap(), *message);
    }
    eventually("the text of parts is found", async || {
        let found = service.get("/api/conversations?q=%22on%20it%22").await.json();
        (found.as_array().unwrap().len() == 1).then_some(())
    })
    .await;

    let in_parts = format!("{path}/{}/append", added[1]["id"].as_str().unwrap());
    let refused = send(&service, "POST", &in_parts, "", &json!({"at": 0, "content": "x"})).await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (409, "message_done"));
    for (bad, field) in [
        (json!({"role": "bot", "content": "x"}), "role"),
        (json!({"role": "assistant", "content": null}), "content"),
        (json!({"role": "assistant"}), "content"),
        (json!({"role": "user", "content": []}), "content"),
        (json!({"role": "user", "content": ["x"]}), "content"),
        (json!({"role": "user", "content": [{"text": "x"}]}), "content"),
        (json!({"role": "user", "content": 7}), "content"),
        (json!({"role": "user", "content": {"type": "text"}}), "content"),
        (json!({"role": "user", "content": "x", "tool_calls": {}}), "tool_calls"),
        (json!({"role": "user", "content": [{"type": "text", "text": "x"}], "done": false}), "done"),
        (json!({"role": "user", "content": "x", "unknown": 1}), "unknown"),
    ] {
        let answer = send(&service, "POST", &path, "", &bad).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["field"]), (400, &json!(field)), "{bad}");
    }
    let numbers = vec!["1e131071"; 100].join(",");
    let large = format!("{{\"role\":\"user\",\"content\":[{{\"type\":\"x\",\"n\":[{numbers}]}}]}}");
    let answer = service.request("POST", &path, &[("content-type", "application/json")], large).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (413, "too_large"));

    let lines: Vec<String> = sent
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            let mut line = message.clone();
            line["conversation_id"] = json!(conversation.rsplit('/').next().unwrap());
            line.to_string()
        })
        .collect();
    let file = process(&service, "?kind=message", "", &lines.join("\n")).await;
    let progress = ended(&service, "", &file).await;
    assert_eq!(progress["stored"], 7, "{progress}");
    let all = service.get(&path).await.json();
    for (imported, message) in all.as_array().unwrap()[7..].iter().zip(added.as_array().unwrap()) {
        for name in ["role", "content", "name", "tool_calls", "tool_call_id", "annotations"] {
            assert_eq!(imported[name], message[name]);
        }
        let event = live.next().await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap(), *imported);
    }
}
