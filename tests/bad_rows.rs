//! Batches with many rejected rows: each becomes a dead letter with its error, and the other rows are stored.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::load::{Load, assert_exactly_once, assert_receipts_add_up};
use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::service::{Folder, Service, eventually, run};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// A trigger that follows the event's member `do`.
const OBEDIENT: &str = "create function obey() returns trigger language plpgsql as $$ begin
        case new.payload->>'do'
            when 'raise' then raise exception 'no % here', new.payload->>'n';
            when 'drop' then return null;
            when 'lock' then raise exception 'busy' using errcode = '55P03';
            when 'deadlock' then raise exception 'a deadlock' using errcode = '40P01';
            when 'cancel' then raise exception 'cancelled' using errcode = '57014';
            else new.content_type := 'by/trigger';
        end case;
        return new;
    end $$;
    create trigger obey before insert on requests for each row execute function obey();";

async fn execute(database: &TestDatabase, sql: &str) {
    database.connect().await.batch_execute(sql).await.unwrap();
}

async fn count(database: &TestDatabase, which: &str) -> i64 {
    database.connect().await.query_one(&format!("select count(*) from {which}"), &[]).await.unwrap().get(0)
}

/// The dead letters' errors and reasons, each once, in order.
async fn causes(database: &TestDatabase) -> Vec<(String, String, i64)> {
    let causes = "select reason, error, count(*) from dead_letters group by 1, 2 order by 1, 2";
    let rows = database.connect().await.query(causes, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn metric(service: &Service, name: &str) -> u64 {
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in {metrics}")).parse().unwrap()
}

async fn send(service: &Service, body: impl Into<bytes::Bytes>) {
    assert_eq!(service.post_batch(&[NDJSON], body).await.status.as_u16(), 202);
}

async fn verify(database: &TestDatabase) {
    let (status, stdout, stderr) = run(&["verify"], &[("DATABASE_URL", database.url())]).await;
    assert!(status.success(), "{stdout}{stderr}");
}

/// Numbered events with their orders for `OBEDIENT`; the check rejects "evil".
fn events(range: std::ops::Range<u32>, of: impl Fn(u32) -> &'static str) -> String {
    let event = |n| match of(n) {
        "" => format!("{{\"n\":{n}}}\n"),
        "evil" => format!("{{\"n\":{n},\"evil\":1}}\n"),
        wish => format!("{{\"n\":{n},\"do\":\"{wish}\"}}\n"),
    };
    range.map(event).collect()
}

async fn partitions_are_made(service: &Service) {
    service.has_run("partitions", "").await;
}

#[tokio::test]
async fn many_bad_rows_are_isolated_in_a_few_transactions() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::refusing_evil().await;
        // Users' columns, and values that a trigger changes.
        execute(
            &database,
            &format!(
                "alter table requests add column kind text generated always as (payload->>'n') stored;
                 create sequence serials;
                 alter table requests add column serial bigint default nextval('serials');
                 {OBEDIENT}"
            ),
        )
        .await;
        let service = Service::start(database.url(), &[("DURABILITY", durability)]).await;
        // In the table of today's rows, once all days exist.
        partitions_are_made(&service).await;
        execute(
            &database,
            "do $$ declare leaf regclass; begin
                 for leaf in select relid from pg_partition_tree('requests') where isleaf loop
                     execute format('create unique index on %s ((payload->>''twice''))', leaf);
                 end loop;
             end $$",
        )
        .await;
        let mut body = events(0..2600, |n| match n % 10 {
            1 => "evil",
            2 => "raise",
            3 => "drop",
            _ => "",
        });
        body += "{\"n\":2600,\"twice\":1}\n{\"n\":2601,\"twice\":1}\n";
        let answer = service.post_batch(&[NDJSON, ("x-trace-id", "T")], body).await;
        assert_eq!(answer.json()["accepted"], 2602);
        let health = service.settled().await;
        assert_eq!((&health["committed"], &health["dead"]), (&json!(1821), &json!(781)), "{durability}");
        assert_eq!(count(&database, "requests where kind = payload->>'n'").await, 1821);
        assert_eq!(count(&database, "requests where content_type = 'by/trigger'").await, 1821);
        let causes = causes(&database).await;
        let dropped = "a trigger dropped 1 of 1 rows of requests";
        assert_eq!(causes[0], ("dropped_by_trigger".to_owned(), dropped.to_owned(), 260));
        let errors: Vec<_> = causes.iter().map(|(_, error, _)| &error[..5]).collect();
        assert_eq!((errors.len(), errors[1], errors[2]), (1 + 2 + 260, "23505", "23514"), "{causes:?}");
        assert!(causes[3].1.starts_with("P0001 no ") && causes[3].1.ends_with(" here"), "{causes:?}");
        // Each dead letter is the right event, byte for byte.
        let whole = "dead_letters where payload is null
            and trace_id = 'T-' || (convert_from(body, 'UTF8')::jsonb->>'n')
            and (convert_from(body, 'UTF8')::jsonb->>'n')::int % 10 in (1, 2, 3)";
        assert_eq!(count(&database, whole).await, 781);
        let copies = metric(&service, "tidegate_copy_rows_count").await;
        assert!(copies < 20, "{durability}: {copies} transactions");
        assert_eq!(metric(&service, "tidegate_probes_failed_total").await, 0);
        assert_eq!(metric(&service, "tidegate_dead_letters_total{reason=\"rejected\"}").await, 521);
        if durability == "disk" {
            assert_receipts_add_up(&database.connect().await).await;
        }
        verify(&database).await;
    }
}

#[tokio::test]
async fn a_row_that_a_trigger_drops_is_a_dead_letter_and_never_acknowledged_as_committed() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::create().await;
        execute(&database, OBEDIENT).await;
        let service = Service::start(database.url(), &[("DURABILITY", durability)]).await;
        let answer =
            service.request("POST", "/api/v1/events?ack=committed", &[], "{\"n\":1,\"do\":\"drop\"}").await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (422, "dropped_by_trigger"));
        let body = events(0..10, |n| if n % 2 == 0 { "drop" } else { "" });
        let answer = service.request("POST", "/api/v1/events/batch?ack=committed", &[NDJSON], body).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ack")), (202, ack(durability)));
        let dropped = |index: u32| json!({"index": index, "reason": "dropped_by_trigger"});
        let dead: Vec<Value> = [0, 2, 4, 6, 8].map(dropped).into();
        assert_eq!(answer.json()["dead_lettered"], json!(dead), "{durability}");
        service.settled().await;
        assert_eq!((count(&database, "requests").await, count(&database, "dead_letters").await), (5, 6));
        verify(&database).await;

        let redrive = async |body: Value| {
            service.request("POST", "/api/v1/dead-letters/redrive", &[], body.to_string()).await.json()
        };
        let reason = json!({"reason": "dropped_by_trigger"});
        assert_eq!(redrive(reason.clone()).await, json!({"redriven": 0, "refused": 6, "more": false}));
        assert_eq!(count(&database, "dead_letters where attempts > 1").await, 6);
        // From now on, one of them is rejected.
        execute(&database, "drop trigger obey on requests").await;
        execute(&database, "alter table requests add check (payload->>'n' <> '4')").await;
        assert_eq!(redrive(reason).await, json!({"redriven": 5, "refused": 1, "more": false}));
        let causes = causes(&database).await;
        assert_eq!((causes.len(), causes[0].0.as_str()), (1, "rejected"), "{causes:?}");
        verify(&database).await;
    }
}

fn ack(durability: &str) -> &'static str {
    if durability == "disk" { "journaled" } else { "queued" }
}

#[tokio::test]
async fn rows_that_fail_at_commit_are_isolated() {
    let database = TestDatabase::create().await;
    execute(
        &database,
        "create function late() returns trigger language plpgsql as $$ begin
            if new.payload ? 'evil' then raise exception 'too late'; end if;
            return null;
        end $$;
        create constraint trigger late after insert on requests deferrable initially deferred
            for each row execute function late();",
    )
    .await;
    let service = Service::start(database.url(), &[]).await;
    send(&service, events(0..3000, |n| if n % 3 == 0 { "evil" } else { "" })).await;
    let health = service.settled().await;
    assert_eq!((&health["committed"], &health["dead"]), (&json!(2000), &json!(1000)));
    assert_eq!(causes(&database).await, [("rejected".into(), "P0001 too late".into(), 1000)]);
    let copies = metric(&service, "tidegate_copy_rows_count").await;
    assert!(copies < 20, "{copies} transactions");
    assert_receipts_add_up(&database.connect().await).await;
}

#[tokio::test]
async fn each_check_that_a_row_violates_is_named_whatever_the_others_say() {
    let database = TestDatabase::create().await;
    // `numeric` cannot be evaluated over all rows at once, as some have no number; `own` needs a column that events lack.
    execute(
        &database,
        "alter table requests add column own integer default 1;
         alter table requests add constraint no_evil check (payload->>'evil' is null);
         alter table requests add constraint numeric check ((payload->>'sign')::integer > 0);
         alter table requests add constraint own check (own > 0 and payload->>'sign' is distinct from '7');
         alter table requests add constraint unvalidated check (payload->>'sign' is distinct from '8') not valid;",
    )
    .await;
    let service = Service::start(database.url(), &[]).await;
    let event = |n: u32| match n % 10 {
        1 => json!({"evil": 1}),
        2 => json!({"sign": "-1"}),
        3 => json!({"sign": "none"}),
        7 | 8 => json!({"sign": (n % 10).to_string()}),
        _ => json!({"n": n}),
    };
    let body: String = (0..2000).map(|n| format!("{}\n", event(n))).collect();
    send(&service, body).await;
    let health = service.settled().await;
    assert_eq!((&health["committed"], &health["dead"]), (&json!(1000), &json!(1000)));
    let mut found: Vec<(String, i64)> = Vec::new();
    for (_, error, rows) in causes(&database).await {
        let name = error.split('"').nth(3).unwrap_or(&error[..5]).to_owned();
        match found.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known += rows,
            None => found.push((name, rows)),
        }
    }
    found.sort();
    let expected = ["22P02", "no_evil", "numeric", "own", "unvalidated"].map(|name| (name.to_owned(), 200));
    assert_eq!(found, expected);
    assert_eq!(metric(&service, "tidegate_probes_failed_total").await, 0);
    assert_receipts_add_up(&database.connect().await).await;
}

#[tokio::test]
async fn a_row_that_a_trigger_corrects_is_stored_although_it_violated_a_check() {
    // A trigger of the table, and one of each partition alone.
    for tables in
        ["select 'requests'::regclass", "select relid from pg_partition_tree('requests') where isleaf"]
    {
        let database = TestDatabase::refusing_evil().await;
        let service = Service::start(database.url(), &[]).await;
        partitions_are_made(&service).await;
        execute(
            &database,
            &format!(
                "create function correct() returns trigger language plpgsql as $$ begin
                    if new.payload->>'n' <> '0' then new.payload := new.payload - 'evil'; end if;
                    return new;
                end $$;
                do $$ declare corrected regclass; begin
                    for corrected in {tables} loop
                        execute format(
                            'create trigger correct before insert on %s for each row execute function correct()',
                            corrected
                        );
                    end loop;
                end $$"
            ),
        )
        .await;
        send(&service, events(0..500, |n| if n % 5 == 0 { "evil" } else { "" })).await;
        let health = service.settled().await;
        assert_eq!((&health["committed"], &health["dead"]), (&json!(499), &json!(1)), "{tables}");
        assert_eq!(count(&database, "requests where payload ? 'evil'").await, 0, "{tables}");
    }
}

#[tokio::test]
async fn an_error_without_a_faulty_row_makes_no_dead_letter_among_bad_rows() {
    for wish in ["lock", "deadlock", "cancel"] {
        let database = TestDatabase::refusing_evil().await;
        execute(&database, OBEDIENT).await;
        let service = Service::start(database.url(), &[]).await;
        send(
            &service,
            events(0..200, |n| {
                if n == 150 {
                    wish
                } else if n % 4 == 1 {
                    "evil"
                } else {
                    ""
                }
            }),
        )
        .await;
        eventually("it is waited out", async || {
            let health = service.health().await;
            (health["writer"]["state"] == "retrying" && health["dead"].as_u64() > Some(0)).then_some(())
        })
        .await;
        assert_eq!(count(&database, "dead_letters where error not like '23514%'").await, 0, "{wish}");
        // It may be the victim of a deadlock with a COPY.
        eventually("the trigger is gone", async || {
            database.connect().await.batch_execute("drop trigger obey on requests").await.ok()
        })
        .await;
        let health = service.settled().await;
        assert_eq!((&health["committed"], &health["dead"]), (&json!(150), &json!(50)), "{wish}");
        assert_eq!(count(&database, &format!("requests where payload->>'do' = '{wish}'")).await, 1);
        assert_receipts_add_up(&database.connect().await).await;
    }
}

#[tokio::test]
async fn rows_that_are_only_rejected_together_are_stored_separately() {
    let database = TestDatabase::create().await;
    // A rule applies to an insert and not to a COPY, so a probe could not tell.
    execute(
        &database,
        "create function few() returns trigger language plpgsql as $$ begin
            if (select count(*) from new_rows) > 70 then raise exception 'too many'; end if;
            return null;
        end $$;
        create trigger few after insert on requests referencing new table as new_rows
            for each statement execute function few();",
    )
    .await;
    let service = Service::start(database.url(), &[]).await;
    send(&service, events(0..500, |_| "")).await;
    let health = service.settled().await;
    assert_eq!((&health["committed"], &health["dead"]), (&json!(500), &json!(0)));
    execute(
        &database,
        "drop trigger few on requests; create rule nothing as on insert to requests do instead nothing",
    )
    .await;
    // By a trigger: a CHECK is found without an insert, and so without the rule.
    execute(&database, OBEDIENT).await;
    send(&service, events(0..100, |n| if n == 7 { "raise" } else { "" })).await;
    let health = service.settled().await;
    assert_eq!((&health["committed"], &health["dead"]), (&json!(599), &json!(1)));
    assert!(metric(&service, "tidegate_probes_failed_total").await > 0);
}

#[tokio::test]
async fn bad_rows_are_isolated_without_the_privilege_to_create_temporary_tables() {
    let database = TestDatabase::refusing_evil().await;
    let (role, name) = (format!("role_{}", database.name()), database.name());
    execute(
        &database,
        &format!(
            "create role {role} login password 'pass';
             revoke temporary on database {name} from public;
             grant usage on schema public to {role};
             grant select, insert, update, delete on all tables in schema public to {role};"
        ),
    )
    .await;
    let (_, host) = database.url().split_once('@').unwrap();
    let service = Service::start(&format!("postgres://{role}:pass@{host}"), &[]).await;
    send(&service, events(0..100, |n| if n % 20 == 7 { "evil" } else { "" })).await;
    let health = service.settled().await;
    assert_eq!((&health["committed"], &health["dead"]), (&json!(95), &json!(5)));
    assert!(service.logged("found by bisection").is_some(), "{}", service.log());
    assert!(service.stop().await.status.success());
    execute(&database, &format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn many_dead_letters_are_redriven_in_a_few_transactions() {
    let database = TestDatabase::refusing_evil().await;
    let service = Service::start(database.url(), &[]).await;
    send(&service, events(0..7000, |_| "evil")).await;
    service.settled().await;
    assert_eq!(count(&database, "dead_letters").await, 7000);
    execute(
        &database,
        "alter table requests drop constraint no_evil;
         alter table requests add constraint not_all check ((payload->>'n')::int % 10 <> 3);",
    )
    .await;
    let client = database.connect().await;
    let transactions = async || -> i64 {
        let all =
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
        client.query_one(all, &[]).await.unwrap().get(0)
    };
    let before = transactions().await;
    let (status, stdout, stderr) = run(&["redrive", "--all"], &[("DATABASE_URL", database.url())]).await;
    assert_eq!(stdout, "6300 stored, 700 rejected again\n", "{stderr}");
    assert!(!status.success());
    let used = transactions().await - before;
    assert!(used < 200, "{used} transactions");
    assert_eq!((count(&database, "requests").await, count(&database, "dead_letters").await), (6300, 700));
    assert_eq!(count(&database, "dead_letters where attempts >= 2 and error like '%not_all%'").await, 700);
    assert_receipts_add_up(&client).await;
    verify(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_bad_rows_survive_kill_9_and_crashes_of_postgres_exactly_once() {
    // Commits that did not wait for the disk are certainly lost, unless a checkpoint followed them.
    let settings = [("wal_writer_delay", "10s"), ("wal_writer_flush_after", "1GB")];
    let mut server = PrivateServer::start(&settings).await;
    let url = server.url().to_owned();
    let folder = Folder::new();
    let settings = [("DATABASE_URL", url.as_str()), ("DATA_DIR", folder.path()), ("BATCH_SIZE", "100")];
    let mut service = Service::start_with(&settings).await;
    let check = "alter table requests add constraint no_evil check (payload->>'evil' is null)";
    connect(&url).await.batch_execute(check).await.unwrap();
    let load = Load::start(&service.address, 4, 2);
    for round in 0..4 {
        load.progresses(500 + fastrand::u64(0..800)).await;
        if round % 2 == 0 {
            service.signal(Signal::SIGKILL);
            service.ended().await;
            service = Service::start_with(&settings).await;
            load.turn_to(&service.address);
        } else {
            server.stop_immediate().await;
            load.progresses(100).await;
            server.start_again().await;
            assert_eq!(server.url(), url);
        }
    }
    let sent = load.stop().await;
    let health = service.fenced().await;
    assert_eq!((&health["journal"]["lost_by_postgres"], &health["status"]), (&json!(0), &json!("ok")));
    let client = connect(&url).await;
    assert_exactly_once(&client, &sent).await;
    let evil = "select count(*) from dead_letters where convert_from(body, 'UTF8') not like '{\"evil\"%'";
    assert_eq!(client.query_one(evil, &[]).await.unwrap().get::<_, i64>(0), 0);
    let dead: i64 = client.query_one("select count(*) from dead_letters", &[]).await.unwrap().get(0);
    assert!(dead > 0);
}
