//! Hostile inputs: no parameter, header, path segment, cursor or body causes a 5xx.
//!
//! Operations and parameter names come from the service's own OpenAPI description, so that new ones are covered.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::imports::PROCESS;
use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

const PATIENCE: Duration = Duration::from_secs(30);

/// An operation of the description.
#[derive(Debug, Clone)]
struct Operation {
    method: String,
    path: String,
    query: Vec<String>,
    headers: Vec<String>,
}

/// Operations that fail on purpose or never end.
fn is_left_out(path: &str) -> bool {
    path.starts_with("/api/stress/error/") || path.starts_with("/_test")
}

fn operations(api: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap().iter().filter(|(path, _)| !is_left_out(path)) {
        for (method, operation) in
            item.as_object().unwrap().iter().filter(|(_, it)| it["responses"].is_object())
        {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let names = |place: &str| -> Vec<String> {
                let of_place = parameters.iter().filter(|parameter| parameter["in"] == place);
                of_place.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
            };
            let mut query = names("query");
            // Described in words only.
            if path.starts_with("/api/stress/records/") {
                query.extend(
                    ["filter_a", "filter_a.b", "filter_created", "filter_id", "sortBy", "fields"]
                        .map(String::from),
                );
            }
            if path == PROCESS {
                query.extend(["map.content", "map.payload", "map.x"].map(String::from));
            }
            let mut headers = names("header");
            headers.extend(HEADERS.map(String::from));
            all.push(Operation { method: method.to_uppercase(), path: path.clone(), query, headers });
        }
    }
    all
}

/// Headers that every operation reads.
const HEADERS: [&str; 17] = [
    "accept",
    "accept-encoding",
    "ce-id",
    "ce-source",
    "content-encoding",
    "content-type",
    "if-match",
    "if-none-match",
    "if-range",
    "last-event-id",
    "origin",
    "prefer",
    "range",
    "x-api-key",
    "x-forwarded-for",
    "x-request-id",
    "x-trace-id",
];

const WORDS: &[&str] = &[
    "",
    "0",
    "-0",
    "1",
    "-1",
    "2147483648",
    "9223372036854775808",
    "18446744073709551616",
    "1e131071",
    "1e999999999",
    "-1e-16384",
    "NaN",
    "٣",
    "0x10",
    "true",
    "null",
    "\0",
    "\u{feff}",
    "a\0b",
    "\\",
    "\\\\",
    "%",
    "_",
    "\\%",
    ",",
    ",,,",
    ".",
    "..",
    "a.b",
    "a\\.b",
    "'; drop table requests; --",
    "\"",
    "{",
    "[]",
    "{}",
    "[[[[",
    "\\u0000",
    "\u{1F600}",
    "e\u{301}",
    "\u{202e}",
    "9999-12-31T23:59:59-00:01",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "10000-01-01T00:00:00Z",
    "-000001-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "1970-01-01T00:00:60Z",
    "2026-01-31T12:00:00.9999999999Z",
    "9999-12-31T23:59:59.999999999Z",
    "end",
    "sse",
    "exact",
    "committed",
    "queued",
    "merge",
    "replace",
    "event",
    "message",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "01900000-0000-7000-8000-000000000000/1",
    "0190ffff-ffff-7fff-bfff-ffffffffffff/9999999999",
    "000000000000001",
    "things",
    "x/y",
    "../../etc/passwd",
    "-created,name",
    "-,-",
    "-a,-a,-a,-a,-a,-a,-a,-a",
    "id",
    "created",
    "gzip",
    "deflate",
    "zstd",
    "br",
    "identity",
    "gzip, br",
    "application/json",
    "application/x-ndjson",
    "text/event-stream",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "application/json; charset=utf-16",
    "bytes=0-",
    "bytes=-0",
    "bytes=5-2,9999999999999999999999-",
    "bytes=0-0,1-1",
    "*",
    "\"1\"",
    "W/\"1\", \"9223372036854775808\"",
    "\"",
    "wait=18446744073709551615",
    "wait=-1; x, respond-async",
    "unknown, 127.0.0.1:99999, [::1",
    "null",
    "http://localhost:99999",
    "Bearer x",
    "1_2",
    "9223372036854775807_ffffffff-ffff-ffff-ffff-ffffffffffff",
    "18446744073709551615.9223372036854775807",
    "1.1/i/s1:1:/pAAAA/m",
    "1.-1/s18446744073709551615:0:1,2,3/pbQ/m",
];

/// Prefixes of values.
const OPERATORS: &[&str] = &["eq:", "ne:", "gt:", "gte:", "lt:", "lte:", "like:", "in:", "-", "+", "W/"];

/// Names in bodies.
const NAMES: &[&str] = &[
    "id",
    "a",
    "title",
    "metadata",
    "role",
    "content",
    "done",
    "at",
    "token_count",
    "tool_calls",
    "ids",
    "reason",
    "since",
    "until",
    "all",
    "receipts",
    "trace_ids",
    "file_id",
    "refresh_token",
    "name",
    "scopes",
    "expires",
    "replaces",
    "overlap_s",
    "default_collection",
    "sse_rate",
];

/// Texts that resemble a parameter's value.
fn hostile() -> impl Strategy<Value = String> {
    let word = || prop_oneof![4 => select(WORDS).prop_map(String::from), 1 => ".{0,12}", 1 => "[-\\\\%_,.:*'\"/ a0]{0,40}"];
    let cursor = prop_oneof![
        any::<Vec<u8>>().prop_map(|bytes| URL_SAFE_NO_PAD.encode(bytes)),
        (select(&["", "a", "-created", "a,-b"][..]), prop::collection::vec(word(), 0..5))
            .prop_map(|(order, values)| URL_SAFE_NO_PAD.encode(json!([order, values]).to_string())),
        (select(&[b'c', b'm', b'f'][..]), any::<i64>(), any::<u128>()).prop_map(|(kind, at, id)| {
            URL_SAFE_NO_PAD.encode([&[kind][..], &at.to_be_bytes(), &id.to_be_bytes()].concat())
        }),
    ];
    prop_oneof![
        6 => word(),
        3 => (select(OPERATORS), word(), word()).prop_map(|(operator, one, two)| format!("{operator}{one}{two}")),
        2 => cursor,
        1 => (word(), 1_usize..3_000).prop_map(|(word, times)| word.repeat(times).chars().take(9_000).collect()),
    ]
}

/// JSON with the names that bodies have.
fn body() -> impl Strategy<Value = String> {
    let value = || {
        prop_oneof![
            4 => hostile().prop_map(Value::from),
            2 => any::<i64>().prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
            1 => Just(Value::Null),
            1 => prop::collection::vec(hostile().prop_map(Value::from), 0..3).prop_map(Value::from),
            1 => hostile().prop_map(|text| json!([{"type": text, "text": text}])),
            1 => hostile().prop_map(|text| json!({ text.clone(): text })),
        ]
    };
    let object = prop::collection::vec((select(NAMES), value()), 0..5).prop_map(|members| {
        Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()).to_string()
    });
    let several = prop::collection::vec(object.clone(), 0..4);
    prop_oneof![
        4 => object,
        1 => several.clone().prop_map(|objects| format!("[{}]", objects.join(","))),
        1 => several.prop_map(|objects| objects.join("\n")),
        1 => hostile(),
    ]
}

/// A request of the operation at an index: its path segments, some of its parameters and headers, and a body.
type Case = (Index, Vec<String>, Vec<(Index, String)>, Vec<(Index, String)>, String);

fn case() -> impl Strategy<Value = Case> {
    (
        any::<Index>(),
        prop::collection::vec(prop_oneof![hostile(), Just("things".to_owned())], 3),
        prop::collection::vec((any::<Index>(), hostile()), 0..4),
        prop::collection::vec((any::<Index>(), hostile()), 0..3),
        body(),
    )
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn request(operations: &[Operation], case: &Case, known: &[(String, String)]) -> Vec<u8> {
    let (index, segments, query, headers, body) = case;
    let operation = index.get(operations);
    let mut segments = segments.iter();
    let path: Vec<String> = operation
        .path
        .split('/')
        .map(|part| {
            if !part.starts_with('{') {
                return part.to_owned();
            }
            let value = segments.next().unwrap();
            // Sometimes an existing value, so that the code behind a look-up is reached.
            let there = known.iter().find(|(prefix, _)| operation.path.starts_with(prefix.as_str()));
            match there {
                Some((_, id)) if value.len() % 2 == 0 && part == "{id}" => id.clone(),
                _ => encoded(value),
            }
        })
        .collect();
    let query: Vec<String> = query
        .iter()
        .map(|(name, value)| match operation.query.as_slice() {
            [] => format!("x={}", encoded(value)),
            names => format!("{}={}", encoded(name.get::<String>(names)), encoded(value)),
        })
        .collect();
    let mut out = format!(
        "{} {}?{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n",
        operation.method,
        path.join("/"),
        query.join("&"),
        body.len()
    )
    .into_bytes();
    for (name, value) in headers {
        out.extend_from_slice(format!("{}: ", name.get(&operation.headers)).as_bytes());
        // A header has no control characters, and up to 8 KiB.
        out.extend(value.bytes().filter(|byte| *byte >= 0x20 && *byte != 0x7f).take(2_000));
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body.as_bytes());
    out
}

/// The status of the answer. Its body is not awaited, since some never end.
async fn status(service: &Service, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(&service.address).await.unwrap();
    let _ = stream.write_all(request).await;
    let mut head = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.ok()?.ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_makes_the_service_fail() {
    let database = TestDatabase::create().await;
    let settings = [("MODULES", "all"), ("RATE_LOGINS", "0"), ("BODY_TIMEOUT_S", "5")];
    let service = Service::start(database.url(), &settings).await;
    let api = service.get("/api/openapi.json").await.json();
    let operations = operations(&api);
    assert!(operations.len() > 30, "{}", operations.len());
    let json = [("content-type", "application/json")];
    let record =
        service.request("POST", "/api/stress/records/things", &json, r#"{"a":{"b":"x"}}"#).await.json();
    let conversation = service.request("POST", "/api/conversations", &json, "{}").await.json();
    let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
    let known = [
        ("/api/stress/records/".to_owned(), id(&record)),
        ("/api/conversations/".to_owned(), id(&conversation)),
    ];
    let mut runner = TestRunner::new(Config {
        cases: 2_000,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let runtime = tokio::runtime::Handle::current();
    let tried = tokio::task::block_in_place(|| {
        let tried = runner.run(&case(), |case| {
            let request = request(&operations, &case, &known);
            let status = runtime.block_on(status(&service, &request));
            let shown = String::from_utf8_lossy(&request);
            prop_assert!(status.is_some_and(|status| status < 500), "{status:?}: {shown:?}");
            Ok(())
        });
        tried.map_err(|error| error.to_string())
    });
    let log = service.log();
    let failures: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("\"level\":\"ERROR\"") || line.contains("panicked"))
        .collect();
    assert!(tried.is_ok() && failures.is_empty(), "{tried:?} {failures:?}");
    assert_eq!(service.get("/health").await.status.as_u16(), 200);
}
