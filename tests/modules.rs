//! Modules that are off: no tables, no routes, no tasks, no connections.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::conversations::CONVERSATIONS;
use crate::support::accounts::{send, tidegate};
use crate::support::files::store;
use crate::support::imports::{count, ended, figures, process};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually, run};

const RECORDS: &str = "/api/stress/records/items";
const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

/// The tables of events, accounts and migrations, without partitions.
const CORE: [&str; 22] = [
    "api_keys",
    "auth_revocations",
    "auth_tickets",
    "dead_letters",
    "event_routes",
    "ingest_duplicates",
    "ingest_journals",
    "ingest_keys",
    "ingest_lanes",
    "ingest_partitions",
    "ingest_receipts",
    "ingest_removed",
    "requests",
    "route_counts",
    "route_deferred",
    "route_errors",
    "route_passed",
    "sessions",
    "tidegate_choices",
    "tidegate_migrations",
    "tidegate_table_sets",
    "users",
];
const CHANGES: [&str; 8] = [
    "changes",
    "client_messages",
    "client_nodes",
    "client_positions",
    "feed_floor",
    "feed_positions",
    "feed_readers",
    "watched_tables",
];
const OF_CONVERSATIONS: [&str; 7] = [
    "conversations",
    "message_drafts",
    "message_keys",
    "message_pieces",
    "messages",
    "search_documents",
    "search_rebuild",
];
const OF_FILES: [&str; 3] = ["file_store", "files", "record_files"];
const OF_IMPORTS: [&str; 3] = ["import_parts", "import_rejected", "imports"];
const OF_STREAMS: [&str; 7] = [
    "stream_chunks",
    "stream_inbox",
    "stream_producers",
    "stream_secrets",
    "stream_subscription_links",
    "stream_subscriptions",
    "streams",
];
const OF_POCKETBASE: [&str; 3] = ["app_settings", "mail_limits", "request_logs"];
const OF_STRESS: [&str; 2] = ["large_payload_parts", "large_payloads"];

async fn tables(client: &Client) -> BTreeSet<String> {
    let tables = "select relname::text from pg_class where relnamespace = 'public'::regnamespace
        and relkind in ('r', 'p') and relname !~ '^(requests_|records_)'";
    client.query(tables, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn names(sets: &[&[&str]]) -> BTreeSet<String> {
    CORE.iter().chain(sets.iter().copied().flatten()).map(|name| (*name).to_owned()).collect()
}

async fn tasks(service: &Service) -> BTreeSet<String> {
    let health = service.health().await;
    let tasks = health["tasks"].as_array().unwrap().iter();
    tasks.map(|task| task["name"].as_str().unwrap().to_owned()).collect()
}

async fn paths(service: &Service) -> BTreeSet<String> {
    let api = service.get("/api/openapi.json").await.json();
    api["paths"].as_object().unwrap().keys().cloned().collect()
}

/// The status of a request to each module beside events: records, conversations, files, imports, stress.
async fn answers(service: &Service) -> [u16; 5] {
    let mut answers = [0; 5];
    let requests = [
        ("POST", RECORDS),
        ("GET", CONVERSATIONS),
        ("GET", "/api/files"),
        ("POST", "/api/files/process-jsonl?kind=event"),
        ("GET", "/api/stress/config"),
    ];
    for (answer, (method, path)) in answers.iter_mut().zip(requests) {
        let body = if method == "POST" { "{}" } else { "" };
        let answered = service.request(method, path, &[("content-type", "application/json")], body).await;
        *answer = answered.status.as_u16();
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_alone_are_a_product_with_four_connections() {
    let database = TestDatabase::create_empty().await;
    let (client, data) = (database.connect().await, Folder::new());
    let variables = [
        ("MODULES", "events"),
        ("DB_POOL_SIZE", "4"),
        ("DATA_DIR", data.path()),
        ("RATE_LOGINS", "0"),
        ("POOL_WAIT_MS", "60000"),
    ];
    let service = Service::start(database.url(), &variables).await;
    assert_eq!(tables(&client).await, names(&[]));
    assert_eq!(answers(&service).await, [404; 5]);
    let others = ["record", "conversation", "message", "feed", "change", "search", "file", "import"];
    let tasks = tasks(&service).await;
    assert!(!tasks.iter().any(|task| others.iter().any(|other| task.starts_with(other))), "{tasks:?}");
    let paths = paths(&service).await;
    let is_ours = |path: &String| {
        ["/api/v1/", "/api/auth/", "/api/keys", "/health", "/api/health", "/metrics"]
            .iter()
            .any(|ours| path.starts_with(ours))
    };
    assert!(paths.iter().all(is_ours), "{paths:?}");
    let api = service.get("/api/openapi.json").await.json();
    let tags: Vec<&Value> = api["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    assert_eq!(tags, ["events", "routes", "users", "keys", "operations"]);
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    for metric in ["tidegate_file", "tidegate_import", "tidegate_feed", "tidegate_search", "tidegate_sse"] {
        assert!(!metrics.contains(metric), "{metric}");
    }
    assert!(metrics.contains("tidegate_events_accepted_total"));

    // Events, batches, keys, bad rows and their redrive, accounts.
    client
        .batch_execute("alter table requests add constraint no_evil check (payload->>'evil' is null)")
        .await
        .unwrap();
    for _ in 0..2 {
        let kept = service.post(&[("idempotency-key", "k")], "{\"n\":1}").await;
        assert_eq!(kept.status.as_u16(), 202, "{kept:?}");
    }
    let batch = service.post_batch(&NDJSON, "{\"n\":2}\n{\"evil\":1}\n{\"n\":3}\n").await;
    assert_eq!(batch.status.as_u16(), 202, "{batch:?}");
    let health = service.settled().await;
    assert_eq!(health["modules"], json!(["events"]));
    assert_eq!(
        (&health["committed"], &health["dead"], &health["duplicates"]),
        (&3.into(), &1.into(), &1.into())
    );
    assert_eq!(health["status"], "ok", "{health}");
    let dead = service.get("/api/v1/dead-letters").await.json();
    assert_eq!(dead["dead_letters"].as_array().or(dead.as_array()).map(Vec::len), Some(1), "{dead}");
    client.batch_execute("alter table requests drop constraint no_evil").await.unwrap();
    let account = json!({"email": "ada@example.com", "password": "correct horse"});
    assert_eq!(send(&service, "POST", "/api/auth/register", "", &account).await.status.as_u16(), 201);
    let user = count(&client, "users").await;
    assert_eq!(user, 1);
    service.fenced().await;
    let open = service.health().await["pool"]["open"].as_i64().unwrap();
    assert!(open <= 4, "{open}");
    let log = service.log();
    assert!(!log.contains("does not exist") && !log.contains("\"level\":\"ERROR\""), "{log}");
    assert!(service.stop().await.status.success());

    // The commands, and a second start.
    let environment = [("DATABASE_URL", database.url()), ("DATA_DIR", data.path()), ("MODULES", "events")];
    let (status, stdout, stderr) = run(&["redrive", "--all"], &environment).await;
    assert!(status.success(), "{stdout}{stderr}");
    let (status, stdout, stderr) = run(&["verify"], &environment).await;
    assert!(status.success(), "{stdout}{stderr}");
    assert_eq!(count(&client, "requests").await, 4);
    let (status, stdout, stderr) = run(&["users", "delete", "ada@example.com"], &environment).await;
    assert!(status.success(), "{stdout}{stderr}");
    let service = Service::start(database.url(), &variables).await;
    service.post(&[], "{}").await;
    assert_eq!(service.settled().await["committed"], 1);
    assert_eq!(tables(&client).await, names(&[]));
    assert!(service.stop().await.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_module_is_on_with_those_it_needs_and_no_others() {
    for (modules, pool, on, sets) in [
        ("events,records", "4", [201, 404, 404, 404, 404], vec![&CHANGES[..], &["collections"]]),
        ("events,conversations", "4", [404, 200, 404, 404, 404], vec![&CHANGES[..], &OF_CONVERSATIONS]),
        // The path of imports is then one of a file, by whose id it may be read and deleted.
        ("events,files", "4", [404, 404, 200, 405, 404], vec![&OF_FILES[..]]),
        ("events,files,imports", "5", [404, 404, 200, 400, 404], vec![&OF_FILES[..], &OF_IMPORTS]),
        (
            "events,records,stress",
            "5",
            [201, 404, 404, 404, 200],
            vec![&CHANGES[..], &["collections"], &OF_STRESS],
        ),
    ] {
        let database = TestDatabase::create_empty().await;
        let variables = [("MODULES", modules), ("DB_POOL_SIZE", pool), ("POOL_WAIT_MS", "60000")];
        let service = Service::start(database.url(), &variables).await;
        assert_eq!(answers(&service).await, on, "{modules}");
        assert_eq!(tables(&database.connect().await).await, names(&sets), "{modules}");
        service.post(&[], "{}").await;
        let health = service.settled().await;
        assert_eq!(health["modules"], json!(modules.split(',').collect::<Vec<_>>()));
        assert_eq!(health["status"], "ok", "{modules}: {health}");
        let log = service.log();
        assert!(!log.contains("does not exist"), "{modules}: {log}");
        assert!(service.stop().await.status.success());
    }
}

#[tokio::test]
async fn an_unknown_module_a_missing_one_and_stress_as_a_setting_end_the_start() {
    for (variables, line) in [
        ([("MODULES", "events,mail")], "\"mail\" is none of them"),
        (
            [("MODULES", "events,imports")],
            "MODULES: got \"events,imports\", takes files too, as imports needs it",
        ),
        ([("MODULES", "files,imports")], "takes events too, as files needs it"),
        ([("STRESS", "on")], "STRESS is gone: use MODULES"),
    ] {
        let (status, _, stderr) = run(&["serve"], &variables).await;
        assert_eq!((status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains(line), "{stderr}");
    }
    let small = [("DB_POOL_SIZE", "4")];
    let (status, _, stderr) = run(&["serve"], &small).await;
    assert_eq!(status.code(), Some(2), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_is_turned_on_gets_its_tables_and_one_that_is_turned_off_keeps_them() {
    let database = TestDatabase::create_empty().await;
    let client = database.connect().await;
    let all = names(&[
        &CHANGES,
        &["collections"],
        &OF_CONVERSATIONS,
        &OF_FILES,
        &OF_IMPORTS,
        &OF_POCKETBASE,
        &OF_STREAMS,
        &OF_STRESS,
    ]);
    let events = Service::start(database.url(), &[("MODULES", "events")]).await;
    events.post(&[], "{}").await;
    events.fenced().await;
    assert!(events.stop().await.status.success());
    assert_eq!(tables(&client).await, names(&[]));

    let service = Service::start(database.url(), &[("MODULES", "all")]).await;
    assert_eq!(tables(&client).await, all);
    assert_eq!(send(&service, "POST", RECORDS, "", &json!({"n": 1})).await.status.as_u16(), 201);
    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "Ferries"})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let conversation = made.header("location").to_owned();
    store(&service, "", "a.bin", b"abc").await;
    assert_eq!(answers(&service).await, [201, 200, 200, 400, 200]);
    assert!(service.stop().await.status.success());

    let variables = [("MODULES", "events"), ("FILES_SWEEP_S", "60"), ("CHANGES_RETENTION_S", "1")];
    let service = Service::start(database.url(), &variables).await;
    assert_eq!(answers(&service).await, [404; 5]);
    service.post(&[], "{}").await;
    assert_eq!(service.settled().await["status"], "ok");
    let log = service.log();
    assert!(log.contains("FILES_SWEEP_S has no effect: MODULES lacks files"), "{log}");
    assert!(!log.contains("the schema is migrated"), "{log}");
    assert!(service.stop().await.status.success());
    assert_eq!(tables(&client).await, all);
    assert_eq!(count(&client, "files").await, 1);

    let service = Service::start(database.url(), &[]).await;
    assert_eq!(service.get(&conversation).await.status.as_u16(), 200);
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn a_database_of_an_earlier_version_has_all_tables_and_works_with_events_alone() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    // As V13 left it.
    client
        .batch_execute(
            "drop table tidegate_table_sets; delete from tidegate_migrations where version >= 14;
             alter table collections drop schema, drop updated, drop private;
             alter table changes drop old, drop keys; alter table feed_readers drop seen, drop until; drop table watched_tables, auth_tickets, client_nodes, client_messages, client_positions, record_files cascade;
             drop table event_routes, route_counts, route_deferred, route_errors, route_passed cascade;
             drop table streams, stream_chunks, stream_inbox, stream_producers, stream_secrets, stream_subscription_links, stream_subscriptions cascade;
             do $$ declare f regprocedure; begin
                 for f in select oid from pg_proc where proname ~ '^tidegate_((un)?watch|route|stream|append)' loop
                     execute 'drop function if exists ' || f;
                 end loop;
             end $$",
        )
        .await
        .unwrap();
    let service = Service::start(database.url(), &[("MODULES", "events")]).await;
    service.post(&[], "{}").await;
    assert_eq!(service.settled().await["committed"], 1);
    assert!(service.stop().await.status.success());
    let of_before = ["changes", "conversations", "files", "imports", "records", "stress"];
    assert_eq!(table_sets(&client).await, of_before);
    // The tables of streams are newer: their module's first start makes them.
    let service = Service::start(database.url(), &[]).await;
    assert_eq!(answers(&service).await, [201, 200, 200, 400, 200]);
    let mut with_streams = [&of_before[..], &["streams"]].concat();
    with_streams.sort_unstable();
    assert_eq!(table_sets(&client).await, with_streams);
    assert!(service.stop().await.status.success());
    let service = Service::start(database.url(), &[]).await;
    let log = service.log();
    assert!(!log.contains("the schema is migrated"), "{log}");
}

async fn table_sets(client: &Client) -> Vec<String> {
    let sets = client.query("select name from tidegate_table_sets order by 1", &[]).await.unwrap();
    sets.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn imports_without_conversations_store_events_and_reject_messages() {
    let database = TestDatabase::create_empty().await;
    let service = Service::start(database.url(), &[("MODULES", "events,files,imports")]).await;
    let lines = "{\"kind\":\"event\",\"payload\":{\"n\":1}}\n{\"kind\":\"conversation\",\"title\":\"a\"}\n";
    let import = process(&service, "", "", lines).await;
    assert_eq!(figures(&ended(&service, "", &import).await), (2, 1, 1));
    let rejected = service.get(&format!("/api/files/{import}/rejected")).await;
    let text = String::from_utf8_lossy(&rejected.body).into_owned();
    assert!(text.contains("conversations are off (MODULES)"), "{text}");
    let whole = service.request("POST", "/api/files/process-jsonl?kind=message", &NDJSON, "{}\n").await;
    assert_eq!((whole.status.as_u16(), whole.json()["error"]["field"].as_str()), (400, Some("kind")));
    assert_eq!(count(&database.connect().await, "requests").await, 1);
}

#[tokio::test]
async fn changes_of_records_are_deleted_although_search_is_off() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    // Search has read neither of them.
    client
        .batch_execute(
            "insert into changes (number, topic, record, action, created, updated, data, at)
             select n, case n when 1 then 'conversation:00000000-0000-0000-0000-000000000001' else 'items' end, 'x',
                 'create', now(), now(), '{}', now() - interval '1 day'
             from generate_series(1, 2) n",
        )
        .await
        .unwrap();
    let variables = [("MODULES", "events,records"), ("CHANGES_RETENTION_S", "1")];
    let _service = Service::start(database.url(), &variables).await;
    eventually("the record's change is deleted", async || {
        let kept = client.query("select topic from changes", &[]).await.unwrap();
        let kept: Vec<&str> = kept.iter().map(|row| row.get(0)).collect();
        (kept == ["conversation:00000000-0000-0000-0000-000000000001"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn grants_are_those_of_the_modules_that_are_on() {
    let database = TestDatabase::create().await;
    let all = tidegate(&database, &["grants", "--role", "nobody_yet"], "").await.unwrap();
    let variables = [("DATABASE_URL", database.url()), ("MODULES", "events,files")];
    let (status, some, stderr) = run(&["grants", "--role", "nobody_yet"], &variables).await;
    assert!(status.success(), "{stderr}");
    for (table, is_on) in [("requests", true), ("files", true), ("messages", false), ("imports", false)] {
        let statement = format!("alter table public.{table} owner to nobody_yet");
        assert!(all.contains(&statement), "{all}");
        assert_eq!(some.contains(&statement), is_on, "{some}");
    }
}
