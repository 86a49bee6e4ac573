//! Whatever a role, a database or a server presets, the service does what it does elsewhere.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::conversations::CONVERSATIONS;
use crate::support::accounts::send;
use crate::support::files;
use crate::support::imports;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};

const RECORDS: &str = "/api/stress/records/presets";

/// A database in which each connection begins with these.
async fn preset(settings: &[(&str, &str)]) -> TestDatabase {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    for (name, value) in settings {
        let set = format!("alter database {} set {name} = {value}", database.name());
        client.batch_execute(&set).await.unwrap();
    }
    database
}

const STRANGE: &[(&str, &str)] = &[
    ("default_transaction_isolation", "'serializable'"),
    ("default_transaction_deferrable", "on"),
    ("search_path", "nowhere"),
    ("timezone", "'Pacific/Kiritimati'"),
    ("datestyle", "'SQL, DMY'"),
    ("intervalstyle", "'sql_standard'"),
    ("bytea_output", "'escape'"),
    ("extra_float_digits", "-15"),
    ("synchronous_commit", "off"),
    ("row_security", "off"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("standard_conforming_strings", "off"),
    ("quote_all_identifiers", "on"),
    ("default_text_search_config", "'pg_catalog.german'"),
    ("plan_cache_mode", "force_generic_plan"),
    ("client_min_messages", "'debug1'"),
    ("default_statistics_target", "1"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_face_works_with_strange_presets() {
    let database = preset(STRANGE).await;
    let service = Service::start(database.url(), &[]).await;
    for n in 0..20 {
        let headers = [("idempotency-key", format!("k{}", n / 2))];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(service.post(&headers, format!("{{\"n\":{n}}}")).await.status.as_u16(), 202);
    }
    let health = service.fenced().await;
    assert_eq!((&health["committed"], &health["duplicates"]), (&json!(10), &json!(10)));

    let made = send(&service, "POST", RECORDS, "", &json!({"at": "2026-01-02"})).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let record = made.header("location").to_owned();
    let listed = service.get(&format!("{RECORDS}?filter_at=eq:2026-01-02")).await;
    assert_eq!(listed.status.as_u16(), 200, "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.body).contains("2026-01-02"), "{listed:?}");
    assert_eq!(send(&service, "DELETE", &record, "", &Value::Null).await.status.as_u16(), 204);

    let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "Ferries"})).await;
    let conversation = made.header("location").to_owned();
    let said = json!({"role": "user", "content": "the harbours and the boats"});
    let said = send(&service, "POST", &format!("{conversation}/messages"), "", &said).await;
    assert_eq!(said.status.as_u16(), 201, "{said:?}");
    eventually("search knows the message", async || {
        let found = service.get(&format!("{CONVERSATIONS}?q=harbours")).await;
        (found.json().as_array()?.len() == 1).then_some(())
    })
    .await;
    files::store(&service, "", "a.bin", b"abc").await;
    let file = imports::process(&service, "?kind=event", "", "{\"n\":1}\n{\"n\":2}\n").await;
    assert_eq!(imports::figures(&imports::ended(&service, "", &file).await), (2, 2, 0));
    let log = service.log();
    assert!(!log.contains("\"ERROR\"") && !log.contains("trying again"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_one_record_all_come_through_whatever_the_default_isolation() {
    for isolation in ["'repeatable read'", "'serializable'"] {
        let database = preset(&[("default_transaction_isolation", isolation)]).await;
        let service = Service::start(database.url(), &[]).await;
        let made = send(&service, "POST", RECORDS, "", &json!({"n": 0})).await;
        let record = made.header("location").to_owned();
        let patches = (0..90).map(|n| {
            let (service, record) = (&service, &record);
            async move {
                let patch = json!({format!("m{n}"): n}).to_string();
                let headers = [("content-type", "application/merge-patch+json")];
                service.request("PATCH", record, &headers, patch).await.status.as_u16()
            }
        });
        let statuses = join_all(patches).await;
        assert!(statuses.iter().all(|status| *status == 200), "{isolation}: {statuses:?}");
        let members = service.get(&record).await.json();
        assert!((0..90).all(|n| members[format!("m{n}")] == n), "{members}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_whatever_the_default_isolation() {
    let database = preset(&[("default_transaction_isolation", "'repeatable read'")]).await;
    let service = Service::start(database.url(), &[("FILE_QUOTA_BYTES", "40960")]).await;
    let uploads = (0..24).map(|n| {
        let service = &service;
        async move {
            let content = vec![b'a' + n as u8; 4096];
            let body = files::body(&[files::part("a.bin", "application/octet-stream", &content)]);
            files::upload(service, "", body).await.status.as_u16()
        }
    });
    let statuses = join_all(uploads).await;
    assert!(statuses.iter().all(|status| [201, 413, 503].contains(status)), "{statuses:?}");
    let held: i64 = database
        .connect()
        .await
        .query_one("select coalesce(sum(size), 0)::bigint from public.files", &[])
        .await
        .unwrap()
        .get(0);
    assert!(held <= 40_960, "{held} bytes in all");
}

#[tokio::test]
async fn a_copy_outlasts_the_time_outs_of_its_role() {
    let short = [
        ("statement_timeout", "'300ms'"),
        ("lock_timeout", "'100ms'"),
        ("idle_in_transaction_session_timeout", "'300ms'"),
    ];
    let database = preset(&short).await;
    let service = Service::start(database.url(), &[]).await;
    let (mut client, admin) = (database.connect().await, database.connect().await);
    client
        .batch_execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
        .await
        .unwrap();
    let holder = client.transaction().await.unwrap();
    holder.batch_execute("lock table public.requests in access exclusive mode").await.unwrap();
    service.post(&[], "{}").await;
    let outlasts = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '1 s'";
    eventually("a statement waits far longer than any of them", async || {
        (admin.query_one(outlasts, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    let writer = service.health().await["writer"].clone();
    assert_eq!((&writer["state"], &writer["last_error"]), (&json!("running"), &Value::Null));
    holder.rollback().await.unwrap();
    assert_eq!(service.settled().await["committed"], 1);
}

/// A trigger that raises an error as if others were in the way, the first `times` times.
async fn in_the_way(database: &TestDatabase, table: &str, state: &str, times: u32) {
    let raise = format!(
        "create sequence attempts;
         create function in_the_way() returns trigger language plpgsql as $$ begin
             if nextval('attempts') <= {times} then
                 raise exception 'others are in the way' using errcode = '{state}';
             end if;
             return new;
         end $$;
         create trigger in_the_way before insert on {table} for each row execute function in_the_way();"
    );
    database.connect().await.batch_execute(&raise).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_others_were_in_the_way_of_is_done_again_a_few_times() {
    for state in ["40001", "40P01"] {
        let database = TestDatabase::create().await;
        let service = Service::start(database.url(), &[]).await;
        in_the_way(&database, "conversations", state, 3).await;
        let made = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "a"})).await;
        assert_eq!(made.status.as_u16(), 201, "{made:?}");
    }
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    in_the_way(&database, "conversations", "40001", 1_000_000).await;
    let refused = send(&service, "POST", CONVERSATIONS, "", &json!({"title": "a"})).await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (503, "database_busy"));
    assert!(!refused.header("retry-after").is_empty());
    let attempts: i64 =
        database.connect().await.query_one("select last_value from attempts", &[]).await.unwrap().get(0);
    assert!(attempts < 20, "{attempts} attempts");
}

#[tokio::test]
async fn a_role_without_triggers_is_refused() {
    let database = preset(&[("session_replication_role", "replica")]).await;
    let (status, _, stderr) =
        crate::support::service::run(&["serve"], &[("DATABASE_URL", database.url()), ("PORT", "0")]).await;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("session_replication_role is replica"), "{stderr}");
}
