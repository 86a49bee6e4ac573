//! Routes over HTTP: definitions, checks, suggestions, and the events that they refuse.

use serde_json::{Value, json};

use crate::routes::{SELECT, SIGNUPS, count, routes, routes_ended, send};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually, run};

const ROUTES: &str = "/api/v1/routes";

async fn call(service: &Service, method: &str, path: &str, tag: &str, body: &Value) -> Answer {
    let tag = [("content-type", "application/json"), ("if-match", tag)];
    let headers = if tag[1].1.is_empty() { &tag[..1] } else { &tag[..] };
    service
        .request(method, path, headers, if body.is_null() { String::new() } else { body.to_string() })
        .await
}

fn refusal(answer: &Answer) -> (u16, String, Value) {
    (answer.status.as_u16(), answer.error_code(), answer.json()["error"]["field"].clone())
}

async fn prepared() -> (TestDatabase, tokio_postgres::Client, Service) {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client.batch_execute(SIGNUPS).await.unwrap();
    let service = Service::start(database.url(), &[]).await;
    (database, client, service)
}

#[tokio::test]
async fn definitions_have_versions_and_bad_ones_name_the_part() {
    let (_database, client, service) = prepared().await;
    let path = format!("{ROUTES}/signups");
    let body = json!({"into": "app.signups", "sql": SELECT, "key": ["user_id"]});
    let added = call(&service, "PUT", &path, "", &body).await;
    assert_eq!((added.status.as_u16(), added.header("etag")), (201, "\"1\""), "{added:?}");
    assert_eq!((&added.json()["state"], &added.json()["role"]), (&json!("live"), &json!("tidegate_routes")));
    send(&service, "{\"event\":\"signup\",\"userId\":1,\"plan\":\"a\"}\n").await;
    service.settled().await;
    assert_eq!(count(&client, "app.signups").await, 1);

    let stale = call(&service, "PUT", &path, "\"7\"", &body).await;
    assert_eq!(refusal(&stale), (412, "precondition_failed".into(), Value::Null));
    let none = call(&service, "PUT", &format!("{ROUTES}/none"), "\"1\"", &body).await;
    assert_eq!(none.status.as_u16(), 412);
    let changed = call(&service, "PUT", &path, "\"1\"", &body).await;
    assert_eq!((changed.status.as_u16(), changed.header("etag")), (200, "\"2\""));
    let disabled = call(&service, "POST", &format!("{path}/disable"), "\"2\"", &Value::Null).await;
    assert_eq!((&disabled.json()["state"], disabled.header("etag")), (&json!("disabled"), "\"3\""));
    assert_eq!(
        call(&service, "POST", &format!("{path}/enable"), "\"2\"", &Value::Null).await.status.as_u16(),
        412
    );
    let filled = call(&service, "POST", &format!("{path}/backfill"), "", &Value::Null).await;
    assert_eq!(refusal(&filled), (409, "conflict".into(), Value::Null));
    let stats = service.get(&format!("{path}/stats")).await.json();
    assert_eq!((&stats["rows"], &stats["errors"], &stats["batches"]), (&json!(1), &json!(0), &json!(1)));
    let listed = service.get(ROUTES).await.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("signups")));

    for (name, body, status, field) in [
        ("A", body.clone(), 400, json!("name")),
        ("x", json!({"into": "app.none", "sql": SELECT}), 400, json!("into")),
        ("x", json!({"into": "app.signups", "sql": "select 1; select 2"}), 400, json!("sql")),
        ("x", json!({"into": "app.signups", "sql": SELECT, "key": ["plan"]}), 400, json!("key")),
        (
            "x",
            json!({"into": "app.signups", "sql": SELECT, "role": "pg_write_server_files"}),
            400,
            json!("role"),
        ),
        ("x", json!({"into": "app.signups"}), 400, json!("sql")),
        ("x", json!({"into": "app.signups", "sql": SELECT, "more": 1}), 400, json!("more")),
        ("signups", json!({"into": "app.signups", "sql": SELECT, "backfill": true}), 400, json!("backfill")),
    ] {
        let refused = call(&service, "PUT", &format!("{ROUTES}/{name}"), "", &body).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["field"]),
            (status, &field),
            "{name} {body}"
        );
    }
    assert_eq!(call(&service, "DELETE", &path, "\"1\"", &Value::Null).await.status.as_u16(), 412);
    assert_eq!(call(&service, "DELETE", &path, "", &Value::Null).await.status.as_u16(), 204);
    for path in [path.clone(), format!("{ROUTES}/Ä"), format!("{path}/stats")] {
        assert_eq!(service.get(&path).await.status.as_u16(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_backfill_over_http_routes_stored_events() {
    let (_database, client, service) = prepared().await;
    let body: String = (100..400).map(|n| format!("{{\"event\":\"signup\",\"userId\":{n}}}\n")).collect();
    send(&service, body).await;
    service.settled().await;
    let path = format!("{ROUTES}/signups");
    let body = json!({"into": "app.signups", "sql": SELECT, "enabled": false});
    let looked = async || {
        let health = service.health().await;
        let tasks = health["tasks"].as_array().unwrap().clone();
        tasks.into_iter().find(|task| task["name"] == "routes").unwrap()["last_success_ms"].clone()
    };
    let before = looked().await;
    eventually("the task has looked again, and waits", async || (looked().await != before).then_some(()))
        .await;
    let begun = std::time::Instant::now();
    assert_eq!(call(&service, "PUT", &path, "", &body).await.status.as_u16(), 201);
    assert_eq!(
        call(&service, "POST", &format!("{path}/backfill"), "", &Value::Null).await.status.as_u16(),
        202
    );
    eventually("the backfill is done", async || {
        let stats = service.get(&format!("{path}/stats")).await.json();
        (stats["backfill"] == json!({"events": 300, "done": true})).then_some(())
    })
    .await;
    // Without routes the task looks each five seconds; a request wakes it.
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(count(&client, "app.signups").await, 300);
}

#[tokio::test]
async fn a_backfill_under_way_may_be_requested_again_and_one_that_is_done_may_not() {
    let (database, client, service) = prepared().await;
    let body: String = (100..110).map(|n| format!("{{\"event\":\"signup\",\"userId\":{n}}}\n")).collect();
    send(&service, body).await;
    service.settled().await;
    let path = format!("{ROUTES}/signups");
    let body = json!({"into": "app.signups", "sql": SELECT, "enabled": false});
    assert_eq!(call(&service, "PUT", &path, "", &body).await.status.as_u16(), 201);
    let mut locker = database.connect().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("lock table app.signups in access exclusive mode").await.unwrap();
    let backfill = async || call(&service, "POST", &format!("{path}/backfill"), "", &Value::Null).await;
    for _ in 0..2 {
        let answer = backfill().await;
        assert_eq!((answer.status.as_u16(), &answer.json()["backfill"]["done"]), (202, &json!(false)));
    }
    lock.rollback().await.unwrap();
    eventually("the backfill is done", async || {
        (service.get(&format!("{path}/stats")).await.json()["backfill"]["done"] == true).then_some(())
    })
    .await;
    assert_eq!(backfill().await.status.as_u16(), 409);
    assert_eq!(count(&client, "app.signups").await, 10);
}

#[tokio::test]
async fn a_check_reports_what_a_route_would_do_and_changes_nothing() {
    let (database, client, service) = prepared().await;
    let body: String = (0..50)
        .map(|n| match n % 10 {
            3 => "{\"event\":\"signup\",\"userId\":\"x\"}\n".to_owned(),
            4 => "{\"event\":\"other\"}\n".to_owned(),
            n => format!("{{\"event\":\"signup\",\"userId\":{n}}}\n"),
        })
        .collect();
    send(&service, body).await;
    service.settled().await;
    let check = async |body: Value| call(&service, "POST", &format!("{ROUTES}/check"), "", &body).await;
    let report = check(json!({"into": "app.signups", "sql": SELECT, "key": ["user_id"]})).await.json();
    assert_eq!(
        (&report["events"], &report["rows"], &report["refused"]),
        (&json!(50), &json!(40), &json!(5)),
        "{report}"
    );
    assert_eq!(
        (&report["errors"][0]["sqlstate"], &report["errors"][0]["events"]),
        (&json!("22P02"), &json!(5))
    );
    assert!(report["share"].as_f64().unwrap() > 0.0, "{report}");
    let plan: Vec<&str> =
        report["plan"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(
        plan[0].starts_with("Insert on signups")
            && plan.iter().any(|line| line.contains("tidegate_check_plain")),
        "{plan:?}"
    );
    // A strict route: the same rows, and the events become dead letters.
    let strict =
        check(json!({"into": "app.signups", "sql": SELECT, "key": ["user_id"], "strict": true})).await.json();
    assert_eq!(
        (&strict["rows"], &strict["refused"], &strict["errors"]),
        (&json!(40), &json!(5), &report["errors"]),
        "{strict}"
    );
    assert!(strict["notes"][0].as_str().unwrap().contains("become dead letters"), "{strict}");
    let given = json!({"into": "app.signups", "sql": SELECT, "events": [{"event": "signup", "userId": 7}, {"event": "signup", "userId": 13}]});
    let report = check(given).await.json();
    assert_eq!((&report["rows"], &report["errors"][0]["sqlstate"]), (&json!(1), &json!("23514")), "{report}");
    let secret =
        check(json!({"into": "app.signups", "sql": "select 1 as user_id from public.users"})).await.json();
    assert_eq!(secret["suspends"], "42501 permission denied for table users");
    assert_eq!(secret["plan"], json!([]));
    let slow =
        json!({"into": "app.signups", "sql": "select 1 as user_id, pg_sleep(9)::text as plan from batch"});
    assert_eq!(refusal(&check(slow).await), (400, "invalid_request".into(), json!("sql")));
    for bad in [json!({"newest": 0}), json!({"newest": 1, "events": []})] {
        let mut body = json!({"into": "app.signups", "sql": SELECT});
        body.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        assert_eq!(refusal(&check(body).await).2, "newest");
    }
    let printed = routes(&database, &["check", "--into", "app.signups", "--sql", SELECT]).await;
    assert!(printed.contains("50 events: 8 rows, 37 refused"), "{printed}");
    assert!(printed.contains("\nplan:\n  Insert on signups"), "{printed}");
    // The planner runs functions that are immutable, as the route's role.
    client
        .batch_execute(
            "create function app.who() returns text language plpgsql immutable as $$ begin
                 if current_user <> 'tidegate_routes' then raise 'run as %', current_user; end if;
                 return current_user;
             end $$",
        )
        .await
        .unwrap();
    let who = check(
        json!({"into": "app.signups", "sql": "select 1 as user_id, app.who() as plan from batch limit 1"}),
    )
    .await
    .json();
    assert_eq!((&who["rows"], &who["plan"].as_array().unwrap().is_empty()), (&json!(1), &false), "{who}");
    assert_eq!(count(&client, "app.signups").await, 0);
    assert_eq!(count(&client, "event_routes").await + count(&client, "route_errors").await, 0);
}

#[tokio::test]
async fn a_suggestion_can_be_applied_as_it_is() {
    let (database, client, service) = prepared().await;
    let body: String = (0..200)
        .map(|n| {
            let event = json!({"event": "order", "orderId": n, "total": f64::from(n) / 4.0, "paid": n % 2 == 0, "it's \"at\"": "2026-11-30T10:00:00+01:00",
                "lines": [n], "note": if n % 3 == 0 { Value::Null } else { json!("x") }});
            format!("{event}\n{{\"event\":\"other\"}}\n")
        })
        .collect();
    send(&service, body).await;
    service.settled().await;
    let body = json!({"into": "shop.orders", "where": "payload->>'event' = 'order'"});
    let suggested = call(&service, "POST", &format!("{ROUTES}/suggest"), "", &body).await.json();
    assert_eq!((&suggested["read"], &suggested["events"]), (&json!(400), &json!(200)), "{suggested}");
    let types: Vec<(String, String, bool)> = suggested["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| {
            let text = |name: &str| column[name].as_str().unwrap().to_owned();
            (text("name"), text("type"), column["nullable"].as_bool().unwrap())
        })
        .collect();
    let expected = [
        ("event", "text", false),
        ("it_s_at", "timestamptz", false),
        ("lines", "jsonb", false),
        ("note", "text", true),
        ("order_id", "bigint", false),
        ("paid", "boolean", false),
        ("total", "numeric", false),
    ];
    assert_eq!(types, expected.map(|(name, kind, null)| (name.to_owned(), kind.to_owned(), null)));
    assert!(suggested["create_table"].as_str().unwrap().starts_with("create table "), "{suggested}");
    for bad in ["true) union select ''; drop table requests; select (true", "nothing = 1", ""] {
        let body = json!({"into": "shop.orders", "where": bad});
        let refused = call(&service, "POST", &format!("{ROUTES}/suggest"), "", &body).await;
        assert_eq!(refusal(&refused), (400, "invalid_request".into(), json!("where")), "{bad}");
    }
    let condition = "payload->>'event' = 'order'";
    routes(
        &database,
        &["suggest", "--into", "shop.orders", "--where", condition, "--apply", "orders", "--backfill"],
    )
    .await;
    assert_eq!(count(&client, "shop.orders").await, 200);
    let paid = "shop.orders where paid and total = order_id / 4.0 and \"it_s_at\" = '2026-11-30 09:00:00Z' and lines->0 = to_jsonb(order_id)";
    assert_eq!(count(&client, paid).await, 100);
    // By a key: a newer event updates its row.
    let upsert = [
        "suggest",
        "--into",
        "shop.newest",
        "--where",
        condition,
        "--key",
        "order_id",
        "--apply",
        "newest",
        "--backfill",
    ];
    routes(&database, &upsert).await;
    send(&service, "{\"event\":\"order\",\"orderId\":7,\"total\":1,\"paid\":true,\"it's \\\"at\\\"\":\"2026-11-30T10:00:00Z\",\"lines\":[]}\n").await;
    eventually("the order is paid", async || {
        (count(&client, "shop.newest where order_id = 7 and total = 1").await == 1).then_some(())
    })
    .await;
    assert_eq!(count(&client, "shop.newest").await, 200);
    let nullable = ["suggest", "--into", "shop.x", "--where", condition, "--key", "note"];
    assert_eq!(routes_ended(&database, &nullable).await.0, Some(2));
    let again = ["suggest", "--into", "shop.orders", "--where", condition, "--apply", "orders"];
    assert_eq!(routes_ended(&database, &again).await.0, Some(2));
}

#[tokio::test]
async fn refused_events_are_listed_corrected_and_routed_again() {
    let (database, client, service) = prepared().await;
    let body = json!({"into": "app.signups", "sql": SELECT});
    assert_eq!(call(&service, "PUT", &format!("{ROUTES}/signups"), "", &body).await.status.as_u16(), 201);
    let body: String = (0..30)
        .map(|n| match n {
            0..10 => format!("{{\"event\":\"signup\",\"userId\":\"bad{n}\"}}\n"),
            10..20 => "{\"event\":\"signup\",\"userId\":13}\n".to_owned(),
            n => format!("{{\"event\":\"signup\",\"userId\":{}}}\n", n + 100),
        })
        .collect();
    send(&service, body).await;
    service.settled().await;
    let list = async |query: &str| service.get(&format!("/api/v1/dead-letters{query}")).await.json();
    let all = list("").await;
    assert_eq!(all.as_array().unwrap().len(), 20);
    assert_eq!((&all[0]["reason"], &all[0]["route"]), (&json!("route"), &json!("signups")));
    assert_eq!(list("?reason=route&route=signups&sqlstate=23514").await.as_array().unwrap().len(), 10);
    assert_eq!(list("?reason=rejected").await, json!([]));
    assert_eq!(list("?route=none").await, json!([]));
    assert_eq!(refusal(&service.get("/api/v1/dead-letters?reason=rejected&route=signups").await).2, "reason");
    // Page by page.
    let (mut seen, mut next) = (Vec::new(), "/api/v1/dead-letters?limit=3".to_owned());
    loop {
        let page = service.get(&next).await;
        seen.extend(
            page.json().as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()),
        );
        match page.header("link").split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
            Some((link, _)) => next = link.to_owned(),
            None => break,
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 20);

    let bad = list("?sqlstate=22P02").await[0]["id"].as_str().unwrap().to_owned();
    let letter = format!("/api/v1/dead-letters/{bad}");
    let whole = service.get(&letter).await;
    assert!(whole.json()["payload"]["userId"].as_str().unwrap().starts_with("bad"), "{whole:?}");
    let fixed = json!({"payload": {"event": "signup", "userId": 77}});
    assert_eq!(call(&service, "PATCH", &letter, "\"1\"", &fixed).await.status.as_u16(), 412);
    assert_eq!(refusal(&call(&service, "PATCH", &letter, "", &json!({"payload": "\u{0}"})).await).0, 400);
    assert_eq!(call(&service, "PATCH", &letter, whole.header("etag"), &fixed).await.status.as_u16(), 204);
    assert_eq!(service.get(&letter).await.json()["payload"], fixed["payload"]);
    // One event is deleted, one forgotten.
    let gone = list("?sqlstate=22P02&limit=3").await;
    let gone = gone
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["id"].as_str().unwrap())
        .find(|id| *id != bad)
        .unwrap()
        .to_owned();
    client.execute("delete from requests where id::text = $1", &[&gone]).await.unwrap();
    client
        .batch_execute(
            "alter table app.signups drop constraint signups_user_id_check, drop constraint signups_pkey",
        )
        .await
        .unwrap();
    let redrive = async |body: Value| call(&service, "POST", "/api/v1/dead-letters/redrive", "", &body).await;
    let done = redrive(json!({"route": "signups"})).await.json();
    assert_eq!(done, json!({"redriven": 11, "refused": 8, "missing": 1, "more": false}));
    assert_eq!(count(&client, "app.signups").await, 21);
    assert_eq!(count(&client, "route_errors where attempts = 2").await, 8);
    assert_eq!(redrive(json!({"route": "none"})).await.status.as_u16(), 404);
    assert_eq!(refusal(&redrive(json!({"route": "signups", "all": true})).await).2, "route");
    let id = list("").await[0]["id"].as_str().unwrap().to_owned();
    let letter = format!("/api/v1/dead-letters/{id}");
    assert_eq!(service.request("DELETE", &letter, &[], "").await.status.as_u16(), 204);
    assert_eq!(service.request("DELETE", &letter, &[], "").await.status.as_u16(), 404);
    assert_eq!(count(&client, "requests").await, 29);
    client.batch_execute("drop table app.signups").await.unwrap();
    assert_eq!(refusal(&redrive(json!({"route": "signups"})).await).0, 409);
    // The operator's commands.
    let (status, stdout, _) = run(&["doctor"], &[("DATABASE_URL", database.url())]).await;
    assert!(stdout.contains("the route signups: app.signups is gone"), "{status} {stdout}");
    let (status, stdout, stderr) = run(&["verify"], &[("DATABASE_URL", database.url())]).await;
    assert!(
        status.success()
            && stdout.contains("route signups: 21 rows, 7 refused, 0 deferred\n  its table is not compared"),
        "{stdout}{stderr}"
    );
}

#[tokio::test]
async fn a_rejected_dead_letter_is_corrected_and_stored() {
    let database = TestDatabase::refusing_evil().await;
    let service = Service::start(database.url(), &[]).await;
    send(&service, "{\"evil\":1}\n").await;
    service.settled().await;
    let id = service.get("/api/v1/dead-letters").await.json()[0]["id"].as_str().unwrap().to_owned();
    let letter = format!("/api/v1/dead-letters/{id}");
    let tag = service.get(&letter).await.header("etag").to_owned();
    let fixed = json!({"payload": {"good": 1}});
    assert_eq!(call(&service, "PATCH", &letter, "\"5\"", &fixed).await.status.as_u16(), 412);
    assert_eq!(call(&service, "PATCH", &letter, &tag, &fixed).await.status.as_u16(), 204);
    let done = call(&service, "POST", "/api/v1/dead-letters/redrive", "", &json!({"all": true})).await.json();
    assert_eq!(done, json!({"redriven": 1, "refused": 0, "more": false}));
    assert_eq!(count(&database.connect().await, "requests where payload->>'good' = '1'").await, 1);
}
