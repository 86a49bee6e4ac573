//! Logs of OpenTelemetry over HTTP: JSON and protobuf are stored alike, retries once, and answers have the request's form.

use serde_json::{Value, json};

use crate::support::accounts::{guarded, key};
use crate::support::imports::count;
use crate::support::intake::{Stalled, gzip, payloads};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

async fn post(service: &Service, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
    service.request("POST", "/v1/logs?ack=committed", headers, body.into()).await
}

fn raw(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn varint(number: u64, value: u64) -> Vec<u8> {
    [raw(number << 3), raw(value)].concat()
}

fn fixed(number: u64, value: u64) -> Vec<u8> {
    [&raw(number << 3 | 1)[..], &value.to_le_bytes()].concat()
}

fn field(number: u64, parts: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.as_ref().iter().copied()).collect();
    [raw(number << 3 | 2), raw(bytes.len() as u64), bytes].concat()
}

fn text(number: u64, text: &str) -> Vec<u8> {
    field(number, &[text])
}

/// A `KeyValue` in a field.
fn pair(number: u64, key: &str, value: &[Vec<u8>]) -> Vec<u8> {
    field(number, &[text(1, key), field(2, value)])
}

/// A request with one record.
fn request(record: &[Vec<u8>]) -> Vec<u8> {
    field(1, &[field(2, &[field(2, record)])])
}

const HUGE: i64 = i64::MAX - 1;

/// A request with every kind of value, as JSON.
fn in_json() -> Value {
    json!({"resourceLogs": [{
        "scopeLogs": [{
            "logRecords": [
                {
                    "timeUnixNano": "1764374400000000001", "observedTimeUnixNano": 1764374400000000002u64, "severityNumber": 9,
                    "severityText": "INFO", "eventName": "paid", "flags": 1, "droppedAttributesCount": 2,
                    "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19b7ec3c1b174",
                    "body": {"kvlistValue": {"values": [{"key": "a", "value": {"arrayValue": {"values": [
                        {"stringValue": "x\n"}, {"boolValue": true}, {"intValue": HUGE.to_string()}, {"intValue": -5}, {"doubleValue": 1.5},
                        {"doubleValue": "NaN"}, {"bytesValue": "AP8="}, {}, {"arrayValue": {}}, {"kvlistValue": {"values": []}},
                    ]}}}]}},
                    "attributes": [{"key": "http.method", "value": {"stringValue": "GET"}}, {"key": "none"}],
                },
                {"body": {"stringValue": "two"}},
            ],
            "scope": {"name": "lib", "version": "1", "attributes": [{"key": "s", "value": {"intValue": "1"}}]},
            "schemaUrl": "https://scope",
        }],
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}], "droppedAttributesCount": 3},
        "schemaUrl": "https://resource",
    }]})
}

/// The same as protobuf.
fn in_protobuf() -> Vec<u8> {
    let values = [
        field(1, &[text(1, "x\n")]),
        field(1, &[varint(2, 1)]),
        field(1, &[varint(3, HUGE as u64)]),
        field(1, &[varint(3, -5i64 as u64)]),
        field(1, &[fixed(4, 1.5f64.to_bits())]),
        field(1, &[fixed(4, f64::NAN.to_bits())]),
        field(1, &[field(7, &[b"\x00\xff"])]),
        field(1, &[b""]),
        field(1, &[field(5, &[b""])]),
        field(1, &[field(6, &[b""])]),
    ];
    let trace_id =
        [0x5b, 0x8e, 0xff, 0xf7, 0x98, 0x03, 0x81, 0x03, 0xd2, 0x69, 0xb6, 0x33, 0x81, 0x3f, 0xc6, 0x0c];
    let one = [
        fixed(1, 1_764_374_400_000_000_001),
        varint(2, 9),
        text(3, "INFO"),
        field(5, &[field(6, &[pair(1, "a", &[field(5, &values)])])]),
        pair(6, "http.method", &[text(1, "GET")]),
        varint(7, 2),
        [&raw(8 << 3 | 5)[..], &1u32.to_le_bytes()].concat(),
        field(9, &[trace_id]),
        field(10, &[[0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x74]]),
        fixed(11, 1_764_374_400_000_000_002),
        text(12, "paid"),
        // Between two attributes, and unknown.
        varint(99, 1),
        field(6, &[text(1, "none")]),
    ];
    let scope = field(1, &[text(1, "lib"), text(2, "1"), pair(3, "s", &[varint(3, 1)])]);
    let records = [field(2, &one), field(2, &[field(5, &[text(1, "two")])]), scope, text(3, "https://scope")];
    let resource = field(1, &[pair(1, "service.name", &[text(1, "shop")]), varint(2, 3)]);
    field(1, &[field(2, &records), resource, text(3, "https://resource")])
}

#[tokio::test]
async fn json_and_protobuf_are_stored_alike_and_a_retry_once() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[]).await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    let auth = ("x-api-key", api_key.as_str());
    let json = in_json().to_string();
    let encoded = ("content-encoding", "gzip");
    for (headers, body, is_again) in [
        (&[JSON, auth][..], json.clone().into_bytes(), false),
        (&[JSON, auth, encoded], gzip(&json), true),
        (&[PROTOBUF, auth], in_protobuf(), false),
        (&[PROTOBUF, auth, encoded], gzip(in_protobuf()), true),
    ] {
        let answer = post(&service, headers, body).await;
        let expected = if headers[0] == JSON { &b"{}"[..] } else { b"" };
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, expected), "{answer:?}");
        assert_eq!(answer.header("content-type"), headers[0].1);
        assert_eq!(answer.headers.contains_key("x-duplicate"), is_again);
    }
    let stored = payloads(&database).await;
    assert_eq!(stored.len(), 4);
    assert_eq!(stored[..2], stored[2..]);
    let resource = json!({"attributes": {"service.name": "shop"}, "droppedAttributesCount": 3, "schemaUrl": "https://resource"});
    let scope = json!({"name": "lib", "version": "1", "attributes": {"s": 1}, "schemaUrl": "https://scope"});
    assert_eq!(
        stored[0],
        json!({
            "timeUnixNano": "1764374400000000001", "observedTimeUnixNano": "1764374400000000002", "severityNumber": 9,
            "severityText": "INFO", "eventName": "paid", "flags": 1, "droppedAttributesCount": 2,
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
            "body": {"a": ["x\n", true, HUGE, -5, 1.5, "NaN", "AP8=", null, [], {}]},
            "attributes": {"http.method": "GET", "none": null}, "resource": resource, "scope": scope,
        })
    );
    assert_eq!(stored[1], json!({"body": "two", "resource": resource, "scope": scope}));
    // Unknown members of JSON are kept, of records, resources, scopes and values.
    let unknown = json!({"resourceLogs": [{
        "resource": {"entityRefs": [{"type": "host"}]},
        "scopeLogs": [{"scope": {"more": 1}, "logRecords": [{"new": [1.0], "body": {"newValue": {"a": 1}}, "attributes": null}]}],
    }], "later": true});
    assert_eq!(post(&service, &[JSON, auth], unknown.to_string()).await.status.as_u16(), 200);
    assert_eq!(
        payloads(&database).await[4],
        json!({"new": [1.0], "body": {"newValue": {"a": 1}}, "resource": {"entityRefs": [{"type": "host"}]}, "scope": {"more": 1}})
    );
}

#[tokio::test]
async fn bad_records_are_a_partial_success_and_bad_requests_a_status() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &[("MAX_EVENT_BYTES", "4000")]).await;
    let api_key = key(&database, &["--scope", "events:write"]).await;
    let auth = ("x-api-key", api_key.as_str());
    let nested = |levels: usize| {
        let inner = json!({"intValue": 1});
        (0..levels).fold(inner, |value, _| json!({"arrayValue": {"values": [value]}}))
    };
    let records =
        |records: Value| json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string();
    let bad = json!([
        {"body": {"stringValue": "good"}}, 7, {"body": 7}, {"body": {"intValue": 1, "stringValue": "two"}}, {"body": {"intValue": "1e3"}},
        {"body": {"intValue": 9223372036854775808u64}}, {"body": {"boolValue": "true"}}, {"body": {"bytesValue": "!"}},
        {"body": {"doubleValue": "x"}}, {"body": nested(32)}, {"timeUnixNano": "yesterday"}, {"timeUnixNano": -1}, {"traceId": "xyz"},
        {"traceId": 7}, {"attributes": {}}, {"attributes": [{"value": {}}]}, {"attributes": [7]}, {"body": {"stringValue": "x".repeat(4000)}},
        {"body": nested(31)}, {"body": {"arrayValue": {"values": {}}}},
    ]);
    let answer = post(&service, &[JSON, auth], records(bad)).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    let partial = &answer.json()["partialSuccess"];
    assert_eq!(partial["rejectedLogRecords"], "18", "{partial}");
    assert_eq!(partial["errorMessage"], "a log record is a JSON object");
    assert_eq!(count(&database.connect().await, "requests").await, 2);

    let deep = (0..40).fold(varint(3, 1), |value, _| field(5, &[field(1, &[value])]));
    let bad = [
        field(2, &[field(5, &[text(1, "good")])]),
        field(2, &[field(5, &[field(1, &[b"\xff"])])]),
        field(2, &[varint(1, 7)]),
        field(2, &[field(5, &[deep])]),
        field(2, &[b"\x0f"]),
        field(2, &[field(6, &[field(2, &[b"\x08"])])]),
    ];
    let answer = post(&service, &[PROTOBUF, auth], field(1, &[field(2, &bad)])).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, PROTOBUF.1));
    assert!(answer.body.starts_with(&[0x0a]) && answer.body[2..4] == [0x08, 5], "{answer:?}");
    assert_eq!(count(&database.connect().await, "requests").await, 3);

    // Many small fields cost no more memory than their bytes: an empty attribute takes two.
    let many = field(1, &[field(2, &[field(2, &vec![&[0x32, 0][..]; 1900])])]);
    assert_eq!(post(&service, &[PROTOBUF, auth], many).await.status.as_u16(), 200);

    for body in [
        "",
        "[]",
        "{",
        "{}x",
        "{\"resourceLogs\":7}",
        "{\"resourceLogs\":[7]}",
        "{\"resourceLogs\":[{\"resource\":7}]}",
        "{\"resourceLogs\":[{\"scopeLogs\":{}}]}",
        "{\"resourceLogs\":[{\"resource\":{\"attributes\":[7]}}]}",
    ] {
        let answer = post(&service, &[JSON, auth], body).await;
        assert_eq!(answer.status.as_u16(), 400, "{body} {answer:?}");
        let json = answer.json();
        assert_eq!((&json["code"], json["message"].is_string()), (&json!(3), true), "{json}");
        assert!(json["error"]["field"].is_string(), "{json}");
    }
    for body in
        [&b"\x0a"[..], b"\x0a\x05ab", b"\x08\x01\x0f", b"{}", &field(1, &[varint(2, 1)]), &varint(1, 1)]
    {
        let answer = post(&service, &[PROTOBUF, auth], body).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (400, PROTOBUF.1), "{body:?}");
        assert!(answer.body.starts_with(&[0x08, 3, 0x12]), "{answer:?}");
    }
    for body in [
        "{}",
        "{\"resourceLogs\":null}",
        "{\"resourceLogs\":[]}",
        "{\"resourceLogs\":[{\"scopeLogs\":[{}]}]}",
    ] {
        assert_eq!(post(&service, &[JSON, auth], body).await.status.as_u16(), 200, "{body}");
    }
    let none = post(&service, &[PROTOBUF], request(&[varint(2, 1)])).await;
    assert_eq!((none.status.as_u16(), &none.body[..3]), (401, &[0x08, 16, 0x12][..]));
    for (headers, status) in [
        (&[("content-type", "text/plain"), auth][..], 415),
        (&[auth], 415),
        (&[("content-type", "text/plain")], 401),
        (&[("content-type", "application/json; charset=utf-16"), auth], 415),
        (&[JSON, auth, ("content-encoding", "gzip")], 400),
    ] {
        assert_eq!(post(&service, headers, "{}").await.status.as_u16(), status, "{headers:?}");
    }
    let in_body = json!({"resourceLogs": [], "api_key": api_key}).to_string();
    assert_eq!(post(&service, &[JSON], in_body).await.status.as_u16(), 401, "a body of logs has no key");
}

#[tokio::test]
async fn an_answer_to_what_may_be_sent_again_is_503() {
    let database = TestDatabase::create().await;
    let stalled = Stalled::start(&database).await;
    let mut sent = 0;
    let refused = eventually("the queue is full", async || {
        sent += 1;
        let body = request(&[fixed(1, sent)]);
        let answer = stalled.service.request("POST", "/v1/logs", &[PROTOBUF], body).await;
        (answer.status.as_u16() != 200).then_some(answer)
    })
    .await;
    assert_eq!((refused.status.as_u16(), &refused.body[..3]), (503, &[0x08, 14, 0x12][..]));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    stalled.release().await;
}
