//! `GET /v1/stream/{path}`: a part of a stream.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use hyper::Method;

use super::answer::{Answer, read_slice};
use super::refusal::Refusal;
use super::{live, metadata, sse, target};
use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::pipeline::ClientGone;
use crate::http::openapi::bodies::AnyBytes;
use crate::http::server::ConnectionHandle;
use crate::http::wire::error::ApiError;
use crate::http::wire::query;
use crate::streams::{Freshness, ReadFrom};

/// Bytes of a client's cursor that are read; a longer one is as good as none.
const MAX_CURSOR_BYTES: usize = 32;

/// `GET /v1/stream/{path}`, and `HEAD`.
#[utoipa::path(
    get,
    path = "/v1/stream/{*path}",
    tag = "streams",
    summary = "A part of a stream",
    params(
        ("path" = String, Path, description = "The stream"),
        ("offset" = Option<String>, Query, description = "Where to begin: an offset of an answer, -1 (the start) or now (the end)"),
        ("live" = Option<String>, Query, description = "long-poll: waits for more; sse: all that comes, as server-sent events"),
        ("cursor" = Option<String>, Query, description = "The Stream-Cursor of the last live answer"),
        ("if-none-match" = Option<String>, Header, description = "A tag that is known"),
    ),
    responses(
        (status = 200, description = "Bytes, or an array of messages", content((Vec<serde_json::Value> = "application/json"), (AnyBytes = "*/*")), headers(("stream-next-offset" = String, description = "Where the next answer begins"), ("stream-up-to-date" = Option<String>, description = "true: that is the end"), ("stream-closed" = Option<String>, description = "true: there will be no more"), ("stream-cursor" = Option<String>, description = "Of a live answer"), ("etag" = Option<String>, description = "Its tag"))),
        (status = 204, description = "Nothing came for a while, or the stream is closed (long-poll)"),
        (status = 304, description = "It is the content that is known"),
        (status = 404, description = "There is no such stream"),
        (status = 410, description = "The stream was deleted, or is not kept from this offset on"),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    Extension(connection): Extension<ConnectionHandle>,
    gone: Option<Extension<ClientGone>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (head, _) = request.into_parts();
    let (api, path) = target::of(&state, &principal, Scope::StreamsRead, &head.uri)?;
    if head.method == Method::HEAD {
        return metadata::head(api, &path).await;
    }
    let ReadQuery { from, live, cursor } = ReadQuery::parse(head.uri.query().unwrap_or_default())?;
    match live {
        None => {
            let from = from.unwrap_or(ReadFrom::Start);
            let (slice, permit) = read_slice(api, &path, from, Freshness::Verified).await?;
            api.streams.store.renew(&path, &slice.head);
            Ok(Answer { api, slice, permit, is_now: from == ReadFrom::Now, cursor: None }
                .respond(&head.headers))
        }
        Some(live) => {
            let Some(from) = from else {
                return Err(ApiError::invalid("a live read names its offset").field("offset").into());
            };
            match live {
                Live::LongPoll => {
                    let wait = live::LongPoll {
                        state: &state,
                        api,
                        path: &path,
                        from,
                        cursor,
                        gone: gone.map(|gone| gone.0),
                    };
                    wait.answer(&head.headers).await
                }
                Live::Sse => {
                    sse::open(Arc::clone(&state), api, path, from, cursor, connection, head.headers).await
                }
            }
        }
    }
}

/// A live mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Live {
    LongPoll,
    Sse,
}

/// The query of a read. Unknown parameters are ignored: caches are told apart by them.
#[derive(Debug, PartialEq, Eq)]
struct ReadQuery {
    from: Option<ReadFrom>,
    live: Option<Live>,
    cursor: Option<String>,
}

impl ReadQuery {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let mut read = Self { from: None, live: None, cursor: None };
        for (name, value) in query::pairs(text) {
            let is_repeated = match &*name {
                "offset" => {
                    let message = "offset takes an offset of an answer, -1 or now";
                    let from =
                        ReadFrom::parse(&value).ok_or_else(|| ApiError::invalid(message).field("offset"))?;
                    read.from.replace(from).is_some()
                }
                "live" => {
                    let live = match &*value {
                        "long-poll" => Live::LongPoll,
                        "sse" => Live::Sse,
                        _ => return Err(ApiError::invalid("live takes long-poll or sse").field("live")),
                    };
                    read.live.replace(live).is_some()
                }
                "cursor" => read.cursor.replace(value).is_some(),
                _ => false,
            };
            if is_repeated {
                return Err(ApiError::invalid(format!("{name} is repeated")).field(name));
            }
        }
        read.cursor = read.cursor.filter(|cursor| cursor.len() <= MAX_CURSOR_BYTES);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Offset;

    #[test]
    fn a_query_names_each_parameter_once() {
        let of = |text: &str| ReadQuery::parse(text).map_err(drop);
        let read = |from, live, cursor: Option<&str>| {
            Ok(ReadQuery { from, live, cursor: cursor.map(str::to_owned) })
        };
        assert_eq!(of(""), read(None, None, None));
        assert_eq!(of("offset=-1&x=1&x=2"), read(Some(ReadFrom::Start), None, None));
        assert_eq!(
            of("cursor=7&live=sse&offset=0000000000000000_0000000000000005"),
            read(Some(ReadFrom::At(Offset(5))), Some(Live::Sse), Some("7"))
        );
        assert_eq!(of("offset=now&live=long-poll"), read(Some(ReadFrom::Now), Some(Live::LongPoll), None));
        assert_eq!(of(&format!("cursor={}", "9".repeat(400))), read(None, None, None));
        for bad in [
            "offset=",
            "offset",
            "offset=-1&offset=-1",
            "offset=a,b",
            "offset=1",
            "offset=../x",
            "offset=%00",
            "offset=0000000000000000_0000000000000005%0a",
            "offset=-1&live=",
            "offset=-1&live=poll",
            "offset=-1&live=sse&live=sse",
        ] {
            assert_eq!(of(bad), Err(()), "{bad}");
        }
    }
}
