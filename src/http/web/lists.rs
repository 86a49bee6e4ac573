//! Lists that only the page needs: the collections, and the streams that a caller may read.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use crate::auth::{Principal, Scope};
use crate::http::AppState;
use crate::http::edge::authorize::Requirement;
use crate::http::wire::error::ApiError;
use crate::streams::StreamPath;

/// Streams of a page.
const STREAMS_PAGE: usize = 200;

/// A collection of records.
#[derive(Serialize)]
struct CollectionResponse {
    name: String,
    /// Postgres' estimate; `None`: it has none yet.
    records: Option<i64>,
}

/// `GET /ui/collections`.
pub(super) async fn collections(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let listed = state.services()?.records()?.collections().await?;
    let shown: Vec<CollectionResponse> = listed
        .into_iter()
        .map(|collection| CollectionResponse { name: collection.name, records: collection.records })
        .collect();
    Ok(Json(shown).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamsQuery {
    /// The beginning of their paths.
    #[serde(default)]
    prefix: String,
    /// The `next` of the page before.
    after: Option<String>,
}

/// A page of streams.
#[derive(Serialize)]
struct StreamsResponse {
    streams: Vec<StreamResponse>,
    /// Where the next page begins; `None`: there is none.
    next: Option<String>,
}

#[derive(Serialize)]
struct StreamResponse {
    path: String,
    /// Its end, in bytes.
    tail: u64,
}

/// `GET /ui/streams`: those that the caller may read, by path.
pub(super) async fn streams(
    State(state): State<Arc<AppState>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<StreamsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    Requirement::SomeStream(Scope::StreamsRead).check(&state, &principal)?;
    let after = query.after.as_deref().map(StreamPath::new).transpose();
    let after = after.map_err(|error| ApiError::invalid(error.to_string()).field("after"))?;
    let page = state.streams()?.list(&query.prefix, after.as_ref(), STREAMS_PAGE).await?;
    let next = page.last().filter(|_| page.len() == STREAMS_PAGE).map(|last| last.path.as_str().to_owned());
    let is_open = state.verifier.is_open();
    let scopes = principal.scopes(is_open);
    let streams = page
        .iter()
        .filter(|stream| scopes.allow_name(Scope::StreamsRead, stream.path.as_str()))
        .map(|stream| StreamResponse { path: stream.path.as_str().to_owned(), tail: stream.tail.0 })
        .collect();
    Ok(Json(StreamsResponse { streams, next }).into_response())
}
