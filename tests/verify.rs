//! `verify` and `reconcile`: their reports, and their detection of misplaced events.

use serde_json::{Value, json};

use crate::support::imports;
use crate::support::postgres::{PrivateServer, TestDatabase};
use crate::support::service::{Folder, Service, eventually, run};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

async fn with_a_hundred() -> (TestDatabase, Service) {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let body: String = (0..100).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    service.post_batch(&[NDJSON], body).await;
    service.settled().await;
    (database, service)
}

/// The result of `verify`: whether the database balances, and the account of the only journal.
async fn verdict(database: &TestDatabase) -> (bool, Value) {
    let (status, stdout, _) = run(&["verify", "--json"], &[("DATABASE_URL", database.url())]).await;
    let mut verdict: Value = serde_json::from_str(&stdout).unwrap();
    (status.success(), verdict["journals"][0].take())
}

async fn kinds(database: &TestDatabase) -> Vec<String> {
    let (fine, account) = verdict(database).await;
    let differences = account["differences"].as_array().unwrap();
    assert_eq!(fine, differences.is_empty());
    differences.iter().map(|difference| difference["kind"].as_str().unwrap().to_owned()).collect()
}

async fn execute(database: &TestDatabase, sql: &str) {
    database.connect().await.batch_execute(sql).await.unwrap();
}

/// Without triggers.
async fn tamper(database: &TestDatabase, sql: &str) {
    execute(
        database,
        &format!(
            "alter table requests disable trigger user; {sql}; alter table requests enable trigger user"
        ),
    )
    .await;
}

#[tokio::test]
async fn the_ledger_balances_and_deletions_are_distinguished_from_losses() {
    let (database, _service) = with_a_hundred().await;
    let (fine, account) = verdict(&database).await;
    assert!(fine);
    assert_eq!((&account["accepted"], &account["committed"]), (&json!(100), &json!(100)));
    execute(&database, "delete from requests where (payload->>'n')::int between 10 and 19").await;
    let (fine, account) = verdict(&database).await;
    assert_eq!((fine, &account["removed"]), (true, &json!(10)));
    tamper(&database, "delete from requests where (payload->>'n')::int in (40, 41, 60)").await;
    let (fine, account) = verdict(&database).await;
    assert!(!fine);
    let difference = &account["differences"][0];
    assert_eq!((&difference["kind"], &difference["events"]), (&json!("missing"), &json!(3)));
    assert_eq!(difference["ranges"], json!([[40, 41], [60, 60]]));
    execute(&database, "truncate requests").await;
    assert_eq!(kinds(&database).await, Vec::<String>::new(), "all of it was taken out");
}

/// The partition with the rows.
async fn partition(database: &TestDatabase) -> String {
    let client = database.connect().await;
    client.query_one("select tableoid::regclass::text from requests limit 1", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn changes_of_partitions_are_distinguished_from_losses() {
    for sql in [
        "truncate {partition}",
        "delete from {partition} where (payload->>'n')::int > 20",
        "alter table requests detach partition {partition}",
        "drop table {partition}",
        "drop table {partition}; -- and made anew",
    ] {
        let (database, service) = with_a_hundred().await;
        assert_eq!(kinds(&database).await, Vec::<String>::new());
        let partition = partition(&database).await;
        execute(&database, &sql.replace("{partition}", &partition)).await;
        if sql.contains("anew") {
            assert!(service.stop().await.status.success());
            let again = Service::start(database.url(), &[]).await;
            let made = "select count(*) from pg_class where relname = $1 and relispartition";
            eventually("the partition is made anew", async || {
                let row = database.connect().await.query_one(made, &[&partition]).await.unwrap();
                (row.get::<_, i64>(0) == 1).then_some(())
            })
            .await;
            again.post(&[], "1").await;
            again.settled().await;
        }
        assert_eq!(kinds(&database).await, Vec::<String>::new(), "{sql}");
        let (_, account) = verdict(&database).await;
        assert!(account["removed"].as_u64() > Some(70), "{sql} {account}");
    }
}

#[tokio::test]
async fn a_loss_is_detected_beside_a_truncated_partition() {
    let (database, _service) = with_a_hundred().await;
    // Rows of other days: as if 0 to 49 had arrived two days ago, and 50 to 59 yesterday.
    execute(
        &database,
        "create table older (like requests); insert into older select * from requests;
         create function earlier(id uuid, days int) returns uuid language sql as $$
            select (lpad(to_hex(ingest_ms(id) - days * 86400000::bigint), 12, '0') || right(replace(id::text, '-', ''), 20))::uuid $$",
    )
    .await;
    tamper(&database, "delete from requests where (payload->>'n')::int < 60").await;
    for days in [2, 1] {
        let bounds = format!(
            "do $$ declare day bigint := floor(extract(epoch from now()) / 86400)::bigint - {days}; begin
                execute format('create table requests_p%s partition of requests for values from (%L) to (%L)',
                    to_char((now() - interval '{days} days') at time zone 'UTC', 'YYYYMMDD'),
                    (lpad(to_hex(day * 86400000), 12, '0') || repeat('0', 20))::uuid,
                    (lpad(to_hex((day + 1) * 86400000), 12, '0') || repeat('0', 20))::uuid);
            end $$"
        );
        execute(&database, &bounds).await;
    }
    execute(
        &database,
        "insert into requests select earlier(id, case when (payload->>'n')::int < 50 then 2 else 1 end), trace_id, payload, body, content_type, received_at
         from older where (payload->>'n')::int < 60;
         update ingest_journals set registered_at = now() - interval '3 days'",
    )
    .await;
    assert_eq!(kinds(&database).await, Vec::<String>::new());
    execute(
        &database,
        "do $$ begin execute 'drop table requests_p' || to_char((now() - interval '1 day') at time zone 'UTC', 'YYYYMMDD'); end $$",
    )
    .await;
    assert_eq!(kinds(&database).await, Vec::<String>::new(), "dropped");
    tamper(&database, "delete from requests where (payload->>'n')::int in (10, 80)").await;
    let (_, account) = verdict(&database).await;
    assert_eq!(account["differences"][0]["kind"], "missing", "{account}");
    assert_eq!(account["differences"][0]["events"], 2, "{account}");
}

#[tokio::test]
async fn a_surplus_row_and_a_missing_receipt_are_detected() {
    let (database, service) = with_a_hundred().await;
    // The service would detect the missing receipts, and store the events again.
    assert!(service.stop().await.status.success());
    execute(
        &database,
        "insert into requests select (overlay(id::text placing '00' from 1 for 2))::uuid, trace_id, payload, body, content_type, received_at from requests where payload->>'n' = '7'",
    )
    .await;
    assert_eq!(kinds(&database).await, ["doubled"]);
    tamper(&database, "delete from requests where id::text like '00%'").await;
    execute(&database, "delete from ingest_receipts").await;
    assert!(kinds(&database).await.contains(&"without_receipt".to_owned()));
}

#[tokio::test]
async fn imported_rows_are_not_attributed_to_the_setting_without_a_journal() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let file = imports::process(&service, "?kind=event", "", "{\"n\":1}\n{\"n\":2}\n").await;
    assert_eq!(imports::figures(&imports::ended(&service, "", &file).await), (2, 2, 0));
    let (status, stdout, stderr) = run(&["verify"], &[("DATABASE_URL", database.url())]).await;
    assert!(status.success(), "{stdout} {stderr}");
    assert!(stdout.contains("2 rows have no journal: they were imported, or"), "{stdout}");
}

#[tokio::test]
async fn events_that_wait_in_the_journal_are_pending() {
    let database = TestDatabase::create().await;
    let data = Folder::new();
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    service.post(&[], "1").await;
    service.settled().await;
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in exclusive mode").await.unwrap();
    let answer = service.post(&[], "2").await;
    let receipt = answer.header("x-receipt").to_owned();
    let (status, stdout, stderr) =
        run(&["verify"], &[("DATABASE_URL", database.url()), ("DATA_DIR", data.path())]).await;
    assert!(status.success(), "{stdout} {stderr}");
    assert!(
        stdout.contains(
            "2 accepted = 1 committed + 0 duplicates + 0 dead + 0 discarded + 0 quarantined + 1 pending"
        ),
        "{stdout}"
    );
    let answer = reconcile(&service, json!({"receipts": [receipt]})).await;
    assert_eq!(answer["receipts"][0]["counts"], json!({"pending": 1}));
    hold.commit().await.unwrap();
}

async fn reconcile(service: &Service, body: Value) -> Value {
    service.request("POST", "/api/v1/reconcile", &[], body.to_string()).await.json()
}

#[tokio::test]
async fn reconcile_reports_the_fate_of_each_event() {
    let database = TestDatabase::refusing_evil().await;
    let service = Service::start(database.url(), &[]).await;
    let body = "{\"n\":0}\n{\"evil\":1}\n{\"n\":2}\n{\"evil\":3}\n";
    let receipt =
        service.post_batch(&[NDJSON, ("x-trace-id", "T")], body).await.header("x-receipt").to_owned();
    let keyed = [("idempotency-key", "k"), ("x-trace-id", "first")];
    let first = service.post(&keyed, "{}").await.header("x-receipt").to_owned();
    // On two lanes, either may be stored first.
    service.settled().await;
    let second = service.post(&keyed, "{}").await.header("x-receipt").to_owned();
    service.settled().await;
    let letters = service.get("/api/v1/dead-letters").await.json();
    let path = format!("/api/v1/dead-letters/{}", letters[0]["id"].as_str().unwrap());
    assert_eq!(service.request("DELETE", &path, &[], "").await.status.as_u16(), 204);
    let never = "01a1fc92-9c3a-70d3-96b6-7b0000000000";
    let answer = reconcile(&service, json!({"receipts": [receipt, first, second, never]})).await;
    let counts: Vec<&Value> =
        answer["receipts"].as_array().unwrap().iter().map(|one| &one["counts"]).collect();
    assert_eq!(*counts[0], json!({"committed": 2, "dead_lettered": 1, "discarded": 1}));
    assert_eq!(*counts[1], json!({"committed": 1}));
    assert_eq!(answer["receipts"][2]["others"][0]["state"], "duplicate");
    assert_eq!(answer["receipts"][2]["others"][0]["first_id"], json!(first));
    assert_eq!(*counts[3], json!({"never_seen": 1}));

    let times = "select array(select to_char(now() at time zone 'UTC' + minutes * interval '1 minute', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from unnest(array[-120, -30, 30]) minutes)";
    let times: Vec<String> = database.connect().await.query_one(times, &[]).await.unwrap().get(0);
    let wanted = json!({"trace_ids": ["T-0", "T-9"], "since": times[1], "until": times[2]});
    let answer = reconcile(&service, wanted).await;
    let states: Vec<&Value> =
        answer["trace_ids"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, [&json!("committed"), &json!("never_seen")]);
    for (body, status) in [
        (json!({"trace_ids": ["T"]}), 400),
        (json!({"trace_ids": ["T"], "since": times[0], "until": times[2]}), 400),
        (json!({"receipts": ["nonsense"]}), 400),
        (json!({"receipts": [format!("{never}/10001")]}), 413),
    ] {
        let answer = service.request("POST", "/api/v1/reconcile", &[], body.to_string()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
    }
}

#[tokio::test]
async fn with_an_index_trace_ids_are_found_at_any_time() {
    let database = TestDatabase::create().await;
    // The remains of an interrupted build.
    execute(
        &database,
        "create index dead_letters_trace_id on dead_letters (trace_id);
         update pg_index set indisvalid = false where indexrelid = 'dead_letters_trace_id'::regclass",
    )
    .await;
    let service = Service::start(database.url(), &[("TRACE_INDEX", "on")]).await;
    service.post(&[("x-trace-id", "T")], "{}").await;
    service.settled().await;
    let wanted = json!({"trace_ids": ["T", "U"]}).to_string();
    let answer = eventually("the index is built", async || {
        let answer = service.request("POST", "/api/v1/reconcile", &[], wanted.clone()).await;
        (answer.status.as_u16() == 200).then_some(answer)
    })
    .await;
    let states: Vec<Value> =
        answer.json()["trace_ids"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, [json!("committed"), json!("never_seen")]);
    let plan = "explain select id from requests where trace_id = any('{T}')
                union all select id from dead_letters where trace_id = any('{T}')";
    let client = database.connect().await;
    client.batch_execute("set enable_seqscan = off").await.unwrap();
    let plan = client.query(plan, &[]).await.unwrap();
    let plan: String = plan.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
    assert!(!plan.contains("Seq Scan") && plan.contains("dead_letters_trace_id"), "{plan}");
}

#[tokio::test]
async fn doctor_and_journal_report_their_findings() {
    let database = TestDatabase::create().await;
    let data = Folder::new();
    let settings =
        [("DATA_DIR", data.path()), ("DATABASE_URL", database.url()), ("JOURNAL_MAX_BYTES", "33554432")];
    let service = Service::start(database.url(), &settings).await;
    for _ in 0..2 {
        service.post_batch(&[NDJSON], "{}\n".repeat(100)).await;
    }
    service.settled().await;
    let (status, stdout, _) = run(&["journal", "--check"], &settings).await;
    assert!(status.success() && stdout.contains("200 events from 0"), "{stdout}");
    assert!(service.stop().await.status.success());

    let segments = std::fs::read_dir(format!("{}/journal", data.path())).unwrap();
    let segment = segments
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "seg"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (status, stdout, _) = run(&["journal", "--check"], &settings).await;
    assert!(!status.success() && stdout.contains("DAMAGED"), "{stdout}");

    // The tests' shared cluster runs without fsync.
    let (status, stdout, stderr) = run(&["doctor"], &settings).await;
    assert!(!status.success() && stdout.contains("FAIL  settings: fsync is off"), "{stdout} {stderr}");
    let server = PrivateServer::start(&[]).await;
    let url = [("DATA_DIR", data.path()), ("DATABASE_URL", server.url())];
    let (status, stdout, _) = run(&["doctor"], &url).await;
    assert!(status.success() && stdout.contains("ok    crash drill"), "{stdout}");
}
