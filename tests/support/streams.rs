//! Requests to Durable Streams.

use super::service::{Answer, Service};

pub(crate) const TEXT: [(&str, &str); 1] = [("content-type", "text/plain")];
pub(crate) const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
pub(crate) const STORES: [&str; 2] = ["memory", "postgres"];

pub(crate) async fn put(service: &Service, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    service.request("PUT", &format!("/v1/stream/{path}"), headers, body.to_owned()).await
}

pub(crate) async fn append(service: &Service, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    service.request("POST", &format!("/v1/stream/{path}"), headers, body.to_owned()).await
}

pub(crate) async fn get(service: &Service, path: &str, headers: &[(&str, &str)]) -> Answer {
    service.request("GET", &format!("/v1/stream/{path}"), headers, "").await
}

pub(crate) async fn head(service: &Service, path: &str) -> Answer {
    service.request("HEAD", &format!("/v1/stream/{path}"), &[], "").await
}

/// The headers of a producer's request.
pub(crate) fn producer<'a>(id: &'a str, epoch: &'a str, seq: &'a str) -> [(&'a str, &'a str); 4] {
    [TEXT[0], ("producer-id", id), ("producer-epoch", epoch), ("producer-seq", seq)]
}

/// An offset as the service writes it.
pub(crate) fn offset(bytes: usize) -> String {
    format!("0000000000000000_{bytes:016}")
}
