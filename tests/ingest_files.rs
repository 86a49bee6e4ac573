//! `tidegate ingest`: lines of files, folders and standard input, each once through kills, rotations and bad lines.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::process::Child;

use crate::full_disk::SmallDisk;
use crate::support::accounts::{guarded, key};
use crate::support::imports::count;
use crate::support::intake::gzip;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually, program};

/// A folder for one run of the command, with its state.
struct Bench {
    folder: Folder,
    url: String,
}

impl Bench {
    fn new(service: &Service) -> Self {
        Self { folder: Folder::new(), url: format!("http://{}", service.address) }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    /// Starts the command with paths of the folder, and further arguments.
    fn spawn(&self, names: &[&str], more: &[&str]) -> Child {
        let [state, rejects] = ["own.state", "own.rejects"].map(|name| self.text(name));
        self.start(names, &[&["--state", &state, "--rejects", &rejects], more].concat())
    }

    /// As [`Self::spawn`], with the state elsewhere.
    fn start(&self, names: &[&str], more: &[&str]) -> Child {
        let paths: Vec<String> =
            names.iter().map(|name| if *name == "-" { "-".to_owned() } else { self.text(name) }).collect();
        let mut arguments = vec!["ingest", "--url", &self.url];
        arguments.extend(paths.iter().map(String::as_str));
        arguments.extend(more);
        let mut command = program(&arguments, &[]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Runs the command to its end; returns whether it succeeded, and its log.
    async fn run(&self, names: &[&str], more: &[&str]) -> (bool, String) {
        run(self.spawn(names, more)).await
    }

    /// Runs the command with bytes as its standard input.
    async fn pipe(&self, input: &[u8], more: &[&str]) -> (bool, String) {
        let mut child = self.spawn(&["-"], more);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).await.unwrap();
        drop(stdin);
        run(child).await
    }

    /// Sends lines to their end; the log has nothing else.
    async fn sends(&self, names: &[&str], more: &[&str], lines: u64) {
        let expected = (true, format!("{lines} lines sent, 0 rejected\n"));
        assert_eq!(self.run(names, more).await, expected);
    }

    /// The rejected lines.
    fn rejects(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("own.rejects")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Whether the command succeeds, and its log.
async fn run(child: Child) -> (bool, String) {
    let output = child.wait_with_output().await.unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

/// The numbers of the events, sorted; each event is `{"n": …}` or has a line of a number.
async fn numbers(database: &TestDatabase) -> Vec<i64> {
    let client = database.connect().await;
    let numbers = "select coalesce(payload->>'n', payload->>'line')::bigint from requests order by 1";
    client.query(numbers, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn has_numbers(database: &TestDatabase, up_to: i64) {
    let expected: Vec<i64> = (0..up_to).collect();
    eventually("every line is stored", async || {
        let stored = numbers(database).await;
        (stored.len() as i64 >= up_to).then_some(())
    })
    .await;
    assert_eq!(numbers(database).await, expected);
}

fn lines(range: std::ops::Range<i64>) -> String {
    range.map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

#[tokio::test]
async fn files_of_every_kind_are_sent_once_and_bad_lines_go_to_the_rejects() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("MAX_EVENT_BYTES", "2000")]).await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    let bench = Bench::new(&service);
    bench.append("a.ndjson", lines(0..3000));
    bench.append("b.gz", gzip(lines(3000..4000)));
    bench.append("c.zst", zstd::encode_all(lines(4000..5000).as_bytes(), 1).unwrap());
    // Text without an end of its last line.
    bench.append("d.log", "5000\r\n\n5001");
    let token = ["--token", &api_key];
    let names = ["a.ndjson", "b.gz", "c.zst", "d.log"];
    for lines in [5002, 0] {
        bench.sends(&names, &token, lines).await;
    }
    has_numbers(&database, 5002).await;
    // More is appended: only that is sent, lines that the service rejects aside.
    let long = "x".repeat(3000);
    bench.append(
        "a.ndjson",
        format!("{}oops\n\n{{\"n\":\"{long}\"}}\n{}", lines(5002..5003), lines(5003..5004)),
    );
    let (is_good, log) = bench.run(&names, &token).await;
    assert!(!is_good && log.contains("2 lines sent, 2 rejected"), "{log}");
    has_numbers(&database, 5004).await;
    let rejects = bench.rejects();
    let offset = lines(0..3000).len() + lines(5002..5003).len();
    assert_eq!(
        (&rejects[0]["code"], &rejects[0]["line"], &rejects[0]["offset"]),
        (&json!("invalid_json"), &json!("oops"), &json!(offset))
    );
    assert_eq!((&rejects[1]["code"], rejects.len()), (&json!("too_large"), 2));
    assert!(rejects[0]["file"].as_str().unwrap().ends_with("a.ndjson"));
    let (is_good, log) = bench.run(&["missing"], &token).await;
    assert!(!is_good && log.contains("No such file"), "{log}");
    bench.append("e.log", "1\n");
    let (is_good, log) = bench.run(&["e.log"], &["--token", "tg_wrong"]).await;
    assert!(!is_good && log.contains("401") && !log.contains("tg_wrong"), "{log}");
    let elsewhere = Bench { url: "ftp://x".into(), ..bench };
    let (is_good, log) = elsewhere.run(&["e.log"], &[]).await;
    assert!(!is_good && log.contains("--url takes"), "{log}");
}

#[tokio::test]
async fn standard_input_and_text_are_sent() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let bench = Bench::new(&service);
    let (is_good, log) = bench.pipe(b"plain \"text\"\n{}\n\xff\0\n\0", &[]).await;
    assert!(is_good && log.contains("4 lines sent, 0 rejected"), "{log}");
    let (is_good, log) = bench.pipe(&gzip(b"{\"a\":1}\n"), &[]).await;
    assert!(is_good && log.contains("1 lines sent, 0 rejected"), "{log}");
    service.settled().await;
    let client = database.connect().await;
    let rows =
        client.query("select payload from requests where body is null order by id", &[]).await.unwrap();
    let payloads: Vec<Value> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        payloads,
        [
            json!({"line": "plain \"text\""}),
            json!({"line": "{}"}),
            json!({"line_base64": "/wA="}),
            json!({"a": 1})
        ]
    );
    // `jsonb` has no zero character: the event is kept as it came.
    let row = client.query_one("select body from requests where body is not null", &[]).await.unwrap();
    assert_eq!(row.get::<_, Vec<u8>>(0), br#"{"line":"\u0000"}"#);
}

#[tokio::test]
async fn what_cannot_be_read_is_reported_and_costs_the_others_nothing() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let bench = Bench::new(&service);
    // Lines before the damage count.
    let whole = gzip(lines(0..20_000));
    bench.append("broken.gz", &whole[..whole.len() / 2]);
    bench.append("good.log", "-1\n");
    // Reading it fails, also for root.
    std::os::unix::fs::symlink("/proc/self/mem", bench.path("unreadable.log")).unwrap();
    let (is_good, log) = bench.run(&["broken.gz", "good.log", "unreadable.log"], &[]).await;
    assert!(!is_good && log.contains("2 files or folders could not be read"), "{log}");
    for name in ["broken.gz: ", "unreadable.log: "] {
        assert_eq!(log.matches(name).count(), 1, "{log}");
    }
    service.settled().await;
    let stored = numbers(&database).await;
    assert_eq!(stored, (-1..stored.len() as i64 - 1).collect::<Vec<_>>());
    assert!(stored.len() > 5000, "{}", stored.len());
    nix::unistd::mkfifo(&bench.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (is_good, log) = bench.run(&["fifo"], &[]).await;
    assert!(!is_good && log.contains("neither a file nor a folder"), "{log}");
    let (is_good, log) = bench.run(&["-", "good.log"], &[]).await;
    assert!(!is_good && log.contains("- stands alone"), "{log}");
    // A line that is too long, without an end, in a file of zeros that takes no room.
    let sparse = std::fs::File::create(bench.path("sparse.log")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    let (is_good, log) = bench.run(&["sparse.log"], &["--format", "ndjson"]).await;
    assert!(!is_good && log.contains("0 lines sent, 1 rejected"), "{log}");
    assert_eq!((&bench.rejects()[0]["code"], &bench.rejects()[0]["line"]), (&json!("too_large"), &json!("")));
    std::fs::write(bench.path("own.state"), "{}").unwrap();
    let (is_good, log) = bench.run(&["good.log"], &[]).await;
    assert!(!is_good && log.contains("is no state of tidegate ingest"), "{log}");
}

#[tokio::test]
async fn a_full_disk_costs_no_line() {
    let Some(disk) = SmallDisk::mounted() else { return };
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let bench = Bench { folder: Folder::new(), url: format!("http://{}", service.address) };
    bench.append("a.log", lines(0..10));
    let [state, rejects] =
        ["state", "rejects"].map(|name| disk.files.join(name).to_str().unwrap().to_owned());
    let own = ["--state", &state, "--rejects", &rejects];
    let sends = async |expected: &str| {
        let (is_good, log) = run(bench.start(&["a.log"], &own)).await;
        assert!(log.contains(expected), "{log}");
        is_good
    };
    assert!(sends("10 lines sent").await);
    let filler = disk.fill();
    bench.append("a.log", format!("{}oops\n", lines(10..20)));
    for _ in 0..2 {
        assert!(!sends("No space left on device").await);
    }
    // With --follow it waits.
    let follows = [&own[..], &["--follow"]].concat();
    let mut child = bench.start(&["a.log"], &follows);
    let mut log = tokio::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let waits =
        tokio::time::timeout(Duration::from_secs(20), log.next_line()).await.unwrap().unwrap().unwrap();
    assert!(waits.contains("waiting for room") && waits.contains("No space left"), "{waits}");
    std::fs::remove_file(filler).unwrap();
    bench.append("a.log", lines(20..30));
    has_numbers(&database, 30).await;
    child.start_kill().unwrap();
    let _ = child.wait().await;
    let text = std::fs::read_to_string(&rejects).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// A batch that was stored before a kill, and is too large now, has the same keys in its parts.
#[tokio::test]
async fn parts_of_a_batch_have_the_keys_of_the_whole_one() {
    let database = TestDatabase::create().await;
    let data = Folder::new();
    let service = Service::start(database.url(), &[("DATA_DIR", data.path())]).await;
    let bench = Bench::new(&service);
    bench.append("a.log", lines(0..3000));
    bench.sends(&["a.log"], &[], 3000).await;
    service.settled().await;
    let _ = service.stop().await;
    // As a kill right after the answer leaves it.
    std::fs::remove_file(bench.path("own.state")).unwrap();
    bench.append("a.log", lines(3000..3100));
    let small = [("DATA_DIR", data.path()), ("MAX_QUEUE_SIZE", "1000")];
    let service = Service::start(database.url(), &small).await;
    let bench = Bench { url: format!("http://{}", service.address), ..bench };
    bench.sends(&["a.log"], &[], 3100).await;
    has_numbers(&database, 3100).await;
    service.settled().await;
    assert_eq!(numbers(&database).await.len(), 3100);
}

/// `.ci/long` sets more.
fn rounds() -> u32 {
    std::env::var("TIDEGATE_INGEST_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn kills_of_the_command_and_of_the_service_cost_and_double_no_line() {
    kills(&[]).await;
}

#[tokio::test]
async fn kills_without_a_journal_cost_and_double_no_line() {
    kills(&[("DURABILITY", "memory")]).await;
}

/// The command, the service, or both are killed again and again while a file grows and is rotated.
async fn kills(variables: &[(&str, &str)]) {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let database = TestDatabase::create().await;
    let data = Folder::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut all = vec![("DATA_DIR", data.path()), ("PORT", port.as_str())];
    all.extend(variables);
    let mut service = Service::start(database.url(), &all).await;
    let bench = Bench::new(&service);
    let client = database.connect().await;
    let mut next = 0;
    let mut child = bench.spawn(&["growing.log"], &["--follow"]);
    for round in 0..rounds() {
        let begun = next;
        for _ in 0..5 {
            // In two parts, so that some lines are incomplete when they are read.
            let text = take(&mut next, random.i64(1..800));
            let (one, two) = text.split_at(random.usize(0..text.len()));
            bench.append("growing.log", one);
            tokio::task::yield_now().await;
            bench.append("growing.log", two);
        }
        if round % 3 == 2 {
            let rotated = bench.path("growing.log.1");
            std::fs::rename(bench.path("growing.log"), rotated).unwrap();
        }
        // At any time while these lines are on their way.
        let killed_at = random.i64(begun..=next);
        eventually("some are stored", async || (count(&client, "requests").await >= killed_at).then_some(()))
            .await;
        let [of_command, of_service] = [random.bool(), random.bool()];
        if of_service {
            service.signal(nix::sys::signal::Signal::SIGKILL);
        }
        if of_command || !of_service {
            child.start_kill().unwrap();
            let _ = child.wait().await;
            child = bench.spawn(&["growing.log"], &["--follow"]);
        }
        if of_service {
            let _ = service.ended().await;
            service = Service::start(database.url(), &all).await;
        }
        if round % 3 == 2 {
            // The one that was renamed is read to its end before the next one is.
            eventually("all are stored", async || (count(&client, "requests").await >= next).then_some(()))
                .await;
        }
    }
    has_numbers(&database, next).await;
    // A second process would send the same lines.
    let (is_good, log) = bench.run(&["growing.log"], &[]).await;
    assert!(!is_good && log.contains("another process uses"), "{log}");
    child.start_kill().unwrap();
    let _ = child.wait().await;
    let health = service.settled().await;
    assert_eq!(numbers(&database).await.len() as i64, next, "{seed} {health}");
    assert!(bench.rejects().is_empty());
}

#[tokio::test]
async fn rotation_by_renaming_and_by_truncation_costs_no_line() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let bench = Bench::new(&service);
    let mut next = 0;
    bench.append("app.log", take(&mut next, 100));
    let mut child = bench.spawn(&["app.log"], &["--follow"]);
    has_numbers(&database, 100).await;
    // Renamed: what is written to the old file afterwards counts too.
    std::fs::rename(bench.path("app.log"), bench.path("app.log.1")).unwrap();
    bench.append("app.log.1", take(&mut next, 10));
    bench.append("app.log", take(&mut next, 100));
    has_numbers(&database, 210).await;
    bench.append("app.log.1", take(&mut next, 10));
    has_numbers(&database, 220).await;
    // Truncated in place, and written again: shorter than before, and then longer.
    for length in [20, 300] {
        std::fs::write(bench.path("app.log"), take(&mut next, length)).unwrap();
        has_numbers(&database, next).await;
    }
    has_numbers(&database, 540).await;
    // Renamed while nobody looks.
    child.start_kill().unwrap();
    let _ = child.wait().await;
    bench.append("app.log", take(&mut next, 5));
    std::fs::rename(bench.path("app.log"), bench.path("app.log.2")).unwrap();
    bench.append("app.log", take(&mut next, 5));
    let mut child = bench.spawn(&["app.log"], &["--follow"]);
    has_numbers(&database, 550).await;
    child.start_kill().unwrap();
    let _ = child.wait().await;
    assert!(bench.rejects().is_empty());
}

/// The next lines.
fn take(next: &mut i64, count: i64) -> String {
    *next += count;
    lines(*next - count..*next)
}

#[tokio::test]
async fn a_folder_is_watched_and_a_full_queue_waited_for() {
    let database = TestDatabase::create().await;
    let service = Service::start(
        database.url(),
        &[("MAX_QUEUE_SIZE", "1000"), ("ADMIT_WAIT_MS", "0"), ("DURABILITY", "memory")],
    )
    .await;
    let bench = Bench::new(&service);
    std::fs::create_dir(bench.path("logs")).unwrap();
    let blocker = database.connect().await;
    blocker.batch_execute("begin; lock table requests in access exclusive mode").await.unwrap();
    // More than the queue holds: the batch is halved.
    bench.append("logs/a.log", lines(0..3000));
    bench.append("logs/skipped.tmp", "7\n");
    bench.append("logs/.hidden.log", "7\n");
    let mut child = bench.spawn(&["logs"], &["--follow", "--matching", "*.log"]);
    eventually("the queue is full", async || {
        let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
        metrics.contains("route=\"/api/v1/events/batch\",status=\"503\"").then_some(())
    })
    .await;
    blocker.batch_execute("rollback").await.unwrap();
    has_numbers(&database, 3000).await;
    std::fs::create_dir(bench.path("logs/later")).unwrap();
    bench.append("logs/later/b.log", lines(3000..3010));
    has_numbers(&database, 3010).await;
    // The folder vanishes, and another one takes its place.
    std::fs::remove_dir_all(bench.path("logs")).unwrap();
    std::fs::create_dir(bench.path("next")).unwrap();
    bench.append("next/c.log", lines(3010..3020));
    std::fs::rename(bench.path("next"), bench.path("logs")).unwrap();
    has_numbers(&database, 3020).await;
    child.start_kill().unwrap();
    let _ = child.wait().await;
    // A file of the folder is renamed to a name that does not match, while nobody looks.
    bench.append("logs/c.log", lines(3020..3030));
    std::fs::rename(bench.path("logs/c.log"), bench.path("logs/c.log.1")).unwrap();
    bench.append("logs/c.log", lines(3030..3040));
    bench.sends(&["logs"], &["--matching", "*.log"], 20).await;
    has_numbers(&database, 3040).await;
}

/// More files than the process may have open, which all grow.
#[tokio::test]
async fn many_files_are_followed_in_turns() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let bench = Bench::new(&service);
    std::fs::create_dir(bench.path("logs")).unwrap();
    let mut next = 0;
    let mut grow = |files: i64| {
        for file in 0..files {
            bench.append(&format!("logs/{file}.log"), take(&mut next, 1));
        }
        next
    };
    grow(100);
    let [logs, state, rejects] = ["logs", "own.state", "own.rejects"].map(|name| bench.text(name));
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tidegate")])
        .args(["ingest", &logs, "--follow", "--url", &bench.url, "--state", &state, "--rejects", &rejects])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    has_numbers(&database, 100).await;
    has_numbers(&database, grow(120)).await;
    has_numbers(&database, grow(120)).await;
    child.start_kill().unwrap();
    let _ = child.wait().await;
    bench.sends(&["logs"], &[], 0).await;
}
