//! `/api/stress/large-payload`: objects of up to a sixteenth of `MEMORY_BUDGET`.
//!
//! A payload that is received is in memory once, as a whole: it is checked before it is stored, and the answer is made of the
//! same bytes. A payload that is sent is read part by part. Requests beyond the fourth at once are answered 503 before their
//! bodies are read.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_compression::Level;
use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hyper::body::Body as _;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, LOCATION, VARY};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::io::{ReaderStream, StreamReader};

use super::super::openapi::bodies::{RecordRequest, RecordResponse};
use super::super::records::{collection, collection_and_id};
use super::super::server::ConnectionHandle;
use super::super::wire::body::{BodyLimits, LimitedBody, MemoryPermit, WholeBody};
use super::super::wire::encoding::{Decoded, Encoding};
use super::super::wire::error::ApiError;
use super::super::wire::json::{self, check_json, check_start};
use super::super::{AppState, Services};
use super::LargeLimits;
use crate::config::limits::{self, MAX_JSON_DEPTH};
use crate::records::Draft;
use crate::records::large::{LargePayload, PART_BYTES};

/// `POST /api/stress/large-payload/{collection}`.
#[utoipa::path(
    post,
    path = "/api/stress/large-payload/{collection}",
    tag = "stress",
    summary = "Stores a large object, and answers with it",
    params(("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items")),
    request_body(content = RecordRequest, content_type = "application/json"),
    responses(
        (status = 201, description = "The object", body = RecordResponse, headers(("location" = String, description = "Its path"))),
        (status = 404, description = "There is no such collection"),
        (status = 409, description = "The id is taken, or there are too many collections"),
    )
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(connection): Extension<ConnectionHandle>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let Some(stress) = &state.stress else { return Err(ApiError::unknown_path()) };
    let name = collection(path)?;
    let (head, body) = request.into_parts();
    let bytes = stress.settings.now().large_payload_bytes;
    let limits = &stress.large;
    let time = limits.time(services, body.size_hint().exact().unwrap_or(bytes as u64));
    let body_limits = BodyLimits { bytes, setting: "MEMORY_BUDGET", deadline: Instant::now() + time };
    let mut body = LimitedBody::new(&head, body, body_limits);
    let received = match receive(limits, &head, &mut body).await {
        Ok(received) => received,
        Err(refusal) => {
            body.discard().await;
            return Err(refusal);
        }
    };
    let ReceivedPayload { draft, permits } = received;
    let payload = services.stress()?.large_payloads.create(&name, draft.id, &draft.data).await?;
    let location = format!("/api/stress/large-payload/{}/{}", name.as_str(), payload.id.as_str());
    let location = HeaderValue::try_from(location).map_err(|_| ApiError::internal())?;
    let content = draft.data.into_bytes();
    let deadline = Instant::now() + limits.time(services, payload.bytes as u64);
    let parts = stream::unfold((content, permits), move |(mut rest, permits)| {
        connection.read_by(deadline);
        let part = rest.split_to(rest.len().min(PART_BYTES));
        std::future::ready((!part.is_empty()).then_some((Ok(part), (rest, permits))))
    });
    let mut response = answer(&head.headers, StatusCode::CREATED, &payload, parts);
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// `GET /api/stress/large-payload/{collection}/{id}`.
#[utoipa::path(
    get,
    path = "/api/stress/large-payload/{collection}/{id}",
    tag = "stress",
    summary = "A large object",
    params(("collection" = String, Path, description = "A letter or _, then letters, digits or _, at most 63", example = "items"), ("id" = String, Path, description = "15 characters of a to z and 0 to 9")),
    responses(
        (status = 200, description = "The object", body = RecordResponse),
        (status = 404, description = "There is none"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(connection): Extension<ConnectionHandle>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let services = state.services()?;
    let Some(stress) = &state.stress else { return Err(ApiError::unknown_path()) };
    let (name, id) = collection_and_id(path)?;
    let permit = stress.large.permit()?;
    let large = services.stress()?.large_payloads.clone();
    let payload = large.get(&name, id).await?;
    let deadline = Instant::now() + stress.large.time(services, payload.bytes as u64);
    // The status was sent before: after an error the connection is closed before the body's end.
    let parts = stream::unfold((0, permit), move |(part, permit)| {
        let large = large.clone();
        // Set during the answer, as it is valid for one answer only.
        connection.read_by(deadline);
        async move {
            if part == payload.parts {
                return None;
            }
            let content = match large.part(&payload, part).await {
                Ok(Some(content)) => Ok(content),
                Ok(None) => Err(io::Error::other("the payload was deleted")),
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = &content {
                let id = payload.id.as_str();
                tracing::warn!(id, part, error = error.to_string(), "a large payload breaks off");
            }
            Some((content, (part + 1, permit)))
        }
    });
    Ok(answer(&headers, StatusCode::OK, &payload, parts))
}

/// A payload that was received, and its permits.
struct ReceivedPayload {
    draft: Draft,
    permits: (Option<MemoryPermit>, OwnedSemaphorePermit),
}

impl LargeLimits {
    /// The time for `bytes` to arrive, or to be read: a slower client would keep its permit from others.
    fn time(&self, services: &Services, bytes: u64) -> Duration {
        services.limits.body_timeout + Duration::from_secs(bytes / limits::LARGE_MIN_RATE)
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            let message = "too many large payloads at once; try again later";
            ApiError::unavailable("overloaded", message, Duration::from_secs(1))
        })
    }
}

async fn receive(
    limits: &LargeLimits,
    head: &Parts,
    body: &mut LimitedBody,
) -> Result<ReceivedPayload, ApiError> {
    check_json(&head.headers)?;
    let encoding = Encoding::of(&head.headers)?;
    let permit = limits.permit()?;
    let max_bytes = body.limits().bytes;
    // Capacity for the whole body at once, as growing would copy it; pages that are not written to cost no memory. A body
    // with a `Content-Length` gets that much.
    let capacity = match (encoding, body.announced()) {
        (Encoding::Identity, announced) if announced > 0 => (announced as usize).min(max_bytes),
        _ => max_bytes,
    };
    let mut memory = MemoryPermit::new(&limits.memory);
    let mut whole = Vec::new();
    let mut decoded = Decoded::new(body, encoding, &limits.memory).await?;
    while let Some(piece) = decoded.next().await? {
        if whole.capacity() == 0 {
            whole.reserve_exact(capacity);
        }
        memory.grow(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    check_start(&whole)?;
    let max_depth = MAX_JSON_DEPTH;
    let (draft, whole) = json::parse(WholeBody::gathered(whole, memory), move |whole| {
        Ok(Draft::parse(whole.bytes(), max_depth)?)
    })
    .await?;
    Ok(ReceivedPayload { draft, permits: (whole.into_permit(), permit) })
}

/// The payload as a record: the members of the service, then its own.
fn answer(
    headers: &HeaderMap,
    status: StatusCode,
    payload: &LargePayload,
    parts: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    let whole = stream::once(std::future::ready(Ok(Bytes::from(payload.head())))).chain(joined(parts));
    let encoding = accepted(headers);
    let body = match encoding {
        None => Body::from_stream(whole),
        Some(encoding) => compressed(encoding, whole),
    };
    let mut response = json::json(status, body);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    response
}

/// An object's text behind other members: its brace becomes a comma, or nothing if it has no members.
fn joined(
    parts: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let mut state = Joint::Brace;
    parts
        .map(move |part| part.map(|part| state.join(part)))
        .filter(|part| std::future::ready(part.as_ref().map_or(true, |part| !part.is_empty())))
}

/// The progress through an object's beginning.
enum Joint {
    Brace,
    FirstMember,
    Joined,
}

impl Joint {
    fn join(&mut self, part: Bytes) -> Bytes {
        let mut rest = part;
        if let Self::Brace = self {
            let Some(brace) = rest.iter().position(|byte| *byte == b'{') else { return Bytes::new() };
            rest = rest.slice(brace + 1..);
            *self = Self::FirstMember;
        }
        if let Self::FirstMember = self {
            let Some(begin) = rest.iter().position(|byte| !byte.is_ascii_whitespace()) else {
                return Bytes::new();
            };
            rest = rest.slice(begin..);
            *self = Self::Joined;
            if rest.first() != Some(&b'}') {
                let mut joined = Vec::with_capacity(rest.len() + 1);
                joined.push(b',');
                joined.extend_from_slice(&rest);
                return joined.into();
            }
        }
        rest
    }
}

/// The supported encodings, the best one for large payloads first.
const ENCODINGS: [&str; 4] = ["zstd", "gzip", "br", "deflate"];

/// The supported encoding that the client prefers (RFC 9110, section 12.5.3): the one of the highest weight, and among equals
/// the first of ours. `None` if it accepts none of them, or prefers the payload unencoded.
fn accepted(headers: &HeaderMap) -> Option<&'static str> {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let takes: Vec<(&str, u16)> = values
        .flat_map(|value| value.split(','))
        .filter_map(|item| {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            Some((name.trim(), weight(parameters)?))
        })
        .collect();
    let named = |name: &str| takes.iter().find(|(taken, _)| taken.eq_ignore_ascii_case(name));
    let weight_of = |name: &str| named(name).map(|(_, weight)| *weight);
    // `*` stands for all encodings that the client does not name.
    let others = weight_of("*").unwrap_or(0);
    let weighed = ENCODINGS.map(|ours| (ours, weight_of(ours).unwrap_or(others)));
    let most = weighed.iter().map(|(_, weight)| *weight).max().filter(|most| *most > 0)?;
    // An unencoded payload is always acceptable, so only an explicit weight of `identity` counts.
    if weight_of("identity").is_some_and(|weight| weight > most) {
        return None;
    }
    weighed.into_iter().find(|(_, weight)| *weight == most).map(|(ours, _)| ours)
}

/// A weight in thousandths (RFC 9110, section 12.4.2), 1 by default; `None`: it is malformed.
fn weight(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let (name, value) = parameters.split_once('=')?;
    let value: f32 = value.trim().parse().ok().filter(|value| (0.0..=1.0).contains(value))?;
    name.trim().eq_ignore_ascii_case("q").then_some((value * 1000.0).round() as u16)
}

fn compressed(encoding: &str, whole: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    let reader = StreamReader::new(Box::pin(whole));
    let level = Level::Fastest;
    match encoding {
        "zstd" => Body::from_stream(pieces(ZstdEncoder::with_quality(reader, level))),
        "gzip" => Body::from_stream(pieces(GzipEncoder::with_quality(reader, level))),
        "br" => Body::from_stream(pieces(BrotliEncoder::with_quality(reader, level))),
        _ => Body::from_stream(pieces(ZlibEncoder::with_quality(reader, level))),
    }
}

fn pieces<R: tokio::io::AsyncRead>(reader: R) -> ReaderStream<R> {
    ReaderStream::with_capacity(reader, 64 * 1024)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_clients_encodings_are_read() {
        let accepted = |value: &'static str| {
            accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert_eq!(accepted("gzip, deflate, br"), Some("gzip"));
        assert_eq!(accepted("zstd;q=0, br;q=0.5"), Some("br"));
        assert_eq!(accepted("identity"), None);
        assert_eq!(accepted("GZIP;q=1.0"), Some("gzip"));
        for (value, expected) in [
            ("gzip;q=0.2, br;q=0.9, zstd;q=0.5", Some("br")),
            ("deflate ; Q=0.8 , gzip;q=0.8, zstd;q=0.799", Some("gzip")),
            ("gzip;q=0.001, zstd;q=0", Some("gzip")),
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0.5, identity;q=0.5", Some("gzip")),
            ("*", Some("zstd")),
            ("*;q=0.5, gzip", Some("gzip")),
            ("zstd;q=0, *", Some("gzip")),
            ("*;q=0", None),
            ("gzip;q=2, br;q=-1, deflate;q=NaN, zstd;level=1", None),
            ("", None),
        ] {
            assert_eq!(accepted(value), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn an_object_is_joined_to_members_wherever_its_parts_are_cut(
            text in prop_oneof![Just(" { } "), Just("{\"a\":1}"), Just("\n{ \"a\" : {} }")], cut in 0..20_usize
        ) {
            let (first, second) = text.split_at(cut.min(text.len()));
            let mut joint = Joint::Brace;
            let mut joined = b"{\"id\":1".to_vec();
            for part in [first, second] {
                joined.extend_from_slice(&joint.join(Bytes::from(part.to_owned())));
            }
            let mut expected: serde_json::Value = serde_json::from_str(text).unwrap();
            expected["id"] = 1.into();
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&joined).unwrap(), expected);
        }
    }
}
