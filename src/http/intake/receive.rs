//! What the routes of all protocols share: a request's token and body, and the admission of its events.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;

use super::super::AppState;
use super::super::edge::authorize::{self, EventsAdmission};
use super::super::events::builder::{AdmittedBatch, BatchBuilder};
use super::super::events::{ack, trace_id};
use super::super::server::ConnectionHandle;
use super::super::wire::body::{self, BodyLimits, LimitedBody, MemoryBudget, WholeBody};
use super::super::wire::encoding::{Encoding, decode_whole};
use super::super::wire::error::ApiError;
use super::super::wire::json::parse;
use super::super::wire::rate_limit::RateLimit;
use crate::config::limits;
use crate::ingest::id::unix_now_us;
use crate::observe::LogThrottle;

/// The media type of the stored events.
const CONTENT_TYPE: &str = "application/json";

/// The start of a gzip member. No JSON begins with it.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// The place of a request's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenPlace {
    /// In its headers.
    Headers,
    /// In its headers, or else in its body.
    HeadersOrBody,
}

/// A request whose body was read.
pub(super) struct Received {
    state: Arc<AppState>,
    pub(super) head: Parts,
    connection: ConnectionHandle,
    /// `None`: the token is in the body.
    admission: Option<EventsAdmission>,
}

/// Reads a request. `encoding` is that of its body; `None`: the headers declare it, or it is gzip that is not declared.
pub(super) async fn receive(
    state: Arc<AppState>,
    request: Request,
    place: TokenPlace,
    encoding: Option<Encoding>,
) -> Result<(Received, WholeBody), ApiError> {
    let (head, body) = request.into_parts();
    let connection = head.extensions.get::<ConnectionHandle>().cloned().ok_or_else(ApiError::internal)?;
    let limits = BodyLimits {
        bytes: limits::MAX_BATCH_BYTES,
        setting: "the most of a batch",
        deadline: Instant::now() + state.limits.body_timeout,
    };
    let mut body = LimitedBody::new(&head, body, limits);
    let mut received = Received { state, head, connection, admission: None };
    match received.read(&mut body, place, encoding).await {
        Ok(whole) => Ok((received, whole)),
        Err(refusal) => {
            body.discard().await;
            Err(refusal)
        }
    }
}

impl Received {
    async fn read(
        &mut self,
        body: &mut LimitedBody,
        place: TokenPlace,
        encoding: Option<Encoding>,
    ) -> Result<WholeBody, ApiError> {
        let state = &self.state;
        if place == TokenPlace::Headers || authorize::has_token(state, &self.head.headers)? {
            let admission = authorize::admit_intake(state, &self.head.headers, None, self.connection.peer());
            let admission = self.admission.insert(admission.await?);
            if let Some(bytes) = admission.max_body_bytes {
                body.lower_limit(bytes, "the limit of a write-only key");
            }
        } else if let Some(bytes) = authorize::max_bytes_without_token(state) {
            body.lower_limit(bytes, "the limit of a request with its key in the body");
        }
        let encoding = encoding.map_or_else(|| Encoding::of(&self.head.headers), Ok)?;
        Ok(match encoding {
            Encoding::Identity => {
                let whole = body::read_whole(body, &state.bodies).await?;
                // posthog-js compresses what it sends, and declares it nowhere.
                if place == TokenPlace::Headers || !whole.starts_with(GZIP) {
                    return Ok(whole);
                }
                let packed = axum::body::Body::from(whole.bytes().clone());
                let mut packed = LimitedBody::new(&self.head, packed, body.limits());
                decode_whole(&mut packed, Encoding::Gzip, &state.bodies).await?
            }
            encoding => decode_whole(body, encoding, &state.bodies).await?,
        })
    }

    /// The memory of request bodies.
    pub(super) fn budget(&self) -> &Arc<MemoryBudget> {
        &self.state.bodies
    }

    /// Whether the token is yet to be found in the body.
    pub(super) fn awaits_token(&self) -> bool {
        self.admission.is_none()
    }

    /// Authorizes the request with a key of its body.
    pub(super) async fn authorize(&mut self, key: Option<&str>) -> Result<(), ApiError> {
        let peer = self.connection.peer();
        let admission = authorize::admit_intake(&self.state, &self.head.headers, key, peer).await?;
        self.admission = Some(admission);
        Ok(())
    }

    /// Admits the events that `translate` finds in the body. It gets the key space of a write-only key too.
    pub(super) async fn admit(
        self,
        protocol: &'static str,
        body: WholeBody,
        translate: impl FnOnce(&[u8], &mut BatchBuilder, Option<&[u8]>) -> Result<(), ApiError> + Send + 'static,
    ) -> Result<Admitted, ApiError> {
        let Self { state, head, admission, .. } = self;
        let EventsAdmission { quota, key_space, .. } = admission.ok_or_else(ApiError::token_needed)?;
        let services = state.services()?;
        let requested = ack::requested(services, &head)?;
        let received_at_us = unix_now_us();
        let (trace_id, trace_from_key) = match trace_id(&head.headers)? {
            Some(trace_id) => (trace_id, false),
            None => {
                let id = services.ingest.fresh_id(received_at_us).to_string();
                (HeaderValue::try_from(id).map_err(|_| ApiError::internal())?, true)
            }
        };
        let mut builder =
            BatchBuilder::new(services, &trace_id, trace_from_key, Some(CONTENT_TYPE), received_at_us);
        let (builder, body) = parse(body, move |body| {
            let space = key_space.map(|id| *id.as_bytes());
            translate(body, &mut builder, space.as_ref().map(|space| &space[..]))?;
            Ok(builder)
        })
        .await?;
        drop(body);
        let batch = builder.admit(requested.request).await?;
        report_rejected(&state, protocol, &batch);
        Ok(Admitted { batch, requested, trace_id, quota })
    }
}

/// Reports events that were left out. Most clients never read the answer.
fn report_rejected(state: &AppState, protocol: &'static str, batch: &AdmittedBatch) {
    static THROTTLE: LogThrottle = LogThrottle::new();
    let rejected = batch.rejected.len() as u64;
    if rejected == 0 {
        return;
    }
    state.metrics.intake_rejected.with_label_values(&[protocol]).inc_by(rejected);
    if let Some(left_out) = THROTTLE.ready() {
        let reason = batch.rejected.first().map(|one| one.message()).unwrap_or_default();
        tracing::warn!(protocol, events = rejected, reason, left_out, "events of a client were rejected");
    }
}

/// Events that were admitted.
pub(super) struct Admitted {
    pub(super) batch: AdmittedBatch,
    requested: ack::RequestedAck,
    trace_id: HeaderValue,
    quota: Option<RateLimit>,
}

impl Admitted {
    /// Rejects a request of which no event was accepted, with the error of the first.
    pub(super) fn some_or_refused(self) -> Result<Self, ApiError> {
        match self.batch.rejected.first().filter(|_| self.batch.events == 0) {
            None => Ok(self),
            Some(first) if first.is_too_large() => Err(ApiError::too_large(first.message())),
            Some(first) => Err(ApiError::invalid(first.message()).field("body")),
        }
    }

    /// An answer with the headers of the event routes.
    pub(super) fn answer(self, mut response: Response) -> Response {
        let accepted =
            ack::answer(&self.batch.accepted, self.requested, self.trace_id, axum::body::Body::empty());
        response.headers_mut().extend(accepted.headers().clone());
        if let Some(quota) = self.quota {
            quota.write(response.headers_mut());
        }
        response
    }
}
