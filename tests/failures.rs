//! Postgres is away, full, read-only or altered: accepted events are kept and stored in the end.

use serde_json::json;

use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::service::{Folder, Service, eventually};

async fn writer_state(service: &Service, state: &str) -> String {
    eventually(state, async || {
        let health = service.health().await;
        (health["writer"]["state"] == state)
            .then(|| health["writer"]["last_error"]["message"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

async fn count(url: &str) -> i64 {
    connect(url).await.query_one("select count(*) from requests", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn accepted_events_survive_an_outage_of_postgres() {
    let mut server = PrivateServer::start(&[]).await;
    let service = Service::start(server.url(), &[]).await;
    assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
    service.settled().await;
    server.stop_immediate().await;
    for _ in 0..20 {
        assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
    }
    writer_state(&service, "retrying").await;
    assert_eq!(service.health().await["status"], "degraded");
    assert_eq!(service.get("/health/ready").await.status.as_u16(), 200, "there is room, so events are taken");
    server.start_again().await;
    // The first event may be stored twice: Postgres may not have had it on disk when it was stopped.
    eventually("it is well again and has all", async || {
        let health = service.health().await;
        (health["status"] == "ok" && health["journal"]["ledger"]["committed"] == 21).then_some(())
    })
    .await;
    assert_eq!(count(server.url()).await, 21);
}

#[tokio::test]
async fn a_service_that_starts_before_postgres_waits_for_it() {
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url().to_owned();
    server.stop_immediate().await;
    let service = Service::spawn(&[("DATABASE_URL", &url), ("PORT", "0")]).await;
    eventually("it waits", async || service.logged("waiting for Postgres")).await;
    server.start_again().await;
    eventually("it serves", async || service.logged("listening on http://")).await;
}

#[tokio::test]
async fn a_bad_row_becomes_a_dead_letter_and_the_other_rows_are_stored() {
    let database = TestDatabase::refusing_evil().await;
    let service = Service::start(database.url(), &[]).await;
    let body: String = (0..1000)
        .map(|n| if n % 100 == 7 { format!("{{\"evil\":{n}}}\n") } else { format!("{{\"n\":{n}}}\n") })
        .collect();
    let answer =
        service.post_batch(&[("content-type", "application/x-ndjson"), ("x-trace-id", "T")], body).await;
    assert_eq!(answer.json()["accepted"], 1000);
    let health = service.settled().await;
    assert_eq!(
        (&health["committed"], &health["dead"], &health["pending"]),
        (&json!(990), &json!(10), &json!(0))
    );
    let rows = database
        .connect()
        .await
        .query(
            "select trace_id, error, reason, convert_from(body, 'UTF8') from dead_letters order by id",
            &[],
        )
        .await
        .unwrap();
    let traces: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(traces, (0..10).map(|n| format!("T-{}", n * 100 + 7)).collect::<Vec<_>>());
    assert!(rows[0].get::<_, &str>(1).starts_with("23514 "), "{}", rows[0].get::<_, &str>(1));
    assert_eq!((rows[0].get::<_, &str>(2), rows[0].get::<_, &str>(3)), ("rejected", "{\"evil\":7}"));
}

#[tokio::test]
async fn events_are_stored_once_a_database_is_writable_again() {
    let server = PrivateServer::start(&[]).await;
    let service = Service::start(server.url(), &[]).await;
    let admin = connect(server.url()).await;
    let set = async |value: &str| {
        admin
            .batch_execute(&format!("alter system set default_transaction_read_only = {value}"))
            .await
            .unwrap();
        admin.query("select pg_reload_conf()", &[]).await.unwrap();
    };
    set("on").await;
    // A backend reads its settings at the statement after the postmaster's signal; those of the service get it now.
    let mut posted = 0;
    eventually("writes are rejected", async || {
        service.post(&[], "{}").await;
        posted += 1;
        (service.health().await["writer"]["state"] == "retrying").then_some(())
    })
    .await;
    let error = writer_state(&service, "retrying").await;
    assert!(error.starts_with("25006 "), "{error}");
    admin.batch_execute("set default_transaction_read_only = off").await.unwrap();
    set("off").await;
    assert_eq!(service.settled().await["committed"], posted);
}

#[tokio::test]
async fn events_of_a_start_in_a_read_only_database_are_stored_once_it_is_writable() {
    let database = TestDatabase::create().await;
    let folder = Folder::new();
    let start =
        async || Service::start_with(&[("DATABASE_URL", database.url()), ("DATA_DIR", folder.path())]).await;
    start().await.stop().await;
    let admin = database.connect().await;
    let name = database.name();
    let set = format!("alter database {name} set default_transaction_read_only = on");
    admin.batch_execute(&set).await.unwrap();
    let service = start().await;
    service.post(&[], "{}").await;
    eventually("Postgres rejects writes", async || {
        let health = service.health().await;
        health["journal"]["fence"]["last_error"]["message"].as_str()?.starts_with("25006 ").then_some(())
    })
    .await;
    admin.batch_execute(&format!("alter database {name} reset default_transaction_read_only")).await.unwrap();
    assert_eq!(service.settled().await["committed"], 1);
}

/// The server runs on its own file system of 100 MiB, which is filled up.
#[tokio::test]
async fn events_are_stored_once_a_full_database_has_space() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    // Simulates the fault: filling a real disk needs privileges that tests lack on some hosts.
    client
        .batch_execute(
            "create function full_disk() returns trigger language plpgsql as $$ begin
                raise exception 'could not extend file: No space left on device' using errcode = '53100';
            end $$;
            create trigger full_disk before insert on requests for each row execute function full_disk();",
        )
        .await
        .unwrap();
    let service = Service::start(database.url(), &[]).await;
    service.post(&[], "{}").await;
    let error = writer_state(&service, "halted").await;
    assert!(error.starts_with("53100 "), "{error}");
    assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202, "it still accepts");
    // It may be the victim of a deadlock with a COPY.
    eventually("the trigger is gone", async || {
        client.batch_execute("drop trigger full_disk on requests").await.ok()
    })
    .await;
    let health = service.settled().await;
    assert_eq!(
        (&health["committed"], &health["dead"], &health["writer"]["state"]),
        (&json!(2), &json!(0), &json!("running"))
    );
}

#[tokio::test]
async fn an_altered_table_halts_the_writer_until_it_is_repaired() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = Service::start(database.url(), &[]).await;
    service.post(&[], "{\"n\":1}").await;
    service.settled().await;
    for (n, (broken, mended, state)) in [
        (
            "alter table requests rename column payload to data",
            "alter table requests rename column data to payload",
            "42703 ",
        ),
        ("alter table requests rename to gone", "alter table gone rename to requests", "42P01 "),
        (
            "alter table requests alter column payload type text using payload::text",
            "alter table requests alter column payload type jsonb using payload::jsonb",
            "",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        client.batch_execute(broken).await.unwrap();
        service.post(&[], "{\"n\":2}").await;
        if state.is_empty() {
            // A text column accepts the bytes of a jsonb's wire format unchanged: nothing is lost.
            service.settled().await;
        } else {
            let error = writer_state(&service, "halted").await;
            assert!(error.starts_with(state), "{broken}: {error}");
            client.batch_execute(mended).await.unwrap();
            assert_eq!(service.settled().await["committed"], n + 2);
        }
    }
    // Users' columns do not matter.
    let (fresh, service) = (TestDatabase::create().await, service);
    drop(service);
    fresh
        .connect()
        .await
        .batch_execute("alter table requests add column note text default 'mine'")
        .await
        .unwrap();
    let service = Service::start(fresh.url(), &[]).await;
    service.post(&[], "{}").await;
    assert_eq!(service.settled().await["committed"], 1);
}

#[tokio::test]
async fn a_role_that_loses_its_privileges_halts_the_writer_and_one_without_them_cannot_start() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let role = format!("role_{}", database.name());
    client
        .batch_execute(&format!(
            "create role {role} login password 'pass';
             grant usage on schema public to {role};
             grant select, insert on all tables in schema public to {role};
             grant update, delete on all tables in schema public to {role};
             revoke update, delete on requests from {role};"
        ))
        .await
        .unwrap();
    let (_, host) = database.url().split_once('@').unwrap();
    let url = format!("postgres://{role}:pass@{host}");
    let service = Service::start(&url, &[]).await;
    service.post(&[], "{}").await;
    service.settled().await;
    client.batch_execute(&format!("revoke insert on requests from {role}")).await.unwrap();
    service.post(&[], "{}").await;
    let error = writer_state(&service, "halted").await;
    assert!(error.starts_with("42501 "), "{error}");
    client.batch_execute(&format!("grant insert on requests to {role}")).await.unwrap();
    assert_eq!(service.settled().await["committed"], 2);
    assert!(service.stop().await.status.success());

    let (status, _, stderr) = crate::support::service::run(
        &["serve"],
        &[("DATABASE_URL", &url), ("PORT", "0"), ("DB_SCHEMA", "forbidden")],
    )
    .await;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("the database cannot be used: 42501 "), "{stderr}");
    client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_copy_doubles_nothing() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("BATCH_SIZE", "50")]).await;
    let client = database.connect().await;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name like 'tidegate%'";
    for n in 0..40 {
        let body = "{\"n\":1}\n".repeat(500);
        let answer = service.post_batch(&[("content-type", "application/x-ndjson")], body).await;
        assert_eq!(answer.status.as_u16(), 202);
        // The lanes are writing it.
        if n % 2 == 0 {
            client.query(cut, &[]).await.unwrap();
        }
    }
    assert_eq!(service.settled().await["committed"], 20_000);
    let row = client.query_one("select count(*), count(distinct trace_id) from requests", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (20_000, 20_000));
}

#[tokio::test]
async fn a_commit_that_succeeds_after_its_timeout_makes_no_dead_letters() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(1.5); return null; end $$;
            create constraint trigger slow after insert on requests deferrable initially deferred
                for each row execute function slow();",
        )
        .await
        .unwrap();
    let service = Service::start(database.url(), &[("STATEMENT_TIMEOUT_MS", "100")]).await;
    service.post(&[], "{}").await;
    let health = service.settled().await;
    assert_eq!(
        (&health["committed"], &health["dead"], &health["status"]),
        (&json!(1), &json!(0), &json!("ok"))
    );
    assert_eq!(count(database.url()).await, 1);
    assert!(service.logged("no answer from postgres within 1.2 s").is_some(), "{}", service.log());
}

#[tokio::test]
async fn the_content_of_a_rejected_row_is_not_logged() {
    let database = TestDatabase::refusing_evil().await;
    let service = Service::start(database.url(), &[("LOG", "debug")]).await;
    service.post(&[("x-trace-id", "secret-trace")], "{\"evil\":\"hunter2\"}").await;
    assert_eq!(service.settled().await["dead"], 1);
    let log = service.log();
    assert!(log.contains("23514") && log.contains("\"http.route\":\"/api/v1/events\""), "{log}");
    assert!(!log.contains("hunter2") && !log.contains("secret-trace"), "{log}");
}

#[tokio::test]
async fn a_row_without_a_partition_waits_for_one_and_is_no_dead_letter() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = Service::start(database.url(), &[]).await;
    let today = "select 'requests_p' || to_char(now() at time zone 'utc', 'YYYYMMDD')";
    let today: String = client.query_one(today, &[]).await.unwrap().get(0);
    let days = "select count(*) from pg_inherits where inhparent = 'requests'::regclass";
    eventually("the days are made", async || {
        (client.query_one(days, &[]).await.unwrap().get::<_, i64>(0) == 9).then_some(())
    })
    .await;
    let bounds =
        format!("select pg_get_expr(relpartbound, oid) from pg_class where oid = '{today}'::regclass");
    let bounds: String = client.query_one(&bounds, &[]).await.unwrap().get(0);
    for partition in ["requests_default", &today] {
        client.batch_execute(&format!("alter table requests detach partition {partition}")).await.unwrap();
    }
    service.post(&[], "{}").await;
    let error = writer_state(&service, "halted").await;
    assert!(error.starts_with("23514 "), "{error}");
    client.batch_execute(&format!("alter table requests attach partition {today} {bounds}")).await.unwrap();
    let health = service.settled().await;
    assert_eq!((&health["committed"], &health["dead"]), (&json!(1), &json!(0)));
}
