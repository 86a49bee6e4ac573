//! Imports for tests.

use serde_json::Value;
use tokio_postgres::Client;

use super::accounts::send;
use super::service::{Answer, Service, eventually};

pub(crate) const PROCESS: &str = "/api/files/process-jsonl";
pub(crate) const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// Sends lines, with a token unless it is empty.
pub(crate) async fn post(service: &Service, query: &str, token: &str, lines: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [NDJSON, ("authorization", bearer.as_str())];
    let headers = if token.is_empty() { &headers[..1] } else { &headers };
    service.request("POST", &format!("{PROCESS}{query}"), headers, lines.to_owned()).await
}

/// Sends lines successfully; returns the file's id.
pub(crate) async fn process(service: &Service, query: &str, token: &str, lines: &str) -> String {
    let answer = post(service, query, token, lines).await;
    assert_eq!(answer.status.as_u16(), 202, "{:?}", answer.body);
    let id = answer.json()["file_id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("/api/files/{id}/progress"));
    id
}

/// From now on a part of an import has `bytes` bytes, so that few lines make many parts.
pub(crate) async fn small_parts(client: &Client, bytes: u32) {
    let trigger = format!(
        "create function small_parts() returns trigger language plpgsql as
             $$ begin new.part_bytes := {bytes}; return new; end $$;
         create trigger small_parts before insert on imports for each row execute function small_parts()"
    );
    client.batch_execute(&trigger).await.unwrap();
}

/// The progress of an import.
pub(crate) async fn progress(service: &Service, token: &str, file: &str) -> Value {
    send(service, "GET", &format!("/api/files/{file}/progress"), token, &Value::Null).await.json()
}

/// The progress at the import's end.
pub(crate) async fn ended(service: &Service, token: &str, file: &str) -> Value {
    eventually("the import has ended", async || {
        let progress = progress(service, token, file).await;
        (progress["state"] != "running").then_some(progress)
    })
    .await
}

/// The rejected lines with their reasons.
pub(crate) async fn rejected(service: &Service, token: &str, file: &str) -> Vec<(u64, String)> {
    let answer = send(service, "GET", &format!("/api/files/{file}/rejected"), token, &Value::Null).await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = answer
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(answer.header("x-total-count"), lines.len().to_string());
    lines
        .iter()
        .map(|line| (line["line"].as_u64().unwrap(), line["reason"].as_str().unwrap().to_owned()))
        .collect()
}

/// Counts the rows of a table.
pub(crate) async fn count(client: &Client, what: &str) -> i64 {
    client.query_one(&format!("select count(*) from {what}"), &[]).await.unwrap().get(0)
}

/// Lines, stored lines, rejected lines.
pub(crate) fn figures(progress: &Value) -> (i64, i64, i64) {
    let figure = |name: &str| progress[name].as_i64().unwrap();
    (figure("lines"), figure("stored"), figure("rejected"))
}
