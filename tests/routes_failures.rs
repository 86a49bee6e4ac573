//! Routes under what databases do to them: slow functions, missing rights, contention, imports, targets that change; and their recount.

use serde_json::{Value, json};

use crate::routes::{SELECT, SIGNUPS, count, is_live, refused, routes, send, state};
use crate::support::imports;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, run};

/// Fails as a statement does that Postgres cancels, for events that say so.
const CANCELLED: &str = "create schema app; create table app.slow (n int primary key check (n <> 3));
    create function app.wait(slow text) returns int language plpgsql as $$ begin
        if slow = 'yes' then raise exception 'cancelled' using errcode = '57014'; end if;
        return 0;
    end $$;";
const SLOW: &str = "select (payload->>'n')::int + app.wait(payload->>'slow') as n from batch";

#[tokio::test]
async fn a_function_that_goes_on_when_it_is_cancelled_suspends_its_route() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::create().await;
        let client = database.connect().await;
        client
            .batch_execute(
                "create schema app; create table app.ids (id uuid); create table app.more (n int);
                 create function app.stubborn() returns int language plpgsql as $$ begin
                     perform pg_sleep(30);
                     return 1;
                 exception when query_canceled then
                     perform pg_sleep(30);
                     return 2;
                 end $$;",
            )
            .await
            .unwrap();
        let ids = "select id from batch";
        routes(&database, &["add", "fine", "--into", "app.ids", "--sql", ids]).await;
        let stubborn = "select app.stubborn() as n from batch where payload ? 'slow'";
        routes(&database, &["add", "stubborn", "--into", "app.more", "--sql", stubborn]).await;
        routes(&database, &["add", "more", "--into", "app.ids", "--sql", ids]).await;
        let variables = [("DURABILITY", durability), ("STATEMENT_TIMEOUT_MS", "300")];
        let service = Service::start(database.url(), &variables).await;
        send(&service, "{}\n{\"slow\":1}\n{}\n").await;
        service.settled().await;
        assert_eq!(count(&client, "requests").await, 3, "{durability}");
        let suspended = state(&client, "stubborn").await;
        assert_eq!(suspended, ("suspended".to_owned(), 3), "{durability}: {}", service.log());
        is_live(&client, "fine").await;
        is_live(&client, "more").await;
        assert_eq!(count(&client, "app.ids").await, 6, "{durability}");
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid() and query ~ 'tidegate_route_|copy'";
        client.batch_execute(end).await.unwrap();
    }
}

#[tokio::test]
async fn a_redrive_refuses_events_that_take_too_long_and_takes_the_others() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(CANCELLED).await.unwrap();
    routes(&database, &["add", "slow", "--into", "app.slow", "--sql", SLOW]).await;
    let service = Service::start(database.url(), &[]).await;
    client.batch_execute("alter table app.slow add constraint none check (n < 0)").await.unwrap();
    let body: String = (10..30)
        .map(|n| format!("{{\"n\":{n},\"later\":\"{}\"}}\n", if n == 17 { "yes" } else { "no" }))
        .collect();
    send(&service, body).await;
    service.settled().await;
    assert_eq!(refused(&client).await, [("23514".to_owned(), 20)]);
    let other = SLOW.replace("'slow'", "'later'");
    routes(&database, &["add", "slow", "--replace", "--into", "app.slow", "--sql", &other]).await;
    client.batch_execute("alter table app.slow drop constraint none").await.unwrap();
    let url = [("DATABASE_URL", database.url())];
    let (status, stdout, stderr) = run(&["redrive", "--route", "slow"], &url).await;
    assert_eq!((status.code(), stdout.as_str()), (Some(1), "19 routed, 1 refused again\n"), "{stderr}");
    assert!(stderr.contains("/api/v1/dead-letters?reason=route&route=slow has the reasons"), "{stderr}");
    assert_eq!(refused(&client).await, [("57014".to_owned(), 1)]);
    assert_eq!(
        (count(&client, "app.slow").await, count(&client, "route_errors where attempts = 2").await),
        (19, 1)
    );
    // By SQLSTATE, and by id.
    let (status, stdout, _) = run(&["redrive", "--route", "slow", "--sqlstate", "22P02"], &url).await;
    assert_eq!((status.code(), stdout.as_str()), (Some(0), "0 routed, 0 refused again\n"));
    client
        .batch_execute("create or replace function app.wait(text) returns int language sql as 'select 0'")
        .await
        .unwrap_err();
    client
        .batch_execute(
            "drop function app.wait; create function app.wait(text) returns int language sql as 'select 0'",
        )
        .await
        .unwrap();
    let id: String = client.query_one("select event_id::text from route_errors", &[]).await.unwrap().get(0);
    let (status, stdout, _) = run(&["redrive", "--route", "slow", "--id", &id], &url).await;
    assert_eq!((status.code(), stdout.as_str()), (Some(0), "1 routed, 0 refused again\n"));
    for wrong in [
        &["--sqlstate", "22P02"][..],
        &["--route", "slow", "--all"],
        &["--route", "slow", "--reason", "rejected"],
    ] {
        let arguments: Vec<&str> = ["redrive"].iter().chain(wrong).copied().collect();
        assert_eq!(run(&arguments, &url).await.0.code(), Some(2), "{wrong:?}");
    }
    let (status, _, stderr) = run(&["redrive", "--route", "none"], &url).await;
    assert_eq!((status.code(), stderr.as_str()), (Some(1), "tidegate: there is no route none\n"));
}

#[tokio::test]
async fn a_redrive_of_dead_letters_suspends_the_route_that_takes_too_long() {
    let database = TestDatabase::refusing_evil().await;
    let client = database.connect().await;
    client.batch_execute(CANCELLED).await.unwrap();
    let service = Service::start(database.url(), &[]).await;
    send(&service, "{\"evil\":1,\"n\":1,\"slow\":\"yes\"}\n{\"evil\":1,\"n\":2}\n").await;
    service.settled().await;
    assert_eq!(count(&client, "dead_letters").await, 2);
    client.batch_execute("alter table requests drop constraint no_evil").await.unwrap();
    routes(&database, &["add", "slow", "--into", "app.slow", "--sql", SLOW]).await;
    let (status, stdout, stderr) = run(&["redrive", "--all"], &[("DATABASE_URL", database.url())]).await;
    assert_eq!((status.code(), stdout.as_str()), (Some(0), "2 stored, 0 rejected again\n"), "{stderr}");
    assert_eq!(count(&client, "requests").await, 2);
    // The task finds the slow event, and refuses it.
    is_live(&client, "slow").await;
    assert_eq!(
        (count(&client, "app.slow").await, refused(&client).await),
        (1, vec![("57014".to_owned(), 1)])
    );
}

/// A service's role that is no superuser, and a URL for it.
async fn plain_role(database: &TestDatabase) -> (String, String) {
    let name = format!("service_{}", uuid::Uuid::new_v4().simple());
    let make = format!(
        "create role {name} login password 'pass'; grant create on database {} to {name}; alter schema public owner to {name}",
        database.name()
    );
    database.connect().await.batch_execute(&make).await.unwrap();
    let config: tokio_postgres::Config = database.url().parse().unwrap();
    (name.clone(), format!("postgres://{name}:pass@127.0.0.1:{}/{}", config.get_ports()[0], database.name()))
}

#[tokio::test]
async fn the_statements_that_a_role_without_rights_gets_are_all_that_is_missing() {
    let database = TestDatabase::create_empty().await;
    let (service_role, url) = plain_role(&database).await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    client.batch_execute("create table app.lines (line bigserial primary key, plan text)").await.unwrap();
    // A role of its own, as roles belong to the whole server: another test may have made the default one.
    let role = service_role.replace("service_", "routes_");
    let url = [("DATABASE_URL", url.as_str())];
    let add = ["routes", "add", "signups", "--into", "app.signups", "--role", &role, "--sql", SELECT];
    let (status, _, stderr) = run(&add, &url).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    let (_, statements) = stderr.split_once("an administrator runs:\n").unwrap();
    let first = format!("grant usage on schema app to {service_role};\ncreate role {role} nologin;\n");
    assert!(statements.starts_with(&first), "{stderr}");
    assert_eq!(count(&client, "event_routes").await, 0);
    client.batch_execute(statements).await.unwrap();
    let (status, stdout, stderr) = run(&add, &url).await;
    assert!(status.success(), "{stdout}{stderr}");
    // A table with a sequence, for the role that exists.
    let lines = "select payload->>'plan' as plan from batch where payload ? 'plan'";
    let add =
        ["routes", "add", "lines", "--into", "app.lines", "--role", &role, "--sql", lines, "--backfill"];
    let (status, _, stderr) = run(&add, &url).await;
    let (_, statements) = stderr.split_once("an administrator runs:\n").unwrap();
    assert!(status.code() == Some(1) && !statements.contains("create role"), "{stderr}");
    client.batch_execute(statements).await.unwrap();
    let (status, stdout, stderr) = run(&add, &url).await;
    assert!(status.success(), "{stdout}{stderr}");
    let service = Service::start(url[0].1, &[]).await;
    send(
        &service,
        "{\"event\":\"signup\",\"userId\":7,\"plan\":\"a\"}\n{\"event\":\"signup\",\"userId\":\"x\"}\n",
    )
    .await;
    service.settled().await;
    assert_eq!((count(&client, "app.signups").await, count(&client, "app.lines").await), (1, 1));
    assert_eq!(refused(&client).await, [("22P02".to_owned(), 1)]);
    // Suggestions and checks run as such a service, too.
    let check = ["routes", "check", "--into", "app.signups", "--role", &role, "--sql", SELECT];
    let (status, stdout, stderr) = run(&check, &url).await;
    assert!(status.success() && stdout.contains("2 events: 0 rows, 2 refused"), "{stdout}{stderr}");
    let (status, stdout, stderr) = run(&["verify"], &url).await;
    assert!(
        status.success() && stdout.contains("route signups: 1 rows, 1 refused, 0 deferred"),
        "{stdout}{stderr}"
    );
    assert!(service.stop().await.status.success());
    // A role that may only use the tables makes no route.
    let user = service_role.replace("service_", "user_");
    client
        .batch_execute(&format!(
            "create role {user} login password 'pass'; grant {role} to {user}; grant usage, create on schema public to {user};
             grant select, insert, update, delete on all tables in schema public to {user}"
        ))
        .await
        .unwrap();
    let user_url = url[0].1.replace(&service_role, &user);
    let add = ["routes", "add", "more", "--into", "app.signups", "--role", &role, "--sql", SELECT];
    let (status, _, stderr) = run(&add, &[("DATABASE_URL", &user_url)]).await;
    assert!(status.code() == Some(1) && stderr.contains("are made by the owner of requests"), "{stderr}");
    drop(client);
    let admin = database.connect().await;
    let drop_roles = format!(
        "drop owned by {role}, {user}, {service_role} cascade; drop role {role}, {user}, {service_role}"
    );
    admin.batch_execute(&drop_roles).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_serial_routes_into_one_table_never_block_each_other() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute("create schema app; create table app.sums (k int primary key, n bigint not null)")
        .await
        .unwrap();
    let update = "do update set n = sums.n + excluded.n";
    // Each event is two rows, by routes that meet the keys in opposite orders.
    for (name, k) in [("left", "n"), ("right", "1 - n")] {
        let sql = format!(
            "select k, count(*) as n from (select (payload->>'n')::int as n, pg_sleep(0.002) from batch) e, lateral (select {k} as k) l group by k"
        );
        let add = [
            "add",
            name,
            "--into",
            "app.sums",
            "--serial",
            "--key",
            "k",
            "--on-conflict",
            update,
            "--sql",
            &sql,
        ];
        routes(&database, &add).await;
    }
    let service =
        Service::start(database.url(), &[("WRITERS", "4"), ("BATCH_SIZE", "1"), ("FLUSH_INTERVAL_MS", "1")])
            .await;
    let body: String = (0..400).map(|n| format!("{{\"n\":{}}}\n", n % 2)).collect();
    send(&service, body).await;
    service.settled().await;
    let suspended = count(&client, "event_routes where state <> 'live' or suspended_at is not null").await;
    assert_eq!(suspended, 0, "{}", routes(&database, &["stats"]).await);
    let row = client.query_one("select sum(n)::bigint, count(*) from app.sums", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (800, 2));
}

#[tokio::test]
async fn imports_pass_routes_and_are_caught_up_after_a_suspension() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    imports::small_parts(&client, 4096).await;
    client.batch_execute(SIGNUPS).await.unwrap();
    routes(&database, &["add", "signups", "--into", "app.signups", "--sql", SELECT, "--key", "user_id"])
        .await;
    let service = Service::start(database.url(), &[]).await;
    let lines = |from: i32| -> String {
        let line = |n: i32| match n % 100 {
            50 => "{\"event\":\"signup\",\"userId\":\"x\"}\n".to_owned(),
            _ => format!("{}\n", json!({"event": "signup", "userId": n, "plan": "imported"})),
        };
        (from..from + 500).map(line).collect()
    };
    let import = imports::process(&service, "?kind=event", "", &lines(1000)).await;
    assert_eq!(imports::figures(&imports::ended(&service, "", &import).await), (500, 500, 0));
    assert_eq!((count(&client, "requests").await, count(&client, "app.signups").await), (500, 495));
    assert_eq!(refused(&client).await, [("22P02".to_owned(), 5)]);
    // A target that fails as a whole delays no import.
    client.batch_execute("alter table app.signups rename column plan to tariff").await.unwrap();
    let import = imports::process(&service, "?kind=event", "", &lines(2000)).await;
    assert_eq!(imports::figures(&imports::ended(&service, "", &import).await), (500, 500, 0));
    assert_eq!(state(&client, "signups").await, ("suspended".to_owned(), 500));
    let stats = routes(&database, &["stats", "signups"]).await;
    assert!(stats.contains(": 42703 column \"plan\" of relation \"signups\" does not exist"), "{stats}");
    client.batch_execute("alter table app.signups rename column tariff to plan").await.unwrap();
    is_live(&client, "signups").await;
    assert_eq!(count(&client, "app.signups").await, 990);
    assert_eq!(refused(&client).await, [("22P02".to_owned(), 10)]);
}

#[tokio::test]
async fn a_target_that_is_dropped_and_made_again_gets_its_deferred_events() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute("create schema app; create table app.ids (id uuid primary key)").await.unwrap();
    routes(&database, &["add", "ids", "--into", "app.ids", "--sql", "select id from batch"]).await;
    let service = Service::start(database.url(), &[]).await;
    let steps = [
        (
            "drop table app.ids",
            "create table app.ids (id uuid primary key); grant select, insert, update on app.ids to tidegate_routes",
        ),
        (
            "revoke all on app.ids from tidegate_routes",
            "grant select, insert, update on app.ids to tidegate_routes",
        ),
        ("alter schema app rename to gone", "alter schema gone rename to app"),
        ("alter table app.ids rename to other", "alter table app.other rename to ids"),
    ];
    for (number, (breaks, mends)) in (1_i64..).zip(steps) {
        client.batch_execute(breaks).await.unwrap();
        send(&service, "{}\n{}\n").await;
        service.settled().await;
        assert_eq!(state(&client, "ids").await, ("suspended".to_owned(), 2), "{breaks}");
        client.batch_execute(mends).await.unwrap();
        is_live(&client, "ids").await;
        send(&service, "{}\n").await;
        service.settled().await;
        assert_eq!(count(&client, "app.ids").await, 3 * number, "{mends}");
    }
    assert_eq!(count(&client, "route_errors").await, 0);
}

#[tokio::test]
async fn probes_for_bad_rows_run_strict_routes_alone() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create schema app; create table app.calls (n bigint, bad text check (bad is null));
             create sequence app.lax; create sequence app.strict; grant usage on sequence app.lax, app.strict to public",
        )
        .await
        .unwrap();
    // The strict one comes first, so that the other sees no batch that fails.
    let strict = "select nextval('app.strict') as n, payload->>'bad' as bad from batch";
    routes(&database, &["add", "strict", "--into", "app.calls", "--strict", "--sql", strict]).await;
    let lax = "select nextval('app.lax') as n from batch";
    routes(&database, &["add", "lax", "--into", "app.calls", "--sql", lax]).await;
    let service = Service::start(database.url(), &[]).await;
    let body: String =
        (0..300).map(|n| format!("{{\"{}\":{n}}}\n", if n % 10 == 3 { "bad" } else { "n" })).collect();
    send(&service, body).await;
    let health = service.settled().await;
    assert_eq!((&health["committed"], &health["dead"]), (&json!(270), &json!(30)));
    // A sequence is not rolled back, so it counts what ran.
    let calls = async |name: &str| -> i64 {
        client.query_one(&format!("select last_value from app.{name}"), &[]).await.unwrap().get(0)
    };
    assert_eq!(calls("lax").await, 270);
    assert!(calls("strict").await > 300 + 270);
}

async fn verified(database: &TestDatabase) -> (bool, Value) {
    let (status, stdout, stderr) = run(&["verify", "--json"], &[("DATABASE_URL", database.url())]).await;
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    (status.success(), report["routes"].clone())
}

#[tokio::test]
async fn verify_compares_targets_with_events_refusals_and_deferred_ranges() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create schema app; create table app.typed (source uuid, n int); create table app.keyed (k int primary key, event_id uuid);
             create table app.parts (event_id uuid, part int); create table app.one (id uuid); create table app.sums (n bigint)",
        )
        .await
        .unwrap();
    let service = Service::start(database.url(), &[]).await;
    send(&service, "{\"n\":7}\n").await;
    service.settled().await;
    let typed =
        "select (payload->>'n')::int as n, batch.id as source from batch cross join (select 1) as one";
    let keyed = "with events as (select id, payload from batch)
        select (payload->>'n')::int % 10 as k, id as event_id from events where payload->>'n' <> 'x'";
    let parts = "select id as event_id, part from batch, generate_series(1, 3) as part";
    for (name, into, sql, key) in [
        ("typed", "app.typed", typed, ""),
        ("keyed", "app.keyed", keyed, "k"),
        ("parts", "app.parts", parts, ""),
        ("first", "app.one", "select id from batch", ""),
        ("second", "app.one", "select id from batch", ""),
        ("sums", "app.sums", "select count(*) as n from batch", ""),
    ] {
        let mut add = vec!["add", name, "--into", into, "--sql", sql];
        add.extend(if key.is_empty() { vec![] } else { vec!["--key", key] });
        routes(&database, &add).await;
    }
    let body: String = (0..100)
        .map(|n| format!("{{\"n\":{}}}\n", if n % 20 == 3 { "\"x\"".to_owned() } else { n.to_string() }))
        .collect();
    send(&service, body).await;
    service.settled().await;
    // Deferred events of one route.
    client.batch_execute("alter table app.typed rename to away").await.unwrap();
    send(&service, "{\"n\":1}\n{\"n\":2}\n").await;
    service.settled().await;
    assert!(service.stop().await.status.success());
    client.batch_execute("alter table app.away rename to typed").await.unwrap();
    let (agrees, books) = verified(&database).await;
    assert!(agrees, "{books}");
    let of = |books: &Value, name: &str| {
        books.as_array().unwrap().iter().find(|route| route["name"] == name).unwrap().clone()
    };
    let route = of(&books, "typed");
    assert_eq!(
        (&route["rows"], &route["refused"], &route["deferred"]),
        (&json!(95), &json!(5), &json!(2)),
        "{route}"
    );
    let target = json!({"column": "source", "rows": 95, "doubled": 0, "repeated": 0, "without_event": 0, "not_routed": 1});
    assert_eq!(route["target"], target);
    let target = json!({"column": "event_id", "rows": 10, "doubled": 0, "repeated": 0, "without_event": 0, "not_routed": null});
    assert_eq!(of(&books, "keyed")["target"], target);
    assert_eq!(of(&books, "parts")["target"]["rows"], 306);
    for name in ["first", "second", "sums"] {
        assert_eq!(of(&books, name)["target"], Value::Null, "{name}");
    }
    // Rows twice, rows of refused and of deferred events, rows without an event, and rows that are gone.
    client
        .batch_execute(
            "insert into app.typed select source, n from app.typed where n between 10 and 13;
             insert into app.typed select event_id, 0 from route_errors limit 2;
             insert into app.typed select id, 0 from requests where payload->>'n' = '2' order by id desc limit 1;
             insert into app.typed values (gen_random_uuid(), 0);
             delete from app.typed where n = 50;
             insert into app.parts select event_id, part from app.parts where part = 2 order by event_id limit 1",
        )
        .await
        .unwrap();
    let (agrees, books) = verified(&database).await;
    assert!(!agrees);
    let target = json!({"column": "source", "rows": 102, "doubled": 3, "repeated": 4, "without_event": 1, "not_routed": 2});
    assert_eq!(of(&books, "typed")["target"], target);
    assert_eq!(of(&books, "parts")["target"]["repeated"], 1);
    let (status, stdout, _) = run(&["verify"], &[("DATABASE_URL", database.url())]).await;
    assert_eq!(status.code(), Some(1));
    for line in [
        "route typed: 95 rows, 5 refused, 2 deferred\n",
        "  DIFFERENCE: 3 of 102 rows of the table belong to events that are refused or deferred, by its column source\n",
        "  DIFFERENCE: 4 of 102 rows of the table are more than the select makes of their events, by its column source\n",
        "  1 rows of the table belong to no event that the select takes now\n",
        "  2 events that the select takes have no row: ",
        "  its table is not compared: ",
    ] {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
    let left = "pg_proc where proname = 'tidegate_route_verify'";
    assert_eq!(count(&client, left).await, 0);
}
