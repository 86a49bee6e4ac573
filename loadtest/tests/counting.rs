//! The load test against a stand-in for the service that rejects, breaks off and vanishes on purpose: every request has to be
//! counted by its outcome.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The stand-in's reaction to a request, by its number from 1.
type Fault = fn(u64) -> Reaction;

enum Reaction {
    Accept,
    Refuse,
    BreakOff,
    AcceptAfter(Duration),
}

#[derive(Default)]
struct Seen {
    requests: u64,
    accepted: u64,
    refused: u64,
    broken_off: u64,
    trace_ids: BTreeSet<String>,
    events: u64,
    authorized: u64,
}

struct StandIn {
    url: String,
    seen: Arc<Mutex<Seen>>,
}

impl StandIn {
    fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &seen, fault));
            }
        });
        Self { url, seen }
    }

    fn run(&self, args: &[&str]) -> (Output, Value) {
        let report = tempfile(&self.url);
        let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["run", "--no-audit", "--url", &self.url, "--report", &report])
            .args(args)
            .env_remove("LOADTEST_TOKEN")
            .output()
            .unwrap();
        let json =
            std::fs::read(&report).map(|json| serde_json::from_slice(&json).unwrap()).unwrap_or_default();
        let _ = std::fs::remove_file(&report);
        (output, json)
    }
}

fn tempfile(url: &str) -> String {
    let port = url.rsplit(':').next().unwrap();
    std::env::temp_dir().join(format!("loadtest-{}-{port}.json", std::process::id())).display().to_string()
}

fn serve(stream: TcpStream, seen: &Mutex<Seen>, fault: Fault) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    while let Some(request) = read_request(&mut input)? {
        if request.path == "/api/health" {
            answer(&mut output, "200 OK", r#"{"pending":0}"#)?;
            continue;
        }
        let (reaction, rejected) = {
            let mut seen = seen.lock().unwrap();
            seen.requests += 1;
            seen.events += request.events;
            seen.authorized += u64::from(request.authorization == "Bearer s3cret");
            assert!(seen.trace_ids.insert(request.trace_id), "a trace id came twice");
            let reaction = fault(seen.requests);
            match reaction {
                Reaction::Accept | Reaction::AcceptAfter(_) => seen.accepted += 1,
                Reaction::Refuse => seen.refused += 1,
                Reaction::BreakOff => seen.broken_off += 1,
            }
            (reaction, u64::from(request.events > 1))
        };
        let accepted = request.events - rejected;
        let refusals = if rejected > 0 { r#"{"index":0,"code":"invalid_json","message":"no"}"# } else { "" };
        let body = format!(r#"{{"accepted":{accepted},"rejected":[{refusals}]}}"#);
        match reaction {
            Reaction::BreakOff => return Ok(()),
            Reaction::Refuse => answer(&mut output, "503 Service Unavailable", "{}")?,
            Reaction::Accept => answer(&mut output, "202 Accepted", &body)?,
            Reaction::AcceptAfter(pause) => {
                std::thread::sleep(pause);
                answer(&mut output, "202 Accepted", &body)?;
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Request {
    path: String,
    trace_id: String,
    authorization: String,
    events: u64,
}

fn read_request(input: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut request = Request::default();
    let mut length = 0;
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    line.split(' ').nth(1).unwrap().clone_into(&mut request.path);
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name {
            "x-trace-id" => value.clone_into(&mut request.trace_id),
            "authorization" => value.clone_into(&mut request.authorization),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    request.events = body.split(|byte| *byte == b'\n').count() as u64;
    Ok(Some(request))
}

fn answer(output: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    output.write_all(head.as_bytes())
}

#[test]
fn every_request_is_counted_as_what_became_of_it() {
    let service = StandIn::start(|request| match request {
        _ if request % 10 == 0 => Reaction::BreakOff,
        _ if request % 3 == 0 => Reaction::Refuse,
        _ => Reaction::Accept,
    });
    let args =
        ["--rate", "1000", "--duration", "1", "--workers", "2", "--connections", "8", "--token", "s3cret"];
    let (output, report) = service.run(&args);
    let seen = service.seen.lock().unwrap();

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((seen.requests, seen.authorized), (1_000, 1_000));
    let counts = &report["counts"];
    assert_eq!(counts["sent"], 1_000);
    assert_eq!(counts["accepted"], seen.accepted);
    assert_eq!(counts["refused"]["503"], seen.refused);
    assert_eq!(counts["unknown"], seen.broken_off);
    assert_eq!(report["latency"]["count"], seen.accepted);
    let run = report["setup"]["run"].as_str().unwrap();
    assert!(seen.trace_ids.iter().all(|id| id.starts_with(&format!("{run}-"))));
    assert!(!report.to_string().contains("s3cret") && !format!("{output:?}").contains("s3cret"));
}

#[test]
fn batches_are_counted_in_events_and_refused_lines_by_their_code() {
    let service = StandIn::start(|request| if request == 2 { Reaction::Refuse } else { Reaction::Accept });
    let args = ["--mode", "batch", "--batch-size", "50", "--rate", "1000", "--duration", "1"];
    let (output, report) = service.run(&args);

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(service.seen.lock().unwrap().events, 1_000);
    let counts = &report["counts"];
    assert_eq!((&counts["requests"], &counts["sent"]), (&20.into(), &1_000.into()));
    assert_eq!(counts["accepted"], 19 * 49);
    assert_eq!(counts["rejected"]["invalid_json"], 19);
    assert_eq!(counts["refused"]["503"], 50);
}

#[test]
fn a_stall_shows_in_the_latency_of_everything_that_was_due_meanwhile() {
    let service = StandIn::start(|request| match request {
        100 => Reaction::AcceptAfter(Duration::from_millis(500)),
        _ => Reaction::Accept,
    });
    let (_, report) = service.run(&["--rate", "1000", "--duration", "1", "--connections", "1"]);

    let (counts, latency) = (&report["counts"], &report["latency"]);
    assert_eq!(counts["sent"].as_u64().unwrap() + counts["unsent"].as_u64().unwrap(), 1_000);
    assert!(latency["max_us"].as_u64().unwrap() >= 500_000);
    // Half of the requests were due during the stall, and waited a quarter of a second on average. Measured from their sending,
    // all but one would look fast.
    assert!(latency["percentiles_us"]["p75"].as_u64().unwrap() >= 100_000, "{latency}");
}

#[test]
fn a_closed_loop_sends_until_its_time_is_up() {
    let service = StandIn::start(|_| Reaction::AcceptAfter(Duration::from_millis(10)));
    let started = Instant::now();
    let (output, report) = service.run(&["--duration", "0.5", "--connections", "4"]);

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(started.elapsed() >= Duration::from_millis(500));
    let seen = service.seen.lock().unwrap();
    assert_eq!(report["counts"]["accepted"], seen.requests);
    assert!((4..=4 * 51).contains(&seen.requests), "{}", seen.requests);
}

#[test]
fn a_service_that_is_not_there_is_one_clear_line_and_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = StandIn { url: format!("http://{}", listener.local_addr().unwrap()), seen: Arc::default() };
    drop(listener);
    let (output, _) = service.run(&["--duration", "1"]);

    assert_eq!(output.status.code(), Some(1));
    let output_text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output_text.lines().count(), 1, "{output_text}");
    assert!(output_text.contains(&service.url) && output_text.contains("refused"), "{output_text}");
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    let service = StandIn::start(|_| Reaction::Accept);
    for args in [["--rate", "fast"], ["--payload-file", "/nonexistent"], ["--token", "a\nb"]] {
        assert_eq!(service.run(&args).0.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_worker_outlives_neither_its_input_nor_a_bad_plan() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest")).arg("worker").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let output_text: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output_text["failed"].as_str().unwrap().contains("plan"), "{output_text}");
}
