//! Search in titles and messages, within each user's own.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::appends::{append, begin};
use crate::conversations::{CONVERSATIONS, link, make};
use crate::support::accounts::{guarded, log_in, register, send};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::metric;

/// Keeps every service from filling the index for search until it is dropped.
pub(crate) async fn held_index(database: &TestDatabase) -> Client {
    let client = database.connect().await;
    client.execute("select pg_advisory_lock(hashtextextended('\"public\" search', 0))", &[]).await.unwrap();
    client
}

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
    let service = Service::start(database.url(), &[]).await;
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

/// A query encoded for a path.
fn encoded(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn parts_and_wholes_of_words_and_text_without_spaces_are_found() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let texts = [
        ("code", "see sess.opts in src/main.rs: let v: Vec<String> = foo_bar(a-b); // naïve"),
        ("link", "as https://Example.com/docs/Page_1?tab=two&x=3.14#top says, ask ada@example.org"),
        ("chinese", "我住在上海东边，北京很远。Rust编程"),
        ("other", "本日は晴天なり。ミルクティー 서울에서 만나요 ภาษาไทยน้ำ 𠮷野家"),
        ("plain", "main opts share the harbour"),
    ];
    for (title, text) in texts {
        let path = named(&service, "", title).await;
        say(&service, "", &path, text).await;
    }
    let cases: [(&str, &[&str]); 32] = [
        ("sess", &["code"]),
        ("opts", &["plain", "code"]),
        ("sess.opts", &["code"]),
        ("main.rs", &["code"]),
        ("src/main.rs", &["code"]),
        ("Vec<String>", &["code"]),
        ("string", &["code"]),
        ("foo_bar", &["code"]),
        ("bar", &["code"]),
        ("a-b", &["code"]),
        ("opts.sess", &[]),
        ("https://example.com/docs/Page_1?tab=two&x=3.14#top", &["link"]),
        ("https://example.com/docs", &["link"]),
        ("example.com", &["link"]),
        ("docs/page", &["link"]),
        ("3.14", &["link"]),
        ("ada@example.org", &["link"]),
        ("ada", &["link"]),
        ("上海", &["chinese"]),
        ("上海东", &["chinese"]),
        ("我", &["chinese"]),
        ("边", &["chinese"]),
        ("海边", &[]),
        ("上海，北京", &[]),
        ("东边，北京", &["chinese"]),
        ("Rust编程", &["chinese"]),
        ("编程", &["chinese"]),
        ("晴天", &["other"]),
        ("서울", &["other"]),
        ("ไทย", &["other"]),
        ("น้ำ", &["other"]),
        ("𠮷野", &["other"]),
    ];
    for (query, titles) in cases {
        finds(&service, "", &encoded(query), titles).await;
    }
    // The longest words and texts of any script become a document.
    let long = named(&service, "", "long").await;
    let from = |first: u32, count: u32| (first..first + count).filter_map(char::from_u32).collect::<String>();
    let pairs = (0..28_000).fold(String::new(), |text, n| {
        let c = |n: u32| char::from_u32(0x2_0000 + n % 40_000).unwrap();
        text + &format!("{}{} ", c(n), c(n * 7 + 1))
    });
    let han = from(0x4e00, 20_000);
    for text in [from(0x2_0000, 40_000) + &han, pairs, "x".repeat(200_000), han.repeat(4)] {
        say(&service, "", &long, &text).await;
    }
    say(&service, "", &long, "afterwards").await;
    finds(&service, "", "afterwards", &["long"]).await;
}

#[tokio::test]
async fn no_text_of_a_query_is_an_error_of_the_server() {
    use proptest::strategy::{Strategy, ValueTree};
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = named(&service, "", "Queries").await;
    say(&service, "", &path, "a 上海 or b-c").await;
    finds(&service, "", "queries", &["Queries"]).await;
    let check = async |query: &str| {
        let answer = service.get(&format!("{CONVERSATIONS}?q={}", encoded(query))).await;
        let is_taken = match answer.status.as_u16() {
            200 => true,
            400 => answer.json()["error"]["field"] == "q",
            _ => false,
        };
        assert!(is_taken, "{query:?}: {answer:?}");
    };
    let all = [
        "-".repeat(33),
        "- ".repeat(500),
        "-a ".repeat(333),
        "a or ".repeat(200),
        "\"".repeat(999),
        "\"a\" ".repeat(250),
        "(".repeat(1000),
        "!".repeat(40) + "a",
        "a.".repeat(500),
        "上".repeat(333),
        "𠮷".repeat(250),
        "x".repeat(1000),
        "Ⱥ".repeat(500),
        "é".repeat(500),
        "ß.-".repeat(250),
        "\u{1}\u{7f}\u{85}\u{200d}\u{feff}".into(),
        "'\\'':*&|!<->".into(),
        "a\u{300}\u{301} \u{e48} ้ ²".into(),
    ];
    for query in all {
        check(&query).await;
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for pattern in [
        "[-\"' orab上海็.:*&|!()<>\\\\\u{e01}-\u{e4f}]{1,80}",
        "[^\\x00]{1,60}",
        "(-?\"?\\PC{1,4}\"?( or )?){1,12}",
    ] {
        let strategy = proptest::string::string_regex(pattern).unwrap();
        for _ in 0..150 {
            check(&strategy.new_tree(&mut runner).unwrap().current()).await;
        }
    }
}

#[tokio::test]
async fn documents_of_an_older_form_are_rebuilt_behind_the_writes() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = named(&service, "", "the.title").await;
    for n in 0..7 {
        let message = |m| json!({"role": "user", "content": format!("part{n}x{m}.whole 上海{m}东")});
        let messages: Vec<Value> = (0..60).map(message).collect();
        let said = send(&service, "POST", &format!("{path}/messages"), "", &json!(messages)).await;
        assert_eq!(said.status.as_u16(), 201, "{:?}", said.body);
    }
    let client = database.connect().await;
    let count = async |what: &str| -> i64 {
        let sql = format!("select count(*) from {what}");
        client.query_one(&sql, &[]).await.unwrap().get(0)
    };
    eventually("all are indexed", async || (count("search_documents").await == 421).then_some(())).await;
    drop(service);
    // As a version before the migration left it.
    let older = "update search_documents d
            set words = to_tsvector('simple', coalesce((select content from messages m where m.id = d.id), 'the.title'))
                || array_to_tsvector(array['owner ']);
        insert into search_rebuild (done, last)
            select '00000000-0000-0000-0000-000000000000', id from search_documents order by id desc limit 1";
    client.batch_execute(older).await.unwrap();
    let old = "search_documents where words @@ '''the.title'' | ''part6x59.whole'''::tsquery";
    let new = "search_documents where words @@ '''title'' | ''part6x59'''::tsquery";
    assert_eq!((count(old).await, count(new).await), (2, 0));
    let service = Service::start(database.url(), &[]).await;
    for query in ["part0x0", "part6x59", "title", "上海"] {
        finds(&service, "", &encoded(query), &["the.title"]).await;
    }
    eventually("the rebuild ends", async || (count("search_rebuild").await == 0).then_some(())).await;
    assert_eq!((count(old).await, count(new).await), (0, 2));
}

#[tokio::test]
async fn a_search_finds_only_the_users_own_messages() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("REGISTRATION", "on")]).await;
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
async fn messages_imported_while_the_indexer_was_stopped_are_found_after_a_restart() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
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
    let service = Service::start(database.url(), &[("CHANGES_RETENTION_S", "1")]).await;
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
    let index = held_index(&database).await;
    let service = Service::start(database.url(), &[]).await;
    let id = |n: usize| format!("00000000-0000-4000-8000-{n:012}");
    let conversation =
        |n| json!({"kind": "conversation", "id": id(n), "title": format!("title{n}")}).to_string();
    let message = |n, m: usize| {
        json!({"kind": "message", "conversation_id": id(n), "role": "user", "content": format!("word{n}x{m} and more")})
            .to_string()
    };
    // Some in sequence, some interleaved, and a large one.
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
    drop(index);
    assert!(count("search_documents").await < 100);

    let all = lines.len() as i64;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    for round in 1..4 {
        let service = Service::start(database.url(), &[]).await;
        eventually("some more are found", async || {
            (count("search_documents").await > all * round / 10).then_some(())
        })
        .await;
        client.execute(kill, &[]).await.unwrap();
        drop(service);
    }
    assert!(count("search_documents").await < all, "it was cut off in the middle");
    let service = Service::start(database.url(), &[]).await;
    eventually("all are found", async || (count("search_documents").await == all).then_some(())).await;
    let wrong = "messages m left join search_documents d using (id)
        where d.id is null or d.conversation_id <> m.conversation_id or not d.words @@ plainto_tsquery('simple', m.content)";
    assert_eq!(count(wrong).await, 0);
    say(&service, "", &format!("{CONVERSATIONS}/{}", id(7)), "afterwards").await;
    finds(&service, "", "afterwards", &["title7"]).await;
}

/// A message of a conversation as a request writes it, and an import of some, in SQL.
fn written(conversation: &str, content: &str) -> String {
    let id = conversation.rsplit('/').next().unwrap();
    let imported = "00000000-0000-4000-9000-0000000000";
    format!(
        "with made as (
             insert into messages (id, conversation_id, role, content, timestamp)
             values (gen_random_uuid(), '{id}', 'user', '{content}', now()) returning *
         )
         insert into changes (number, topic, record, action, created, updated, data)
         select nextval('change_numbers'), 'conversation:{id}', id::text, 'create', now(), now(), '{{}}' from made;
         insert into messages (id, conversation_id, role, content, timestamp)
         select ('{imported}' || n)::uuid, '{id}', 'user', '{content} line' || n, now() from generate_series(10, 49) n;
         insert into changes (number, topic, record, action, created, updated, data)
         select nextval('change_numbers'), 'conversation:{id}', '', 'import', now(), now(),
             '{{\"first\": \"{imported}10\", \"last\": \"{imported}49\", \"count\": 40}}'"
    )
}

#[tokio::test]
async fn an_open_transaction_delays_its_own_messages_and_no_others() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = named(&service, "", "Held").await;
    let client = database.connect().await;
    // One that began before the others write, and one that is prepared to.
    client
        .batch_execute(&format!("begin; select pg_current_xact_id(); {}", written(&path, "late")))
        .await
        .unwrap();
    let lag = async || metric(&service, "tidegate_search_lag_seconds").await;
    // Several polls, of which each ends with the transaction open.
    for word in ["buoys", "jetties", "capstans"] {
        say(&service, "", &path, word).await;
        finds(&service, "", word, &["Held"]).await;
    }
    eventually("nothing is left", async || (lag().await == 0.0).then_some(())).await;
    assert!(found(&service, "", "late").await.is_empty());
    // Deleting old changes waits for what search has not read.
    client.batch_execute("commit").await.unwrap();
    say(&service, "", &path, "moorings").await;
    for word in ["moorings", "late", "line10", "line49"] {
        finds(&service, "", word, &["Held"]).await;
    }
    let documents = "select count(*) from messages full join search_documents d using (id)
        where d.id is null or (messages.id is null and d.id <> d.conversation_id)";
    let wrong: i64 = client.query_one(documents, &[]).await.unwrap().get(0);
    assert_eq!(wrong, 0, "each message has its document");
}

#[tokio::test]
async fn messages_of_transactions_that_end_between_the_batches_of_a_poll_are_found() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let index = held_index(&database).await;
    let service = Service::start(database.url(), &[]).await;
    let path = named(&service, "", "Batches").await;
    let id = path.rsplit('/').next().unwrap();
    // Some thousand changes, so several batches, with transactions open among them at different times.
    let many = |from: usize| {
        format!(
            "with made as (
                 insert into messages (id, conversation_id, role, content, timestamp)
                 select gen_random_uuid(), '{id}', 'user', 'word' || n, now() from generate_series({from}, {from} + 699) n returning *
             )
             insert into changes (number, topic, record, action, created, updated, data)
             select nextval('change_numbers'), 'conversation:{id}', id::text, 'create', now(), now(), '{{}}' from made"
        )
    };
    let mut open = Vec::new();
    for lot in 0..6 {
        let late = database.connect().await;
        late.batch_execute(&format!("begin; {}", many(10_000 + lot * 1_000))).await.unwrap();
        open.push(late);
        client.batch_execute(&many(lot * 1_000)).await.unwrap();
    }
    drop(index);
    let count = async |what: &str| -> i64 {
        client.query_one(&format!("select count(*) from {what}"), &[]).await.unwrap().get(0)
    };
    for (n, late) in open.iter().enumerate() {
        eventually("some more are indexed", async || {
            (count("search_documents").await > 300 * (n as i64 + 1)).then_some(())
        })
        .await;
        late.batch_execute("commit").await.unwrap();
    }
    say(&service, "", &path, "last").await;
    finds(&service, "", "last", &["Batches"]).await;
    let all = 12 * 700 + 2;
    eventually("all are indexed", async || (count("search_documents").await == all).then_some(())).await;
    let kept: String = client.query_one("select seen from feed_readers", &[]).await.unwrap().get(0);
    assert!(kept.ends_with(':'), "no transaction is awaited any more: {kept}");
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
