//! Watched tables: what statements of users change is fed, each row in its order, and no such statement fails because of it.

use std::time::Duration;

use eventsource_stream::Event;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::accounts::{guarded, tidegate, token_with};
use crate::support::postgres::{TestDatabase, blocked};
use crate::support::service::{Service, eventually};
use crate::support::sse::EventStream;

/// A database and a connection to it, with a schema `app`.
async fn database() -> (TestDatabase, Client) {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute("create schema app").await.unwrap();
    (database, client)
}

async fn watch(client: &Client, table: &str) -> String {
    client.query_one("select tidegate_watch($1::text::regclass)", &[&table]).await.unwrap().get(0)
}

/// What the service does at intervals: the messages.
async fn check(client: &Client) -> Vec<String> {
    let check = "select message from watched_tables w, tidegate_watch_check(w.id) order by w.id";
    client.query(check, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The changes fed since the last call: action, key, record, and the state before if there is one.
async fn fed(client: &Client) -> Vec<Value> {
    let taken = "with taken as (delete from changes where topic like 'table:%' returning *)
        select number, action, record, keys, data::text, old::text from taken order by number";
    let rows = client.query(taken, &[]).await.unwrap();
    let change = |row: &tokio_postgres::Row| {
        let (record, keys): (String, Option<Vec<String>>) = (row.get("record"), row.get("keys"));
        let key = match keys {
            Some(keys) => json!(keys),
            None if record.is_empty() => Value::Null,
            None => json!(record),
        };
        let json = |name| row.get::<_, Option<String>>(name).map(|text| text.parse::<Value>().unwrap());
        match json("old") {
            Some(old) => json!([row.get::<_, String>("action"), key, json("data"), old]),
            None => json!([row.get::<_, String>("action"), key, json("data")]),
        }
    };
    rows.iter().map(change).collect()
}

/// The actions and keys alone.
async fn keys(client: &Client) -> Vec<String> {
    let changes = fed(client).await;
    changes.iter().map(|change| format!("{} {}", change[0].as_str().unwrap(), change[1])).collect()
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn open(service: &Service, topics: &str) -> EventStream {
    let mut stream = EventStream::open(service, &format!("/api/events/stream?topics={topics}"), &[]).await;
    assert_eq!(stream.status.as_u16(), 200);
    assert_eq!(stream.take(1).await[0].event, "ready");
    stream
}

fn data(event: &Event) -> Value {
    assert_eq!(event.event, "change");
    serde_json::from_str(&event.data).unwrap()
}

async fn change(stream: &mut EventStream) -> Value {
    data(&stream.take(1).await[0])
}

#[tokio::test]
async fn a_subscriber_gets_each_row_with_its_key() {
    let (database, client) = database().await;
    let service = Service::start(database.url(), &[]).await;
    run(&client, "create table app.orders (id int primary key, state text, at timestamptz)").await;
    let unwatched = service.get("/api/events/stream?topics=topic/a,table/app.orders").await;
    assert_eq!((unwatched.status.as_u16(), &unwatched.json()["error"]["field"]), (404, &json!("topics")));
    watch(&client, "app.orders").await;
    let mut stream = open(&service, "table/app.orders,topic/x").await;
    run(&client, "begin; insert into app.orders values (9, 'no'); rollback").await;
    run(
        &client,
        "set timezone = 'Asia/Tokyo'; insert into app.orders values (1, 'new', '2026-01-01 00:00Z')",
    )
    .await;
    run(&client, "update app.orders set state = 'paid'; delete from app.orders; truncate app.orders").await;
    let created = change(&mut stream).await;
    let row = json!({"id": 1, "state": "new", "at": "2026-01-01T00:00:00+00:00"});
    assert_eq!(created["topic"], "table/app.orders");
    assert_eq!(
        (&created["action"], &created["key"], &created["record"]),
        (&json!("create"), &json!("1"), &row)
    );
    assert!(created["number"].is_i64() && created["at"].is_string(), "{created}");
    for (action, key, state) in [("update", json!("1"), json!("paid")), ("delete", json!("1"), json!("paid"))]
    {
        let changed = change(&mut stream).await;
        assert_eq!((&changed["action"], &changed["key"]), (&json!(action), &key));
        assert_eq!(changed["record"]["state"], state);
    }
    let emptied = change(&mut stream).await;
    assert_eq!(
        (&emptied["action"], &emptied["key"], &emptied["record"]),
        (&json!("truncate"), &Value::Null, &Value::Null)
    );

    run(&client, "create table app.lines (a text, \"B\" uuid, n int, primary key (\"B\", a))").await;
    run(&client, "create table app.notes (note text); create table app.empty (name text primary key)").await;
    for table in ["app.lines", "app.notes", "app.empty"] {
        watch(&client, table).await;
    }
    let mut stream = open(&service, "table/app.lines,table/app.notes,table/app.empty").await;
    let id = "018f3f6e-0000-7000-8000-000000000001";
    run(&client, &format!("insert into app.lines values ('x', '{id}', 1)")).await;
    assert_eq!(change(&mut stream).await["key"], json!([id, "x"]));
    run(&client, "insert into app.notes values ('x')").await;
    assert_eq!(change(&mut stream).await["key"], Value::Null);
    run(&client, "insert into app.empty values ('')").await;
    assert_eq!(change(&mut stream).await["key"], json!(""));
}

#[tokio::test]
async fn old_and_new_states_are_those_of_one_row() {
    let (_database, client) = database().await;
    run(&client, "create table app.t (id int primary key, n int); create table app.k (n int)").await;
    watch(&client, "app.t").await;
    let no_key = watch(&client, "app.k").await;
    assert!(no_key.contains("no key"), "{no_key}");
    run(&client, "insert into app.t select n, n from generate_series(1, 3) n").await;
    fed(&client).await;
    run(&client, "update app.t set n = n * 10 where id <> 2").await;
    assert_eq!(
        fed(&client).await,
        [
            json!(["update", "1", {"id": 1, "n": 10}, {"id": 1, "n": 1}]),
            json!(["update", "3", {"id": 3, "n": 30}, {"id": 3, "n": 3}]),
        ]
    );
    // Keys that change, some to those of others: deletions come first.
    run(&client, "create table app.s (id int primary key); insert into app.s values (3), (2), (1)").await;
    watch(&client, "app.s").await;
    fed(&client).await;
    run(&client, "update app.s set id = id + 1").await;
    let deleted = ["delete \"3\"", "delete \"2\"", "delete \"1\""];
    let created = ["create \"4\"", "create \"3\"", "create \"2\""];
    assert_eq!(keys(&client).await, [deleted, created].concat());
    run(&client, "insert into app.k values (1), (1); update app.k set n = 2; delete from app.k").await;
    let of_each = |action: &str, n: i32| json!([action, null, {"n": n}]);
    let expected = [("create", 1), ("create", 1), ("update", 2), ("update", 2), ("delete", 2), ("delete", 2)];
    assert_eq!(fed(&client).await, expected.map(|(action, n)| of_each(action, n)));
    run(
        &client,
        "update app.k set n = 3; delete from app.t where false; insert into app.t select 1, 1 where false",
    )
    .await;
    assert_eq!(fed(&client).await, [json!(null); 0], "no rows");
    // A key that may be doubled for a while is none.
    run(&client, "create table app.d (id int primary key deferrable initially deferred)").await;
    watch(&client, "app.d").await;
    run(&client, "insert into app.d values (1)").await;
    assert_eq!(keys(&client).await, ["many null", "create null"]);
}

#[tokio::test]
async fn a_session_that_updated_one_row_updates_thousands_as_fast() {
    let (_database, client) = database().await;
    run(&client, "create table app.t (id int primary key, n int, body text)").await;
    watch(&client, "app.t").await;
    run(&client, "insert into app.t select n, 0, repeat('x', 200) from generate_series(1, 10000) n").await;
    // A plan for one row is kept: as a nested loop it would compare each row with each.
    run(&client, "update app.t set n = 1 where id = 1; set statement_timeout = '20s'").await;
    run(&client, "update app.t set n = n + 1").await;
    assert_eq!(fed(&client).await.len(), 20_002);
}

#[tokio::test]
async fn statements_of_every_kind_come_out_in_their_order() {
    let (_database, client) = database().await;
    run(
        &client,
        "create table app.t (id int primary key, n int, parent int references app.t on delete cascade on update cascade);
         create table app.u (id int primary key, one int references app.t on delete set null, two int references app.t on delete set null);
         create table app.v (id int primary key, n int); insert into app.v values (6, 0)",
    )
    .await;
    watch(&client, "app.t").await;
    watch(&client, "app.u").await;
    watch(&client, "app.v").await;
    run(&client, "insert into app.t values (1, 0, 1), (2, 0, 1), (3, 0, 2), (4, 0, null), (5, 0, null)")
        .await;
    run(&client, "insert into app.u values (1, 4, 5)").await;
    fed(&client).await;
    run(&client, "insert into app.t values (1, 7), (6, 7) on conflict (id) do update set n = excluded.n")
        .await;
    let mut upserted = keys(&client).await;
    upserted.sort_unstable();
    assert_eq!(upserted, ["create \"6\"", "update \"1\""]);
    // A row deleted and made again by one statement.
    run(&client, "with gone as (delete from app.v where id = 6 returning *) insert into app.v select id, n + 1 from gone").await;
    assert_eq!(keys(&client).await, ["delete \"6\"", "create \"6\""]);
    let version: i32 =
        client.query_one("select current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    if version >= 150_000 {
        let merge = "merge into app.t using (values (6, 1), (7, 1), (1, 2)) v (id, n) on t.id = v.id
            when matched and v.id = 6 then delete when matched then update set n = v.n
            when not matched then insert values (v.id, v.n)";
        run(&client, merge).await;
        let mut merged = keys(&client).await;
        merged.sort_unstable();
        assert_eq!(merged, ["create \"7\"", "delete \"6\"", "update \"1\""]);
        // The same key: the row that is there comes last.
        let again = "merge into app.v using (values (6, 6), (null, 6)) m (id, new) on v.id = m.id
            when matched then delete when not matched then insert values (m.new, 9)";
        run(&client, again).await;
        assert_eq!(keys(&client).await, ["delete \"6\"", "create \"6\""]);
    }
    // One row several times in a statement: by its own change and by its foreign key's.
    run(&client, "update app.t set id = 10 where id = 1").await;
    let changes = fed(&client).await;
    let of_ten: Vec<&Value> = changes.iter().filter(|change| change[1] == "10").collect();
    assert_eq!(changes[0][0], "delete");
    assert_eq!(*of_ten[0], json!(["create", "10", {"id": 10, "n": of_ten[0][2]["n"], "parent": 1}]));
    assert_eq!((&of_ten[1][2]["parent"], &of_ten[1][3]["parent"]), (&json!(10), &json!(1)));
    run(&client, "delete from app.t where id in (4, 5)").await;
    let changes = fed(&client).await;
    let of_u: Vec<&Value> = changes.iter().filter(|change| change[0] == "update").collect();
    assert_eq!(of_u[0][2], of_u[1][3], "one after the other");
    assert_eq!((of_u.len(), &of_u[1][2]), (2, &json!({"id": 1, "one": null, "two": null})));
    run(&client, "delete from app.t where id = 10").await;
    assert_eq!(keys(&client).await.len(), 3, "all that refer to it");
}

#[tokio::test]
async fn a_row_that_its_own_trigger_changes_again_is_fed_in_this_order() {
    let (_database, client) = database().await;
    run(
        &client,
        "create table app.t (id int primary key, n int);
         create function app.raise() returns trigger language plpgsql as $$ begin
             if new.n < 3 then update app.t set n = n + 1 where id = new.id; end if;
             return null;
         end $$;
         create trigger again after insert or update on app.t for each row execute function app.raise()",
    )
    .await;
    watch(&client, "app.t").await;
    fed(&client).await;
    run(&client, "begin; insert into app.t values (1, 1); update app.t set n = 2; insert into app.t values (2, 3); commit").await;
    let states: Vec<Value> =
        fed(&client).await.iter().map(|change| json!([change[0], change[1], change[2]["n"]])).collect();
    assert_eq!(
        states,
        [
            json!(["create", "1", 1]),
            json!(["update", "1", 2]),
            json!(["update", "1", 3]),
            json!(["update", "1", 2]),
            json!(["update", "1", 3]),
            json!(["create", "2", 3])
        ]
    );
}

#[tokio::test]
async fn partitions_are_fed_once_whatever_a_statement_names() {
    let (_database, client) = database().await;
    run(
        &client,
        "create table app.p (id int, k int, primary key (id, k)) partition by list (k);
         create table app.p1 partition of app.p for values in (1);
         create table app.p2 partition of app.p for values in (2) partition by range (id);
         create table app.p2a partition of app.p2 for values from (0) to (100)",
    )
    .await;
    let answer = watch(&client, "app.p").await;
    assert!(answer.contains("detached"), "{answer}");
    let part = client.query_one("select tidegate_watch('app.p2a')", &[]).await.unwrap_err();
    assert!(part.as_db_error().unwrap().message().contains("a part of app.p2"), "{part:?}");
    fed(&client).await;
    run(&client, "insert into app.p values (1, 1), (2, 2); insert into app.p1 values (3, 1)").await;
    run(&client, "insert into app.p2 values (4, 2); insert into app.p2a values (5, 2)").await;
    let created = ["1\",\"1", "2\",\"2", "3\",\"1", "4\",\"2", "5\",\"2"];
    assert_eq!(keys(&client).await, created.map(|key| format!("create [\"{key}\"]")));
    run(&client, "update app.p set k = 2 where id = 1").await;
    assert_eq!(keys(&client).await, ["delete [\"1\",\"1\"]", "create [\"1\",\"2\"]"]);
    run(&client, "truncate app.p1; truncate app.p").await;
    assert_eq!(
        fed(&client).await,
        [json!(["many", null, {"action": "truncate"}]), json!(["truncate", null, null])]
    );
    // A new one: an empty one is not announced, one with rows is.
    run(&client, "create table app.p3 partition of app.p for values in (3)").await;
    assert_eq!((check(&client).await.len(), fed(&client).await.len()), (0, 0));
    run(
        &client,
        "create table app.p4 partition of app.p for values in (4); insert into app.p4 values (1, 4)",
    )
    .await;
    assert_eq!(check(&client).await.len(), 1);
    run(&client, "insert into app.p3 values (1, 3); insert into app.p4 values (2, 4)").await;
    assert_eq!(keys(&client).await, ["many null", "create [\"1\",\"3\"]", "create [\"2\",\"4\"]"]);
    run(&client, "alter table app.p detach partition app.p3; insert into app.p3 values (2, 3)").await;
    assert_eq!(keys(&client).await, [""; 0], "it is no part any more");

    run(
        &client,
        "create table app.a (id int primary key, n int); create table app.b (more int) inherits (app.a);
         insert into app.b values (1, 0, 1)",
    )
    .await;
    watch(&client, "app.a").await;
    run(
        &client,
        "insert into app.b values (2, 0, 2); update app.a set n = 1 where id = 2; truncate only app.a",
    )
    .await;
    assert_eq!(
        fed(&client).await,
        [
            json!(["many", null, {"action": "watch"}]),
            json!(["create", "2", {"id": 2, "n": 0}]),
            json!(["update", "2", {"id": 2, "n": 1}, {"id": 2, "n": 0}]),
            json!(["many", null, {"action": "truncate"}]),
        ]
    );
}

#[tokio::test]
async fn the_service_finds_new_partitions_and_dropped_tables() {
    let (database, client) = database().await;
    run(&client, "create table app.p (id int primary key) partition by range (id); create table app.t ()")
        .await;
    watch(&client, "app.p").await;
    watch(&client, "app.t").await;
    let service = Service::start(database.url(), &[]).await;
    let mut stream = open(&service, "table/app.p,table/app.t").await;
    run(&client, "create table app.p1 partition of app.p for values from (0) to (10); drop table app.t")
        .await;
    let gone = change(&mut stream).await;
    assert_eq!((&gone["topic"], &gone["record"]), (&json!("table/app.t"), &json!({"action": "drop"})));
    eventually("it has triggers", async || {
        let triggers = "select from pg_trigger where tgrelid = 'app.p1'::regclass";
        (client.query(triggers, &[]).await.unwrap().len() == 4).then_some(())
    })
    .await;
    run(&client, "insert into app.p1 values (1)").await;
    assert_eq!(change(&mut stream).await["key"], "1");
    assert_eq!(service.get("/api/events/stream?topics=table/app.t").await.status.as_u16(), 404);
}

#[tokio::test]
async fn an_altered_table_is_fed_as_it_is_now() {
    let (database, client) = database().await;
    run(&client, "create table app.t (id int primary key, a int, b text)").await;
    watch(&client, "app.t").await;
    run(&client, "insert into app.t values (1, 1, 'x')").await;
    fed(&client).await;
    let insert = async |row: &str| {
        run(&client, &format!("insert into app.t values ({row})")).await;
        let changes = fed(&client).await;
        assert_eq!(changes.len(), 1, "{changes:?}");
        changes[0].clone()
    };
    // In one session with cached plans, and in another one; before the check and behind it.
    for is_checked in [false, true] {
        let n = i32::from(is_checked) * 10;
        let next = async || {
            if is_checked {
                assert_eq!(check(&client).await, [""; 0]);
            }
        };
        run(&client, "alter table app.t add c text default 'new'").await;
        next().await;
        let id = 10 + n;
        assert_eq!(
            insert(&format!("{id}, 1, 'x'")).await[2],
            json!({"id": id, "a": 1, "b": "x", "c": "new"})
        );
        run(&client, "alter table app.t drop b").await;
        next().await;
        let id = 11 + n;
        assert_eq!(insert(&format!("{id}, 1")).await[2], json!({"id": id, "a": 1, "c": "new"}));
        run(&client, "alter table app.t rename c to b; alter table app.t alter a type text").await;
        next().await;
        let id = 12 + n;
        assert_eq!(insert(&format!("{id}, 1, 'y'")).await[2], json!({"id": id, "a": "1", "b": "y"}));
        run(&client, "alter table app.t rename id to number").await;
        next().await;
        let id = 13 + n;
        let named = insert(&format!("{id}, 1, 'y'")).await;
        assert_eq!((&named[1], &named[2]["number"]), (&json!(id.to_string()), &json!(id)));
        run(&client, "alter table app.t drop constraint t_pkey").await;
        next().await;
        let keyless = insert(&format!("{}, 1, 'z'", 14 + n)).await;
        if is_checked {
            assert_eq!(keyless[1], Value::Null);
        }
        run(&client, "alter table app.t rename number to id; alter table app.t add primary key (id)").await;
        run(&client, "alter table app.t alter a type int using a::int").await;
        check(&client).await;
        fed(&client).await;
    }
    // A change of the row's definition that a repeatable read does not see.
    let (other, reader) = (database.connect().await, database.connect().await);
    run(&reader, "begin isolation level repeatable read; select 1").await;
    run(&other, "alter table app.t drop b; alter table app.t add d int").await;
    run(&reader, "insert into app.t (id) values (100); commit").await;
    assert_eq!(fed(&client).await, [json!(["many", null, {"action": "insert", "rows": 1}])]);
}

#[tokio::test]
async fn renamed_and_dropped_tables_end_their_topics_with_a_word() {
    let (_database, client) = database().await;
    run(&client, "create schema other; create table app.t (id int primary key); create table app.u (id int primary key)").await;
    watch(&client, "app.t").await;
    watch(&client, "app.u").await;
    let topics = async || -> Vec<(String, String)> {
        let fed = "with taken as (delete from changes where topic like 'table:%' returning *)
            select topic, coalesce(data ->> 'action', record) from taken order by number";
        client.query(fed, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    topics().await;
    let expect = |expected: &[(&str, &str)]| -> Vec<(String, String)> {
        expected.iter().map(|(topic, word)| ((*topic).to_owned(), (*word).to_owned())).collect()
    };
    // Two that change their names.
    run(&client, "begin; alter table app.t rename to x; alter table app.u rename to t; alter table app.x rename to u; commit").await;
    run(&client, "insert into app.u values (1)").await;
    assert_eq!(topics().await, expect(&[("table:app.t", "1")]), "until the check");
    assert_eq!(check(&client).await.len(), 2);
    let [t, u] = ["table:app.t", "table:app.u"];
    assert_eq!(topics().await, expect(&[(t, "rename"), (u, "watch"), (u, "rename"), (t, "watch")]));
    run(&client, "insert into app.u values (2); insert into app.t values (2)").await;
    assert_eq!(topics().await, expect(&[(u, "2"), (t, "2")]));
    run(&client, "alter table app.t set schema other").await;
    check(&client).await;
    run(&client, "insert into other.t values (3)").await;
    assert_eq!(topics().await, expect(&[(t, "rename"), ("table:other.t", "watch"), ("table:other.t", "3")]));
    // One that is gone, and made again before anyone noticed.
    run(&client, "drop table app.u; create table app.u (id int primary key)").await;
    watch(&client, "app.u").await;
    run(&client, "insert into app.u values (4)").await;
    assert_eq!(topics().await, expect(&[(u, "drop"), (u, "watch"), (u, "4")]));
    run(&client, "drop schema app cascade").await;
    assert_eq!(check(&client).await.len(), 1);
    assert_eq!(topics().await, expect(&[(u, "drop")]));
    let left = "select from pg_proc where proname ~ '^tidegate_watch_[0-9]'";
    assert_eq!(client.query(left, &[]).await.unwrap().len(), 4, "those of other.t");
}

#[tokio::test]
async fn to_watch_twice_changes_nothing_and_unwatch_leaves_nothing() {
    let (database, client) = database().await;
    run(&client, "create table app.t (id int primary key)").await;
    let (first, second) = (watch(&client, "app.t").await, watch(&client, "app.t").await);
    assert_eq!(first, second);
    run(&client, "insert into app.t values (1)").await;
    assert_eq!(keys(&client).await, ["many null", "create \"1\""]);
    // A trigger that its owner dropped is made again.
    run(&client, "drop trigger \"00_tidegate_1_insert\" on app.t; insert into app.t values (2)").await;
    check(&client).await;
    run(&client, "insert into app.t values (3)").await;
    assert_eq!(keys(&client).await, ["many null", "create \"3\""]);

    let service = Service::start(database.url(), &[]).await;
    let mut stream = open(&service, "table/app.t").await;
    let unwatch = "select tidegate_unwatch('app.t')";
    let ended: String = client.query_one(unwatch, &[]).await.unwrap().get(0);
    assert!(ended.contains("no longer"), "{ended}");
    assert_eq!(change(&mut stream).await["record"], json!({"action": "unwatch"}));
    run(&client, "insert into app.t values (4)").await;
    let left = "select from pg_trigger where tgname ~ 'tidegate' union all
        select from pg_proc where proname ~ '^tidegate_watch_[0-9]' union all select from watched_tables";
    assert_eq!(client.query(left, &[]).await.unwrap().len(), 0);
    let again: String = client.query_one(unwatch, &[]).await.unwrap().get(0);
    assert!(again.contains("not watched"), "{again}");
}

#[tokio::test]
async fn writers_of_the_same_rows_are_fed_in_the_order_of_their_commits() {
    let (database, client) = database().await;
    let service = Service::start(database.url(), &[]).await;
    run(&client, "create table app.t (id int primary key, n int); insert into app.t select n, 0 from generate_series(1, 4) n").await;
    watch(&client, "app.t").await;
    let mut stream = open(&service, "table/app.t").await;
    let writers = join_all((0..6).map(async |writer: i32| {
        let client = database.connect().await;
        for round in 0..25 {
            // Some have a transaction's id before they wait for a row.
            let begin = if writer % 2 == 0 { "begin; select pg_current_xact_id()" } else { "begin" };
            let id = (writer + round) % 4 + 1;
            let end = if round % 7 == 6 { "rollback" } else { "commit" };
            run(&client, &format!("{begin}; update app.t set n = n + 1 where id = {id}; {end}")).await;
        }
    }));
    writers.await;
    let total: i64 = client.query_one("select sum(n) from app.t", &[]).await.unwrap().get(0);
    let mut state = [0; 5];
    for _ in 0..total {
        let change = change(&mut stream).await;
        let id = change["record"]["id"].as_u64().unwrap() as usize;
        state[id] += 1;
        assert_eq!(change["record"]["n"], state[id], "{change}");
    }
}

#[tokio::test]
async fn ten_thousand_rows_are_delivered_whole_and_more_as_one_change() {
    let (database, client) = database().await;
    run(&client, "create table app.t (id int primary key, n int, body text)").await;
    watch(&client, "app.t").await;
    let limits = [("SUBSCRIBER_BYTES", "262144"), ("SUBSCRIBERS_BYTES", "8388608")];
    let service = Service::start(database.url(), &limits).await;
    let position = {
        let path = "/api/events/stream?topics=table/app.t";
        EventStream::open(&service, path, &[]).await.take(1).await.remove(0).id
    };
    run(&client, "insert into app.t select n, 0, repeat('x', 500) from generate_series(1, 10000) n").await;
    run(&client, "update app.t set n = 1").await;
    run(&client, "insert into app.t select n, 0, 'x' from generate_series(10001, 110000) n").await;
    run(&client, "update app.t set n = 2; delete from app.t where id > 10").await;
    // Those that fall behind a live stream are cut off, and come back with their position.
    let (mut last, mut seen) = (position, Vec::new());
    while seen.len() < 20_003 {
        let path = format!("/api/events/stream?topics=table/app.t&from={last}");
        let mut stream = EventStream::open(&service, &path, &[]).await;
        while let Some(Ok(event)) = stream.next().await {
            last.clone_from(&event.id);
            if event.event == "change" {
                let change = data(&event);
                seen.push(json!([change["action"], change["key"], change["record"]["n"]]));
                if seen.len() == 20_003 {
                    assert_eq!(change["record"], json!({"action": "delete", "rows": 109_990}));
                    break;
                }
                if seen.len() > 20_000 {
                    assert_eq!(change["action"], "many");
                    assert!(change["record"]["rows"].as_u64().unwrap() >= 100_000, "{change}");
                }
            }
        }
    }
    let place = |n: usize, action: &str, state: i32| json!([action, n.to_string(), state]);
    for n in 0..10_000 {
        assert_eq!(seen[n], place(n + 1, "create", 0));
        assert_eq!(seen[n + 10_000], place(n + 1, "update", 1));
    }
}

#[tokio::test]
async fn a_value_that_is_too_large_or_no_jsonb_never_fails_the_statement() {
    let (_database, client) = database().await;
    run(&client, "create table app.t (id int primary key, t text, b bytea, j json, jb jsonb, a text[])")
        .await;
    watch(&client, "app.t").await;
    fed(&client).await;
    run(&client, "insert into app.t (id, t) values (1, repeat('x', 2000000)), (2, repeat('x', 900000))")
        .await;
    let changes = fed(&client).await;
    assert_eq!(changes[0], json!(["create", "1", null]), "its key alone");
    assert_eq!(changes[1][2]["t"].as_str().unwrap().len(), 900_000);
    run(&client, "update app.t set t = 'small'").await;
    let changes = fed(&client).await;
    assert_eq!(
        changes[0],
        json!(["update", "1", {"id": 1, "t": "small", "b": null, "j": null, "jb": null, "a": null}])
    );
    assert_eq!(changes[1][3]["t"].as_str().unwrap().len(), 900_000);
    for (n, value) in [
        // Of little size as they are stored.
        "jb) values ($, to_jsonb(repeat('x', 60000000)))",
        "a) values ($, array_fill('abc'::text, array[3000000]))",
        "t, jb) values ($, repeat('x', 150000000), to_jsonb(repeat('x', 150000000)))",
        "b) values ($, convert_to(repeat('x', 100000000), 'utf8'))",
        // Longer as text than as jsonb.
        "t) values ($, repeat(chr(1), 300000))",
        "jb) values ($, (select jsonb_agg(n) from generate_series(1, 200000) n))",
    ]
    .iter()
    .enumerate()
    {
        let id = 10 + n;
        run(&client, &format!("insert into app.t (id, {}", value.replace('$', &id.to_string()))).await;
        assert_eq!(fed(&client).await, [json!(["create", id.to_string(), null])], "{value}");
    }
    for (n, text) in [r#"{"a":"\u0000"}"#, "[1e400000]", r#""\ud800""#].iter().enumerate() {
        let id = 20 + n;
        run(&client, &format!("insert into app.t (id, j) values ({id}, '{text}')")).await;
        assert_eq!(fed(&client).await[0][2]["j"], json!(text), "as a string");
    }
    run(&client, "insert into app.t (id, j) values (30, '{\"a\": [1]}')").await;
    assert_eq!(fed(&client).await[0][2]["j"], json!({"a": [1]}));
}

#[tokio::test]
async fn options_apply_to_rows_also_to_those_that_are_too_large() {
    let (database, client) = database().await;
    let service = Service::start(database.url(), &[]).await;
    run(&client, "create table app.t (id int primary key, n int, body text)").await;
    watch(&client, "app.t").await;
    let mut stream = open(&service, "table/app.t?options=%7B%22old%22:true%2C%22changed%22:true%7D").await;
    run(&client, "insert into app.t values (1, 1, 'x'); update app.t set n = 2").await;
    run(&client, "update app.t set body = repeat('x', 2000000); update app.t set body = 'y'").await;
    let created = change(&mut stream).await;
    assert_eq!((created.get("old"), created.get("changed")), (None, None));
    let updated = change(&mut stream).await;
    assert_eq!((&updated["old"]["n"], &updated["changed"]), (&json!(1), &json!(["n"])));
    let large = change(&mut stream).await;
    assert_eq!((&large["record"], &large["old"]["n"], large.get("changed")), (&Value::Null, &json!(2), None));
    let small = change(&mut stream).await;
    assert_eq!((&small["record"]["body"], small.get("old")), (&json!("y"), None));
}

#[tokio::test]
async fn names_of_every_kind_are_watched_and_subscribed_to() {
    let (database, client) = database().await;
    let service = Service::start(database.url(), &[]).await;
    run(&client, "create schema \"S. é\"").await;
    for (table, column, topic) in [
        ("app.\"Orders, all\"", "\"Id\"", "table/app.Orders%2C%20all"),
        ("\"S. é\".\"a.\"\"b\"\"\"", "\"a.\"\"b\"", "table/%22S.%20%C3%A9%22.%22a.%22%22b%22%22%22"),
        ("app.\"select\"", "\"%s $1 {feed} '; --\"", "table/app.select"),
        ("app.\"new_rows\"", "\"new_rows\"", "table/app.new_rows"),
        ("app.r", "r", "table/app.r"),
        ("app.q", "data", "table/app.%22q%22"),
        ("app.\"$$x$$\"", "\"$watch$\"", "table/app.$$x$$"),
        ("app.\"back\\slash\"", "\"\\\"", "table/app.back%5Cslash"),
        ("app.\"watch_rows\"", "watch_rows", "table/app.watch_rows"),
    ] {
        run(
            &client,
            &format!("create table {table} ({column} text primary key, k int, s int, i int, old_rows int)"),
        )
        .await;
        watch(&client, table).await;
        let mut stream = open(&service, topic).await;
        run(&client, &format!("insert into {table} ({column}, k) values ('x', 1)")).await;
        run(
            &client,
            &format!("update {table} set {column} = 'y'; update {table} set k = 2; delete from {table}"),
        )
        .await;
        run(&client, &format!("truncate {table}")).await;
        let mut seen = Vec::new();
        for _ in 0..6 {
            let change = change(&mut stream).await;
            seen.push(format!(
                "{} {} {}",
                change["action"].as_str().unwrap(),
                change["key"],
                change["record"]["k"]
            ));
        }
        let all = [
            "create \"x\" 1",
            "delete \"x\" 1",
            "create \"y\" 1",
            "update \"y\" 2",
            "delete \"y\" 2",
            "truncate null null",
        ];
        assert_eq!(seen, all, "{table}");
    }
    let columns: Vec<String> = (0..300).map(|n| format!("c{n} int")).collect();
    run(&client, &format!("create table app.wide (id int primary key, {})", columns.join(", "))).await;
    watch(&client, "app.wide").await;
    let mut stream = open(&service, "table/app.wide").await;
    run(&client, "insert into app.wide (id, c299) values (1, 7)").await;
    assert_eq!(change(&mut stream).await["record"]["c299"], 7);
}

#[tokio::test]
async fn code_of_users_does_not_run_with_the_rights_of_the_service() {
    let (database, client) = database().await;
    let role = format!("user_{}", database.name());
    run(
        &client,
        &format!(
            "create role {role}; grant all on schema app to {role};
             create table public.loot (who text, what text); grant all on public.loot to public;
             set session authorization {role}; set search_path = app, public;
             create type e as enum ('x', 'y');
             create function took(what text) returns boolean language plpgsql as $$ begin
                 insert into public.loot values (current_user, what); return true; end $$;
             create function to_j(e) returns json language plpgsql as $$ begin perform app.took('json'); return '1'; end $$;
             create function to_t(e) returns text language plpgsql as $$ begin perform app.took('text'); return 'x'; end $$;
             create function to_i(e) returns int language plpgsql as $$ begin perform app.took('int'); return 1; end $$;
             create cast (e as json) with function to_j(e) as implicit;
             create cast (e as text) with function to_t(e) as implicit;
             create cast (e as int) with function to_i(e) as implicit;
             create type c as (e e, n int);
             create domain d as e check (app.took('domain') is not null);
             create table t (id e primary key, es e[], c c, cs c[], d d, n int, s text, r int4range);
             reset session authorization; reset search_path"
        ),
    )
    .await;
    watch(&client, "app.t").await;
    fed(&client).await;
    let other = database.connect().await;
    run(&other, &format!("set session authorization {role}; set search_path = app, public")).await;
    // Rows as such, and behind each change of the table by its owner, before the check and behind it.
    run(&other, "insert into t values ('x', '{x,y}', '(x,1)', '{\"(y,2)\"}', 'x', 1, 's', '[1,2)')").await;
    run(&other, "insert into t (id) values ('y')").await;
    let changes = fed(&client).await;
    assert_eq!(
        changes[0][2],
        json!({"id": "x", "es": ["x", "y"], "c": {"e": "x", "n": 1}, "cs": ["(y,2)"], "d": "x", "n": 1, "s": "s", "r": "[1,2)"})
    );
    assert_eq!(changes[1][2]["c"], Value::Null);
    for alteration in [
        "alter table t alter n type e using 'x'",
        "alter table t alter s type e using 'x'",
        "alter table t add z e default 'y'",
        "alter table t alter r type c using null",
        "alter type c add attribute more e",
        "alter table t alter d drop default, alter d type c using null",
        "alter table t drop es, add es json default '1'",
    ] {
        run(&other, alteration).await;
        for _ in 0..2 {
            run(&other, "update t set id = id").await;
            check(&client).await;
        }
    }
    let changes = fed(&client).await;
    assert!(changes.iter().all(|change| change[0] == "update"), "{changes:?}");
    let thieves = format!("select who || ' ' || what from public.loot where who <> '{role}'");
    let loot: Vec<String> = client.query(&thieves, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(loot, [""; 0]);
    run(&client, &format!("drop owned by {role} cascade; drop role {role}")).await;
}

#[tokio::test]
async fn both_roles_need_the_right_to_add_triggers_and_the_caller_a_grant() {
    let (database, client) = database().await;
    let (caller, service) = (format!("caller_{}", database.name()), format!("service_{}", database.name()));
    run(
        &client,
        &format!("create role {caller}; create role {service}; create table app.t (id int primary key)"),
    )
    .await;
    run(
        &client,
        "create table app.p (id int) partition by list (id); create table app.p1 partition of app.p default",
    )
    .await;
    // The schema is another role's, as where a service is no superuser.
    let owners = format!(
        "do $$ declare f regprocedure; begin
             for f in select oid from pg_proc where pronamespace = 'public'::regnamespace and proname like 'tidegate_%' loop
                 execute format('alter function %s owner to {service}', f);
             end loop;
         end $$;
         alter table watched_tables owner to {service}; alter table changes owner to {service};
         alter sequence change_numbers owner to {service}; grant all on schema public to {service}"
    );
    run(&client, &owners).await;
    let other = database.connect().await;
    run(&other, &format!("set role {caller}")).await;
    let refused = async |sql: &str| {
        let error = other.query(sql, &[]).await.unwrap_err();
        let error = error.as_db_error().unwrap().clone();
        assert_eq!(error.code().code(), "42501", "{error:?}");
        format!("{}; {}", error.message(), error.hint().unwrap_or_default())
    };
    let watching = "select tidegate_watch('app.t')";
    run(&client, &format!("grant usage on schema app to {caller}")).await;
    assert!(refused(watching).await.contains("permission denied for function"));
    let grants = tidegate(&database, &["grants", "--watcher", &caller], "").await.unwrap();
    run(&client, &grants).await;
    let hint = format!("grant trigger on app.t to {caller}");
    assert!(refused(watching).await.contains(&hint));
    assert!(refused("select tidegate_unwatch('app.t')").await.contains(&hint));
    run(&client, &hint).await;
    let printed = refused(watching).await;
    let (message, needed) = printed.rsplit_once("; grant usage").unwrap();
    assert!(message.contains(&format!("grant trigger on app.t to {service}")), "{printed}");
    run(&client, &format!("grant usage{needed}")).await;
    run(&other, watching).await;
    assert!(refused("select tidegate_watch_check(1)").await.contains("permission denied"));
    assert!(refused("select * from watched_tables").await.contains("permission denied"));
    // Each part of a table.
    run(&client, &format!("grant trigger on app.p to {caller}, {service}")).await;
    let printed = refused("select tidegate_watch('app.p')").await;
    assert!(printed.contains(&format!("grant trigger on app.p1 to {service}")), "{printed}");

    // The functions are of no use to others: neither called nor bound to another table.
    run(&client, &format!("grant create on schema app to {caller}")).await;
    let bind = "create table app.own (id int); create trigger x after insert on app.own referencing new table as new_rows
        for each statement execute function tidegate_watch_1_insert()";
    assert_eq!(other.batch_execute(bind).await.unwrap_err().code().unwrap().code(), "42501");
    // Writers need no right but that to write.
    run(&client, &format!("grant insert on app.t to {caller}")).await;
    run(&other, "insert into app.t values (1)").await;
    assert_eq!(keys(&client).await, ["many null", "create \"1\""]);
    run(&other, "select tidegate_unwatch('app.t')").await;
    let drop = format!(
        "drop owned by {caller} cascade; reassign owned by {service} to current_user; drop owned by {service}; drop role {caller}, {service}"
    );
    run(&client, &drop).await;
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_and_what_is_not_seen_is_said() {
    let (database, client) = database().await;
    run(
        &client,
        "create view app.v as select 1 as n; create materialized view app.m as select 1 as n; create sequence app.s;
         create temporary table temporary (n int); create index on app.m (n)",
    )
    .await;
    let own: Vec<String> = client
        .query("select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(own.iter().any(|name| name == "users") && own.len() > 30, "{own:?}");
    let others = ["app.v", "app.m", "app.s", "temporary", "pg_class", "information_schema.sql_parts"];
    for table in own.iter().map(String::as_str).chain(others) {
        let refused = client.query("select tidegate_watch($1::text::regclass)", &[&table]).await;
        let error = refused.expect_err(table);
        assert_eq!(error.code().unwrap().code(), "42809", "{table}: {error:?}");
    }
    let none = client.query("select tidegate_watch(0::regclass)", &[]).await.unwrap_err();
    assert_eq!(none.code().unwrap().code(), "42P01");
    run(
        &client,
        "create unlogged table app.u (id int primary key); alter table app.u enable row level security",
    )
    .await;
    let answer = watch(&client, "app.u").await;
    for word in ["session_replication_role", "crash", "Row-level security", "key id"] {
        assert!(answer.contains(word), "{word}: {answer}");
    }
    assert!(!answer.contains("logical replication") && !answer.contains("partition"), "{answer}");
    fed(&client).await;
    run(&client, "set session_replication_role = replica; insert into app.u values (1); reset session_replication_role").await;
    assert_eq!(keys(&client).await, [""; 0], "as it says");

    let service = guarded(&database, &[]).await;
    let ask = async |permission: &str| {
        let bearer = format!("Bearer {}", token_with(&[permission]));
        let headers = [("authorization", bearer.as_str())];
        EventStream::open(&service, "/api/events/stream?topics=table/app.u", &headers).await.status.as_u16()
    };
    assert_eq!((ask("records:read").await, ask("realtime:read").await), (403, 200));
    let url = database.url();
    let events = [("DATABASE_URL", url), ("MODULES", "events")];
    let (status, _, stderr) = crate::support::service::run(&["grants", "--watcher", "x"], &events).await;
    assert!(status.code() == Some(2) && stderr.contains("MODULES"), "{stderr}");
}

#[tokio::test]
async fn a_check_waits_for_no_statement_of_a_user_and_holds_none_up_for_long() {
    let (database, client) = database().await;
    run(&client, "create table app.p (id int) partition by list (id)").await;
    watch(&client, "app.p").await;
    run(&client, "create table app.p1 partition of app.p for values in (1); create table app.p2 partition of app.p for values in (2)").await;
    let writer = database.connect().await;
    run(&writer, "begin; insert into app.p1 values (1)").await;
    let checked = tokio::time::timeout(Duration::from_secs(20), check(&client)).await.unwrap();
    assert_eq!(checked, [""; 0]);
    let triggers = "select tgrelid::regclass::text from pg_trigger where tgname ~ 'insert' and tgrelid <> 'app.p'::regclass";
    let having: Vec<String> =
        client.query(triggers, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(having, ["app.p2"], "the other one is left for the next time");
    run(&writer, "commit").await;
    assert_eq!(check(&client).await.len(), 1, "it has rows");
    // A watch waits for the writers of the table, for some seconds.
    run(&client, "create table app.t (id int)").await;
    run(&writer, "begin; insert into app.t values (1)").await;
    let watcher = database.connect().await;
    let waiting = tokio::spawn(async move { watcher.query("select tidegate_watch('app.t')", &[]).await });
    blocked(&client, 1, "mode = 'ShareRowExclusiveLock'").await;
    run(&writer, "commit").await;
    waiting.await.unwrap().unwrap();
}
