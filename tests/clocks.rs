//! Nothing is deleted by age while the clocks of the service and of Postgres differ.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::imports::count;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually};

/// A library for `LD_PRELOAD` that moves a process's clock by `CLOCK_OFFSET_S` seconds, or by those in the file `CLOCK_OFFSET_FILE`.
pub(crate) fn other_clock(folder: &Folder) -> PathBuf {
    let source = "#define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <stdlib.h>
        #include <sys/syscall.h>
        #include <sys/time.h>
        #include <time.h>
        #include <unistd.h>
        static long offset(void) {
            const char *file = getenv(\"CLOCK_OFFSET_FILE\");
            if (file) {
                char read_text[32] = \"\";
                int kept = errno, opened = open(file, O_RDONLY | O_CLOEXEC);
                if (opened >= 0) {
                    long length = read(opened, read_text, sizeof read_text - 1);
                    read_text[length > 0 ? length : 0] = 0;
                    close(opened);
                }
                errno = kept;
                return atol(read_text);
            }
            const char *text = getenv(\"CLOCK_OFFSET_S\");
            return text ? atol(text) : 0;
        }
        int clock_gettime(clockid_t clock, struct timespec *now) {
            int failed = syscall(SYS_clock_gettime, clock, now);
            if (!failed && clock == CLOCK_REALTIME) now->tv_sec += offset();
            return failed;
        }";
    let file = PathBuf::from(folder.path()).join("clock.c");
    std::fs::write(&file, source).unwrap();
    let library = file.with_extension("so");
    // The compiler that Rust uses for linking.
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&file).status().unwrap();
    assert!(compiled.success());
    library
}

/// Rows that are older than every retention, and days of last week.
async fn old_rows(database: &TestDatabase) {
    let client = database.connect().await;
    client
        .batch_execute(
            "insert into ingest_keys select gen_random_uuid(), gen_random_uuid(), now() - interval '30 days';
             insert into ingest_duplicates select gen_random_uuid(), gen_random_uuid(), now() - interval '30 days';
             insert into users (issuer, subject) values ('i', 's');
             insert into sessions (user_id, current_hash, expires)
                 select id, 'x', now() - interval '30 days' from users;
             insert into auth_revocations (kind, subject, until)
                 values ('session', gen_random_uuid(), now() - interval '30 days');
             insert into conversations (id, title, created_at, updated_at) values (gen_random_uuid(), 't', now(), now());
             insert into message_keys (conversation_id, key, hash, ids, first, at)
                 select id, 'k', 'x', '{}', now(), now() - interval '30 days' from conversations;
             insert into changes (number, topic, record, action, created, updated, data, at)
                 values (1, 't', 'r', 'create', now(), now(), '{}', now() - interval '30 days');
             do $$
             begin
                 for n in 1..6 loop
                     execute format(
                         'create table requests_p%s partition of requests for values from (%L) to (%L)',
                         to_char(now() at time zone 'utc' - n * interval '1 day', 'YYYYMMDD'),
                         lpad(to_hex((extract(epoch from date_trunc('day', now() at time zone 'utc') - n * interval '1 day') * 1000)::bigint), 12, '0') || repeat('0', 20),
                         lpad(to_hex((extract(epoch from date_trunc('day', now() at time zone 'utc') - (n - 1) * interval '1 day') * 1000)::bigint), 12, '0') || repeat('0', 20)
                     );
                 end loop;
             end $$;",
        )
        .await
        .unwrap();
    // A position that saw the change, which is deleted once the position is old.
    let kept = "insert into feed_positions values (now() - interval '30 days', pg_current_snapshot()::text)";
    client.batch_execute(kept).await.unwrap();
}

const KEPT: [&str; 6] =
    ["ingest_keys", "ingest_duplicates", "sessions", "auth_revocations", "message_keys", "changes"];

const DAYS: &str = "pg_class where relname ~ '^requests_p[0-9]{8}$' and relname < 'requests_p' || to_char(now() at time zone 'utc', 'YYYYMMDD')";

#[tokio::test]
async fn nothing_is_deleted_by_age_while_the_clocks_differ() {
    let folder = Folder::new();
    let library = other_clock(&folder);
    let preload = library.to_str().unwrap();
    let database = TestDatabase::create().await;
    old_rows(&database).await;
    let client = database.connect().await;
    // Ahead: it would drop days. Behind: Postgres is ahead, and rows are old by Postgres' clock.
    for offset_s in ["691200", "-691200"] {
        let moved = [
            ("RETENTION_DAYS", "7"),
            ("IDEMPOTENCY_WINDOW_S", "3600"),
            ("LD_PRELOAD", preload),
            ("CLOCK_OFFSET_S", offset_s),
        ];
        let service = Service::start(database.url(), &moved).await;
        service.post(&[], "{}").await;
        let health = eventually("the difference is found", async || {
            let health = service.health().await;
            (health["housekeeping"]["deletion_refused"] == true).then_some(health)
        })
        .await;
        // Each table has been checked, those of keys by a checkpoint.
        for name in ["change-retention", "message-keys", "partitions", "revocations"] {
            eventually(&format!("{name} has run"), async || {
                let health = service.health().await;
                let task = health["tasks"].as_array()?.iter().find(|task| task["name"] == name)?.clone();
                (!task["last_success_ms"].is_null() || !task["last_error"].is_null()).then_some(())
            })
            .await;
        }
        service.fenced().await;
        let housekeeping = &health["housekeeping"];
        assert_eq!(
            (&health["status"], &housekeeping["deletion_refused"]),
            (&json!("degraded"), &json!(true))
        );
        let ahead: i64 = offset_s.parse().unwrap();
        assert!((housekeeping["clock_ahead_s"].as_i64().unwrap() - ahead).abs() < 60, "{housekeeping}");
        let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
        assert!(metrics.contains("tidegate_deletion_refused 1\n"), "{metrics}");
        for table in KEPT {
            assert_eq!(count(&client, table).await, 1, "{table} at {offset_s}");
        }
        assert!(count(&client, DAYS).await >= 6, "days at {offset_s}");
        let logged = service.log().matches("the clocks of this service and of Postgres differ").count();
        assert_eq!(logged, 1, "it is logged once: {}", service.log());
        assert_eq!(service.settled().await["committed"], 1, "events are still stored");
    }
    // With equal clocks everything is deleted, except the days, which are at most a week old.
    let agreed = [("RETENTION_DAYS", "3"), ("IDEMPOTENCY_WINDOW_S", "3600")];
    let service = Service::start(database.url(), &agreed).await;
    for table in KEPT {
        eventually(&format!("{table} is cleared"), async || (count(&client, table).await == 0).then_some(()))
            .await;
    }
    eventually("old days are gone", async || (count(&client, DAYS).await == 3).then_some(())).await;
    assert_eq!(service.health().await["housekeeping"]["state"], "ok");
}
