//! `POST /v1/stream/{path}`: appends to a stream, closes it, or both.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};

use super::headers::{
    PRODUCER_EPOCH, PRODUCER_ID, PRODUCER_SEQ, STREAM_CLOSED, STREAM_NEXT_OFFSET, STREAM_SEQ, closes,
    set_offset, set_producer, set_true, text,
};
use super::refusal::Refusal;
use super::{StreamsApi, target};
use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::openapi::bodies::AnyBytes;
use crate::http::wire::body::{BodyLimits, LimitedBody, WholeBody, read_whole};
use crate::http::wire::encoding::{Encoding, decode_whole};
use crate::http::wire::error::ApiError;
use crate::http::wire::json::offload;
use crate::offload::INLINE_BYTES;
use crate::streams::append::{MAX_PRODUCER_ID_BYTES, MAX_PRODUCER_NUMBER, MAX_SEQ_BYTES};
use crate::streams::{
    Append, AppendBody, ContentType, Freshness, InvalidJson, Producer, StreamError, StreamPath, whole_number,
};

/// `POST /v1/stream/{path}`.
#[utoipa::path(
    post,
    path = "/v1/stream/{*path}",
    tag = "streams",
    summary = "Appends to a stream, closes it, or both",
    params(
        ("path" = String, Path, description = "The stream"),
        ("stream-closed" = Option<String>, Header, description = "true: the stream takes no more behind this"),
        ("stream-seq" = Option<String>, Header, description = "Has to be larger than the stream's last one, byte by byte"),
        ("producer-id" = Option<String>, Header, description = "An idempotent producer"),
        ("producer-epoch" = Option<String>, Header, description = "Its start"),
        ("producer-seq" = Option<String>, Header, description = "The number of this request in it, from 0"),
    ),
    request_body(content = AnyBytes, content_type = "*/*"),
    responses(
        (status = 200, description = "Appended, of a producer"),
        (status = 204, description = "Appended or closed, or done before"),
        (status = 403, description = "The producer has a newer epoch"),
        (status = 404, description = "There is no such stream"),
        (status = 405, description = "The stream is the registry"),
        (status = 409, description = "The stream is closed or has another type, or a number is out of order"),
        (status = 410, description = "The stream was deleted, and is kept for its forks"),
        (status = 413, description = "Too large"),
        (status = 507, description = "The memory of streams is full"),
    )
)]
pub(super) async fn post(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let (api, path) = target::of(&state, &principal, Scope::StreamsWrite, &head.uri)?;
    let close = closes(&head.headers);
    let producer = producer(&head.headers)?;
    let seq = seq(&head.headers)?;
    let body = read_body(&state, api, &head, body).await?;
    let (content_type, body) = match body.is_empty() {
        true if close => (None, None),
        true => return Err(refuse_unless_better(api, &path, ApiError::invalid(EMPTY)).await),
        false => {
            let Some(content_type) = content_type(&head.headers)? else {
                let missing = ApiError::invalid("an append names its Content-Type").field("content-type");
                return Err(refuse_unless_better(api, &path, missing).await);
            };
            match parse(&content_type, &body).await? {
                Ok(Some(body)) => (Some(content_type), Some(body)),
                Ok(None) => return Err(refuse_json(api, &path, &content_type, EMPTY_ARRAY.into()).await),
                Err(error) => return Err(refuse_json(api, &path, &content_type, error.to_string()).await),
            }
        }
    };
    let has_body = body.is_some();
    let append = Append { content_type, body, seq, producer, close };
    let has_producer = append.producer.is_some();
    let appended = api.streams.store.append(&path, append).await?;
    let is_new = has_producer && has_body && !appended.is_duplicate;
    let mut response = if is_new { StatusCode::OK } else { StatusCode::NO_CONTENT }.into_response();
    let headers = response.headers_mut();
    set_offset(headers, &STREAM_NEXT_OFFSET, appended.next);
    set_producer(headers, appended.producer);
    if appended.closed {
        set_true(headers, &STREAM_CLOSED);
    }
    Ok(response)
}

const EMPTY: &str = "an append has a body; Stream-Closed: true closes without one";
const EMPTY_ARRAY: &str = "an append has at least one message";

/// The body of a request, within the limit of appends.
pub(super) async fn read_body(
    state: &AppState,
    api: &StreamsApi,
    head: &Parts,
    body: axum::body::Body,
) -> Result<WholeBody, ApiError> {
    let limits = BodyLimits {
        bytes: api.streams.settings.max_append_bytes,
        setting: "the most of an append",
        deadline: Instant::now() + state.limits.body_timeout,
    };
    let mut body = LimitedBody::new(head, body, limits);
    let read = match Encoding::of(&head.headers) {
        Ok(Encoding::Identity) => read_whole(&mut body, &state.bodies).await,
        Ok(encoding) => decode_whole(&mut body, encoding, &state.bodies).await,
        Err(refusal) => Err(refusal),
    };
    if read.is_err() {
        body.discard().await;
    }
    read
}

/// The declared type of a body.
pub(super) fn content_type(headers: &HeaderMap) -> Result<Option<ContentType>, ApiError> {
    match text(headers, &CONTENT_TYPE)?.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => match ContentType::parse(text) {
            Ok(content_type) => Ok(Some(content_type)),
            Err(error) => Err(ApiError::invalid(error.to_string()).field("content-type")),
        },
    }
}

/// A body in its stored form; `None`: it has no byte or no message.
pub(super) async fn parse(
    content_type: &ContentType,
    body: &WholeBody,
) -> Result<Result<Option<AppendBody>, InvalidJson>, ApiError> {
    let bytes = body.bytes().clone();
    Ok(match content_type.is_json() {
        false => Ok(AppendBody::of_bytes(bytes)),
        true if bytes.len() <= INLINE_BYTES => AppendBody::of_json(&bytes),
        true => offload(move || AppendBody::of_json(&bytes)).await?,
    })
}

/// The refusal of a body that is no JSON. The stream's state goes before it, as nothing else would say that it is closed.
async fn refuse_json(
    api: &StreamsApi,
    path: &StreamPath,
    content_type: &ContentType,
    message: String,
) -> Refusal {
    match api.streams.store.get(path, Freshness::Verified).await {
        Ok(stream) if stream.closed => StreamError::Closed { next: stream.tail }.into(),
        Ok(stream) if stream.content_type != *content_type => StreamError::ContentType.into(),
        Ok(_) => ApiError::invalid(message).field("body").into(),
        Err(error) => error.into(),
    }
}

/// A refusal of the request, unless there is no such stream, or it is closed.
async fn refuse_unless_better(api: &StreamsApi, path: &StreamPath, refusal: ApiError) -> Refusal {
    match api.streams.store.get(path, Freshness::Verified).await {
        Ok(stream) if stream.closed => StreamError::Closed { next: stream.tail }.into(),
        Ok(_) => refusal.into(),
        Err(error) => error.into(),
    }
}

/// The producer of a request: three headers, or none.
fn producer(headers: &HeaderMap) -> Result<Option<Producer>, ApiError> {
    let parts =
        (text(headers, &PRODUCER_ID)?, text(headers, &PRODUCER_EPOCH)?, text(headers, &PRODUCER_SEQ)?);
    let (id, epoch, seq) = match parts {
        (None, None, None) => return Ok(None),
        (Some(id), Some(epoch), Some(seq)) => (id, epoch, seq),
        _ => {
            let message = "a producer sends Producer-Id, Producer-Epoch and Producer-Seq together";
            return Err(ApiError::invalid(message).field("producer-id"));
        }
    };
    if id.is_empty() || id.len() > MAX_PRODUCER_ID_BYTES {
        let message = format!("Producer-Id takes 1 to {MAX_PRODUCER_ID_BYTES} bytes");
        return Err(ApiError::invalid(message).field("producer-id"));
    }
    let number = |text: &str, field: &'static str| {
        // Digits only; leading zeros have no other meaning.
        let digits = if text.len() > 1 { text.trim_start_matches('0') } else { text };
        let number = whole_number(if digits.is_empty() && !text.is_empty() { "0" } else { digits });
        number.filter(|number| *number <= MAX_PRODUCER_NUMBER).ok_or_else(|| {
            let message = format!("{field} takes digits, up to {MAX_PRODUCER_NUMBER}");
            ApiError::invalid(message).field(field)
        })
    };
    let (epoch, seq) = (number(epoch, "producer-epoch")?, number(seq, "producer-seq")?);
    Ok(Some(Producer { id: id.into(), epoch, seq }))
}

/// `Stream-Seq`.
fn seq(headers: &HeaderMap) -> Result<Option<Bytes>, ApiError> {
    let mut values = headers.get_all(&STREAM_SEQ).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() || value.len() > MAX_SEQ_BYTES {
        let message = format!("Stream-Seq takes one value of at most {MAX_SEQ_BYTES} bytes");
        return Err(ApiError::invalid(message).field("stream-seq"));
    }
    Ok(Some(Bytes::copy_from_slice(value.as_bytes())))
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn of(pairs: &[(&HeaderName, &str)]) -> Result<Option<(String, u64, u64)>, ()> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let producer = producer(&headers).map_err(drop)?;
        Ok(producer.map(|producer| (producer.id.to_string(), producer.epoch, producer.seq)))
    }

    #[test]
    fn a_producer_has_three_headers_with_plain_numbers() {
        let all = |epoch, seq| of(&[(&PRODUCER_ID, "p"), (&PRODUCER_EPOCH, epoch), (&PRODUCER_SEQ, seq)]);
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(all("0", "7"), Ok(Some(("p".into(), 0, 7))));
        assert_eq!(all("9007199254740991", "007"), Ok(Some(("p".into(), MAX_PRODUCER_NUMBER, 7))));
        for bad in
            ["", "-1", "+1", "1abc", "1.5", "1e3", "0x10", "9007199254740992", " 1 2", &"9".repeat(400)]
        {
            assert!(all(bad, "0").is_err() && all("0", bad).is_err(), "{bad}");
        }
        assert!(of(&[(&PRODUCER_ID, "p"), (&PRODUCER_EPOCH, "0")]).is_err());
        assert!(of(&[(&PRODUCER_EPOCH, "0"), (&PRODUCER_SEQ, "0")]).is_err());
        assert!(of(&[(&PRODUCER_ID, ""), (&PRODUCER_EPOCH, "0"), (&PRODUCER_SEQ, "0")]).is_err());
        let twice = [(&PRODUCER_ID, "p"), (&PRODUCER_EPOCH, "0"), (&PRODUCER_SEQ, "0"), (&PRODUCER_SEQ, "0")];
        assert!(of(&twice).is_err());
    }
}
