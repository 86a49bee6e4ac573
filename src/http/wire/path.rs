//! Paths: their ids, and the spellings of event routes.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use hyper::Uri;
use hyper::http::uri::PathAndQuery;

use crate::http::{BATCH, EVENTS};

/// The plain URI of an event route with trailing or doubled slashes. Clients that join a base address and a path send these,
/// and many never check the answer. `others` are the paths
/// of other protocols. `None`: the URI is of another route, or plain already.
pub(in crate::http) fn with_plain_event_route(
    uri: &Uri,
    others: impl Iterator<Item = &'static str>,
) -> Option<Uri> {
    let path = uri.path();
    if !path.ends_with('/') && !path.contains("//") {
        return None;
    }
    let segments = || path.split('/').filter(|segment| !segment.is_empty());
    let is_spelling = |route: &&str| segments().eq(route.split('/').filter(|segment| !segment.is_empty()));
    let plain = [EVENTS, BATCH].into_iter().chain(others).find(is_spelling)?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(match uri.query() {
        None => PathAndQuery::from_static(plain),
        Some(query) => format!("{plain}?{query}").parse().ok()?,
    });
    Uri::from_parts(parts).ok()
}

/// The ids of a path. A malformed id identifies nothing, so its error is that of a `missing` resource.
pub(in crate::http) fn known<T, E>(ids: Result<Path<T>, PathRejection>, missing: E) -> Result<T, E> {
    ids.map(|Path(ids)| ids).map_err(|_| missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [&str; 2] = ["/v1/batch", "/i/v0/e"];

    #[test]
    fn slashes_at_the_end_of_an_event_route_and_doubled_ones_are_left_out() {
        let plain = |uri: &str| {
            with_plain_event_route(&uri.parse().unwrap(), OTHERS.into_iter()).map(|uri| uri.to_string())
        };
        for (uri, expected) in [
            ("/api/v1/events/", "/api/v1/events"),
            ("//api/v1/events", "/api/v1/events"),
            ("/api//v1///events//?ack=queued&x=//", "/api/v1/events?ack=queued&x=//"),
            ("/api/v1/events/batch/", "/api/v1/events/batch"),
            ("/api/v1/events//batch?", "/api/v1/events/batch?"),
            ("/v1/batch/", "/v1/batch"),
            ("/i/v0/e/?compression=base64", "/i/v0/e?compression=base64"),
            ("http://localhost:3000//api/v1/events/", "http://localhost:3000/api/v1/events"),
        ] {
            assert_eq!(plain(uri).as_deref(), Some(expected), "{uri}");
        }
        for other in [
            "/api/v1/events",
            "/api/v1/events/batch?x=//",
            "/",
            "//",
            "/api/v1/event/",
            "/API/v1/events/",
            "/api/v1/",
            "/x/api/v1/events/",
            "/api/v1/events/x/",
            "/api/health/",
            "*",
        ] {
            assert_eq!(plain(other), None, "{other}");
        }
    }
}
