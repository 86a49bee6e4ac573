//! Lines of files become events, conversations and messages: each once, or with a reason why not.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::accounts::{guarded, key, log_in, register, send};
use crate::support::imports::{
    NDJSON, PROCESS, count, ended, figures, post, process, progress, rejected, small_parts,
};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::EventStream;

#[tokio::test]
async fn lines_become_events_but_for_those_that_are_no_json_and_a_file_is_processed_once() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let lines = "{\"n\":1}\r\n\n  [2] \nnope\n\"\\u0000\"\n{\"n\":3}";
    let file = process(&service, "?kind=event", "", lines).await;
    let progress = ended(&service, "", &file).await;
    assert_eq!((&progress["state"], figures(&progress)), (&json!("done"), (6, 4, 1)), "{progress}");
    assert_eq!((&progress["bytes"], &progress["total_bytes"]), (&json!(lines.len()), &json!(lines.len())));
    assert_eq!(rejected(&service, "", &file).await, [(4, "not JSON from byte 0 on".to_owned())]);

    let client = database.connect().await;
    let rows = client
        .query("select payload::text, body, trace_id = id::text, content_type from requests order by id", &[])
        .await
        .unwrap();
    let payloads: Vec<Option<&str>> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(payloads, [Some("{\"n\": 1}"), Some("[2]"), None, Some("{\"n\": 3}")]);
    assert_eq!(rows[2].get::<_, Option<&[u8]>>(1), Some(&b"\"\\u0000\""[..]));
    assert!(rows.iter().all(|row| row.get(2) && row.get::<_, &str>(3) == "application/json"));

    let files = service.get("/api/files").await.json();
    assert_eq!(files[0]["id"], file.as_str());
    let named = |id: &str| json!({"file_id": id});
    let again = send(&service, "POST", &format!("{PROCESS}?kind=event"), "", &named(&file)).await;
    assert_eq!((again.status.as_u16(), again.error_code().as_str()), (409, "processed"));
    let unknown = named("00000000-0000-4000-8000-000000000000");
    assert_eq!(send(&service, "POST", PROCESS, "", &unknown).await.status.as_u16(), 404);
    assert_eq!(count(&client, "requests").await, 4);
    assert_eq!(count(&client, "import_parts").await, 0, "parts are kept while they are needed");
}

#[tokio::test]
async fn a_file_may_hold_conversations_their_messages_and_events_in_order() {
    let database = TestDatabase::create().await;
    // A part a line or two, so that messages and their conversations are in different ones.
    small_parts(&database.connect().await, 4096).await;
    let service = Service::start(database.url(), &[("DB_POOL_SIZE", "40")]).await;
    let id = |n: usize| format!("00000000-0000-4000-8000-{n:012}");
    let message = |conversation: &str, text: &str| {
        json!({"kind": "message", "thread": conversation, "role": "user", "text": text, "more": [1]})
            .to_string()
    };
    let mut lines = vec![message(&id(0), "too early")];
    for n in 0..8 {
        lines.push(
            json!({"kind": "conversation", "id": id(n), "title": format!("c{n}"), "metadata": {"n": n}})
                .to_string(),
        );
        lines.extend((0..40).map(|m| message(&id(n), &format!("{m} {}", "x".repeat(100)))));
        lines.push(json!({"kind": "event", "payload": n, "trace_id": format!("t{n}")}).to_string());
    }
    lines.push(json!({"kind": "conversation", "id": id(0)}).to_string());
    lines.push(message("11111111-0000-4000-8000-000000000000", "nobody's"));
    let file = process(&service, "?map.content=text&map.conversation_id=thread", "", &lines.join("\n")).await;
    let progress = ended(&service, "", &file).await;
    let all = lines.len() as i64;
    assert_eq!(figures(&progress), (all, all - 3, 3), "{progress}");
    let reasons: Vec<String> =
        rejected(&service, "", &file).await.into_iter().map(|(_, reason)| reason).collect();
    let unknown = "there is no such conversation".to_owned();
    assert_eq!(reasons, [unknown.clone(), "there is a conversation with this id".to_owned(), unknown]);

    for n in [0, 7] {
        let page = service.get(&format!("/api/conversations/{}/messages?limit=100", id(n))).await.json();
        let texts: Vec<&str> =
            page.as_array().unwrap().iter().map(|message| message["content"].as_str().unwrap()).collect();
        let expected: Vec<String> = (0..40).map(|m| format!("{m} {}", "x".repeat(100))).collect();
        assert_eq!(texts, expected, "{n}");
        let conversation = service.get(&format!("/api/conversations/{}", id(n))).await.json();
        assert_eq!(
            (&conversation["title"], &conversation["metadata"]),
            (&json!(format!("c{n}")), &json!({"n": n}))
        );
        let last = page[39]["timestamp"].as_str().unwrap();
        assert_eq!(conversation["updated_at"], last);
    }
    // Search learns of them behind their import, titles and messages alike.
    for words in ["c5", "39"] {
        eventually("the words are found", async || {
            let found = service.get(&format!("/api/conversations?q={words}")).await.json();
            let wanted = if words == "c5" { 1 } else { 8 };
            (found.as_array().unwrap().len() == wanted).then_some(())
        })
        .await;
    }
    let client = database.connect().await;
    assert_eq!(count(&client, "requests where trace_id = 't' || payload::text").await, 8);
}

#[tokio::test]
async fn nobody_stores_by_a_file_what_he_may_not_store_otherwise() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("REGISTRATION", "on")]).await;
    let mut users = Vec::new();
    for email in ["ada@example.com", "bob@example.com"] {
        register(&service, email).await;
        users.push(log_in(&service, email).await.access);
    }
    let (ada, bob) = (&users[0], &users[1]);
    let conversation =
        send(&service, "POST", "/api/conversations", bob, &json!({})).await.json()["id"].clone();

    let refused = post(&service, "?kind=event", ada, "{}").await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (403, "forbidden"));
    assert!(refused.header("www-authenticate").contains("scope=\"events:write\""));

    let lines = [
        json!({"kind": "event", "payload": 1}),
        json!({"kind": "message", "conversation_id": conversation, "role": "user", "content": "hers"}),
        json!({"kind": "conversation", "id": conversation}),
        json!({"kind": "conversation", "title": "own"}),
    ];
    let lines = lines.map(|line| line.to_string()).join("\n");
    let file = process(&service, "", ada, &lines).await;
    assert_eq!(figures(&ended(&service, ada, &file).await), (4, 1, 3));
    let expected = [
        "this takes the permission events:write",
        "there is no such conversation",
        "there is a conversation with this id",
    ];
    assert_eq!(
        rejected(&service, ada, &file).await.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>(),
        expected
    );
    let own = send(&service, "GET", "/api/conversations", ada, &Value::Null).await.json();
    assert_eq!((own.as_array().unwrap().len(), &own[0]["title"]), (1, &json!("own")));

    for path in ["progress", "rejected"] {
        let path = format!("/api/files/{file}/{path}");
        assert_eq!(send(&service, "GET", &path, bob, &Value::Null).await.status.as_u16(), 404, "{path}");
    }
    let named = json!({"file_id": file});
    assert_eq!(send(&service, "POST", PROCESS, bob, &named).await.status.as_u16(), 404);
    // What a key does, it does for its user.
    let own_key =
        key(&database, &["--scope", "files:read", "--scope", "files:write", "--scope", "events:write"]).await;
    assert_eq!(
        send(&service, "GET", &format!("/api/files/{file}/progress"), &own_key, &Value::Null)
            .await
            .status
            .as_u16(),
        404
    );
}

#[tokio::test]
async fn a_row_that_postgres_refuses_is_left_out_alone() {
    let database = TestDatabase::refusing_evil().await;
    let service = Service::start(database.url(), &[]).await;
    let lines: Vec<String> = (1..=500)
        .map(|n| if n % 97 == 0 { r#"{"evil":1}"#.to_owned() } else { format!("{{\"n\":{n}}}") })
        .collect();
    let file = process(&service, "?kind=event", "", &lines.join("\n")).await;
    assert_eq!(figures(&ended(&service, "", &file).await), (500, 495, 5));
    let reason = "Postgres refused it (SQLSTATE 23514)".to_owned();
    let expected: Vec<(u64, String)> = (1..=5).map(|n| (n * 97, reason.clone())).collect();
    assert_eq!(rejected(&service, "", &file).await, expected);
}

#[tokio::test]
async fn reasons_are_kept_up_to_a_number_and_long_lines_are_not_held() {
    let database = TestDatabase::create().await;
    small_parts(&database.connect().await, 4096).await;
    let service = Service::start(database.url(), &[("MAX_EVENT_BYTES", "1024")]).await;
    let mut lines = "\"".to_owned() + &"x".repeat(3_000_000) + "\"\n";
    lines.push_str(&"no\n".repeat(105_000));
    lines.push_str("1\n");
    let file = process(&service, "?kind=event", "", &lines).await;
    assert_eq!(figures(&ended(&service, "", &file).await), (105_002, 1, 105_001));
    let answer = service.get(&format!("/api/files/{file}/rejected")).await;
    assert_eq!(answer.header("x-total-count"), "105001");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(
        text.starts_with("{\"line\":1,\"reason\":\"the line is too long (MAX_EVENT_BYTES)\"}\n"),
        "{text}"
    );
    assert!(
        (100_000..101_500).contains(&text.lines().count()),
        "one part's at the most beyond it: {}",
        text.lines().count()
    );
}

#[tokio::test]
async fn progress_can_be_followed_to_its_end() {
    let database = TestDatabase::create().await;
    small_parts(&database.connect().await, 4096).await;
    let service = Service::start(database.url(), &[]).await;
    let lines: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let file = process(&service, "?kind=event", "", &lines).await;
    let path = format!("/api/files/{file}/progress");
    let mut stream = EventStream::open(&service, &path, &[("accept", "text/event-stream")]).await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let mut last: Option<(String, Value)> = None;
    while let Some(event) = stream.next().await {
        let event = event.unwrap();
        let data: Value = serde_json::from_str(&event.data).unwrap();
        let before = last.as_ref().map_or(0, |(_, data)| data["lines"].as_i64().unwrap());
        assert!(data["lines"].as_i64().unwrap() >= before, "{data}");
        last = Some((event.event, data));
    }
    let (name, data) = last.unwrap();
    assert_eq!((name.as_str(), figures(&data)), ("done", (20_000, 20_000, 0)));
    assert!(data["finished_at"].is_string() && data["error"].is_null(), "{data}");
}

#[tokio::test]
async fn what_is_no_request_for_an_import_is_refused() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let json = ("content-type", "application/json");
    for (query, headers, body, status, field) in [
        ("", vec![("content-type", "text/plain")], "1", 415, "content-type"),
        ("", vec![], "1", 400, "file_id"),
        ("", vec![NDJSON, ("content-encoding", "gzip")], "1", 400, "content-encoding"),
        ("", vec![NDJSON, ("content-encoding", "compress")], "1", 415, "content-encoding"),
        ("", vec![("content-type", "application/x-ndjson; charset=utf-16")], "1", 415, "content-type"),
        ("", vec![NDJSON], "{\0}\0", 415, "content-type"),
        ("?kind=row", vec![NDJSON], "1", 400, "kind"),
        ("?kinds=event", vec![NDJSON], "1", 400, "kinds"),
        ("?map.contents=text", vec![NDJSON], "1", 400, "map"),
        ("?map.content=", vec![NDJSON], "1", 400, "map"),
        ("", vec![json], "", 400, "file_id"),
        ("", vec![json], "[]", 400, "file_id"),
        ("", vec![json], r#"{"file_id":"../../etc/passwd"}"#, 400, "file_id"),
        ("", vec![json], r#"{"file_id":"00000000-0000-4000-8000-000000000000","more":1}"#, 400, "file_id"),
    ] {
        let answer = service.request("POST", &format!("{PROCESS}{query}"), &headers, body).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["field"]),
            (status, &json!(field)),
            "{query} {headers:?} {body}"
        );
    }
    for path in ["/api/files/x/progress", "/api/files/'%3B%20drop%20table%20files/rejected"] {
        assert_eq!(service.get(path).await.status.as_u16(), 404, "{path}");
    }
    let plain = service
        .request(
            "POST",
            "/api/files/upload",
            &[("content-type", "multipart/form-data; boundary=x")],
            "--x\r\ncontent-disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\nhi\r\n--x--\r\n",
        )
        .await;
    let id = plain.json()["files"][0]["id"].as_str().unwrap().to_owned();
    let answer = service.get(&format!("/api/files/{id}/progress")).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (404, "not_processed"));
}

#[tokio::test]
async fn whoever_follows_a_conversation_gets_imported_messages_once_and_in_the_order_of_their_lines() {
    const LINES: usize = 3_000;
    let database = TestDatabase::create().await;
    small_parts(&database.connect().await, 65536).await;
    let variables = [("DB_POOL_SIZE", "30")];
    let service = Service::start(database.url(), &variables).await;
    let conversation =
        send(&service, "POST", "/api/conversations", "", &json!({})).await.json()["id"].clone();
    let path = format!("/api/conversations/{}/messages?live=sse", conversation.as_str().unwrap());
    let mut streams =
        [EventStream::open(&service, &path, &[]).await, EventStream::open(&service, &path, &[]).await];
    let line = |n: usize| {
        json!({"conversation_id": conversation, "role": "user", "content": format!("{n} {}", "x".repeat(100))}).to_string()
    };
    let lines: Vec<String> = (0..LINES).map(line).collect();
    let file = process(&service, "?kind=message", "", &lines.join("\n")).await;
    for stream in &mut streams {
        let numbers: Vec<usize> = stream
            .take(LINES)
            .await
            .iter()
            .map(|event| {
                let message: Value = serde_json::from_str(&event.data).unwrap();
                message["content"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap()
            })
            .collect();
        // Parts are stored out of order; within a part, lines are not.
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..LINES).collect::<Vec<_>>());
        let turns = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
        assert!(turns <= LINES * 200 / 65_536, "{turns}");
    }
    ended(&service, "", &file).await;
}

#[tokio::test]
async fn many_refused_rows_leave_no_subtransactions_behind() {
    let database = TestDatabase::refusing_evil().await;
    let service = Service::start(database.url(), &[]).await;
    let lines = "{\"evil\":1}\n".repeat(2_000) + "{}\n";
    let file = process(&service, "?kind=event", "", &lines).await;
    let client = database.connect().await;
    // A transaction has a lock on its own number, and on that of each of its open subtransactions.
    let locks = "select coalesce(max(count), 0) from (
        select count(*) from pg_locks where locktype = 'transactionid' and pid in (
            select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
        ) group by pid
    ) as locks";
    let mut most: i64 = 0;
    let ended = loop {
        most = most.max(client.query_one(locks, &[]).await.unwrap().get(0));
        let progress = progress(&service, "", &file).await;
        if progress["state"] != "running" {
            break progress;
        }
    };
    assert_eq!(figures(&ended), (2_001, 1, 2_000));
    assert!((1..=30).contains(&most), "{most}");
}

#[tokio::test]
async fn lines_that_do_not_come_hold_a_turn_no_longer_than_any_body() {
    let database = TestDatabase::create().await;
    let variables = [("BODY_TIMEOUT_S", "1")];
    let service = Service::start(database.url(), &variables).await;
    let request = format!(
        "POST {PROCESS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: 2000000000\r\n\r\n1"
    );
    // As many as there are turns.
    let answers = (0..8).map(|_| service.raw(request.as_bytes(), Duration::from_secs(10)));
    for answer in futures_util::future::join_all(answers).await {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    process(&service, "?kind=event", "", "1\n").await;
}
