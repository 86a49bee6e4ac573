//! Routes whose functions are slow, and redrives of them.

use crate::routes::{count, is_live, refused, routes, send, state};
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
