//! Starting, stopping, limits of connections, and settings that cannot be used.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::postgres::{Scratch, TestDatabase, connect, postmaster_pid};
use crate::support::service::{Service, eventually, run};

const EVENT: &str = "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test]
async fn sigterm_answers_what_is_under_way_stores_what_was_accepted_and_exits_0() {
    let database = TestDatabase::create().await;
    let service =
        Service::start(database.url(), &[("FLUSH_INTERVAL_MS", "60000"), ("BATCH_SIZE", "100000")]).await;
    for _ in 0..50 {
        assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
    }
    let mut slow = TcpStream::connect(&service.address).await.unwrap();
    slow.write_all(&EVENT.as_bytes()[..EVENT.len() - 1]).await.unwrap();
    let _idle = TcpStream::connect(&service.address).await.unwrap();
    service.has_begun(2).await;
    assert_eq!(service.health().await["pending"], 50);
    service.signal(Signal::SIGTERM);
    eventually("nothing new is accepted", async || {
        TcpStream::connect(&service.address).await.is_err().then_some(())
    })
    .await;
    // The slow one began before the signal and is still answered: it is told that the service goes.
    slow.write_all(b"}").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    let ended = service.ended().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let accepted = 50 + i64::from(answer.starts_with("HTTP/1.1 202"));
    assert!(accepted == 51 || answer.contains("shutting_down"), "{answer}");
    let stored: i64 =
        database.connect().await.query_one("select count(*) from requests", &[]).await.unwrap().get(0);
    assert_eq!(stored, accepted);
}

#[tokio::test]
async fn a_drain_that_cannot_end_exits_1_with_the_count() {
    let database = TestDatabase::create().await;
    let service =
        Service::start(database.url(), &[("DURABILITY", "memory"), ("SHUTDOWN_TIMEOUT_S", "1")]).await;
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in access exclusive mode").await.unwrap();
    for _ in 0..3 {
        service.post(&[], "{}").await;
    }
    let ended = service.stop().await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.log.contains("3 accepted events and 0 dead letters could not be stored in time"),
        "{}",
        ended.log
    );
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in access exclusive mode").await.unwrap();
    service.post(&[], "{}").await;
    service.signal(Signal::SIGINT);
    eventually("the drain began", async || service.logged("stopping: answering")).await;
    let started = Instant::now();
    service.signal(Signal::SIGINT);
    let ended = service.ended().await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(ended.status.code(), Some(130));
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_one_line_on_stderr_and_exit_2() {
    for (variables, line) in [
        (
            &[("PORT", "http")][..],
            "tidegate: PORT: got \"http\", takes a whole number from 0 to 65535 (TCP port; 0 takes a free one)\n",
        ),
        (
            &[("BATCH_SIZE", "0")],
            "tidegate: BATCH_SIZE: got \"0\", takes a whole number from 1 to 1000000 (events)\n",
        ),
        (
            &[("HOST", "0.0.0.0")],
            "tidegate: HOST: got \"0.0.0.0\", takes a loopback address, unless AUTH=required: all programs that reach an open service may use it\n",
        ),
        (&[("MAX_FOLLOWERS", "10")], "tidegate: MAX_FOLLOWERS is gone: use MAX_SUBSCRIBERS\n"),
        (
            &[("MEMORY_BUDGET", "268435456"), ("MAX_QUEUE_BYTES", "268435456")],
            "tidegate: MEMORY_BUDGET: got \"268435456\", takes at least 369098752: MAX_QUEUE_BYTES and SUBSCRIBERS_BYTES as they are set, and 100663296 more\n",
        ),
        (
            &[("HOST", "x86_64-conda-linux-gnu")],
            "tidegate: HOST: got \"x86_64-conda-linux-gnu\", takes an IP address to listen on, or localhost; conda and some shells export a HOST of their own: unset it, or set HOST=127.0.0.1\n",
        ),
        (
            &[("DB_POOL_SIZE", "4")],
            "tidegate: DB_POOL_SIZE: got \"4\", takes at least 5, WRITERS (1) and 4 more for MODULES\n",
        ),
        (
            &[("JOURNAL_MAX_BYTES", "1")],
            "tidegate: JOURNAL_MAX_BYTES: got \"1\", takes a whole number from 16777216 to 1099511627776 (bytes)\n",
        ),
        (
            &[("LOG", "tidegate=loud")],
            "tidegate: LOG: got \"tidegate=loud\", takes a level or directives such as info,tidegate=debug",
        ),
    ] {
        let (status, _, stderr) = run(&["serve"], variables).await;
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with(line) && stderr.lines().count() == 1, "{stderr}");
    }
    let (status, _, stderr) = run(&["serve"], &[("DATABASE_URL", "mysql://user:hunter2@host/db")]).await;
    assert_eq!(status.code(), Some(2));
    assert!(
        stderr.starts_with("tidegate: DATABASE_URL: got one that is not valid")
            && !stderr.contains("hunter2"),
        "{stderr}"
    );
    let (status, _, _) = run(&["fly"], &[]).await;
    assert_eq!(status.code(), Some(2));
}

#[tokio::test]
async fn a_dot_env_file_is_read_and_the_environment_wins_over_it() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join(".env"), "DATABASE_URL=postgres://from-file/db\nPORT=1\n").unwrap();
    let url = async |variables: &[(&str, &str)]| {
        let mut command = crate::support::service::program(&["url"], variables);
        let output = command.current_dir(scratch.path()).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(url(&[]).await, (Some(0), "postgres://from-file/db\n".into()));
    assert_eq!(url(&[("DATABASE_URL", "postgres://env/db")]).await, (Some(0), "postgres://env/db\n".into()));
    std::fs::write(scratch.path().join(".env"), "PORT=x").unwrap();
    assert_eq!(url(&[]).await.0, Some(2));
}

#[tokio::test]
async fn a_dot_env_file_is_shared_with_other_tools_and_an_error_shows_no_value() {
    let scratch = Scratch::new();
    let url = async |dot_env: &str| {
        std::fs::write(scratch.path().join(".env"), dot_env).unwrap();
        let mut command = crate::support::service::program(&["url"], &[]);
        let output = command.current_dir(scratch.path()).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout) + &text(output.stderr))
    };
    let shared = "\u{feff}X=two words\nMOTD=it's here\nDATABASE_URL=postgres://from-file/db\n";
    assert_eq!(url(shared).await, (Some(0), "postgres://from-file/db\n".into()));
    let (code, output) = url("# ours\nX=two words\nDATABASE_URL=postgres://u:hunter2 x@h/d\n").await;
    assert_eq!(code, Some(2));
    assert!(
        output.starts_with("tidegate: .env: line 3: the value of DATABASE_URL cannot be read"),
        "{output}"
    );
    assert!(!output.contains("hunter2"), "{output}");
}

#[tokio::test]
async fn the_least_journal_takes_events() {
    let database = TestDatabase::create().await;
    let variables = [("JOURNAL_MAX_BYTES", "16777216")];
    let service = Service::start(database.url(), &variables).await;
    for _ in 0..3 {
        let answer = service.post(&[], "{}").await;
        assert_eq!(answer.status.as_u16(), 202, "{:?}", answer.body);
    }
}

#[tokio::test]
async fn logs_name_variables_without_effect_and_repeat_nothing_of_libraries() {
    let database = TestDatabase::create().await;
    let variables = [("DB_SCHEMA", "fresh"), ("JOURNAL_MAX_BYTE", "1"), ("HOST", "localhost"), ("X_Y", "1")];
    let service = Service::start(database.url(), &variables).await;
    assert!(service.address.starts_with("127.0.0.1:"), "{}", service.address);
    eventually("it migrates", async || (service.health().await["status"] == "ok").then_some(())).await;
    let client = database.connect().await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    for _ in 0..5 {
        service.post(&[], "{}").await;
        service.get("/api/v1/dead-letters").await;
        client.execute(kill, &[]).await.unwrap();
    }
    service.settled().await;
    let log = service.log();
    assert!(
        log.contains("JOURNAL_MAX_BYTE is not a setting and has no effect; did you mean JOURNAL_MAX_BYTES?"),
        "{log}"
    );
    assert!(!log.contains("X_Y"), "{log}");
    assert_eq!(log.matches("the schema is migrated").count(), 1, "migrations in one line: {log}");
    for noise in ["deadpool", ".cargo", "registry/src", "applying migration", "V1__events"] {
        assert!(!log.contains(noise), "{noise}: {log}");
    }
}

#[tokio::test]
async fn help_names_every_variable_with_its_default_and_unit() {
    let (status, stdout, _) = run(&["serve", "--help"], &[]).await;
    assert!(status.success());
    assert!(
        stdout.contains("FLUSH_INTERVAL_MS") && stdout.contains("(milliseconds); default 25]"),
        "{stdout}"
    );
}

#[tokio::test]
async fn a_first_run_has_everything_and_url_names_its_database() {
    let scratch = Scratch::with_cluster(&[]).await;
    let data_dir = scratch.path().to_str().unwrap();
    let (status, _, stderr) = run(&["url"], &[("DATA_DIR", data_dir)]).await;
    assert!(status.code() == Some(1) && stderr.contains("no private Postgres is running"), "{stderr}");

    let service = Service::start_with(&[("DATA_DIR", data_dir)]).await;
    service.post(&[("x-trace-id", "first")], "{}").await;
    service.settled().await;
    let (_, url, _) = run(&["url"], &[("DATA_DIR", data_dir)]).await;
    let row = connect(url.trim()).await.query_one("select trace_id from requests", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "first");
    // A second service on the same folder is refused, and does not disturb the first.
    let (status, _, stderr) = run(&["serve"], &[("DATA_DIR", data_dir), ("PORT", "0")]).await;
    assert!(status.code() == Some(1) && stderr.contains(&format!("pid {}", service.pid())), "{stderr}");
    assert_eq!(service.health().await["status"], "ok");

    let ended = service.stop().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_eq!(postmaster_pid(scratch.path()), None, "Postgres stopped with the service");
}

#[tokio::test]
async fn health_tells_what_happens() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    assert_eq!(service.get("/health").await.body, "ok\n");
    assert_eq!(service.get("/health/ready").await.body, "ready\n");
    service.post(&[], "{}").await;
    service.settled().await;
    let health = eventually("a rate is measured", async || {
        let health = service.health().await;
        (health["rates"][1]["accepted_per_s"].as_f64().unwrap() > 0.0).then_some(health)
    })
    .await;
    assert_eq!(
        (&health["status"], &health["version"], &health["promise"]),
        (&json!("ok"), &json!(env!("CARGO_PKG_VERSION")), &json!("journaled"))
    );
    assert_eq!((&health["writer"]["state"], &health["pool"]["max"]), (&json!("running"), &json!(20)));
    assert_eq!(
        health["queue"],
        json!({"events": 0, "bytes": 0, "max_events": 200_000, "max_bytes": 268_435_456})
    );
    assert!(health["memory"]["resident_bytes"].as_u64().unwrap() > 1 << 20);
    let metrics = service.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for name in [
        "tidegate_events_accepted_total 1",
        "tidegate_events_committed_total 1",
        "tidegate_copy_rows_count 1",
        "tidegate_ack_duration_seconds_count{level=\"journaled\"} 1",
        "tidegate_http_request_duration_seconds_count{route=\"/health\"} 1",
        "tidegate_db_connections{state=\"open\"}",
        "tidegate_queue_events 0",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    assert_eq!(service.get("/nothing/here").await.error_code(), "not_found");
    let wrong_method = service.get("/api/v1/events").await;
    assert_eq!((wrong_method.status.as_u16(), wrong_method.header("allow")), (405, "POST"));
    let labels = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(
        !labels.contains("/nothing/here") && labels.contains("route=\"unmatched\""),
        "paths do not become labels"
    );
}

#[tokio::test]
async fn a_slow_or_stuck_client_is_cut_off_and_others_are_served() {
    let database = TestDatabase::create().await;
    let settings = [("IDLE_TIMEOUT_S", "2"), ("BODY_TIMEOUT_S", "1")];
    let service = Service::start(database.url(), &settings).await;
    let cut_off = async |sent: &str| {
        let started = Instant::now();
        let answer = service.raw(sent.as_bytes(), Duration::from_secs(20)).await;
        (answer, started.elapsed())
    };
    let half_head = cut_off("POST /api/v1/events HTTP/1.1\r\nhost");
    let half_body = cut_off(&EVENT[..EVENT.len() - 1]);
    let idle = cut_off("");
    let used_then_idle = cut_off(EVENT);
    let ((head, head_took), (body, body_took), (_, idle_took), (used, used_took)) =
        tokio::join!(half_head, half_body, idle, used_then_idle);
    assert!(head.is_empty() && head_took < Duration::from_secs(6), "{head} {head_took:?}");
    assert!(body.starts_with("HTTP/1.1 408") && body_took < Duration::from_secs(8), "{body} {body_took:?}");
    assert!(idle_took >= Duration::from_secs(2) && idle_took < Duration::from_secs(8), "{idle_took:?}");
    assert!(used.starts_with("HTTP/1.1 202") && used_took >= Duration::from_secs(2), "{used} {used_took:?}");
    // One that drips its head a byte at a time is cut off by the head's limit, not kept alive by each byte.
    let mut drip = TcpStream::connect(&service.address).await.unwrap();
    let started = Instant::now();
    while drip.write_all(b"P").await.is_ok() && started.elapsed() < Duration::from_secs(10) {
        // The pace of the drip.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(6));
    assert_eq!(service.settled().await["accepted"], 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_CONNECTIONS", "2")]).await;
    let first = TcpStream::connect(&service.address).await.unwrap();
    let _second = TcpStream::connect(&service.address).await.unwrap();
    service.has_begun(2).await;
    let is_refused = |answer: &str| {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 503") && head.contains(&format!("content-length: {}", body.len())),
            "{answer}"
        );
        assert!(head.contains("connection: close") && body.contains("too many connections"), "{answer}");
    };
    is_refused(&service.raw(EVENT.as_bytes(), Duration::from_secs(5)).await);
    // Operators are served all the same.
    for path in ["/health", "/api/health", "/metrics"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = service.raw(request.as_bytes(), Duration::from_secs(5)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path} {answer}");
    }
    // With their places taken too, nothing is waited for. A connection that ends leaves its place a moment later.
    let mut others = Vec::new();
    let refused = eventually("the operators' places are taken", async || {
        while others.len() < 16 {
            others.push(TcpStream::connect(&service.address).await.unwrap());
        }
        let answer = service.raw(b"", Duration::from_secs(1)).await;
        if answer.is_empty() {
            others.clear();
        }
        (!answer.is_empty()).then_some(answer)
    })
    .await;
    is_refused(&refused);
    drop((first, others));
    eventually("a place comes free", async || {
        service
            .raw(EVENT.as_bytes(), Duration::from_millis(500))
            .await
            .starts_with("HTTP/1.1 202")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (status, _, stderr) =
        run(&["serve"], &[("PORT", &port), ("DATABASE_URL", "postgres://localhost:1/x")]).await;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.starts_with(&format!("tidegate: cannot listen on 127.0.0.1:{port}: ")), "{stderr}");
}

#[tokio::test]
async fn the_health_command_tells_by_its_exit_code() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let port = service.address.rsplit(':').next().unwrap().to_owned();
    for arguments in [&["health"][..], &["health", "--ready"]] {
        let (status, _, stderr) =
            run(arguments, &[("PORT", &port), ("HOST", "0.0.0.0"), ("AUTH", "required")]).await;
        assert_eq!(status.code(), Some(0), "{stderr}");
    }
    drop(service);
    let (status, _, stderr) = run(&["health"], &[("PORT", &port)]).await;
    assert!(status.code() == Some(1) && stderr.contains("no answer from 127.0.0.1"), "{stderr}");
}

#[tokio::test]
async fn the_load_tests_audit_finds_what_was_accepted_and_misses_what_was_taken_away() {
    let loadtest = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate")).with_file_name("loadtest");
    assert!(loadtest.exists(), "run `cargo test --workspace`, which builds {}", loadtest.display());
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let url = format!("http://{}", service.address);
    let load = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(&loadtest);
        command
            .args(["run", "--url", &url, "--database-url", database.url(), "--duration", "1"])
            .args(arguments);
        let output = command.current_dir("/tmp").stdin(std::process::Stdio::null()).output().await.unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    for arguments in [
        &["--rate", "500"][..],
        &["--mode", "batch", "--batch-size", "100"],
        &["--workers", "2", "--rate", "300"],
        &["--rate", "500", "--bad", "20"],
    ] {
        let (code, output) = load(arguments).await;
        assert_eq!(code, Some(0), "{output}");
    }
    database
        .connect()
        .await
        .batch_execute(
            "create function lose() returns trigger language plpgsql as $$ begin
                if random() < 0.1 then delete from requests where id = new.id; end if; return null;
            end $$;
            create trigger lose after insert on requests for each row execute function lose();",
        )
        .await
        .unwrap();
    let (code, output) = load(&["--rate", "500"]).await;
    assert_eq!(code, Some(3), "{output}");
    assert!(output.contains("lost"), "{output}");
}
