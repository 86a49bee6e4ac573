//! `PUT /v1/stream/{path}`: creates a stream, or a fork of one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};

use super::append::{content_type, parse, read_body};
use super::headers::{
    STREAM_CLOSED, STREAM_COMPACTION, STREAM_EXPIRES_AT, STREAM_FORK_OFFSET, STREAM_FORK_SUB_OFFSET,
    STREAM_FORKED_FROM, STREAM_NEXT_OFFSET, STREAM_RETENTION, STREAM_TTL, closes, set_offset, set_true, text,
};
use super::refusal::Refusal;
use super::{PREFIX, StreamsApi, target};
use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::client::ClientAddress;
use crate::http::openapi::bodies::AnyBytes;
use crate::http::wire::error::ApiError;
use crate::streams::{
    ContentType, CreateStream, Created, Fork, Freshness, InvalidLifetime, Lifetime, Offset, Retention,
    StreamError, whole_number,
};

/// `PUT /v1/stream/{path}`.
#[utoipa::path(
    put,
    path = "/v1/stream/{*path}",
    tag = "streams",
    summary = "Creates a stream, or a fork of one",
    params(
        ("path" = String, Path, description = "The stream"),
        ("stream-ttl" = Option<String>, Header, description = "Seconds after the last read or write at which it ends"),
        ("stream-expires-at" = Option<String>, Header, description = "The time at which it ends (RFC 3339)"),
        ("stream-closed" = Option<String>, Header, description = "true: it takes no more behind this body"),
        ("stream-forked-from" = Option<String>, Header, description = "The path of the stream whose beginning it shares"),
        ("stream-fork-offset" = Option<String>, Header, description = "The offset up to which it does; its end without one"),
        ("stream-fork-sub-offset" = Option<String>, Header, description = "Bytes or messages of the append behind that offset that it shares too"),
        ("stream-retention" = Option<String>, Header, description = "How much of it is kept: age=<seconds>, bytes=<number>"),
        ("stream-compaction" = Option<String>, Header, description = "key: of messages with a key, older ones are removed"),
    ),
    request_body(content = AnyBytes, content_type = "*/*", description = "Its first append"),
    responses(
        (status = 200, description = "There was one of the same configuration"),
        (status = 201, description = "Created"),
        (status = 404, description = "There is no stream to fork"),
        (status = 405, description = "The stream is the registry"),
        (status = 409, description = "There is one of another configuration, or the stream to fork was deleted or has another type"),
        (status = 413, description = "Too large"),
        (status = 507, description = "The memory of streams is full"),
    )
)]
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(client): Extension<ClientAddress>,
    request: Request,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let (api, path) = target::of(&state, &principal, Scope::StreamsCreate, &head.uri)?;
    let mut request = configuration(&head.headers)?;
    // Ignored, they would be promises that no store keeps.
    if request.compacts_by_key && !api.streams.store.has_compaction() {
        let message = "this store of streams keeps everything";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", message)
            .field("stream-compaction")
            .into());
    }
    if request.retention.is_some() && !api.streams.store.has_retention() {
        let message = "this store of streams keeps everything";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", message)
            .field("stream-retention")
            .into());
    }
    if let Some(fork) = &request.fork {
        // A fork shows the content of its source.
        target::check(&state, &principal, Scope::StreamsRead, &fork.source)?;
    }
    let body = read_body(&state, api, &head, body).await?;
    if !body.is_empty() {
        let content_type = body_type(api, &request).await?;
        let parsed = parse(&content_type, &body).await?;
        request.body = parsed.map_err(|error| ApiError::invalid(error.to_string()).field("body"))?;
    }
    let (stream, is_new) = match api.streams.store.create(&path, request).await? {
        Created::New(stream) => (stream, true),
        Created::Existing(stream) => (stream, false),
    };
    let mut response = if is_new { StatusCode::CREATED } else { StatusCode::OK }.into_response();
    let headers = response.headers_mut();
    if is_new && let Some(location) = location(api, &head, client.by_tls) {
        headers.insert(LOCATION, location);
    }
    if let Ok(content_type) = HeaderValue::from_str(stream.content_type.as_str()) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    set_offset(headers, &STREAM_NEXT_OFFSET, stream.tail);
    if stream.closed {
        set_true(headers, &STREAM_CLOSED);
    }
    Ok(response)
}

/// The type of the body of a creation: a fork that names none has that of its source.
async fn body_type(api: &StreamsApi, request: &CreateStream) -> Result<ContentType, Refusal> {
    if let Some(content_type) = &request.content_type {
        return Ok(content_type.clone());
    }
    let Some(fork) = &request.fork else { return Ok(ContentType::octet_stream()) };
    match api.streams.store.get(&fork.source, Freshness::Verified).await {
        Ok(source) => Ok(source.content_type),
        Err(StreamError::NotFound) => Err(StreamError::ForkSource.into()),
        Err(StreamError::Gone) => Err(StreamError::ForkSourceGone.into()),
        Err(error) => Err(error.into()),
    }
}

/// What the headers ask for.
fn configuration(headers: &HeaderMap) -> Result<CreateStream, ApiError> {
    let lifetime = match (text(headers, &STREAM_TTL)?, text(headers, &STREAM_EXPIRES_AT)?) {
        (None, None) => None,
        (Some(ttl), None) => Some(lifetime(Lifetime::ttl(ttl), "stream-ttl")?),
        (None, Some(time)) => Some(lifetime(Lifetime::expires_at(time), "stream-expires-at")?),
        (Some(_), Some(_)) => {
            let message = "a stream takes Stream-TTL or Stream-Expires-At, not both";
            return Err(ApiError::invalid(message).field("stream-expires-at"));
        }
    };
    let retention = match text(headers, &STREAM_RETENTION)? {
        None => None,
        Some(text) => Some(lifetime_error(Retention::parse(text), "stream-retention")?),
    };
    let compacts_by_key = match text(headers, &STREAM_COMPACTION)? {
        None => false,
        Some("key") => true,
        Some(_) => return Err(ApiError::invalid("Stream-Compaction takes key").field("stream-compaction")),
    };
    let content_type = content_type(headers)?;
    Ok(CreateStream {
        content_type,
        lifetime,
        closed: closes(headers),
        body: None,
        fork: fork(headers)?,
        retention,
        compacts_by_key,
    })
}

fn lifetime(parsed: Result<Lifetime, InvalidLifetime>, field: &'static str) -> Result<Lifetime, ApiError> {
    lifetime_error(parsed, field)
}

fn lifetime_error<T>(parsed: Result<T, InvalidLifetime>, field: &'static str) -> Result<T, ApiError> {
    parsed.map_err(|error| ApiError::invalid(error.to_string()).field(field))
}

/// The source of a fork.
fn fork(headers: &HeaderMap) -> Result<Option<Fork>, ApiError> {
    let source = text(headers, &STREAM_FORKED_FROM)?;
    let offset = text(headers, &STREAM_FORK_OFFSET)?;
    let sub_offset = text(headers, &STREAM_FORK_SUB_OFFSET)?;
    let Some(source) = source else {
        return match (offset, sub_offset) {
            (None, None) => Ok(None),
            (Some(_), _) => {
                let message = "Stream-Fork-Offset needs Stream-Forked-From";
                Err(ApiError::invalid(message).field("stream-fork-offset"))
            }
            (None, Some(_)) => {
                let message = "Stream-Fork-Sub-Offset needs Stream-Forked-From";
                Err(ApiError::invalid(message).field("stream-fork-sub-offset"))
            }
        };
    };
    let Some(encoded) = source.strip_prefix(PREFIX) else {
        let message = format!("Stream-Forked-From takes the path of a stream, {PREFIX}…");
        return Err(ApiError::invalid(message).field("stream-forked-from"));
    };
    let source = target::parse(encoded, "stream-forked-from")?;
    let offset = match offset {
        None => None,
        Some(text) => Some(Offset::parse(text).ok_or_else(|| {
            ApiError::invalid("Stream-Fork-Offset takes an offset of the stream to fork")
                .field("stream-fork-offset")
        })?),
    };
    let sub_offset = match sub_offset {
        None => 0,
        Some(text) => whole_number(text).ok_or_else(|| {
            let message = "Stream-Fork-Sub-Offset takes a whole number, without sign or leading zeros";
            ApiError::invalid(message).field("stream-fork-sub-offset")
        })?,
    };
    if sub_offset > 0 && offset.is_none() {
        let message = "Stream-Fork-Sub-Offset needs Stream-Fork-Offset";
        return Err(ApiError::invalid(message).field("stream-fork-sub-offset"));
    }
    Ok(Some(Fork { source, offset, sub_offset }))
}

/// The URL of a stream, as the client would write it.
fn location(api: &StreamsApi, head: &Parts, by_tls: bool) -> Option<HeaderValue> {
    let path = head.uri.path();
    let url = match &api.streams.settings.public_url {
        Some(base) => format!("{base}{path}"),
        None => {
            let scheme = if by_tls { "https" } else { "http" };
            match head.headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty()) {
                Some(host) => format!("{scheme}://{host}{path}"),
                None => path.to_owned(),
            }
        }
    };
    HeaderValue::try_from(url).ok()
}
