//! Databases that an application uses too: its names, its publications, its roles, its dumps.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::conversations::CONVERSATIONS;
use crate::search::held_index;
use crate::support::accounts::{send, tidegate};
use crate::support::files;
use crate::support::imports;
use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::service::{Service, eventually, run};

const RECORDS: &str = "/api/stress/records/shared";

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Everything that the schema `public` has.
const EVERYTHING: &str = "select relname::text from pg_class where relnamespace = 'public'::regnamespace
    union all select proname::text from pg_proc where pronamespace = 'public'::regnamespace order by 1";

async fn refused(url: &str, more: &[(&str, &str)]) -> String {
    let variables = [&[("DATABASE_URL", url), ("PORT", "0")], more].concat();
    let (status, _, stderr) = run(&["serve"], &variables).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

#[tokio::test]
async fn names_that_are_taken_are_all_reported_and_nothing_is_changed() {
    let database = TestDatabase::create_empty().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create table users (id int); create view files as select 1 as n; create type sessions as enum ('a');
             create sequence change_numbers; create function expect_rows() returns int language sql as 'select 1';
             create table records_7 (n int); create index messages_in_order on users (id);",
        )
        .await
        .unwrap();
    let before = texts(&client, EVERYTHING).await;
    let stderr = refused(database.url(), &[]).await;
    for name in [
        "a table users",
        "a view files",
        "a type sessions",
        "a sequence change_numbers",
        "a function expect_rows",
        "a table records_7",
        "an index messages_in_order",
        "DB_SCHEMA",
    ] {
        assert!(stderr.contains(name), "{name} is not in {stderr}");
    }
    assert_eq!(texts(&client, EVERYTHING).await, before);
    // In a schema of its own nothing is in the way.
    let service = Service::start(database.url(), &[("DB_SCHEMA", "tidegate")]).await;
    service.post(&[], "{}").await;
    assert_eq!(service.settled().await["committed"], 1);
    assert_eq!(texts(&client, EVERYTHING).await, before);
}

#[tokio::test]
async fn a_first_start_that_fails_half_way_leaves_nothing_behind() {
    let database = TestDatabase::create_empty().await;
    let client = database.connect().await;
    // Postgres fails in the middle of it, once the tables of records are there.
    client
        .batch_execute(
            "create schema guard;
             create function guard.refuse() returns event_trigger language plpgsql as $$ begin
                 if exists (select from pg_event_trigger_ddl_commands() where object_identity like '%.conversations') then
                     raise exception 'no more tables today';
                 end if;
             end $$;
             create event trigger refuse on ddl_command_end when tag in ('CREATE TABLE') execute function guard.refuse();",
        )
        .await
        .unwrap();
    let stderr = refused(database.url(), &[("DB_SCHEMA", "fresh")]).await;
    assert!(stderr.contains("no more tables today"), "{stderr}");
    let schemas = "select nspname::text from pg_namespace where nspname = 'fresh'";
    assert_eq!(texts(&client, schemas).await, Vec::<String>::new());
    client.batch_execute("drop event trigger refuse").await.unwrap();
    Service::start(database.url(), &[("DB_SCHEMA", "fresh")]).await;
}

#[tokio::test]
async fn a_migration_that_was_changed_is_refused_and_older_checksums_are_known() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let change = "update tidegate_migrations set checksum = '17' where version = 3";
    let before = texts(&client, "select checksum from tidegate_migrations where version = 3").await;
    client.batch_execute(change).await.unwrap();
    let stderr = refused(database.url(), &[]).await;
    assert!(stderr.contains("migration 3 of the schema public is not the one"), "{stderr}");
    let back = format!("update tidegate_migrations set checksum = '{}' where version = 3", before[0]);
    client.batch_execute(&back).await.unwrap();
    Service::start(database.url(), &[]).await;
    // Up to V7 the checksum was that of the text with the schema's name: this is V1's for `public`.
    let sql =
        std::fs::read_to_string("sql/migrations/V1__events.sql").unwrap().replace("{schema}", "\"public\"");
    let old = refinery::Migration::unapplied("V1__events", &sql).unwrap().checksum();
    client
        .batch_execute(&format!("update tidegate_migrations set checksum = '{old}' where version = 1"))
        .await
        .unwrap();
    Service::start(database.url(), &[]).await;
}

#[tokio::test]
async fn every_table_can_be_published() {
    let server = PrivateServer::start(&[("wal_level", "logical")]).await;
    let variables = [("CHANGES_RETENTION_S", "1"), ("RETENTION_DAYS", "1")];
    let service = Service::start(server.url(), &variables).await;
    let client = connect(server.url()).await;
    client.batch_execute("create publication everything for all tables").await.unwrap();
    assert_eq!(send(&service, "POST", RECORDS, "", &json!({"n": 1})).await.status.as_u16(), 201);
    // What a tool would subscribe to, each with a key or a replica identity; whoever makes a table later, too.
    let without = "select c.oid::regclass::text from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relreplident <> 'f'
          and not exists (select from pg_index where indrelid = c.oid and indisprimary)";
    assert_eq!(texts(&client, without).await, Vec::<String>::new());
    let floor = "select seen from feed_floor";
    eventually("what is old is deleted, and the floor has moved", async || {
        (texts(&client, floor).await != ["1:1:"]
            && texts(&client, "select topic from changes").await.is_empty())
        .then_some(())
    })
    .await;
    service.post(&[], "{}").await;
    service.fenced().await;
    let log = service.log();
    assert!(!log.contains("replica identity"), "{log}");
}

/// A role that may log in, and a URL for it.
async fn role(database: &TestDatabase) -> (String, String) {
    let name = format!("app_{}", uuid::Uuid::new_v4().simple());
    let make = format!("create role {name} login password 'app'");
    database.connect().await.batch_execute(&make).await.unwrap();
    let config: tokio_postgres::Config = database.url().parse().unwrap();
    let url = format!("postgres://{name}:app@127.0.0.1:{}/{}", config.get_ports()[0], database.name());
    (name, url)
}

/// Each face, and housekeeping, as the role that a service has.
async fn does_everything(database: &TestDatabase, url: &str) {
    let variables = [("DATABASE_URL", url), ("RETENTION_DAYS", "3"), ("TRACE_INDEX", "on")];
    let service = Service::start_with(&variables).await;
    let key = [("idempotency-key", "k")];
    for _ in 0..2 {
        assert_eq!(service.post(&key, "{\"n\":1}").await.status.as_u16(), 202);
    }
    assert_eq!(service.fenced().await["committed"], 1);
    let made = send(&service, "POST", RECORDS, "", &json!({"n": 1})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let record = made.header("location").to_owned();
    for method in ["PUT", "PATCH", "GET", "DELETE"] {
        let answer = send(&service, method, &record, "", &json!({"n": 2})).await;
        assert!(answer.status.is_success(), "{method}: {answer:?}");
    }
    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "Ferries"})).await;
    let conversation = made.header("location").to_owned();
    let said = json!({"role": "user", "content": "harbours"});
    let said = send(&service, "POST", &format!("{conversation}/messages"), "", &said).await;
    assert_eq!(said.status.as_u16(), 201, "{said:?}");
    eventually("search knows the message", async || {
        let found = service.get(&format!("{CONVERSATIONS}?q=harbours")).await;
        (found.json().as_array()?.len() == 1).then_some(())
    })
    .await;
    let patched = send(&service, "PATCH", &conversation, "", &json!({"title": "Boats"})).await;
    assert_eq!(patched.status.as_u16(), 200, "{patched:?}");
    assert_eq!(send(&service, "DELETE", &conversation, "", &Value::Null).await.status.as_u16(), 204);
    let file = files::store(&service, "", "a.bin", b"abc").await;
    let path = format!("/api/files/{}", file["id"].as_str().unwrap());
    assert!(send(&service, "DELETE", &path, "", &Value::Null).await.status.is_success());
    let import = imports::process(&service, "?kind=event", "", "{\"n\":1}\n{\"n\":2}\n").await;
    assert_eq!(imports::figures(&imports::ended(&service, "", &import).await), (2, 2, 0));
    // Old days go, new ones come, and the net is emptied.
    let client = database.connect().await;
    eventually("the days are kept", async || {
        let days = "select relname::text from pg_class where relname ~ '^requests_p[0-9]{8}$'
            and relname < 'requests_p' || to_char(now() at time zone 'utc' - interval '3 days', 'YYYYMMDD')";
        let ahead = "select relname::text from pg_class where relname ~ '^requests_p[0-9]{8}$'
            and relname > 'requests_p' || to_char(now() at time zone 'utc', 'YYYYMMDD')";
        (texts(&client, days).await.is_empty() && texts(&client, ahead).await.len() >= 7).then_some(())
    })
    .await;
    eventually("traces are indexed", async || {
        let indexes = "select indexname::text from pg_indexes where indexname like '%trace_id'";
        (!texts(&client, indexes).await.is_empty()).then_some(())
    })
    .await;
    // Bad rows are probed for in a temporary table; without the right to one they would be halved for, and a WARN says so.
    client.batch_execute("alter table requests add check (payload->>'evil' is null)").await.unwrap();
    service.post(&[], "{\"evil\":1}").await;
    eventually("a bad row is dead", async || (service.health().await["dead"] == 1).then_some(())).await;
    assert_eq!(service.health().await["status"], "ok", "{}", service.health().await);
    let log = service.log();
    assert!(!log.contains("found by bisection"), "{log}");
    assert!(!log.contains("42501") && !log.contains("permission denied"), "{log}");
    assert!(service.stop().await.status.success());

    let (status, stdout, stderr) = run(&["verify"], &[("DATABASE_URL", url)]).await;
    assert!(status.success(), "{stdout}{stderr}");
    let (status, _, stderr) =
        run(&["keys", "create", "--scope", "events:write"], &[("DATABASE_URL", url)]).await;
    assert!(status.success(), "{stderr}");
}

async fn grant(database: &TestDatabase, role: &str) {
    let statements = tidegate(database, &["grants", "--role", role], "").await.unwrap();
    assert!(statements.lines().all(|line| line.ends_with(';')), "{statements}");
    let client = database.connect().await;
    client.batch_execute(&statements).await.unwrap();
    let others = format!(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace
             and relkind in ('r', 'p', 'S') and pg_get_userbyid(relowner) <> '{role}'"
    );
    assert_eq!(texts(&client, &others).await, Vec::<String>::new(), "whatever tables there are by now");
}

const CLOSED: &str = "revoke all on schema public from public;
    do $$ begin execute format('revoke all on database %I from public', current_database()); end $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_the_grants_that_are_printed_does_everything_in_an_empty_database() {
    let database = TestDatabase::create_empty().await;
    database.connect().await.batch_execute(CLOSED).await.unwrap();
    let (name, url) = role(&database).await;
    grant(&database, &name).await;
    does_everything(&database, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_the_grants_that_are_printed_takes_over_tables_that_another_made() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(CLOSED).await.unwrap();
    let service = Service::start(database.url(), &[]).await;
    assert_eq!(send(&service, "POST", RECORDS, "", &json!({"n": 1})).await.status.as_u16(), 201);
    service.post(&[], "{}").await;
    service.fenced().await;
    assert!(service.stop().await.status.success());
    client
        .batch_execute(
            "create table requests_p20200101 partition of requests
                 for values from ('016f5e66-e800-0000-0000-000000000000') to ('016f638d-4400-0000-0000-000000000000');
             delete from requests",
        )
        .await
        .unwrap();
    let (name, url) = role(&database).await;
    let (status, _, stderr) = run(&["serve"], &[("DATABASE_URL", &url), ("PORT", "0")]).await;
    assert!(!status.success() && stderr.contains("permission denied"), "{stderr}");
    grant(&database, &name).await;
    does_everything(&database, &url).await;
}

#[tokio::test]
async fn messages_that_were_not_indexed_at_a_dump_are_found_after_a_restore() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    // An index that never runs: nothing is known to search when the dump is made.
    let index = held_index(&database).await;
    let service = Service::start(database.url(), &[]).await;
    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "Ferries"})).await;
    let messages = format!("{}/messages", made.header("location"));
    for n in 0..120 {
        let said = json!({"role": "user", "content": format!("harbour number{n}")});
        assert_eq!(send(&service, "POST", &messages, "", &said).await.status.as_u16(), 201);
    }
    drop(service);
    drop(index);
    // Of a server whose transactions had far higher numbers; that is what a restore on another server is.
    client
        .batch_execute(
            "delete from search_documents;
             update feed_readers set seen = '1:1:', until = null, xid = '0', number = -1, part = null;
             update changes set xid = (xid::text::bigint + 1000000000)::text::xid8;",
        )
        .await
        .unwrap();
    let dump = std::process::Command::new("pg_dump").arg(database.url()).stdin(Stdio::null()).output();
    let dump = dump.map(|output| output.stdout).unwrap_or_default();
    let restored = TestDatabase::create_empty().await;
    if dump.is_empty() {
        // No client programs here: the same rows, in the same database.
        finds_all(database.url()).await;
        return;
    }
    let folder = crate::support::service::Folder::new();
    let file = format!("{}/dump.sql", folder.path());
    std::fs::write(&file, dump).unwrap();
    let psql = std::process::Command::new("psql").args(["-q", "-f", &file, restored.url()]).output().unwrap();
    assert!(psql.status.success(), "{psql:?}");
    finds_all(restored.url()).await;
}

async fn finds_all(url: &str) {
    let service = Service::start(url, &[]).await;
    for n in [0, 57, 119] {
        eventually(&format!("message {n} is found"), async || {
            let found = service.get(&format!("{CONVERSATIONS}?q=number{n}")).await;
            (found.json().as_array()?.len() == 1).then_some(())
        })
        .await;
    }
    let known = connect(url).await;
    let caught_up = "select coalesce(catch_up::text, 'done') from feed_readers";
    eventually("the catch-up ends", async || (texts(&known, caught_up).await == ["done"]).then_some(()))
        .await;
    // What is written from then on is found as always.
    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "Lighthouses"})).await;
    assert_eq!(made.status.as_u16(), 201);
    eventually("a new title is found", async || {
        let found = service.get(&format!("{CONVERSATIONS}?q=lighthouses")).await;
        (found.json().as_array()?.len() == 1).then_some(())
    })
    .await;
}
