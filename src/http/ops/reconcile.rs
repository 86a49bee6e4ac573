//! `POST /api/v1/reconcile`: the states of events, by the receipts of their answers or by their trace ids.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::AppState;
use crate::http::wire::error::ApiError;
use crate::http::wire::query;
use crate::ingest::id::{self, Tag};
use crate::ingest::reconcile::{Fate, Reconciler};

/// Events of one request.
const MAX_EVENTS: usize = 10_000;
/// The longest span of a search for trace ids without their index.
const MAX_SPAN_US: i64 = 3_600_000_000;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Reconcile)]
struct ReconcileRequest {
    #[serde(default)]
    receipts: Vec<String>,
    #[serde(default)]
    trace_ids: Vec<String>,
    since: Option<String>,
    until: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Reconciled)]
struct ReconcileResponse {
    receipts: Vec<ReceiptResponse>,
    trace_ids: Vec<TraceResponse>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReconciledReceipt)]
struct ReceiptResponse {
    receipt: String,
    /// The number of events in each state.
    counts: BTreeMap<&'static str, u64>,
    /// The events that are not committed, by their positions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<EventResponse>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReconciledEvent)]
struct EventResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<usize>,
    id: Uuid,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_id: Option<Uuid>,
}

impl EventResponse {
    fn new(place: Option<usize>, id: Uuid, fate: Fate) -> Self {
        let first_id = if let Fate::Duplicate(first) = fate { Some(first) } else { None };
        Self { place, id, state: fate.name(), first_id }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReconciledTrace)]
struct TraceResponse {
    trace_id: String,
    state: &'static str,
    events: Vec<EventResponse>,
}

/// Answers with the states of each receipt and trace id.
#[utoipa::path(
    post,
    path = "/api/v1/reconcile",
    tag = "events",
    summary = "The states of events, by receipts or trace ids",
    request_body = ReconcileRequest,
    responses((status = 200, description = "Their states", body = ReconcileResponse))
)]
pub(super) async fn post(
    State(state): State<Arc<AppState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let request: ReconcileRequest = query::json(body).await?;
    let mut ids = Vec::new();
    let mut lengths = Vec::with_capacity(request.receipts.len());
    for receipt in &request.receipts {
        let before = ids.len();
        expand(receipt, &mut ids)?;
        lengths.push(ids.len() - before);
    }
    if ids.len() + request.trace_ids.len() > MAX_EVENTS {
        return Err(too_many());
    }
    let services = state.services()?;
    let reconciler = Reconciler::new(&services.database, &services.ingest);
    let trace_ids = traces(&reconciler, &request).await?;
    let fates = reconciler.fates(&ids).await?;
    let mut events = ids.into_iter().zip(fates);
    let receipts = request.receipts.into_iter().zip(lengths).map(|(receipt, length)| {
        let mut answer = ReceiptResponse { receipt, counts: BTreeMap::new(), others: Vec::new() };
        for (place, (id, fate)) in events.by_ref().take(length).enumerate() {
            *answer.counts.entry(fate.name()).or_default() += 1;
            if fate != Fate::Committed {
                answer.others.push(EventResponse::new(Some(place), id, fate));
            }
        }
        answer
    });
    let receipts = receipts.collect();
    Ok(Json(ReconcileResponse { receipts, trace_ids }).into_response())
}

async fn traces(reconciler: &Reconciler, request: &ReconcileRequest) -> Result<Vec<TraceResponse>, ApiError> {
    if request.trace_ids.is_empty() {
        return Ok(Vec::new());
    }
    let time =
        |text: &Option<String>, field| text.as_deref().map(|text| query::time_us(text, field)).transpose();
    let (since, until) = (time(&request.since, "since")?, time(&request.until, "until")?);
    let is_short = since.zip(until).is_some_and(|(since, until)| until.saturating_sub(since) <= MAX_SPAN_US);
    let (since, until) = (since.unwrap_or(0), until.unwrap_or(i64::MAX));
    if until < since {
        return Err(ApiError::invalid("until takes a time after since").field("until"));
    }
    if !is_short && !reconciler.finds_at_any_time().await? {
        let rule = "trace ids are not indexed (TRACE_INDEX=on), or not yet: since and until take times at most an hour apart";
        return Err(ApiError::invalid(rule).field("since"));
    }
    let found = reconciler.find(&request.trace_ids, since, until, MAX_EVENTS as i64 + 1).await?;
    if found.len() > MAX_EVENTS {
        return Err(too_many());
    }
    let ids: Vec<Uuid> = found.iter().map(|(id, _)| *id).collect();
    let fates = reconciler.fates(&ids).await?;
    let mut by_trace: HashMap<String, Vec<EventResponse>> = HashMap::new();
    for ((id, trace_id), fate) in found.into_iter().zip(fates) {
        by_trace.entry(trace_id).or_default().push(EventResponse::new(None, id, fate));
    }
    let answer = |trace_id: &String| {
        let events = by_trace.remove(trace_id).unwrap_or_default();
        let state = events.first().map_or(Fate::NeverSeen.name(), |event| event.state);
        TraceResponse { trace_id: trace_id.clone(), state, events }
    };
    Ok(request.trace_ids.iter().map(answer).collect())
}

/// Expands a receipt to its events' ids.
fn expand(receipt: &str, ids: &mut Vec<Uuid>) -> Result<(), ApiError> {
    let (first, count) = receipt.split_once('/').unwrap_or((receipt, "1"));
    let parsed = first.parse::<Uuid>().ok().zip(count.parse::<u64>().ok());
    let Some((first, count)) = parsed.filter(|(id, count)| id.get_version_num() == 7 && *count > 0) else {
        return Err(ApiError::invalid("receipts takes values of x-receipt").field("receipts"));
    };
    if count > (MAX_EVENTS - ids.len().min(MAX_EVENTS)) as u64 {
        return Err(too_many());
    }
    let (unix_ms, tag, sequence) = (id::unix_ms(first), Tag::of_event(first), id::sequence(first));
    ids.extend((sequence..sequence + count).map(|sequence| id::event_id(unix_ms, tag, sequence)));
    Ok(())
}

fn too_many() -> ApiError {
    ApiError::too_large(format!("more than {MAX_EVENTS} events; send fewer in one request"))
}
