//! Routes: events land in tables of users, in the transaction that stores them.

use serde_json::json;
use tokio_postgres::Client;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually, run};

pub(crate) const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// Runs `tidegate routes …` on the database; returns its output.
pub(crate) async fn routes(database: &TestDatabase, arguments: &[&str]) -> String {
    let (status, stdout, stderr) = routes_ended(database, arguments).await;
    assert_eq!(status, Some(0), "{arguments:?}: {stdout}{stderr}");
    stdout
}

/// As [`routes`], with its exit code and errors.
pub(crate) async fn routes_ended(
    database: &TestDatabase,
    arguments: &[&str],
) -> (Option<i32>, String, String) {
    let arguments: Vec<&str> = ["routes"].iter().chain(arguments).copied().collect();
    let (status, stdout, stderr) = run(&arguments, &[("DATABASE_URL", database.url())]).await;
    (status.code(), stdout, stderr)
}

pub(crate) async fn count(client: &Client, which: &str) -> i64 {
    client.query_one(&format!("select count(*) from {which}"), &[]).await.unwrap().get(0)
}

pub(crate) async fn send(service: &Service, body: impl Into<bytes::Bytes>) {
    assert_eq!(service.post_batch(&[NDJSON], body).await.status.as_u16(), 202);
}

/// The errors of routes: SQLSTATE and number, by SQLSTATE.
pub(crate) async fn refused(client: &Client) -> Vec<(String, i64)> {
    let refused = "select sqlstate, count(*) from route_errors group by 1 order by 1";
    client.query(refused, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

pub(crate) const SIGNUPS: &str = "create schema app; create table app.signups (
        user_id bigint primary key check (user_id <> 13), plan text, seen_at timestamptz not null default now());";
pub(crate) const SELECT: &str = "select (payload->>'userId')::bigint as user_id, payload->>'plan' as plan from batch where payload->>'event' = 'signup'";

#[tokio::test]
async fn events_land_typed_and_the_newest_of_a_key_wins() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    routes(&database, &["add", "signups", "--into", "app.signups", "--sql", SELECT, "--key", "user_id"])
        .await;
    for durability in ["disk", "memory"] {
        let service = Service::start(database.url(), &[("DURABILITY", durability)]).await;
        let mut body = String::new();
        for n in 0..500 {
            body += &format!(
                "{}\n",
                json!({"event": "signup", "userId": n % 100 + 100, "plan": format!("p{n}")})
            );
            body += "{\"event\":\"other\",\"userId\":\"x\"}\n";
        }
        send(&service, body).await;
        service.settled().await;
        assert_eq!(count(&client, "app.signups").await, 100);
        assert_eq!(
            count(&client, "app.signups where plan = 'p' || (user_id + 300)").await,
            100,
            "{durability}"
        );
        assert!(service.stop().await.status.success());
        client.batch_execute("update app.signups set plan = null").await.unwrap();
    }
    assert_eq!(count(&client, "requests").await, 2000);
    let stats = routes(&database, &["stats", "signups"]).await;
    assert!(
        stats.starts_with("signups  live  into app.signups  200 rows  0 errors  0 deferred\n"),
        "{stats}"
    );
}

#[tokio::test]
async fn a_bad_row_costs_its_neighbours_nothing() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    client
        .batch_execute(
            "create table app.plans (name text primary key);
             insert into app.plans values ('free');
             alter table app.signups add constraint known foreign key (plan) references app.plans deferrable initially deferred;
             grant select on app.plans to public;",
        )
        .await
        .unwrap();
    routes(&database, &["add", "signups", "--into", "app.signups", "--sql", SELECT]).await;
    let service = Service::start(database.url(), &[]).await;
    let mut body = String::new();
    for n in 0..1000 {
        // Not a number, a check, a foreign key that is checked at commit, a doubled key.
        let (user, plan) = match n {
            20 | 700 => (json!("x"), "free"),
            21 => (json!(13), "free"),
            22 | 23 => (json!(n + 100), "none"),
            500 => (json!(599), "free"),
            _ => (json!(n + 100), "free"),
        };
        body += &format!("{}\n", json!({"event": "signup", "userId": user, "plan": plan}));
    }
    send(&service, body).await;
    let health = service.settled().await;
    assert_eq!((&health["committed"], &health["dead"]), (&json!(1000), &json!(0)));
    assert_eq!(count(&client, "app.signups").await, 994);
    let expected =
        [("22P02", 2), ("23503", 2), ("23505", 1), ("23514", 1)].map(|(state, n)| (state.to_owned(), n));
    assert_eq!(refused(&client).await, expected);
    assert_eq!(count(&client, "requests join route_errors on event_id = requests.id").await, 6);
}

#[tokio::test]
async fn a_target_that_fails_as_a_whole_suspends_its_route_and_no_ingest() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    client.batch_execute("create table app.other (id uuid)").await.unwrap();
    routes(&database, &["add", "signups", "--into", "app.signups", "--sql", SELECT]).await;
    routes(&database, &["add", "all", "--into", "app.other", "--sql", "select id from batch"]).await;
    client.batch_execute("drop table app.signups").await.unwrap();
    let service = Service::start(database.url(), &[]).await;
    for n in 0..3 {
        send(&service, format!("{}\n", json!({"event": "signup", "userId": n})).repeat(10)).await;
        service.settled().await;
    }
    assert_eq!((count(&client, "requests").await, count(&client, "app.other").await), (30, 30));
    let listed = routes(&database, &["list"]).await;
    assert!(
        listed.contains("signups  suspended  into app.signups  0 rows  0 errors  30 deferred"),
        "{listed}"
    );
    let stats = routes(&database, &["stats", "signups"]).await;
    assert!(stats.contains("42P01 relation \"app.signups\" does not exist"), "{stats}");
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn a_strict_route_refuses_the_event_itself() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::create().await;
        let client = database.connect().await;
        client.batch_execute(SIGNUPS).await.unwrap();
        client.batch_execute("create table app.all (user_id bigint)").await.unwrap();
        routes(&database, &["add", "strict", "--into", "app.signups", "--strict", "--sql", SELECT]).await;
        let lax =
            "select (payload->>'userId')::bigint as user_id from batch where payload->>'plan' is not null";
        routes(&database, &["add", "lax", "--into", "app.all", "--sql", lax]).await;
        let service = Service::start(database.url(), &[("DURABILITY", durability)]).await;
        let body: String = (0..300)
            .map(|n| match n % 10 {
                3 => "{\"event\":\"signup\",\"userId\":\"x\"}\n".to_owned(),
                4 => "{\"event\":\"lax\",\"userId\":\"x\",\"plan\":1}\n".to_owned(),
                _ => format!("{}\n", json!({"event": "signup", "userId": n + 100, "plan": "a"})),
            })
            .collect();
        send(&service, body).await;
        let health = service.settled().await;
        assert_eq!((&health["committed"], &health["dead"]), (&json!(270), &json!(30)), "{durability}");
        assert_eq!(count(&client, "app.signups").await, 240);
        assert_eq!(count(&client, "app.all").await, 240);
        assert_eq!(count(&client, "dead_letters where error like '22P02 %'").await, 30);
        assert_eq!(refused(&client).await, [("22P02".to_owned(), 30)]);
    }
}

#[tokio::test]
async fn a_route_runs_as_a_role_that_reaches_its_target_alone() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    client
        .batch_execute(
            "create table app.who (name text, outer_name text); create table app.secret (a int); insert into app.secret values (1);
             create function app.escape() returns text language plpgsql as $$ begin
                 perform set_config('search_path', 'app, pg_catalog', false);
                 perform set_config('role', 'none', false);
                 return 'escaped';
             exception when others then return sqlstate; end $$;
             grant execute on function app.escape() to public",
        )
        .await
        .unwrap();
    let sql = "select current_user::text as name, app.escape() as outer_name from batch";
    routes(&database, &["add", "who", "--into", "app.who", "--sql", sql]).await;
    let sql = "select (select a from app.secret)::text as name from batch";
    routes(&database, &["add", "thief", "--into", "app.who", "--sql", sql]).await;
    let service = Service::start(database.url(), &[]).await;
    send(&service, "{}\n").await;
    service.settled().await;
    let row = client.query_one("select name, outer_name from app.who", &[]).await.unwrap();
    // A definer function refuses to set the role.
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("tidegate_routes", "42501"));
    let listed = routes(&database, &["stats", "thief"]).await;
    assert!(listed.contains("42501 permission denied for table secret"), "{listed}");
    let own = client.query_one("select current_user::text", &[]).await.unwrap();
    for role in [own.get::<_, &str>(0), "pg_write_server_files", "pg_read_server_files"] {
        let add = ["add", "x", "--into", "app.who", "--sql", "select '' as name", "--role", role];
        let (code, _, stderr) = routes_ended(&database, &add).await;
        assert_eq!(code, Some(2), "{role}: {stderr}");
    }
}

#[tokio::test]
async fn wrong_definitions_are_refused_with_the_part_that_is_wrong() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    client
        .batch_execute(
            "create view app.v as select 1 as a; create table app.parts (a int generated always as (1) stored, b int);
             create table public.plain (a int);",
        )
        .await
        .unwrap();
    let cases: [(&str, &str, &[&str], &str); 22] = [
        ("app.none", "select 1 as a", &[], "--into: there is no table app.none"),
        ("signups", "select 1 as a", &[], "--into: there is no table signups"),
        ("app.v", "select 1 as a", &[], "--into: app.v is a view"),
        ("public.requests", "select id from batch", &[], "is a table of the service"),
        ("public.event_routes", "select 1 as id", &[], "is a table of the service"),
        ("pg_catalog.pg_class", "select 1 as oid", &[], "is a table of Postgres"),
        ("app.signups", "", &[], "--sql: a route needs a select"),
        ("app.signups", "selec 1", &[], "--sql: 42601"),
        ("app.signups", "select 1 as user_id; drop table app.signups", &[], "--sql: 42601"),
        ("app.signups", "select 1 as user_id); drop table app.signups; select (1", &[], "--sql: 42601"),
        ("app.signups", "delete from app.signups returning user_id", &[], "--sql: 42601"),
        (
            "app.signups",
            "with x as (delete from app.signups returning user_id) select * from x",
            &[],
            "--sql: 0A000",
        ),
        ("app.signups", "select user_id into app.stolen from app.signups", &[], "--sql: 0A000"),
        ("app.signups", "select $1::bigint as user_id", &[], "--sql: "),
        ("app.signups", "select 1 as nothing", &[], "has no column nothing; it has user_id, plan, seen_at"),
        ("app.signups", "select 1 as user_id, 2 as user_id", &[], "--sql: "),
        ("app.signups", "select now() as user_id", &[], "--sql: 42804"),
        ("app.parts", "select 1 as a", &[], "a is a generated column"),
        ("app.signups", "select set_config('a.b', '1', false) as plan", &[], "may not call set_config"),
        ("app.signups", "select 1 as user_id", &["--key", "plan"], "--key: the select has no column plan"),
        (
            "app.signups",
            "select 1 as user_id, 'a' as plan",
            &["--key", "plan"],
            "has no unique index on exactly plan",
        ),
        (
            "app.signups",
            "select 1 as user_id",
            &["--key", "user_id", "--on-conflict", "do nothing returning 1"],
            "--on-conflict: ",
        ),
    ];
    for (into, sql, more, expected) in cases {
        let add: Vec<&str> = ["add", "x", "--into", into, "--sql", sql].iter().chain(more).copied().collect();
        let (code, stdout, stderr) = routes_ended(&database, &add).await;
        assert_eq!(code, Some(2), "{sql}: {stdout}{stderr}");
        assert!(stderr.contains(expected), "{into} {sql}: {stderr}");
    }
    assert_eq!(count(&client, "event_routes").await, 0);
    assert_eq!(count(&client, "pg_trigger where tgname like 'tidegate_route%'").await, 0);
    // Names and texts that would end a quote.
    client
        .batch_execute("create schema \"a\"\".b\"; create table \"a\"\".b\".\"t'$x$ %I\" (\"c\"\"; drop\" text, \"INTO\" int)")
        .await
        .unwrap();
    let sql = "select '$route0$ {insert} %s ; \\' as \"c\"\"; drop\", 1 as \"INTO\" from batch -- end";
    routes(&database, &["add", "odd", "--serial", "--into", "\"a\"\".b\".\"t'$x$ %I\"", "--sql", sql]).await;
    let service = Service::start(database.url(), &[]).await;
    send(&service, "{}\n").await;
    service.settled().await;
    assert_eq!(
        count(&client, "\"a\"\".b\".\"t'$x$ %I\" where \"c\"\"; drop\" like '$route0$ {insert}%'").await,
        1
    );
}

#[tokio::test]
async fn routes_are_listed_changed_disabled_and_removed() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    let add = ["add", "signups", "--into", "app.signups", "--sql", SELECT, "--key", "user_id"];
    routes(&database, &add).await;
    let (code, _, stderr) = routes_ended(&database, &add).await;
    assert_eq!((code, stderr.as_str()), (Some(1), "tidegate: there is a route signups already\n"));
    let shown = routes(&database, &["show", "signups"]).await;
    assert!(
        shown.starts_with("tidegate routes add signups --into 'app.signups' --sql 'select (payload->>'\\''"),
        "{shown}"
    );
    let service = Service::start(database.url(), &[]).await;
    let event = |n: i32| format!("{}\n", json!({"event": "signup", "userId": n, "plan": "a"}));
    let mut sent = 0;
    let mut send_one = async || {
        sent += 1;
        send(&service, event(sent)).await;
        service.settled().await;
        count(&client, "app.signups").await
    };
    assert_eq!(send_one().await, 1);
    routes(&database, &["disable", "signups"]).await;
    assert_eq!(send_one().await, 1);
    routes(&database, &["enable", "signups"]).await;
    assert_eq!(send_one().await, 2);
    let other = SELECT.replace("payload->>'plan'", "'other'::text");
    routes(&database, &["add", "signups", "--replace", "--into", "app.signups", "--sql", &other]).await;
    assert_eq!(send_one().await, 3);
    assert_eq!(count(&client, "app.signups where plan = 'other'").await, 1);
    routes(&database, &["remove", "signups"]).await;
    assert_eq!(send_one().await, 3);
    assert_eq!(count(&client, "pg_proc where proname ~ '^tidegate_route_[0-9]'").await, 0);
    assert_eq!(routes(&database, &["list"]).await, "");
    let (code, _, stderr) = routes_ended(&database, &["show", "signups"]).await;
    assert_eq!((code, stderr.as_str()), (Some(1), "tidegate: there is no route signups\n"));
}

#[tokio::test]
async fn a_select_that_aggregates_is_taken_or_refused_as_a_whole() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute("create schema app; create table app.hours (hour timestamptz primary key, n bigint, total bigint)").await.unwrap();
    let sql = "select date_trunc('hour', received_at) as hour, count(*) as n, sum((payload->>'amount')::int) as total from batch group by 1";
    let update = "do update set n = hours.n + excluded.n, total = hours.total + excluded.total";
    let add = ["add", "hours", "--into", "app.hours", "--sql", sql, "--key", "hour", "--on-conflict", update];
    let added = routes(&database, &add).await;
    assert!(added.contains("the select combines rows"), "{added}");
    let service = Service::start(database.url(), &[]).await;
    for _ in 0..3 {
        send(&service, "{\"amount\":2}\n".repeat(50)).await;
        service.settled().await;
    }
    send(&service, "{\"amount\":2}\n".repeat(9) + "{\"amount\":\"x\"}\n").await;
    service.settled().await;
    let row =
        client.query_one("select sum(n)::bigint, sum(total)::bigint from app.hours", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (150, 300));
    assert_eq!(refused(&client).await, [("22P02".to_owned(), 10)]);
    // An aggregate over the elements of one event is none.
    client.batch_execute("create table app.sums (n bigint)").await.unwrap();
    let sql = "select (select sum(item::int) from jsonb_array_elements_text(payload->'items') item) as n from batch";
    assert_eq!(routes(&database, &["add", "sums", "--into", "app.sums", "--sql", sql]).await, "");
}

/// The fields of a route in the table.
pub(crate) async fn state(client: &Client, name: &str) -> (String, i64) {
    let state =
        "select state, (select coalesce(sum(events), 0)::bigint from route_deferred where route = r.id)
                 from event_routes r where name = $1";
    let row = client.query_one(state, &[&name]).await.unwrap();
    (row.get(0), row.get(1))
}

pub(crate) async fn is_live(client: &Client, name: &str) {
    eventually(&format!("{name} is live"), async || {
        (state(client, name).await == ("live".to_owned(), 0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_suspended_route_catches_up_in_order_and_is_live_again() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    routes(&database, &["add", "signups", "--into", "app.signups", "--sql", SELECT, "--key", "user_id"])
        .await;
    let service = Service::start(database.url(), &[]).await;
    let event =
        |user: i32, plan: &str| format!("{}\n", json!({"event": "signup", "userId": user, "plan": plan}));
    // Locked: the route waits 250 ms at most, and is suspended.
    let mut locker = database.connect().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("lock table app.signups in access exclusive mode").await.unwrap();
    for plan in 0..20 {
        let body: String = (100..200).map(|user| event(user, &plan.to_string())).collect();
        send(&service, body + &event(13, "none")).await;
        service.settled().await;
    }
    assert_eq!(state(&client, "signups").await, ("suspended".to_owned(), 2020));
    let health = service.health().await;
    let task =
        health["tasks"].as_array().unwrap().iter().find(|task| task["name"] == "routes").unwrap().clone();
    assert_eq!(task["state"], "failing", "{task}");
    let route = &health["routes"][0];
    assert_eq!((&route["name"], &route["state"]), (&json!("signups"), &json!("suspended")), "{route}");
    assert!(
        route["deferred"].as_i64() > Some(0) && route["error"].as_str().unwrap().starts_with("55P03 "),
        "{route}"
    );
    lock.rollback().await.unwrap();
    is_live(&client, "signups").await;
    assert_eq!(count(&client, "app.signups where plan = '19'").await, 100);
    assert_eq!(refused(&client).await, [("23514".to_owned(), 20)]);
    // Live again: the next batch is routed as it is stored.
    send(&service, event(100, "last")).await;
    service.settled().await;
    assert_eq!(count(&client, "app.signups where plan = 'last'").await, 1);
    eventually("health shows it", async || {
        let route = service.health().await["routes"][0].clone();
        (route
            == json!({"name": "signups", "state": "live", "backfilling": false, "deferred": 0, "errors": 20}))
        .then_some(())
    })
    .await;
    let lines = [
        "tidegate_route_suspended{route=\"signups\"} 0",
        "tidegate_route_errors_total{route=\"signups\"} 20",
    ];
    eventually("the metrics show it", async || {
        let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
        lines.iter().all(|line| metrics.contains(line)).then_some(())
    })
    .await;
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn a_route_that_takes_too_long_is_suspended_and_its_slow_events_refused() {
    for durability in ["disk", "memory"] {
        let database = TestDatabase::create().await;
        let client = database.connect().await;
        client.batch_execute("create schema app; create table app.slow (n int)").await.unwrap();
        // Postgres quotes the statement where it names the functions.
        let sql = "select /* tidegate_route_99( */ (payload->>'n')::int as n from batch cross join lateral (
            select pg_sleep(case when payload->>'slow' = 'yes' then 30 else 0 end) offset 0) s";
        routes(&database, &["add", "slow", "--into", "app.slow", "--sql", sql]).await;
        let variables = [("DURABILITY", durability), ("STATEMENT_TIMEOUT_MS", "200")];
        let service = Service::start(database.url(), &variables).await;
        let body: String = (0..8)
            .map(|n| format!("{{\"n\":{n},\"slow\":\"{}\"}}\n", if n == 5 { "yes" } else { "no" }))
            .collect();
        send(&service, body).await;
        service.settled().await;
        assert_eq!(count(&client, "requests").await, 8, "{durability}");
        assert_eq!(state(&client, "slow").await, ("suspended".to_owned(), 8), "{durability}");
        assert!(service.stop().await.status.success());
    }
}

#[tokio::test]
async fn a_backfill_routes_each_stored_event_once_beside_live_writes() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute("create schema app; create table app.ids (id uuid, n int); create table app.newest (k int primary key, n int)")
        .await
        .unwrap();
    let service = Service::start(database.url(), &[("WRITERS", "2"), ("BATCH_SIZE", "50")]).await;
    let body = |from: i32, to: i32| -> String { (from..to).map(|n| format!("{{\"n\":{n}}}\n")).collect() };
    send(&service, body(0, 3000)).await;
    service.settled().await;
    // One lane is held: its events are older than the route, and are stored later.
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("select from ingest_lanes where lane = 1 for update").await.unwrap();
    for n in 0..40 {
        send(&service, body(3000 + n * 20, 3020 + n * 20)).await;
    }
    let ids = "select id, (payload->>'n')::int as n from batch";
    routes(&database, &["add", "ids", "--into", "app.ids", "--sql", ids, "--backfill"]).await;
    let newest = "select (payload->>'n')::int % 10 as k, (payload->>'n')::int as n from batch";
    routes(
        &database,
        &["add", "newest", "--into", "app.newest", "--sql", newest, "--key", "k", "--backfill"],
    )
    .await;
    hold.rollback().await.unwrap();
    for n in 0..20 {
        send(&service, body(3800 + n * 50, 3850 + n * 50)).await;
    }
    service.settled().await;
    eventually("the backfills are done", async || {
        (count(&client, "event_routes where backfill_until is null").await == 2).then_some(())
    })
    .await;
    is_live(&client, "newest").await;
    let n = count(&client, "requests").await;
    assert_eq!(n, 4800);
    assert_eq!(
        (count(&client, "app.ids").await, count(&client, "(select distinct id from app.ids) i").await),
        (n, n)
    );
    assert_eq!(count(&client, "app.newest where n >= 4790").await, 10);
    assert_eq!(count(&client, "route_passed").await, 0);
    let stats = routes(&database, &["stats", "ids"]).await;
    assert!(stats.contains("backfill done: "), "{stats}");
    // A route that was live has no backfill.
    let (code, _, stderr) = routes_ended(&database, &["backfill", "ids"]).await;
    assert!(code == Some(1) && stderr.contains("was live already"), "{stderr}");
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn a_command_ends_when_its_backfill_is_done_with_or_without_a_service() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create schema app; create table app.ids (id uuid); create table app.newest (k int primary key, n int);
             create table app.later (id uuid)",
        )
        .await
        .unwrap();
    let service = Service::start(database.url(), &[]).await;
    let body: String = (0..300).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    send(&service, body + "{\"n\":\"x\"}\n").await;
    service.settled().await;
    let ids = "select id from batch";
    let added = routes(&database, &["add", "ids", "--into", "app.ids", "--sql", ids, "--backfill"]).await;
    assert_eq!(added, "ids: 301 stored events routed, 301 rows, 0 refused\n");
    assert_eq!(count(&client, "app.ids").await, 301);
    assert!(service.stop().await.status.success());

    let newest = "select (payload->>'n')::int % 10 as k, (payload->>'n')::int as n from batch";
    let add = ["add", "newest", "--into", "app.newest", "--sql", newest, "--key", "k", "--backfill"];
    let added = routes(&database, &add).await;
    assert!(added.starts_with("newest: 301 stored events routed, "), "{added}");
    assert!(
        added.contains(" 1 refused\n  GET /api/v1/dead-letters?reason=route&route=newest lists"),
        "{added}"
    );
    assert_eq!(count(&client, "app.newest where n >= 290").await, 10);
    assert_eq!(state(&client, "newest").await, ("live".to_owned(), 0));

    // Left to a service, and taken up again.
    routes(&database, &["add", "later", "--into", "app.later", "--sql", ids, "--disabled"]).await;
    let left = routes(&database, &["backfill", "later", "--no-wait"]).await;
    assert!(left.starts_with("the running service routes the stored events"), "{left}");
    assert_eq!(count(&client, "app.later").await, 0);
    client.batch_execute("alter table app.later rename to gone").await.unwrap();
    let (code, _, stderr) = routes_ended(&database, &["backfill", "later"]).await;
    assert!(code == Some(1) && stderr.contains("the route is suspended: 42P01 "), "{stderr}");
    assert!(stderr.contains("backfill of later: 0 of about 301 events routed"), "{stderr}");
    client.batch_execute("alter table app.gone rename to later").await.unwrap();
    let filled = routes(&database, &["backfill", "later"]).await;
    assert_eq!(filled, "later: 301 stored events routed, 301 rows, 0 refused\n");
    assert_eq!(count(&client, "app.later").await, 301);
}
