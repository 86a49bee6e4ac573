//! Batches of requests to conversations: each request gets its own answer, and one that waits delays no other.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::appends::{append, begin};
use crate::conversations::{link, make};
use crate::search::held_index;
use crate::support::accounts::send;
use crate::support::postgres::{TestDatabase, blocked};
use crate::support::service::{Answer, Service, eventually};

/// Requests that are sent while the only shard is blocked, and so form one batch when it continues.
async fn grouped<'a>(
    database: &TestDatabase,
    service: &Service,
    requests: &'a [(String, Option<&'a str>, Value)],
) -> Vec<Answer> {
    let held = make(service, "").await;
    let client = database.connect().await;
    client.batch_execute("begin; lock table message_drafts, messages").await.unwrap();
    let first = async {
        let message = json!({"role": "user", "content": "first"});
        let answer = send(service, "POST", &format!("{held}/messages"), "", &message).await;
        assert_eq!(answer.status.as_u16(), 201);
    };
    let others = requests.iter().map(|(path, key, body)| async move {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        service.request("POST", path, &headers, body.to_string()).await
    });
    let release = async { client.batch_execute("commit").await.unwrap() };
    let admin = database.connect().await;
    let sending = async {
        blocked(&admin, 1, "locktype = 'relation'").await;
        service.in_turn(1, others, release).await
    };
    join(first, sending).await.1
}

fn said(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status.as_u16()).collect()
}

async fn contents(service: &Service, conversation: &str) -> Vec<String> {
    let messages = service.get(&format!("{conversation}/messages")).await.json();
    let content = |message: &Value| message["content"].as_str().unwrap().to_owned();
    messages.as_array().unwrap().iter().map(content).collect()
}

const ONE_LINE: [(&str, &str); 1] = [("DB_POOL_SIZE", "19")];

#[tokio::test]
async fn waiting_requests_share_a_transaction_and_get_their_own_answers() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &ONE_LINE).await;
    let (a, b) = (make(&service, "").await, make(&service, "").await);
    let draft = begin(&service, &a, "").await;
    let (to_a, to_b) = (format!("{a}/messages"), format!("{b}/messages"));
    let unknown = format!("/api/conversations/{}/messages", uuid::Uuid::new_v4());
    let append = format!("{draft}/append");
    let requests = [
        (to_a.clone(), None, said("a1")),
        (to_b.clone(), Some("k"), said("b1")),
        (unknown, None, said("nowhere")),
        (to_b.clone(), Some("k"), said("b1")),
        (to_b.clone(), Some("k"), said("another")),
        (append.clone(), None, json!({"at": 0, "content": "one "})),
        (append.clone(), None, json!({"at": 9, "content": "lost"})),
        (append.clone(), None, json!({"at": 4, "content": "two"})),
        (append, None, json!({"at": 7, "content": "!", "done": true})),
        (to_a.clone(), Some("k"), said("a2")),
        ("/api/conversations".to_owned(), None, json!({"title": "new"})),
        (to_a, None, json!([said("a3"), said("a4")])),
        (to_b, None, said("b2")),
    ];
    let answers = grouped(&database, &service, &requests).await;
    assert_eq!(
        statuses(&answers),
        [201, 201, 404, 200, 422, 200, 409, 200, 200, 201, 201, 201, 201],
        "{answers:?}"
    );
    assert_eq!(answers[3].json(), answers[1].json(), "a repetition is answered as before");
    assert_eq!(contents(&service, &a).await, ["one two!", "a1", "a2", "a3", "a4"]);
    assert_eq!(contents(&service, &b).await, ["b1", "b2"], "in the order in which they came");
    let client = database.connect().await;
    let transactions = "select count(distinct xid) from changes where data ->> 'content' <> 'first' and at >
        (select at from changes where data ->> 'content' = 'first')";
    let transactions: i64 = client.query_one(transactions, &[]).await.unwrap().get(0);
    assert_eq!(transactions, 1);
    let last = service.get(&a).await.json()["updated_at"].clone();
    assert_eq!(last, answers[11].json()[1]["timestamp"]);
}

#[tokio::test]
async fn a_message_that_a_users_constraint_rejects_fails_alone() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &ONE_LINE).await;
    let client = database.connect().await;
    let constraint = "alter table messages add constraint no_evil check (content <> 'evil')";
    client.batch_execute(constraint).await.unwrap();
    let (a, b) = (make(&service, "").await, make(&service, "").await);
    let (to_a, to_b) = (format!("{a}/messages"), format!("{b}/messages"));
    let requests = [
        (to_a.clone(), None, said("a1")),
        (to_b.clone(), None, said("evil")),
        (to_b, None, said("b1")),
        (to_a, Some("k"), said("a2")),
    ];
    let answers = grouped(&database, &service, &requests).await;
    let refused = answers[1].status.as_u16();
    assert!((400..500).contains(&refused), "{:?}", answers[1]);
    assert_eq!(statuses(&answers), [201, refused, 201, 201]);
    assert_eq!(contents(&service, &a).await, ["a1", "a2"]);
    assert_eq!(contents(&service, &b).await, ["b1"]);
}

#[tokio::test]
async fn a_locked_conversation_delays_no_other() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &ONE_LINE).await;
    let (held, free) = (make(&service, "").await, make(&service, "").await);
    let id = held.rsplit('/').next().unwrap();
    let draft = begin(&service, &free, "").await;
    let lock = format!("select pg_advisory_xact_lock(hashtextextended('conversation:{id}', 0))");
    let row = format!("select id from conversations where id = '{id}' for no key update");
    let admin = database.connect().await;
    for holding in [lock, row] {
        let client = database.connect().await;
        client.batch_execute(&format!("begin; {holding}")).await.unwrap();
        let waits = async {
            let body = said("waits");
            send(&service, "POST", &format!("{held}/messages"), "", &body).await.status.as_u16()
        };
        let others = async {
            blocked(&admin, 1, "locktype in ('advisory', 'transactionid', 'tuple')").await;
            let began = Instant::now();
            for n in 0..3 {
                let length = service.get(&draft).await.json()["content"].as_str().unwrap().len();
                let piece = json!({"at": length, "content": n.to_string()});
                let answer = send(&service, "POST", &format!("{draft}/append"), "", &piece).await;
                assert_eq!(answer.status.as_u16(), 200);
                let body = said("goes");
                let answer = send(&service, "POST", &format!("{free}/messages"), "", &body).await;
                assert_eq!(answer.status.as_u16(), 201);
            }
            let took = began.elapsed();
            client.batch_execute("commit").await.unwrap();
            took
        };
        let (status, took) = join(waits, others).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(status, 201, "who waited for it goes on when it is free");
    }
    assert_eq!(contents(&service, &held).await, ["waits", "waits"]);
}

#[tokio::test]
async fn a_request_that_is_cancelled_before_its_batch_is_left_out() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &ONE_LINE).await;
    let conversation = make(&service, "").await;
    let path = format!("{conversation}/messages");
    let (client, admin) = (database.connect().await, database.connect().await);
    client.batch_execute("begin; lock table messages").await.unwrap();
    let (first, stays) = (said("first"), said("stays"));
    let say = async |body: &Value| send(&service, "POST", &path, "", body).await.status.as_u16();
    let goes = async {
        blocked(&admin, 1, "relation = 'messages'::regclass").await;
        let body = said("gone").to_string();
        let mut stream = TcpStream::connect(&service.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        // It is dropped while its request waits.
        service.has_begun(2).await;
        drop(stream);
        eventually("its connection is closed", async || {
            (service.health().await["http"]["connections"] == 2).then_some(())
        })
        .await;
        let release = async { client.batch_execute("commit").await.unwrap() };
        service.in_turn(1, [say(&stays)], release).await
    };
    let (first, stays) = join(say(&first), goes).await;
    assert_eq!((first, stays), (201, vec![201]));
    assert_eq!(contents(&service, &conversation).await, ["first", "stays"]);
}

#[tokio::test]
async fn concurrent_reads_get_the_answers_of_single_reads() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut reads = vec![
        format!("/api/conversations/{}", uuid::Uuid::new_v4()),
        format!("/api/conversations/{}/messages", uuid::Uuid::new_v4()),
        "/api/conversations?limit=200&offset=300".to_owned(),
    ];
    // One is empty, one has a message that is being written, one exceeds the bytes of a batch, and one those of a page.
    for (count, bytes) in [(0, 1), (7, 10), (20, 200_000), (50, 200_000)] {
        let path = make(&service, "").await;
        for _ in 0..count {
            let body = said(&"x".repeat(bytes));
            let answer = send(&service, "POST", &format!("{path}/messages"), "", &body).await;
            assert_eq!(answer.status.as_u16(), 201);
        }
        let draft = begin(&service, &path, "be").await;
        let answer = append(&service, &draft, 2, "gun", false).await;
        assert_eq!(answer.status.as_u16(), 200);
        let pages = ["", "?limit=3", "?limit=3&before=end", "?limit=200"];
        reads.extend(pages.map(|page| format!("{path}/messages{page}")));
        let first = service.get(&format!("{path}/messages?limit=1")).await;
        reads.extend(link(&first, "next"));
        reads.push(path);
    }
    reads.push(make(&service, "").await);
    for page in ["", "?limit=2", "?limit=1&offset=1", "?offset=100"] {
        reads.push(format!("/api/conversations{page}"));
    }
    reads.extend(link(&service.get("/api/conversations?limit=2").await, "next"));
    let mut alone = Vec::new();
    for read in &reads {
        alone.push(service.get(read).await);
    }
    let client = database.connect().await;
    client.batch_execute("begin; lock table conversations").await.unwrap();
    let together = join_all(reads.iter().map(|read| service.get(read)));
    let release = async {
        service.has_begun(reads.len()).await;
        let waiting = "select count(*) from pg_locks
            where relation = 'conversations'::regclass and not granted and mode = 'AccessShareLock'";
        let waiting: i64 = client.query_one(waiting, &[]).await.unwrap().get(0);
        client.batch_execute("commit").await.unwrap();
        waiting
    };
    let (together, waiting) = join(together, release).await;
    // Two batches, the list that skips many, and the indexer.
    assert!(waiting <= 4, "{waiting} statements wait");
    for ((read, alone), together) in reads.iter().zip(alone).zip(together) {
        assert_eq!(together.status, alone.status, "{read}");
        for rel in ["next", "prev"] {
            assert_eq!(link(&together, rel), link(&alone, rel), "{read}");
        }
        assert_eq!(together.body, alone.body, "{read}");
    }
}

/// Rows of the conversations' tables that were read with and without an index.
async fn rows_read(database: &TestDatabase) -> i64 {
    let read = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_read, 0))::bigint
        from pg_stat_user_tables t
        left join (select relid, sum(idx_tup_read) as idx_read from pg_stat_user_indexes group by relid) as i using (relid)
        where relname in ('conversations', 'messages', 'message_drafts', 'message_pieces', 'message_keys')";
    database.connect().await.query_one(read, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn frequent_statements_cost_the_same_when_tables_grow_after_planning() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let _index = held_index(&database).await;
    let service = Service::start(database.url(), &[]).await;
    let round = async |n: usize| {
        let path = make(&service, "").await;
        let draft = begin(&service, &path, "be").await;
        for (at, content, done) in [(2, "gu", false), (4, "n", true)] {
            assert_eq!(append(&service, &draft, at, content, done).await.status.as_u16(), 200);
        }
        let (body, key) = (said("with a key").to_string(), n.to_string());
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let to = format!("{path}/messages");
        assert_eq!(service.request("POST", &to, &headers, body).await.status.as_u16(), 201);
        for read in [&path, &draft, &to, &format!("{to}?before=end"), "/api/conversations?limit=10"] {
            assert_eq!(service.get(read).await.status.as_u16(), 200, "{read}");
        }
    };
    for n in 0..12 {
        round(n).await;
    }
    // Postgres knows them to be small, and connections keep their plans from the sixth execution on.
    client.batch_execute("vacuum analyze").await.unwrap();
    for n in 12..40 {
        round(n).await;
    }
    let grow = "insert into conversations (id, title, created_at, updated_at, metadata)
            select gen_random_uuid(), 'one of many', now(), now(), '{}' from generate_series(1, 3000);
        insert into messages (id, conversation_id, role, content, timestamp, metadata)
            select gen_random_uuid(), id, 'user', 'one of many', now(), '{}' from conversations;
        insert into message_drafts (message_id, length, bytes) select id, 0, 0 from messages where content = 'one of many';
        insert into message_pieces (message_id, at, content) select message_id, 0, 'x' from message_drafts;
        insert into message_keys (conversation_id, key, hash, ids, first)
            select id, 'k', '', '{}', now() from conversations";
    client.batch_execute(grow).await.unwrap();
    drop(client);
    // A connection reports its statistics with a statement a second later, or when it ends: Postgres' own interval.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    round(40).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let before = rows_read(&database).await;
    for n in 41..61 {
        round(n).await;
    }
    service.stop().await;
    let each = (rows_read(&database).await - before) / 20;
    assert!(each < 200, "{each} rows were read for each round");
}

#[tokio::test]
async fn a_write_during_the_deletion_of_its_conversation_finds_none() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let (client, admin) = (database.connect().await, database.connect().await);
    for round in 0..3 {
        let path = make(&service, "").await;
        let draft = begin(&service, &path, "be").await;
        let id = path.rsplit('/').next().unwrap();
        // As when its owner is deleted: without the conversation's lock.
        client.batch_execute(&format!("begin; delete from conversations where id = '{id}'")).await.unwrap();
        let write = async {
            match round {
                0 => send(&service, "POST", &format!("{path}/messages"), "", &said("late")).await,
                round => append(&service, &draft, 2, "gun", round == 1).await,
            }
        };
        let commit = async {
            blocked(&admin, 1, "locktype in ('transactionid', 'tuple')").await;
            client.batch_execute("commit").await.unwrap();
        };
        let (answer, ()) = join(write, commit).await;
        let told = (answer.status.as_u16(), answer.error_code());
        assert_eq!(told, (404, "not_found".to_owned()), "{round}: {:?}", answer.body);
    }
}
