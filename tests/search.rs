//! Search in titles and messages, each user's own.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::appends::{append, begin};
use crate::conversations::{CONVERSATIONS, link, make};
use crate::support::accounts::{guarded, log_in, register, send};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::metric;

const SOON: (&str, &str) = ("SEARCH_INTERVAL_MS", "50");

async fn named(service: &Service, token: &str, title: &str) -> String {
    let made = send(service, "POST", CONVERSATIONS, token, &json!({"title": title})).await;
    made.header("location").to_owned()
}

async fn say(service: &Service, token: &str, path: &str, content: &str) {
    let new = json!({"role": "user", "content": content});
    let said = send(service, "POST", &format!("{path}/messages"), token, &new).await;
    assert_eq!(said.status.as_u16(), 201);
}

/// The titles that a search finds.
async fn found(service: &Service, token: &str, query: &str) -> Vec<String> {
    let answer = send(service, "GET", &format!("{CONVERSATIONS}?q={query}"), token, &Value::Null).await;
    assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
    let json = answer.json();
    json.as_array().unwrap().iter().map(|one| one["title"].as_str().unwrap().to_owned()).collect()
}

async fn finds(service: &Service, token: &str, query: &str, titles: &[&str]) {
    eventually(&format!("{query} finds {titles:?}"), async || {
        (found(service, token, query).await == titles).then_some(())
    })
    .await;
}

#[tokio::test]
async fn titles_and_messages_are_found_newest_activity_first() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[SOON]).await;
    let ferry = named(&service, "", "Ferries").await;
    let harbour = named(&service, "", "A harbour").await;
    say(&service, "", &ferry, "When does the boat leave the harbour?").await;
    finds(&service, "", "harbour", &["Ferries", "A harbour"]).await;
    finds(&service, "", "harbour%20-boat", &["A harbour"]).await;
    finds(&service, "", "%22leave%20the%20harbour%22", &["Ferries"]).await;
    finds(&service, "", "BOAT", &["Ferries"]).await;
    let draft = begin(&service, &harbour, "at ").await;
    append(&service, &draft, 3, "midnight", true).await;
    finds(&service, "", "midnight", &["A harbour"]).await;
    send(&service, "PATCH", &ferry, "", &json!({"title": "Timetables"})).await;
    finds(&service, "", "timetables", &["Timetables"]).await;
    assert!(found(&service, "", "ferries").await.is_empty(), "an old title is forgotten");

    let path = format!("{CONVERSATIONS}?q=harbour&limit=1");
    let first = service.get(&path).await;
    let second = service.get(&link(&first, "next").unwrap()).await;
    assert_eq!((second.json().as_array().unwrap().len(), link(&second, "next")), (1, None));
    assert_ne!(first.json()[0]["id"], second.json()[0]["id"]);
    send(&service, "DELETE", &ferry, "", &Value::Null).await;
    assert!(found(&service, "", "boat").await.is_empty());

    for nothing in ["%27%20or%20true%20--", "%21%21%21", "%3A%2A%26", "%5C", "%22", "zzz"] {
        assert!(found(&service, "", nothing).await.is_empty(), "{nothing}");
    }
    for bad in ["", "a%00b", &"x".repeat(1001), "-zzz", "boat%20or%20-zzz"] {
        let refused = service.get(&format!("{CONVERSATIONS}?q={bad}")).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["error"]["field"]), (400, &json!("q")));
    }
}

#[tokio::test]
async fn nobody_finds_what_is_anothers() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("REGISTRATION", "on"), SOON]).await;
    for email in ["ada@example.com", "bob@example.com"] {
        register(&service, email).await;
    }
    let ada = log_in(&service, "ada@example.com").await.access;
    let bob = log_in(&service, "bob@example.com").await.access;
    let path = named(&service, &ada, "Secret").await;
    say(&service, &ada, &path, "the password is tide").await;
    finds(&service, &ada, "tide", &["Secret"]).await;
    let admin = crate::support::accounts::token_with(&["admin"]);
    for token in [&bob, &admin] {
        for query in ["tide", "secret", "owner", "tide%20-nothing"] {
            assert!(found(&service, token, query).await.is_empty());
        }
    }
}

#[tokio::test]
async fn what_was_imported_while_nobody_looked_is_found_after_a_restart() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[SOON]).await;
    let path = make(&service, "").await;
    drop(service);
    let client = database.connect().await;
    let id: uuid::Uuid = path.rsplit('/').next().unwrap().parse().unwrap();
    let import = "with added as (
            insert into messages (id, conversation_id, role, content, timestamp)
            select ('0199' || lpad(to_hex(n), 4, '0') || '-0000-7000-8000-000000000000')::uuid, $1, 'user', 'word' || n, now()
            from generate_series(1, 1700) n returning id)
        insert into changes (number, topic, record, action, created, updated, data)
        select nextval('change_numbers'), 'conversation:' || $1::uuid, min(id::text), 'import', now(), now(),
            jsonb_build_object('first', min(id::text), 'last', max(id::text)) from added";
    client.execute(import, &[&id]).await.unwrap();
    let service = Service::start(database.url(), &[SOON, ("CHANGES_RETENTION_S", "1")]).await;
    for word in ["word1", "word500", "word501", "word1700"] {
        finds(&service, "", word, &["New Conversation"]).await;
    }
    say(&service, "", &path, "afterwards").await;
    finds(&service, "", "afterwards", &["New Conversation"]).await;
    let documents: i64 = client.query_one("select count(*) from search_documents", &[]).await.unwrap().get(0);
    assert_eq!(documents, 1702);
}

#[tokio::test]
async fn each_message_of_many_small_conversations_is_found_though_filling_the_index_is_cut_off_again_and_again()
 {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let count = async |what: &str| -> i64 {
        client.query_one(&format!("select count(*) from {what}"), &[]).await.unwrap().get(0)
    };
    // At its start this one looks once, at nothing.
    let service = Service::start(database.url(), &[("SEARCH_INTERVAL_MS", "600000")]).await;
    let id = |n: usize| format!("00000000-0000-4000-8000-{n:012}");
    let conversation =
        |n| json!({"kind": "conversation", "id": id(n), "title": format!("title{n}")}).to_string();
    let message = |n, m: usize| {
        json!({"kind": "message", "conversation_id": id(n), "role": "user", "content": format!("word{n}x{m} and more")})
            .to_string()
    };
    // Some one behind the other, some among each other, and a large one.
    let mut lines: Vec<String> = Vec::new();
    for n in 0..1_200 {
        lines.push(conversation(n));
        lines.extend((0..n % 4).map(|m| message(n, m)));
    }
    lines.extend((1_200..1_500).map(conversation));
    lines.extend((0..3).flat_map(|m| (1_200..1_500).map(move |n| message(n, m))));
    lines.push(conversation(1_500));
    lines.extend((0..3_000).map(|m| message(1_500, m)));
    let ndjson = [("content-type", "application/x-ndjson")];
    let sent = service.request("POST", "/api/files/process-jsonl", &ndjson, lines.join("\n")).await;
    assert_eq!(sent.status.as_u16(), 202, "{:?}", sent.body);
    let progress = format!("/api/files/{}/progress", sent.json()["file_id"].as_str().unwrap());
    eventually("all are stored", async || {
        let progress = service.get(&progress).await.json();
        (progress["stored"] == json!(lines.len())).then_some(())
    })
    .await;
    drop(service);
    assert!(count("search_documents").await < 100);

    let all = lines.len() as i64;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    for round in 1..4 {
        let service = Service::start(database.url(), &[SOON]).await;
        eventually("some more are found", async || {
            (count("search_documents").await > all * round / 5).then_some(())
        })
        .await;
        client.execute(kill, &[]).await.unwrap();
        drop(service);
    }
    assert!(count("search_documents").await < all, "it was cut off in the middle");
    let service = Service::start(database.url(), &[SOON]).await;
    eventually("all are found", async || (count("search_documents").await == all).then_some(())).await;
    let wrong = "messages m left join search_documents d using (id)
        where d.id is null or d.conversation_id <> m.conversation_id or not d.words @@ plainto_tsquery('simple', m.content)";
    assert_eq!(count(wrong).await, 0);
    say(&service, "", &format!("{CONVERSATIONS}/{}", id(7)), "afterwards").await;
    finds(&service, "", "afterwards", &["title7"]).await;
}

#[tokio::test]
async fn what_waits_for_an_open_transaction_is_told_as_lag_and_found_soon_after_its_end() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SEARCH_INTERVAL_MS", "400")]).await;
    let path = named(&service, "", "Held").await;
    finds(&service, "", "held", &["Held"]).await;
    let client = database.connect().await;
    client.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    say(&service, "", &path, "buoys").await;
    let lag = async || metric(&service, "tidegate_search_lag_seconds").await;
    eventually("the lag rises", async || (lag().await > 4.0).then_some(())).await;
    assert!(found(&service, "", "buoys").await.is_empty());
    client.batch_execute("commit").await.unwrap();
    let ended = Instant::now();
    finds(&service, "", "buoys", &["Held"]).await;
    // Pauses that had doubled since would take longer.
    assert!(ended.elapsed() < Duration::from_secs(3), "{:?}", ended.elapsed());
    eventually("nothing is left", async || (lag().await == 0.0).then_some(())).await;
}

#[tokio::test]
async fn a_page_is_the_same_whether_the_newest_conversations_fill_it_or_not() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    // The words come in each, every third, every hundredth, in one old conversation, and behind a hundred messages without them.
    let fill = "with made as (
            insert into conversations (id, title, created_at, updated_at)
            select md5('c' || n)::uuid, n::text, now(), now() - n * interval '1 s' from generate_series(1, 700) n
            returning id, title::integer as n
        )
        insert into search_documents (id, conversation_id, words)
        select md5('m' || n)::uuid, id, to_tsvector('simple', 'common'
            || case when n % 3 = 0 then ' third' else '' end || case when n % 100 = 0 then ' rare' else '' end
            || case when n = 650 then ' old' else '' end) || array_to_tsvector(array['owner '])
        from made
        union all
        select md5('x' || n)::uuid, md5('c2')::uuid, to_tsvector('simple', 'x'
            || case when n = 150 then ' third' else '' end) || array_to_tsvector(array['owner '])
        from generate_series(1, 150) n";
    client.batch_execute(fill).await.unwrap();
    let service = Service::start(database.url(), &[]).await;
    let third = (1..=700).filter(|n| n % 3 == 0 || *n == 2).collect::<Vec<i32>>();
    let all = |step: usize| (1..=700).filter(|n| (*n as usize).is_multiple_of(step)).collect::<Vec<i32>>();
    for (words, wanted) in [
        ("common", all(1)),
        ("third", third),
        ("rare", all(100)),
        ("old", vec![650]),
        ("common%20-third", (1..=700).filter(|n| n % 3 != 0).collect()),
    ] {
        let mut path = format!("{CONVERSATIONS}?q={words}&limit=200");
        let mut told: Vec<i32> = Vec::new();
        loop {
            let page = service.get(&path).await;
            told.extend(
                page.json()
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| one["title"].as_str().unwrap().parse::<i32>().unwrap()),
            );
            match link(&page, "next") {
                Some(next) => path = next,
                None => break,
            }
        }
        assert_eq!(told, wanted, "{words}");
    }
}
