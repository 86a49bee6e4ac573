//! Live subscriptions to a conversation: messages, then changes, without gap or double.

use std::time::Duration;

use eventsource_stream::Event;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::appends::{append, begin};
use crate::conversations::make;
use crate::support::accounts::{guarded, log_in, register, send};
use crate::support::imports::count;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::{EventStream, metric};

async fn say(service: &Service, conversation: &str, content: &str) -> Value {
    let new = json!({"role": "user", "content": content});
    let said = send(service, "POST", &format!("{conversation}/messages"), "", &new).await;
    assert_eq!(said.status.as_u16(), 201, "{:?}", said.body);
    said.json()
}

async fn follow(service: &Service, conversation: &str, last: &str) -> EventStream {
    let path = format!("{conversation}/messages?live=sse");
    let headers = [("last-event-id", last)];
    let stream = EventStream::open(service, &path, if last.is_empty() { &[] } else { &headers }).await;
    assert_eq!(stream.status.as_u16(), 200);
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    stream
}

fn json(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

fn content(event: &Event) -> String {
    json(event)["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_subscriber_gets_the_messages_and_then_the_changes() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let first = say(&service, &conversation, "first").await;
    let draft = begin(&service, &conversation, "a").await;
    append(&service, &draft, 1, "b", false).await;
    let mut stream = follow(&service, &conversation, "").await;
    let page = stream.take(2).await;
    assert_eq!((page[0].event.as_str(), json(&page[0])), ("message", first));
    assert_eq!(
        (content(&page[1]), &json(&page[1])["done"]),
        ("ab".to_owned(), &json!(false)),
        "with all pieces so far"
    );

    append(&service, &draft, 2, "c", false).await;
    let second = say(&service, &conversation, "second").await;
    append(&service, &draft, 3, "", true).await;
    send(&service, "PATCH", &conversation, "", &json!({"title": "new"})).await;
    let events = stream.take(4).await;
    let id = draft.rsplit('/').next().unwrap();
    assert_eq!(events[0].event, "append");
    assert_eq!(json(&events[0]), json!({"id": id, "at": 2, "content": "c", "done": false}));
    assert_eq!((events[1].event.as_str(), json(&events[1])), ("message", second));
    assert_eq!(json(&events[2]), json!({"id": id, "at": 3, "content": "", "done": true}));
    assert_eq!((events[3].event.as_str(), &json(&events[3])["title"]), ("update", &json!("new")));
    assert_eq!(json(&events[3]), service.get(&conversation).await.json());

    send(&service, "DELETE", &conversation, "", &Value::Null).await;
    let rest = stream.rest().await;
    assert_eq!(
        rest.iter().map(|event| event.event.as_str()).collect::<Vec<_>>(),
        ["delete"],
        "and that ends it"
    );
    let gone = EventStream::open(&service, &format!("{conversation}/messages?live=sse"), &[]).await;
    assert_eq!(gone.status.as_u16(), 404);
    for (query, field) in
        [("live=ws", "live"), ("live=sse&limit=3", "limit"), ("live=sse&before=end", "before")]
    {
        let refused = service.get(&format!("{}/messages?{query}", make(&service, "").await)).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["error"]["field"]), (400, &json!(field)));
    }
    let last = [("last-event-id", "x")];
    let refused = service.request("GET", &format!("{conversation}/messages?live=sse"), &last, "").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["field"]), (400, &json!("last-event-id")));
}

/// Reads a conversation over many short streams until `count` messages were delivered.
async fn read_in_pieces(services: &[Service], conversation: &str, count: usize) -> Vec<String> {
    let (mut last, mut told, mut round) = (String::new(), Vec::new(), 0);
    while told.len() < count {
        let mut stream = follow(&services[round % services.len()], conversation, &last).await;
        round += 1;
        for _ in 0..(round * 7) % 23 + 1 {
            if told.len() == count {
                break;
            }
            match stream.next().await {
                Some(Ok(event)) => {
                    assert_eq!(event.event, "message");
                    told.push(content(&event));
                    last = event.id;
                }
                _ => break,
            }
        }
    }
    told
}

#[tokio::test]
async fn across_reconnects_and_nodes_every_change_is_delivered_once_under_concurrent_writes() {
    let database = TestDatabase::create().await;
    let services = [Service::start(database.url(), &[]).await, Service::start(database.url(), &[]).await];
    let conversation = make(&services[0], "").await;
    for n in 0..30 {
        say(&services[0], &conversation, &format!("before {n}")).await;
    }
    let write = |writer: usize| {
        let (service, conversation) = (&services[writer % 2], &conversation);
        async move {
            for n in 0..30 {
                say(service, conversation, &format!("{writer}.{n}")).await;
            }
        }
    };
    // Other transactions hold back the horizon, so that a page sees more than the feed's position covers.
    let client = database.connect().await;
    let hold = async {
        for held in 1..=10 {
            client.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
            eventually("messages are stored behind it", async || {
                (count(&client, "messages").await >= 30 + 12 * held).then_some(())
            })
            .await;
            client.batch_execute("commit").await.unwrap();
        }
    };
    let (_, (), one, two) = tokio::join!(
        join_all((0..4).map(write)),
        hold,
        read_in_pieces(&services, &conversation, 150),
        async {
            let mut stream = follow(&services[1], &conversation, "").await;
            stream.take(150).await.iter().map(content).collect::<Vec<_>>()
        },
    );
    let all = services[0].get(&format!("{conversation}/messages?limit=200")).await.json();
    let all: Vec<&str> = all.as_array().unwrap().iter().map(|one| one["content"].as_str().unwrap()).collect();
    assert_eq!(all.len(), 150);
    assert_eq!(one, all, "in the order of the conversation, each once");
    assert_eq!(two, all);
}

#[tokio::test]
async fn a_lost_connection_to_postgres_loses_no_change_for_a_subscriber() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let mut stream = follow(&service, &conversation, "").await;
    let client = database.connect().await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    let new = json!({"role": "user", "content": "x"});
    let messages = format!("{conversation}/messages");
    let mut said = 0;
    for round in 0..5 {
        let mut new = new.clone();
        new["content"] = json!(format!("{round}"));
        let said_now = send(&service, "POST", &format!("{conversation}/messages"), "", &new).await;
        said += usize::from(said_now.status.as_u16() == 201);
        client.execute(kill, &[]).await.unwrap();
        eventually("it reads again", async || {
            (service.get(&messages).await.status.as_u16() == 200).then_some(())
        })
        .await;
    }
    assert!(said >= 1);
    let id: uuid::Uuid = conversation.rsplit('/').next().unwrap().parse().unwrap();
    let stored = "select count(*) from messages where conversation_id = $1";
    let stored: i64 = client.query_one(stored, &[&id]).await.unwrap().get(0);
    let told = stream.take(stored as usize).await;
    let mut contents: Vec<String> = told.iter().map(content).collect();
    contents.dedup();
    assert_eq!(contents.len() as i64, stored);
}

#[tokio::test]
async fn imported_messages_are_delivered_even_before_existing_ones_in_order() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    say(&service, &conversation, "there").await;
    let mut early = follow(&service, &conversation, "").await;
    let seen = early.take(1).await.remove(0);
    let id: uuid::Uuid = conversation.rsplit('/').next().unwrap().parse().unwrap();
    let mut client = database.connect().await;
    let import = client.transaction().await.unwrap();
    let add = "insert into messages (id, conversation_id, role, content, timestamp)
        select ('0199' || lpad(to_hex(n), 4, '0') || '-0000-7000-8000-000000000000')::uuid, $1, 'user', 'line ' || n, '2020-01-01'::timestamptz + n * interval '1 us'
        from generate_series(1, 450) n";
    import.execute(add, &[&id]).await.unwrap();
    let change = "insert into changes (number, topic, record, action, created, updated, data)
        select nextval('change_numbers'), 'conversation:' || $1::uuid, min(id::text), 'import', now(), now(), jsonb_build_object('first', min(id::text), 'last', max(id::text))
        from messages where conversation_id = $1 and content like 'line%'";
    import.execute(change, &[&id]).await.unwrap();
    import.commit().await.unwrap();
    say(&service, &conversation, "behind").await;
    let expected: Vec<String> = (1..=450).map(|n| format!("line {n}")).chain(["behind".to_owned()]).collect();
    let told = early.take(451).await;
    assert_eq!(told.iter().map(content).collect::<Vec<_>>(), expected);
    // A subscriber that is cut off in the middle continues there.
    for cut in [0, 1, 200, 449, 450] {
        let last = if cut == 0 { seen.id.clone() } else { told[cut - 1].id.clone() };
        let rest = follow(&service, &conversation, &last).await.take(451 - cut).await;
        assert_eq!(rest.iter().map(content).collect::<Vec<_>>(), expected[cut..], "{last}");
    }
    // A later subscriber reads it from the pages, and not again from the feed.
    let mut late = follow(&service, &conversation, "").await;
    let all = late.take(452).await;
    assert_eq!(content(&all[451]), "behind");
    let last = say(&service, &conversation, "last").await;
    assert_eq!(json(&late.take(1).await[0]), last);
}

#[tokio::test]
async fn a_cursor_behind_the_retention_gets_a_reset_and_all_messages() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    say(&service, &conversation, "one").await;
    let seen = follow(&service, &conversation, "").await.take(1).await.remove(0);
    say(&service, &conversation, "two").await;
    let client = database.connect().await;
    client
        .batch_execute("delete from changes; update feed_floor set seen = pg_current_snapshot()::text")
        .await
        .unwrap();
    for last in [seen.id.as_str(), "999999999999.1"] {
        let events = follow(&service, &conversation, last).await.take(3).await;
        assert_eq!(events[0].event, "reset");
        assert_eq!(events[1..].iter().map(content).collect::<Vec<_>>(), ["one", "two"]);
    }
}

/// Reads a stream until `until` is in it, and returns all of it.
async fn raw_until(stream: &mut tokio::net::TcpStream, until: &str) -> String {
    let mut text = String::new();
    let mut chunk = vec![0; 65_536];
    let reading = async {
        while !text.contains(until) {
            let read = stream.read(&mut chunk).await.unwrap();
            assert!(read > 0, "it ended: {text}");
            text.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it does not come");
    text
}

#[tokio::test]
async fn a_subscriber_of_a_quiet_conversation_continues_although_old_changes_were_deleted() {
    let database = TestDatabase::create().await;
    let service =
        Service::start(database.url(), &[("CHANGES_RETENTION_S", "1"), ("SSE_HEARTBEAT_S", "1")]).await;
    let quiet = make(&service, "").await;
    let busy = make(&service, "").await;
    say(&service, &quiet, "before").await;
    let old = follow(&service, &quiet, "").await.take(1).await.remove(0).id;
    let mut stream = tokio::net::TcpStream::connect(&service.address).await.unwrap();
    let request = format!("GET {quiet}/messages?live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    raw_until(&mut stream, "before").await;

    let client = database.connect().await;
    let newest = "select max(xid::text::bigint) from changes";
    let newest: i64 = client.query_one(newest, &[]).await.unwrap().get(0);
    let forgotten =
        "select pg_snapshot_xmax(seen::pg_snapshot)::text::bigint > $1::bigint + 1 from feed_floor";
    eventually("the feed has forgotten", async || {
        say(&service, &busy, "busy").await;
        client.query_one(forgotten, &[&newest]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let mut last = String::new();
    for _ in 0..2 {
        say(&service, &busy, "busy").await;
        let text = raw_until(&mut stream, "id: ").await;
        assert!(!text.contains("data:"), "nobody is told anything: {text}");
        let id = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().to_owned();
        assert_ne!(id, last, "it moves on");
        last = id;
    }
    drop(stream);
    for n in 0..3 {
        say(&service, &busy, "busy").await;
        say(&service, &quiet, &format!("new {n}")).await;
    }
    let told = follow(&service, &quiet, &last).await.take(3).await;
    assert_eq!(told.iter().map(content).collect::<Vec<_>>(), ["new 0", "new 1", "new 2"]);
    assert_eq!(follow(&service, &quiet, &old).await.take(1).await[0].event, "reset", "the old id is no good");
}

#[tokio::test]
async fn an_id_without_an_event_never_skips_an_undelivered_change() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SSE_HEARTBEAT_S", "1")]).await;
    let conversation = make(&service, "").await;
    let busy = make(&service, "").await;
    let (mut last, mut told) = (String::new(), Vec::new());
    let write = async {
        for n in 0..60 {
            say(&service, &busy, "busy").await;
            if n % 12 == 0 {
                say(&service, &conversation, &n.to_string()).await;
            }
            // A pace between events and the heartbeats of a second, so that there are ids of both.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    let read = async {
        // Each stream is left right behind an id, with an event or without.
        while told.len() < 5 {
            let mut stream = tokio::net::TcpStream::connect(&service.address).await.unwrap();
            let from = if last.is_empty() { String::new() } else { format!("last-event-id: {last}\r\n") };
            let request =
                format!("GET {conversation}/messages?live=sse HTTP/1.1\r\nhost: localhost\r\n{from}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let text = raw_until(&mut stream, "\nid: ").await;
            let text = if text.ends_with("\n\n\r\n") {
                text
            } else {
                text + &raw_until(&mut stream, "\n\n\r\n").await
            };
            last = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().to_owned();
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            told.extend(data.map(|data| {
                let data: Value = serde_json::from_str(data).unwrap();
                data["content"].as_str().unwrap().to_owned()
            }));
        }
    };
    tokio::join!(write, read);
    assert_eq!(told, ["0", "12", "24", "36", "48"]);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_delays_no_other() {
    let database = TestDatabase::create().await;
    let service =
        Service::start(database.url(), &[("SUBSCRIBER_BYTES", "1000000"), ("MAX_SUBSCRIBERS", "3")]).await;
    let conversation = make(&service, "").await;
    let mut slow = tokio::net::TcpStream::connect(&service.address).await.unwrap();
    let request = format!("GET {conversation}/messages?live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n");
    slow.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 100];
    slow.read_exact(&mut head).await.unwrap();
    let mut reader = follow(&service, &conversation, "").await;
    let text = "x".repeat(200_000);
    for _ in 0..60 {
        say(&service, &conversation, &text).await;
        // As fast as the other writes, however slow the machine is.
        reader.take(1).await;
    }
    eventually("the slow one is dropped", async || {
        let dropped = metric(&service, "tidegate_followers_dropped_total{reason=\"slow\"}").await;
        (dropped == 1.0 && metric(&service, "tidegate_followers").await == 1.0).then_some(())
    })
    .await;
    let _more = [follow(&service, &conversation, "").await, follow(&service, &conversation, "").await];
    let full = EventStream::open(&service, &format!("{conversation}/messages?live=sse"), &[]).await;
    assert_eq!(full.status.as_u16(), 503);
}

#[tokio::test]
async fn unsent_bytes_of_all_subscribers_are_bounded_and_readers_miss_nothing() {
    let database = TestDatabase::create().await;
    let limit = 4_194_304;
    let service = Service::start(database.url(), &[("SUBSCRIBERS_BYTES", &limit.to_string())]).await;
    let conversation = make(&service, "").await;
    let mut reader = follow(&service, &conversation, "").await;
    // Some catch up with much, the others get it live.
    let text = "x".repeat(200_000);
    let (mut idle, mut paths) = (Vec::new(), Vec::new());
    for n in 0..12 {
        let path = make(&service, "").await;
        if n % 2 == 0 {
            for _ in 0..3 {
                say(&service, &path, &text).await;
            }
        }
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(service.address.parse().unwrap()).await.unwrap();
        let request = format!("GET {path}/messages?live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).await.unwrap();
        idle.push(stream);
        paths.push(path);
    }
    let mut most = 0.0_f64;
    // The kernel takes some MB of each stream.
    for round in 0..30 {
        for path in &paths {
            say(&service, path, &text).await;
        }
        let said = say(&service, &conversation, &format!("{round}")).await;
        assert_eq!(json(&reader.take(1).await[0]), said);
        most = most.max(metric(&service, "tidegate_followers_bytes").await);
    }
    assert!(most > 0.0 && most <= f64::from(limit), "{most}");
    assert!(metric(&service, "tidegate_followers_dropped_total{reason=\"slow\"}").await > 0.0);
    drop(idle);
    eventually("all is given back", async || {
        (metric(&service, "tidegate_followers_bytes").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn subscribers_that_catch_up_without_reading_hold_bounded_memory() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SUBSCRIBERS_BYTES", "1048576")]).await;
    let conversation = make(&service, "").await;
    let text = "x".repeat(200_000);
    for _ in 0..60 {
        say(&service, &conversation, &text).await;
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut slow = socket.connect(service.address.parse().unwrap()).await.unwrap();
    let request = format!("GET {conversation}/messages?live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n");
    slow.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 1_000];
    slow.read_exact(&mut head).await.unwrap();
    let other = make(&service, "").await;
    let said = say(&service, &other, "soon").await;
    // Until the kernel's buffers are full the slow one releases its permit between two pages.
    let mut reader = eventually("there is room for one, and the slow one keeps it", async || {
        let mut reader = follow(&service, &other, "").await;
        tokio::time::timeout(Duration::from_millis(1000), reader.take(1)).await.is_err().then_some(reader)
    })
    .await;
    drop(slow);
    assert_eq!(json(&reader.take(1).await[0]), said);
    let told = say(&service, &other, "now").await;
    assert_eq!(json(&reader.take(1).await[0]), told);
}

#[tokio::test]
async fn one_user_cannot_take_all_streams() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("REGISTRATION", "on"), ("MAX_USER_SUBSCRIBERS", "2")]).await;
    let mut status = Vec::new();
    let mut streams = Vec::new();
    for (email, count) in [("ada@example.com", 3), ("bob@example.com", 1)] {
        register(&service, email).await;
        let token = log_in(&service, email).await.access;
        let path = format!("{}/messages?live=sse", make(&service, &token).await);
        for _ in 0..count {
            let bearer = format!("Bearer {token}");
            let stream = EventStream::open(&service, &path, &[("authorization", &bearer)]).await;
            status.push(stream.status.as_u16());
            streams.push(stream);
        }
    }
    assert_eq!(status, [200, 200, 503, 200]);
}

#[tokio::test]
async fn a_stop_ends_streams_at_once() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let conversation = make(&service, "").await;
    let mut stream = follow(&service, &conversation, "").await;
    say(&service, &conversation, "one").await;
    stream.take(1).await;
    let began = std::time::Instant::now();
    let (ended, rest) = tokio::join!(service.stop(), stream.rest());
    assert!(ended.status.success() && rest.is_empty(), "{}", ended.log);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_another_users_conversation_is_not_found() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("REGISTRATION", "on"), ("SSE_HEARTBEAT_S", "1")]).await;
    register(&service, "ada@example.com").await;
    let ada = log_in(&service, "ada@example.com").await.access;
    let conversation = make(&service, &ada).await;
    let path = format!("{conversation}/messages?live=sse");
    let bearer = format!("Bearer {ada}");
    let mut stream = EventStream::open(&service, &path, &[("authorization", &bearer)]).await;
    assert_eq!(stream.status.as_u16(), 200);
    let other = format!("Bearer {}", crate::support::accounts::token_with(&["admin"]));
    let refused = EventStream::open(&service, &path, &[("authorization", &other)]).await;
    assert_eq!(refused.status.as_u16(), 404);
    send(&service, "POST", "/api/auth/logout", &ada, &Value::Null).await;
    assert_eq!(stream.take(1).await[0].event, "cut");
    assert!(stream.next().await.is_none(), "it ends");
}
