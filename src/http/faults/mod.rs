//! Faults on demand, with `FAULTS=on`: a layer around every answer, and the routes that set faults.
//!
//! ```text
//! request ─▶ strike? ─▶ delay ─▶ drop ─▶ error, or the service ─▶ event, flipped bits, cut ─▶ client
//! ```

mod body;
mod routes;

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};
use parking_lot::Mutex;

pub(super) use routes::routes;

use super::AppState;
use super::server::{ConnectionHandle, Detachable};
use super::wire::body::{BodyLimits, LimitedBody};
use super::wire::error::ApiError;
use super::wire::sse;
use crate::config::{FaultsConfig, limits};
use crate::faults::{Fault, FaultLimits, FaultPlan, FaultRequest, InjectError, InjectedError, Strike};
use crate::typed;
use body::FaultyBody;

/// The faults of one service.
#[derive(Debug)]
pub(super) struct Faults {
    limits: FaultLimits,
    /// Locked for a decision, never across an await.
    plan: Mutex<FaultPlan>,
}

impl Faults {
    /// `None`: faults are off.
    pub(super) fn new(config: &FaultsConfig) -> Option<Self> {
        config.faults.is_on().then(|| Self {
            limits: FaultLimits { max_delay: Duration::from_millis(limits::MAX_FAULT_DELAY_MS) },
            plan: Mutex::new(FaultPlan::new(limits::MAX_FAULTS)),
        })
    }

    fn with<T>(&self, decide: impl FnOnce(&mut FaultPlan) -> T) -> T {
        decide(&mut self.plan.lock())
    }

    fn set(&self, request: FaultRequest) -> Result<Fault, ApiError> {
        let fault = Fault::new(request, &self.limits)?;
        self.with(|plan| plan.set(fault.clone()))?;
        Ok(fault)
    }

    fn strike(&self, method: &str, path: &str) -> Option<Strike> {
        self.with(|plan| plan.strike(method, path, &mut fastrand::Rng::new()))
    }
}

impl AppState {
    /// Sets a fault, as a request with this body does.
    ///
    /// # Errors
    ///
    /// It is malformed or one too many, or faults are off.
    pub fn inject_fault(&self, fault: &serde_json::Value) -> Result<(), InjectError> {
        let request: FaultRequest = typed::from_slice(fault.to_string().as_bytes())?;
        let Some(faults) = &self.faults else { return Err(InjectError::Off) };
        let fault = Fault::new(request, &faults.limits)?;
        Ok(faults.with(|plan| plan.set(fault))?)
    }

    /// Removes all faults; returns their number.
    pub fn clear_faults(&self) -> usize {
        self.faults.as_ref().map_or(0, |faults| faults.with(FaultPlan::clear))
    }
}

/// Answers a request with `next`, and applies the fault that strikes it.
pub(super) async fn around<F>(
    faults: &Faults,
    state: &AppState,
    request: Request<Incoming>,
    connection: &ConnectionHandle,
    next: impl FnOnce(Request<Incoming>) -> F,
) -> Response
where
    F: Future<Output = Response>,
{
    let Some(strike) = faults.strike(request.method().as_str(), request.uri().path()) else {
        return next(request).await;
    };
    let injected = |kind| state.metrics.faults_injected.with_label_values(&[kind]).inc();
    if !strike.delay.is_zero() {
        injected("delay");
        // If the client goes, its connection's task ends, and this with it.
        tokio::select! {
            () = tokio::time::sleep(strike.delay) => {}
            () = state.lifecycle.draining() => {}
        }
    }
    if strike.drops {
        injected("drop");
        if strike.body.cut_at.is_none() {
            connection.reset();
            return Response::new(Body::empty());
        }
    }
    let response = match strike.error {
        Some(error) => {
            injected("status");
            refuse(state, request, error).await
        }
        None => next(request).await,
    };
    spoil(state, response, strike, connection)
}

/// Answers with an injected error.
async fn refuse(state: &AppState, request: Request<Incoming>, error: InjectedError) -> Response {
    let (head, incoming) = request.into_parts();
    let (bytes, setting) = (limits::MAX_BATCH_BYTES, "the most of a batch");
    let limits = BodyLimits { bytes, setting, deadline: Instant::now() + state.limits.body_timeout };
    LimitedBody::new(&head, incoming, limits).discard().await;
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        ApiError::new(status, "injected", "a fault that was asked for (FAULTS=on)").into_response();
    if let Some(seconds) = error.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    state.metrics.requests.with_label_values(&["injected", status.as_str()]).inc();
    response
}

/// Applies a fault to the body of an answer.
fn spoil(
    state: &AppState,
    mut response: Response,
    strike: Strike,
    connection: &ConnectionHandle,
) -> Response {
    let mut fault = strike.body;
    let streams_events = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(sse::MEDIA_TYPE.as_bytes()));
    if !streams_events {
        fault.event = None;
    }
    let kinds = [
        ("sse_event", fault.event.is_some()),
        ("corrupt", fault.corruption.is_some()),
        ("truncate", fault.cut_at.is_some()),
    ];
    for (kind, _) in kinds.iter().filter(|(_, strikes)| *strikes) {
        state.metrics.faults_injected.with_label_values(&[kind]).inc();
    }
    if kinds.iter().all(|(_, strikes)| !strikes) {
        return response;
    }
    if fault.event.is_some() {
        // hyper derives it from the body.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    // A stream that wrote to the socket itself would not pass the body.
    response.extensions_mut().remove::<Detachable>();
    let connection = connection.clone();
    response.map(|body| Body::new(FaultyBody::new(body, fault, strike.drops, connection)))
}
