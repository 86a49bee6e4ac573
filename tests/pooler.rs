//! Behind PgBouncer in transaction mode, where each transaction may meet another server connection.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use crate::support::load::{Load, assert_exactly_once, assert_receipts_add_up};
use crate::support::postgres::{TestDatabase, connect};
use crate::support::service::{Folder, Service, eventually, run};

/// A PgBouncer of few connections; ended when dropped.
struct PgBouncer {
    process: Child,
    url: String,
    _folder: Folder,
}

impl PgBouncer {
    /// In front of `url`; `None` where no PgBouncer is installed, which CI does not let pass.
    async fn start(url: &str) -> Option<Self> {
        let binary = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
        let Some(binary) = binary.into_iter().find(|path| fs::exists(path).unwrap_or(false)) else {
            assert!(std::env::var_os("TIDEGATE_NEEDS_POOLER").is_none(), "PgBouncer is not installed");
            eprintln!("skipped: PgBouncer is not installed");
            return None;
        };
        let config = url.parse::<tokio_postgres::Config>().unwrap();
        let (port, user) = (config.get_ports()[0], config.get_user().unwrap());
        let password = String::from_utf8_lossy(config.get_password().unwrap_or_default());
        let database = config.get_dbname().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen_port = listener.local_addr().unwrap().port();
        drop(listener);
        let folder = Folder::new();
        let file = std::path::Path::new(folder.path()).join("pgbouncer.ini");
        // It will not run as root.
        let as_whom = if nix::unistd::geteuid().is_root() { "user = nobody" } else { "" };
        let settings = format!(
            "[databases]
             * = host=127.0.0.1 port={port} user={user} password={password}
             [pgbouncer]
             listen_addr = 127.0.0.1
             listen_port = {listen_port}
             unix_socket_dir =
             auth_type = any
             pool_mode = transaction
             default_pool_size = 5
             {as_whom}\n"
        );
        fs::write(&file, settings).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let process = Command::new(binary)
            .arg("--quiet")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("PgBouncer listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", listen_port)).await.ok()
        })
        .await;
        let url = format!("postgres://{user}@127.0.0.1:{listen_port}/{database}");
        Some(Self { process, url, _folder: folder })
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_rows_are_found_through_a_pooler_and_a_probe_leaves_nothing_behind() {
    let database = TestDatabase::refusing_evil().await;
    let Some(pooler) = PgBouncer::start(database.url()).await else { return };
    let service = Service::start(&pooler.url, &[("BATCH_SIZE", "50")]).await;
    let load = Load::start(&service.address, 4, 3);
    load.progresses(2000).await;
    let sent = load.stop().await;
    let health = service.fenced().await;
    assert!(health["dead"].as_u64() > Some(100), "{health}");
    let log = service.log();
    assert!(!log.contains("a probe for bad rows failed") && !log.contains("42P07"), "{log}");
    let client = connect(database.url()).await;
    assert_exactly_once(&client, &sent).await;
    let left = "select (select count(*) from pg_class where relname like 'tidegate_probe%')
        + (select count(*) from pg_proc where proname like 'tidegate_probe%')";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_made_filled_and_suspended_through_a_pooler() {
    let database = TestDatabase::refusing_evil().await;
    let Some(pooler) = PgBouncer::start(database.url()).await else { return };
    let client = connect(database.url()).await;
    client
        .batch_execute(
            "create schema app; create table app.ids (id uuid primary key); create table app.newest (k text primary key, id uuid);
             create function app.meddle() returns text language plpgsql as $$ begin
                 perform set_config('search_path', 'app', false);
                 perform set_config('statement_timeout', '77s', false);
                 return 'x';
             end $$",
        )
        .await
        .unwrap();
    // The service knows that there are routes, so that it sets again what they may set.
    let known =
        ["routes", "add", "known", "--disabled", "--into", "app.ids", "--sql", "select id from batch"];
    assert!(run(&known, &[("DATABASE_URL", &pooler.url)]).await.0.success());
    let service = Service::start(&pooler.url, &[("BATCH_SIZE", "50")]).await;
    eventually("it is known", async || {
        (service.health().await["routes"][0]["name"] == "known").then_some(())
    })
    .await;
    let load = Load::start(&service.address, 4, 3);
    load.progresses(500).await;
    let ids = "select id from batch where app.meddle() = 'x' and (id::text not like '%3' or (id::text || 'x')::int > 0)";
    let newest = "select right(id::text, 1) as k, id from batch";
    for (name, into, sql, key) in [("ids", "app.ids", ids, ""), ("newest", "app.newest", newest, "k")] {
        let mut add = vec!["routes", "add", name, "--into", into, "--sql", sql, "--backfill"];
        add.extend(if key.is_empty() { vec![] } else { vec!["--key", key] });
        let (status, stdout, stderr) = run(&add, &[("DATABASE_URL", &pooler.url)]).await;
        assert!(status.success() && stdout.contains(" stored events routed, "), "{stdout}{stderr}");
    }
    let removed = run(&["routes", "remove", "known"], &[("DATABASE_URL", &pooler.url)]).await;
    assert!(removed.0.success(), "{removed:?}");
    load.progresses(500).await;
    client.batch_execute("alter table app.ids rename to away").await.unwrap();
    load.progresses(300).await;
    client.batch_execute("alter table app.away rename to ids").await.unwrap();
    load.progresses(300).await;
    let sent = load.stop().await;
    service.fenced().await;
    eventually("both are live", async || {
        let live = "select count(*) = 2 from event_routes where state = 'live' and backfill_until is null
            and not exists (select from route_deferred)";
        client.query_one(live, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    assert_exactly_once(&client, &sent).await;
    // What the function has set for its session is on no connection of the pooler.
    let mut clients = Vec::new();
    for _ in 0..5 {
        let client = connect(&pooler.url).await;
        client.batch_execute("begin").await.unwrap();
        let shown = client.simple_query("show statement_timeout").await.unwrap();
        let timeout = shown.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert!(timeout.is_some() && timeout != Some("77s"), "{timeout:?}");
        clients.push(client);
    }
    drop(clients);
    let missing =
        "select count(*) from requests where not exists (select from app.ids where ids.id = requests.id)
        and not exists (select from route_errors where event_id = requests.id and sqlstate = '22P02')";
    assert_eq!(client.query_one(missing, &[]).await.unwrap().get::<_, i64>(0), 0);
    let (status, stdout, stderr) = run(&["verify"], &[("DATABASE_URL", &pooler.url)]).await;
    assert!(status.success(), "{stdout}{stderr}");
}

#[tokio::test]
async fn the_load_test_audits_and_makes_bad_events_through_a_pooler() {
    let loadtest = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate")).with_file_name("loadtest");
    assert!(loadtest.exists(), "run `cargo test --workspace`, which builds {}", loadtest.display());
    let database = TestDatabase::create().await;
    let Some(pooler) = PgBouncer::start(database.url()).await else { return };
    let service = Service::start(&pooler.url, &[]).await;
    let (url, folder) = (format!("http://{}", service.address), Folder::new());
    let report = format!("{}/report.json", folder.path());
    for bad in [&[][..], &["--bad", "25"]] {
        let mut command = tokio::process::Command::new(&loadtest);
        command
            .args(["run", "--url", &url, "--database-url", &pooler.url, "--duration", "1", "--rate", "400"])
            .args(["--report", &report])
            .args(bad);
        let output = command.current_dir("/tmp").stdin(Stdio::null()).output().await.unwrap();
        assert!(output.status.success(), "{output:?}\n{}\n{}", service.health().await, service.log());
        let report: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        let (accepted, dead) = (&report["counts"]["accepted"], &report["audit"]["dead"]);
        let expected = if bad.is_empty() { 0 } else { accepted.as_u64().unwrap() / 4 };
        assert!(accepted.as_u64() > Some(0) && dead.as_u64().unwrap().abs_diff(expected) <= 1, "{report}");
    }
    let left = "select count(*) from pg_constraint where conname = 'loadtest_bad'";
    let client = connect(database.url()).await;
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_hands_out_another_connection_for_each_transaction_changes_nothing() {
    // Migrated through the pooler, too.
    let database = TestDatabase::create_empty().await;
    let Some(pooler) = PgBouncer::start(database.url()).await else { return };
    let folder = Folder::new();
    let settings = [("DATABASE_URL", pooler.url.as_str()), ("DATA_DIR", folder.path()), ("BATCH_SIZE", "50")];
    let mut sent = None;
    // A second run meets connections that the first has used.
    for _run in 0..3 {
        let service = Service::start_with(&settings).await;
        let load = Load::start(&service.address, 3, 0);
        load.progresses(300).await;
        // Server connections break, and the pooler makes others.
        let admin = connect(database.url()).await;
        let cut = "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid()";
        admin.batch_execute(cut).await.unwrap();
        load.progresses(300).await;
        let more = load.stop().await;
        sent = Some(match sent {
            None => more,
            Some(sent) => more.and(sent),
        });
        for n in 0..20 {
            let body = format!("{{\"n\":{n}}}");
            let made = service.request("POST", "/api/stress/records/pooled", &[], body).await;
            assert_eq!(made.status.as_u16(), 201, "{made:?}");
            let found = service.get(made.header("location")).await;
            assert_eq!((found.status.as_u16(), &found.json()["n"]), (200, &serde_json::json!(n)));
        }
        service.fenced().await;
        let log = service.log();
        // Records find out that nothing stays prepared here; nobody else relies on it.
        let strange = |line: &&str| line.contains("26000") || line.contains("42P05");
        let mut strange = log.lines().filter(strange).filter(|line| !line.contains("pgbouncer=true"));
        assert_eq!(strange.next(), None);
        assert!(service.stop().await.status.success());
    }
    let client = connect(database.url()).await;
    assert_exactly_once(&client, &sent.unwrap()).await;
    assert_receipts_add_up(&client).await;
}
