//! The load test against real services: each scenario passes and writes its report, each finding has its exit code, and chaos loses nothing.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service};

/// The limit of one run of the load test; a busy machine takes many times its duration.
const PATIENCE: Duration = Duration::from_secs(240);

fn program() -> PathBuf {
    let loadtest = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate")).with_file_name("loadtest");
    assert!(loadtest.exists(), "run `cargo test --workspace`, which builds {}", loadtest.display());
    loadtest
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).current_dir("/tmp").stdin(Stdio::null()).kill_on_drop(true);
    for name in ["DATABASE_URL", "DB_SCHEMA", "LOADTEST_TOKEN"] {
        command.env_remove(name);
    }
    command
}

async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output: Output = tokio::time::timeout(PATIENCE, command(arguments).output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

/// The JSON of a report in a folder, of which the page has to be there too.
fn report(folder: &str) -> Value {
    let page = std::fs::read_to_string(format!("{folder}/report.html")).unwrap();
    assert!(page.contains("<svg") && page.ends_with("</html>\n") && !page.contains("<script"), "{page}");
    serde_json::from_slice(&std::fs::read(format!("{folder}/report.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn every_scenario_passes_its_audit_and_writes_its_report() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let (url, folder) = (format!("http://{}", service.address), Folder::new());
    let events = ["--database-url", database.url()];
    let scenarios: [(&str, &[&str], bool); 15] = [
        ("events", &["--rate", "300", "--workers", "2"], true),
        ("batch", &["--rate", "3000", "--batch-size", "100"], true),
        ("spike", &["--rate", "50", "--burst", "400", "--duration", "3"], true),
        ("soak", &["--rate", "100", "--duration", "2"], true),
        ("ramp", &["--from", "100", "--to", "200", "--p99-ms", "20000", "--tries", "5"], true),
        ("mixed", &["--rate", "50", "--chat-clients", "3", "--streams", "2", "--duration", "3"], true),
        ("drain", &["--mebibytes", "1"], true),
        ("crud", &["--connections", "4"], false),
        ("get", &["--path", "/api/health?n={9}", "--connections", "2"], false),
        ("conversations", &["--clients", "3", "--pause-ms", "5"], false),
        ("large", &["--mebibytes", "1", "--at-once", "2"], false),
        ("sse", &["--clients", "3", "--rate", "20", "--duration", "2"], false),
        ("realtime", &["--subscribers", "5", "--rate", "50"], false),
        ("streams-append", &["--streams", "2", "--connections", "4"], false),
        ("streams-sse", &["--subscribers", "4", "--rate", "20"], false),
    ];
    for (name, own, counts_rows) in scenarios {
        let path = format!("{}/{name}", folder.path());
        let mut arguments = vec![name, "--url", &url, "--report", &path];
        arguments.extend(own);
        if counts_rows {
            arguments.extend(events);
        }
        if !own.contains(&"--duration") && !matches!(name, "drain" | "large") {
            arguments.extend(["--duration", "1"]);
        }
        let (code, output) = run(&arguments).await;
        assert_eq!(code, Some(0), "{name}: {output}\n{}", service.log());
        let report = report(&path);
        assert_eq!((&report["scenario"], &report["passed"]), (&name.into(), &true.into()), "{report}");
        assert!(report["audit"]["checked"].as_u64() > Some(0), "{name}: {}", report["audit"]);
        assert!(report["latencies"][0]["count"].as_u64() > Some(0), "{name}: {}", report["latencies"]);
        if matches!(name, "events" | "batch" | "spike" | "soak" | "ramp") {
            assert_eq!(report["figures"][1][0], "accepted", "{name}: {}", report["figures"]);
        }
        let windows = report["windows"].as_array().unwrap();
        let done: u64 = windows.iter().filter_map(|window| window["done"].as_u64()).sum();
        assert!(done > 0 && windows.iter().any(|window| window["pending"].is_u64()), "{name}: {windows:?}");
        let version = format!("version {}", env!("CARGO_PKG_VERSION"));
        assert!(report["machine"]["service"].as_str().unwrap().ends_with(&version), "{}", report["machine"]);
        assert!(report["command"].as_str().unwrap().starts_with(&format!("loadtest {name} --url {url}")));
        assert!(!report["command"].as_str().unwrap().contains(database.url()), "{}", report["command"]);
    }
    for (mode, messages) in [("tail", "50"), ("catch-up", "600")] {
        let arguments =
            ["streams-read", "--url", &url, "--mode", mode, "--messages", messages, "--duration", "1"];
        let (code, output) = run(&arguments).await;
        assert_eq!(code, Some(0), "{output}");
    }
}

#[tokio::test]
async fn each_finding_of_an_audit_has_its_exit_code() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let url = format!("http://{}", service.address);
    let load = async |settle: &str| {
        let arguments =
            ["events", "--url", &url, "--database-url", database.url(), "--rate", "200", "--duration", "1"];
        run(&[&arguments[..], &["--settle-timeout", settle]].concat()).await
    };
    let client = database.connect().await;
    let on_each_row = async |body: &str| {
        let statements = format!(
            "create or replace function on_each_row() returns trigger language plpgsql as $$ begin {body} return null; end $$;
             create or replace trigger on_each_row after insert on requests for each row execute function on_each_row();"
        );
        client.batch_execute(&statements).await.unwrap();
    };
    // Every tenth is taken away.
    on_each_row(
        "if get_byte(uuid_send(new.id), 15) % 10 = 0 then delete from requests where id = new.id; end if;",
    )
    .await;
    let (code, output) = load("5").await;
    assert_eq!(code, Some(3), "{output}");
    assert!(output.contains("DIFFERENCE") && !output.contains(" 0 lost"), "{output}");
    assert!(output.contains("0 doubled, 0 out of order, 0 unexpected, 0 still pending"), "{output}");

    // Every tenth is there again, under an id beside its own.
    on_each_row(
        "if pg_trigger_depth() = 1 and get_byte(uuid_send(new.id), 15) % 10 = 0 then
            insert into requests (id, trace_id, payload, received_at)
            values (encode(set_byte(uuid_send(new.id), 15, 251), 'hex')::uuid, new.trace_id, new.payload, new.received_at);
         end if;",
    )
    .await;
    let (code, output) = load("5").await;
    assert_eq!(code, Some(4), "{output}");
    assert!(output.contains("0 lost") && output.contains("doubled: lt-"), "{output}");

    client.batch_execute("drop trigger on_each_row on requests").await.unwrap();
    // Of its own: the lock of the trigger's removal would keep readers out.
    client.batch_execute("begin; lock table requests in exclusive mode").await.unwrap();
    let (code, output) = load("1").await;
    assert_eq!(code, Some(6), "{output}");
    assert!(
        output.contains("NOT FINISHED") && output.contains("0 lost") && !output.contains(" 0 still pending"),
        "{output}"
    );
    client.batch_execute("rollback").await.unwrap();
    let (code, output) = load("30").await;
    assert_eq!(code, Some(0), "{output}");
}

#[tokio::test]
async fn two_reports_are_compared_and_a_worker_runs_alone() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let (url, folder) = (format!("http://{}", service.address), Folder::new());
    let (a, b) = (format!("{}/a", folder.path()), format!("{}/b", folder.path()));
    for (path, rate) in [(&a, "100"), (&b, "400")] {
        let arguments =
            ["events", "--no-audit", "--url", &url, "--rate", rate, "--duration", "6", "--report", path];
        let (code, output) = run(&arguments).await;
        assert_eq!(code, Some(0), "{output}");
    }
    let (code, output) = run(&["compare", &a, &format!("{b}/report.json")]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("B's operations/s is higher: "), "{output}");
    assert!(output.contains("the command: A has --rate=100, B has --rate=400"), "{output}");
    let (code, output) = run(&["compare", &a, &format!("{a}/report.html")]).await;
    assert!(code == Some(1) && output.contains("is no report"), "{output}");

    let worker = [
        "worker",
        "--url",
        &url,
        "--rate",
        "100",
        "--duration",
        "1",
        "--run",
        "lt-alone",
        "--number",
        "1",
        "--of",
        "2",
    ];
    let (code, output) = run(&[&worker[..], &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "{output}");
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    // A busy machine may not send all of them in time.
    let counts = &last["done"]["counts"];
    let due = counts["sent"].as_u64().unwrap() + counts["unsent"].as_u64().unwrap();
    assert_eq!(due, 50, "half of the schedule: {last}");
    let (code, output) = run(&worker).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("lt-alone · single") && output.contains("p99.99"), "{output}");
}

#[tokio::test]
async fn an_interrupted_load_ends_in_order_and_is_audited() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let (url, folder) = (format!("http://{}", service.address), Folder::new());
    let arguments = [
        "events",
        "--url",
        &url,
        "--database-url",
        database.url(),
        "--rate",
        "100",
        "--duration",
        "600",
        "--report",
        folder.path(),
    ];
    let mut child = command(&arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The first lines may be of the preparation.
    while !lines.next_line().await.unwrap().unwrap().contains("rate ") {}
    kill(Pid::from_raw(child.id().unwrap() as i32), Signal::SIGINT).unwrap();
    let rest = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    rest.await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("The run was interrupted."), "{printed}");
    let report = report(folder.path());
    assert_eq!((&report["interrupted"], &report["passed"]), (&true.into(), &true.into()));
    assert!(report["audit"]["checked"].as_u64() > Some(0), "{}", report["audit"]);
}

#[tokio::test]
async fn chaos_strikes_its_own_service_which_loses_nothing() {
    let (folder, temporary) = (Folder::new(), Folder::new());
    let arguments = ["chaos", "--rate", "100", "--duration", "22", "--every", "3", "--report", folder.path()];
    let mut chaos = command(&arguments);
    chaos.args(["--set", "JOURNAL_MIN_FREE=0"]).env("TMPDIR", temporary.path());
    let output = tokio::time::timeout(PATIENCE, chaos.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = report(folder.path());
    let actions = report["details"]["actions"].as_object().unwrap();
    let strikes: u64 = actions.values().filter_map(Value::as_u64).sum();
    assert!(strikes >= 4 && report["notes"].as_array().unwrap().len() as u64 >= strikes, "{report}");
    assert!(report["audit"]["checked"].as_u64() > Some(500), "{}", report["audit"]);
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let (code, output) = run(&["chaos", "--url", "http://127.0.0.1:1"]).await;
    assert!(code == Some(2) && output.contains("takes no --url"), "{output}");
}
