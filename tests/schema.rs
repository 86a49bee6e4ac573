//! Migrations, partitions, the schema's name, and the pool's idle connections.

use std::time::{Duration, SystemTime};

use tidegate::config::{Config, Variables};
use tidegate::db::{ConnectionUrl, Database, PartitionManager};

use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually, run};

async fn names(database: &TestDatabase, sql: &str) -> Vec<String> {
    database.connect().await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

const PARTITIONS: &str =
    "select inhrelid::regclass::text from pg_inherits where inhparent = 'requests'::regclass order by 1";

fn settings(variables: &[(&str, &str)]) -> Config {
    let variables: Variables =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::from_variables(&variables).unwrap()
}

#[tokio::test]
async fn two_nodes_that_start_at_once_migrate_an_empty_database_once() {
    let database = TestDatabase::create_empty().await;
    let (one, two, three) = tokio::join!(
        Service::start(database.url(), &[]),
        Service::start(database.url(), &[]),
        Service::start(database.url(), &[])
    );
    for service in [&one, &two, &three] {
        assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
        service.settled().await;
    }
    let applied = "select 'V' || version || '__' || name || '.sql' from tidegate_migrations order by version";
    let applied = names(&database, applied).await;
    assert_eq!(applied.len(), tidegate::db::schema_version());
    for file in applied {
        let path = format!("{}/sql/migrations/{file}", env!("CARGO_MANIFEST_DIR"));
        assert!(std::fs::exists(&path).unwrap(), "{path}");
    }
}

#[tokio::test]
async fn a_database_that_is_newer_or_not_utf8_is_refused() {
    let database = TestDatabase::create().await;
    database
        .connect()
        .await
        .batch_execute("insert into tidegate_migrations select 99, 'future', applied_on, checksum from tidegate_migrations limit 1")
        .await
        .unwrap();
    let (status, _, stderr) = run(&["serve"], &[("DATABASE_URL", database.url()), ("PORT", "0")]).await;
    assert_eq!(status.code(), Some(1));
    let newest = tidegate::db::schema_version();
    let newer =
        format!("the database is newer than this binary: it is at migration 99, this binary knows {newest}");
    assert!(stderr.contains(&newer), "{stderr}");

    let latin = TestDatabase::create_with("encoding 'LATIN1' locale 'C' template template0").await;
    let (status, _, stderr) = run(&["serve"], &[("DATABASE_URL", latin.url()), ("PORT", "0")]).await;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("encoding is LATIN1, and tidegate needs UTF8"), "{stderr}");
}

#[tokio::test]
async fn everything_lives_in_the_configured_schema() {
    let database = TestDatabase::create_empty().await;
    let service = Service::start(database.url(), &[("DB_SCHEMA", "Tide_Gate")]).await;
    service.post(&[], "{}").await;
    service.settled().await;
    let outside = "select schemaname || '.' || tablename from pg_tables where schemaname not in ('Tide_Gate', 'pg_catalog', 'information_schema')";
    assert_eq!(names(&database, outside).await, Vec::<String>::new());
    let stored: i64 = database
        .connect()
        .await
        .query_one("select count(*) from \"Tide_Gate\".requests", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn days_are_created_ahead_and_events_are_stored_in_theirs() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    eventually("today and seven days ahead", async || {
        (names(&database, PARTITIONS).await.len() == 9).then_some(())
    })
    .await;
    service.post(&[], "{}").await;
    service.settled().await;
    let client = database.connect().await;
    let row = client.query_one("select tableoid::regclass::text, 'requests_p' || to_char(now() at time zone 'utc', 'YYYYMMDD') from requests", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), row.get::<_, &str>(1));
}

#[tokio::test]
async fn the_first_migration_decides_about_partitioning() {
    let database = TestDatabase::create_empty().await;
    let service = Service::start(database.url(), &[("PARTITIONING", "off")]).await;
    service.post(&[], "{}").await;
    service.settled().await;
    assert!(service.stop().await.status.success());
    let service = Service::start(database.url(), &[("PARTITIONING", "day")]).await;
    service.post(&[], "{}").await;
    service.settled().await;
    assert_eq!(
        names(&database, "select relkind::text from pg_class where oid = 'requests'::regclass").await,
        ["r"]
    );
}

#[tokio::test]
async fn retention_drops_old_days_under_load_and_moves_rows_of_the_default_partition() {
    let database = TestDatabase::create().await;
    let config = settings(&[("RETENTION_DAYS", "3")]);
    let pool = Database::new(&ConnectionUrl::parse(database.url()).unwrap(), &config.database).unwrap();
    let keeper = PartitionManager::new(pool, &config.database);
    let client = database.connect().await;
    let day = Duration::from_secs(24 * 60 * 60);
    let long_ago = SystemTime::now() - 10 * day;

    assert!(keeper.round_as_of(long_ago).await.unwrap().is_complete());
    assert_eq!(names(&database, PARTITIONS).await.len(), 9);
    // Today has no partition yet, so an event goes to the default one.
    let service = Service::start(database.url(), &[]).await;
    service.post(&[], "{}").await;
    service.settled().await;
    drop(service);
    client.batch_execute("delete from requests").await.unwrap();
    let id = |time: SystemTime| {
        let ms = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        uuid::Uuid::from_u128(ms << 80 | 0x7 << 76 | 0x8 << 60)
    };
    let beyond = SystemTime::now() + 8 * day;
    for time in [long_ago, beyond, long_ago - 5 * day] {
        client
            .execute("insert into requests (id, trace_id, received_at) values ($1, 'x', now())", &[&id(time)])
            .await
            .unwrap();
    }
    let in_net = "select id::text from requests_default order by 1";
    assert_eq!(names(&database, in_net).await, [id(long_ago - 5 * day).to_string(), id(beyond).to_string()]);

    // A concurrent writer.
    let writing = Service::start(database.url(), &[]).await;
    let rounds = async {
        eventually("all is done", async || {
            keeper.round_as_of(SystemTime::now() + day).await.unwrap().is_complete().then_some(())
        })
        .await;
    };
    let write = async {
        for _ in 0..50 {
            assert_eq!(
                writing
                    .post_batch(&[("content-type", "application/x-ndjson")], "{}\n".repeat(200))
                    .await
                    .status
                    .as_u16(),
                202
            );
        }
    };
    tokio::join!(rounds, write);
    assert_eq!(writing.settled().await["committed"], 10_000);
    let kept = names(&database, "select id::text from requests where trace_id = 'x' order by 1").await;
    assert_eq!(kept, [id(beyond).to_string()], "what is old is gone, in the net too");
    assert_eq!(
        names(&database, in_net).await,
        Vec::<String>::new(),
        "and the net's row has moved to its day"
    );
    let oldest = names(&database, PARTITIONS).await;
    assert!(
        oldest.iter().all(|name| name == "requests_default" || *name >= format!("requests_p{}", "2026")),
        "{oldest:?}"
    );
}

#[tokio::test]
async fn idle_connections_are_really_closed() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("DB_IDLE_TIMEOUT", "1")]).await;
    service.post(&[], "{}").await;
    service.settled().await;
    let client = database.connect().await;
    let open = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'tidegate'";
    eventually("Postgres sees none", async || {
        (client.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    assert_eq!(service.health().await["pool"]["open"], 0);
    service.post(&[], "{}").await;
    assert_eq!(service.settled().await["committed"], 2);
}

#[tokio::test]
async fn a_day_that_cannot_be_dropped_or_created_is_reported_and_the_others_are_handled() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let config = settings(&[("RETENTION_DAYS", "3")]);
    let pool = Database::new(&ConnectionUrl::parse(database.url()).unwrap(), &config.database).unwrap();
    let keeper = PartitionManager::new(pool, &config.database);
    let day = Duration::from_secs(24 * 60 * 60);
    assert!(keeper.round_as_of(SystemTime::now() - 20 * day).await.unwrap().is_complete());
    let old = names(&database, PARTITIONS).await;
    assert_eq!(old.len(), 9, "eight days and the net: {old:?}");
    let (kept, last) = (&old[1], &old[8]);
    client.batch_execute(&format!("create view of_one_day as select id from {kept}")).await.unwrap();
    // A user's table has the name of a future day.
    let tomorrow = "select 'requests_p' || to_char(now() at time zone 'utc' + interval '1 day', 'YYYYMMDD')";
    let tomorrow = names(&database, tomorrow).await.remove(0);
    client.batch_execute(&format!("create type {tomorrow} as (n int)")).await.unwrap();
    // A detached day keeps its name.
    let later = "select 'requests_p' || to_char(now() at time zone 'utc' + interval '2 days', 'YYYYMMDD')";
    let later = names(&database, later).await.remove(0);
    client.batch_execute(&format!("create table {later} (like requests)")).await.unwrap();

    let service = Service::start(database.url(), &[("RETENTION_DAYS", "3")]).await;
    let health = eventually("health reports both", async || {
        let health = service.health().await;
        (!health["housekeeping"]["partitions"].as_array()?.is_empty()).then_some(health)
    })
    .await;
    assert_eq!(
        (&health["status"], &health["housekeeping"]["state"]),
        (&"degraded".into(), &"failing".into())
    );
    let date = format!("{}-{}-{}", &kept[10..14], &kept[14..16], &kept[16..]);
    let failures = health["housekeeping"]["partitions"].as_array().unwrap();
    let failure = failures.iter().find(|failure| failure["day"] == date.as_str()).unwrap();
    assert_eq!(failure["action"], "drop");
    assert!(failure["error"].as_str().unwrap().starts_with("2BP01 "), "{failure}");
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    let metric =
        format!("tidegate_partitions_failing{{action=\"drop\",day=\"{date}\",sqlstate=\"2BP01\"}} 1");
    assert!(metrics.contains(&metric), "{metrics}");
    let taken = format!("{}-{}-{}", &later[10..14], &later[14..16], &later[16..]);
    let failure = failures.iter().find(|failure| failure["day"] == taken.as_str()).unwrap();
    assert_eq!(failure["action"], "make");
    assert!(failure["error"].as_str().unwrap().starts_with("42P07 "), "{failure}");
    let now = names(&database, PARTITIONS).await;
    assert!(now.contains(kept) && !now.contains(last), "the others are dropped: {now:?}");
    assert_eq!(
        now.len(),
        1 + 1 + 6,
        "the default partition, what a view needs, today and all days ahead but two: {now:?}"
    );
    assert!(!now.contains(&tomorrow) && !now.contains(&later));

    client
        .batch_execute(&format!("drop view of_one_day; drop type {tomorrow}; drop table {later}"))
        .await
        .unwrap();
    assert!(keeper.round_as_of(SystemTime::now()).await.unwrap().is_complete());
    let now = names(&database, PARTITIONS).await;
    assert!(!now.contains(kept) && now.contains(&tomorrow) && now.contains(&later), "{now:?}");
}

#[tokio::test]
async fn generated_columns_and_users_columns_are_added_to_new_partitions() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "alter table requests add column kind text generated always as (payload->>'kind') stored;
             alter table requests add column note text default 'none'",
        )
        .await
        .unwrap();
    // There is no partition yet: the event goes to the default one, and moves with all its columns.
    let config = settings(&[]);
    let pool = Database::new(&ConnectionUrl::parse(database.url()).unwrap(), &config.database).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let id = uuid::Uuid::from_u128(now << 80 | 0x7 << 76 | 0x8 << 60);
    let row = "insert into requests (id, trace_id, payload, received_at, note) values ($1, 'x', '{\"kind\":\"a\"}', now(), 'mine')";
    client.execute(row, &[&id]).await.unwrap();
    let keeper = PartitionManager::new(pool, &config.database);
    let round = keeper.round_as_of(SystemTime::now()).await.unwrap();
    assert!(round.is_complete(), "{round:?}");
    let moved = client
        .query_one("select tableoid::regclass::text, kind, note from requests where id = $1", &[&id])
        .await
        .unwrap();
    let (table, kind, note): (String, String, String) = (moved.get(0), moved.get(1), moved.get(2));
    assert!(table.starts_with("requests_p"), "{table}");
    assert_eq!((kind.as_str(), note.as_str()), ("a", "mine"));
    let service = Service::start(database.url(), &[]).await;
    service.post(&[], "{\"kind\":\"b\"}").await;
    assert_eq!(service.settled().await["committed"], 1);
    assert_eq!(names(&database, "select kind from requests order by 1").await, ["a", "b"]);
}
