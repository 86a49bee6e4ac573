//! For operators: health, readiness and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;

use crate::config::Module;
use crate::db::{HousekeepingStatus, PartitionFailure};
use crate::http::wire::error::ApiError;
use crate::http::{AppState, pocketbase};
use crate::ingest::{Account, JournalSnapshot, LastError, Rates, Refusal, Snapshot, WriterState};
use crate::observe::{Gauges, Metrics};
use crate::outbound::mail::Mailer;
use crate::records::typed::logs::RequestLogs;
use crate::routes::RouteStatus;
use crate::supervisor::TaskReport;

#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
pub(super) struct HealthResponse {
    status: &'static str,
    version: &'static str,
    uptime_s: u64,
    /// The modules that are on.
    modules: Vec<&'static str>,
    #[serde(flatten)]
    pipeline: Option<PipelineHealth>,
    /// The background tasks.
    tasks: Vec<TaskHealth>,
    /// Appends by `tidegate_append`; absent where streams are off.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_inbox: Option<StreamInboxHealth>,
    /// Mails; absent where no module sends any.
    #[serde(skip_serializing_if = "Option::is_none")]
    mails: Option<MailsHealth>,
    /// The log of requests to typed collections; absent without these.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_logs: Option<RequestLogsHealth>,
    memory: Memory,
    http: Http,
    /// Events that could not be kept, since the start, by the protocol of another SDK. Absent without one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    intake_rejected: BTreeMap<&'static str, u64>,
}

#[derive(Serialize, ToSchema)]
struct TaskHealth {
    name: String,
    /// Whether the service stops when it ends.
    critical: bool,
    /// `running`, `failing` (its last step failed; it retries) or `ended`.
    state: &'static str,
    /// Unix time in milliseconds; null before the first success, and for tasks without steps.
    last_success_ms: Option<u64>,
    /// Whether a step is under way, or waits for work; always, for tasks without steps.
    is_stepping: bool,
    /// Finished steps, since the start.
    steps: u64,
    /// The duration of the last one in milliseconds, with its wait for work.
    last_step_ms: Option<f64>,
    /// Restarts after panics.
    restarts: u64,
    last_error: Option<LastErrorHealth>,
}

impl From<TaskReport> for TaskHealth {
    fn from(task: TaskReport) -> Self {
        Self {
            name: task.name,
            critical: task.critical,
            state: task.state.name(),
            last_success_ms: task.last_success.map(unix_ms),
            is_stepping: task.is_stepping,
            steps: task.steps,
            // To the microsecond.
            last_step_ms: task.last_step.map(|took| took.as_micros() as f64 / 1e3),
            restarts: task.restarts,
            last_error: task.last_error.map(|(message, at)| LastErrorHealth { message, at_ms: unix_ms(at) }),
        }
    }
}

/// Appends by `tidegate_append` in `stream_inbox`, as counted every five seconds; up to 100,000 of each.
#[derive(Serialize, ToSchema)]
struct StreamInboxHealth {
    /// They wait to be moved to their streams.
    waiting: i64,
    /// They cannot be moved: their rows have the reason.
    failed: i64,
}

impl StreamInboxHealth {
    fn of(gauges: &Gauges) -> Self {
        let rows = |state| gauges.stream_inbox_rows.with_label_values(&[state]).get();
        Self { waiting: rows("waiting"), failed: rows("failed") }
    }
}

/// Mails, since the start. The task `mailer` has the last failure of the mail server.
#[derive(Serialize, ToSchema)]
struct MailsHealth {
    /// They wait to be sent.
    waiting: usize,
    sent: u64,
    /// The mail server refused them, or they were malformed.
    refused: u64,
    /// The mail server could not be reached, or sent no mail at all.
    failed: u64,
    /// They found no place in the queue.
    dropped: u64,
}

impl MailsHealth {
    fn of(mailer: &Mailer, metrics: &Metrics) -> Self {
        let count = |outcome| metrics.mails.with_label_values(&[outcome]).get();
        Self {
            waiting: mailer.waiting(),
            sent: count("sent"),
            refused: count("refused"),
            failed: count("failed"),
            dropped: count("dropped"),
        }
    }
}

/// Entries of the log of requests, since the start. The task `request-logs` has the last failure.
#[derive(Serialize, ToSchema)]
struct RequestLogsHealth {
    /// They wait to be stored.
    waiting: usize,
    stored: u64,
    /// They found no place in the queue.
    dropped: u64,
}

impl RequestLogsHealth {
    fn of(logs: &RequestLogs, metrics: &Metrics) -> Self {
        let count = |outcome| metrics.request_logs.with_label_values(&[outcome]).get();
        Self { waiting: logs.waiting(), stored: count("stored"), dropped: count("dropped") }
    }
}

#[derive(Serialize, ToSchema)]
struct PipelineHealth {
    /// Accepted events, since the start.
    accepted: u64,
    committed: u64,
    duplicates: u64,
    dead: u64,
    pending: u64,
    /// The level that an accepted event has.
    promise: &'static str,
    queue: QueueHealth,
    dead_letter_queue: Depth,
    rates: Vec<RateHealth>,
    writer: WriterHealth,
    dead_letter_writer: WriterHealth,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<JournalHealth>,
    housekeeping: HousekeepingHealth,
    pool: PoolHealth,
    /// The routes into the user's own tables.
    routes: Vec<RouteHealth>,
}

/// A route into a table of the user's.
#[derive(Serialize, ToSchema)]
struct RouteHealth {
    name: String,
    /// `live`, `suspended` or `disabled`.
    state: &'static str,
    /// A backfill is under way; with a key, new events wait for it.
    backfilling: bool,
    /// Events that wait until the route is live again.
    deferred: i64,
    /// Events that it refuses now, of which up to 10,000 are counted.
    errors: i64,
    /// The SQLSTATE and message for which it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<RouteStatus> for RouteHealth {
    fn from(route: RouteStatus) -> Self {
        Self {
            name: route.name,
            state: route.state.name(),
            backfilling: route.is_filling,
            deferred: route.deferred,
            errors: route.errors,
            error: route.error,
        }
    }
}

/// The deletion of old rows.
#[derive(Serialize, ToSchema)]
struct HousekeepingHealth {
    /// `ok`, or `failing`: something below is wrong.
    state: &'static str,
    /// Seconds by which the service's clock was ahead of Postgres', at the last check.
    clock_ahead_s: i64,
    /// The clocks differ by more than a minute: nothing is deleted by age.
    deletion_refused: bool,
    /// Days whose partitions cannot be created or dropped.
    partitions: Vec<PartitionHealth>,
}

/// A day whose partition cannot be created or dropped.
#[derive(Serialize, ToSchema)]
struct PartitionHealth {
    #[schema(example = "2026-11-20")]
    day: String,
    /// `make` or `drop`.
    action: &'static str,
    /// Postgres' error.
    error: String,
}

impl From<HousekeepingStatus> for HousekeepingHealth {
    fn from(status: HousekeepingStatus) -> Self {
        let state = if status.is_fine() { "ok" } else { "failing" };
        let partition = |PartitionFailure { day, action, error }| PartitionHealth { day, action, error };
        Self {
            state,
            clock_ahead_s: status.clock_ahead_s,
            deletion_refused: status.is_refused,
            partitions: status.partitions.into_iter().map(partition).collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct JournalHealth {
    /// `accepting`, or the reason for rejecting events.
    state: &'static str,
    /// Of events that are not in Postgres.
    pending_bytes: u64,
    /// Of the whole segments of these events, which `JOURNAL_MAX_BYTES` bounds.
    segment_bytes: u64,
    kept_bytes: u64,
    free_bytes: u64,
    quarantined_bytes: u64,
    /// Acknowledged events that the journal lost, until an operator acknowledges the loss.
    acknowledged_lost: u64,
    /// Events that Postgres lost after the journal had deleted them.
    lost_by_postgres: u64,
    /// The checkpointer, which tracks the durable events in Postgres.
    fence: WriterHealth,
    /// Of all journals on disk, at the last checkpoint.
    ledger: LedgerHealth,
}

#[derive(Serialize, ToSchema)]
pub(super) struct LedgerHealth {
    balanced: bool,
    accepted: u64,
    committed: u64,
    duplicates: u64,
    dead: u64,
    discarded: u64,
    quarantined: u64,
    pending: u64,
    journals: usize,
}

impl LedgerHealth {
    /// The ledger over all journals on disk; without one, that of this process.
    pub(super) fn of(now: &Snapshot) -> Self {
        let own = || Self {
            balanced: now.accepted == now.committed + now.duplicates + now.dead + now.pending,
            accepted: now.accepted,
            committed: now.committed,
            duplicates: now.duplicates,
            dead: now.dead,
            discarded: 0,
            quarantined: 0,
            pending: now.pending,
            journals: 0,
        };
        now.journal.as_ref().map_or_else(own, Self::from)
    }
}

impl From<&JournalSnapshot> for LedgerHealth {
    fn from(journal: &JournalSnapshot) -> Self {
        let accounts = &journal.accounts;
        let sum = |of: fn(&Account) -> u64| accounts.iter().map(of).sum();
        Self {
            balanced: accounts.iter().all(Account::is_balanced),
            accepted: sum(|account| account.accepted),
            committed: sum(|account| account.counts.committed),
            duplicates: sum(|account| account.counts.duplicates),
            dead: sum(|account| account.counts.dead),
            discarded: sum(|account| account.counts.discarded),
            quarantined: sum(|account| account.counts.quarantined),
            pending: sum(Account::pending),
            journals: accounts.len(),
        }
    }
}

impl From<JournalSnapshot> for JournalHealth {
    fn from(journal: JournalSnapshot) -> Self {
        let ledger = LedgerHealth::from(&journal);
        let state = journal.refusal.map_or("accepting", Refusal::state);
        let usage = journal.usage;
        Self {
            state,
            pending_bytes: journal.pending_bytes,
            segment_bytes: usage.uncovered_bytes,
            kept_bytes: usage.kept_bytes,
            free_bytes: usage.free_bytes,
            quarantined_bytes: usage.quarantined.bytes,
            acknowledged_lost: journal.acknowledged_lost.events,
            lost_by_postgres: journal.lost,
            fence: journal.checkpoint.into(),
            ledger,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct QueueHealth {
    #[serde(flatten)]
    depth: Depth,
    max_events: u64,
    max_bytes: u64,
}

#[derive(Serialize, ToSchema)]
struct Depth {
    events: u64,
    bytes: u64,
}

#[derive(Serialize, ToSchema)]
struct RateHealth {
    span_s: usize,
    accepted_per_s: f64,
    settled_per_s: f64,
}

#[derive(Serialize, ToSchema)]
struct WriterHealth {
    state: &'static str,
    last_error: Option<LastErrorHealth>,
}

impl From<(WriterState, Option<LastError>)> for WriterHealth {
    fn from((state, last_error): (WriterState, Option<LastError>)) -> Self {
        let last_error =
            last_error.map(|error| LastErrorHealth { message: error.message, at_ms: unix_ms(error.at) });
        Self { state: state.name(), last_error }
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

#[derive(Serialize, ToSchema)]
struct LastErrorHealth {
    message: String,
    /// Unix time in milliseconds.
    at_ms: u64,
}

#[derive(Serialize, ToSchema)]
struct PoolHealth {
    max: usize,
    open: usize,
    idle: usize,
    waiting: usize,
}

#[derive(Serialize, ToSchema)]
struct Memory {
    resident_bytes: Option<u64>,
}

#[derive(Serialize, ToSchema)]
struct Http {
    connections: i64,
    body_bytes: u64,
}

/// `GET /api/health`: the state of all parts. 200 while events are accepted, else 503.
#[utoipa::path(
    get,
    path = "/api/health",
    tag = "operations",
    summary = "The state of all parts",
    responses(
        (status = 200, description = "Events are accepted", body = HealthResponse),
        (status = 503, description = "Events are not accepted", body = HealthResponse),
    )
)]
pub(super) async fn api_health(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let health = HealthResponse::now(&state);
    let code = match health.status {
        "ok" | "degraded" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    if !state.modules.has(Module::PocketBase) {
        return Ok((code, Json(health)).into_response());
    }
    let (head, _) = request.into_parts();
    let full = serde_json::to_value(&health).map_err(|_| ApiError::internal())?;
    let shown = pocketbase::health(&state, &head, (code.as_u16(), health.status), full).await?;
    Ok((code, Json(shown)).into_response())
}

impl HealthResponse {
    /// The state of all parts now.
    pub(super) fn now(state: &AppState) -> Self {
        let pipeline = state.services.get().map(|services| {
            let now = services.ingest.snapshot();
            let pool = services.database.status();
            PipelineHealth {
                accepted: now.accepted,
                committed: now.committed,
                dead: now.dead,
                duplicates: now.duplicates,
                pending: now.pending,
                journal: now.journal.map(JournalHealth::from),
                promise: services.ingest.level().name(),
                queue: QueueHealth {
                    depth: Depth { events: now.held.events, bytes: now.held.bytes },
                    max_events: now.capacity.events,
                    max_bytes: now.capacity.bytes,
                },
                dead_letter_queue: Depth { events: now.dead_held.events, bytes: now.dead_held.bytes },
                rates: rates(services.ingest.rates()),
                writer: now.writer.into(),
                dead_letter_writer: now.dead_letter_writer.into(),
                housekeeping: services.database.housekeeping().status().into(),
                pool: PoolHealth { max: pool.max, open: pool.open, idle: pool.idle, waiting: pool.waiting },
                routes: services.routes.status().into_iter().map(RouteHealth::from).collect(),
            }
        });
        Self {
            status: status(state),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: state.started.elapsed().as_secs(),
            modules: state.modules.names(),
            pipeline,
            tasks: state.supervisor.report().into_iter().map(TaskHealth::from).collect(),
            stream_inbox: state
                .modules
                .has(Module::Streams)
                .then(|| StreamInboxHealth::of(&state.metrics.gauges)),
            mails: state
                .services
                .get()
                .and_then(|services| services.mailer.as_ref())
                .map(|mailer| MailsHealth::of(mailer, &state.metrics)),
            request_logs: state
                .services
                .get()
                .and_then(|services| services.modules.request_logs.as_ref())
                .map(|logs| RequestLogsHealth::of(logs, &state.metrics)),
            memory: Memory { resident_bytes: resident_bytes() },
            http: Http {
                connections: state.metrics.gauges.connections.get(),
                body_bytes: state.bodies.used(),
            },
            intake_rejected: state
                .protocols
                .adapters()
                .map(|name| (name, state.metrics.intake_rejected.with_label_values(&[name]).get()))
                .collect(),
        }
    }
}

/// Whether a path is for operators, and served beyond `MAX_CONNECTIONS` too.
pub(in crate::http) fn is_operators(path: &str) -> bool {
    matches!(path, "/api/health" | "/health" | "/health/ready" | "/metrics")
}

fn rates(rates: &Rates) -> Vec<RateHealth> {
    let shown = |rate: crate::ingest::Rate| RateHealth {
        span_s: rate.span_s,
        accepted_per_s: rate.accepted,
        settled_per_s: rate.settled,
    };
    rates.get().into_iter().map(shown).collect()
}

fn status(state: &AppState) -> &'static str {
    match state.services.get() {
        None => "starting",
        Some(_) if state.lifecycle.is_draining() => "draining",
        Some(services) if !services.ingest.has_capacity() => "overloaded",
        Some(services) => {
            let now = services.ingest.snapshot();
            let fence = now.journal.as_ref().map_or(WriterState::Running, |journal| journal.checkpoint.0);
            let has_lost =
                |journal: &JournalSnapshot| journal.lost > 0 || journal.acknowledged_lost.losses > 0;
            let lost = now.journal.as_ref().is_some_and(has_lost);
            // A further event is tried, as its success ends the refusal.
            let refused = now.journal.as_ref().is_some_and(|journal| journal.refusal.is_some());
            let states = [now.writer.0, now.dead_letter_writer.0, fence];
            let running = states.iter().all(|state| *state == WriterState::Running)
                && state.supervisor.report().iter().all(|task| !task.is_stuck);
            let kept = services.database.housekeeping().status().is_fine();
            if running && !lost && !refused && kept { "ok" } else { "degraded" }
        }
    }
}

/// `GET /health`: the process answers.
#[utoipa::path(
    get,
    path = "/health",
    tag = "operations",
    summary = "Whether the process answers",
    responses((status = 200, description = "It answers", body = String, content_type = "text/plain"))
)]
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /health/ready`: whether this node should receive events.
#[utoipa::path(
    get,
    path = "/health/ready",
    tag = "operations",
    summary = "Whether this node should receive events",
    responses(
        (status = 200, description = "It should", body = String, content_type = "text/plain"),
        (status = 503, description = "It should not", body = String, content_type = "text/plain"),
    )
)]
pub(super) async fn ready(State(state): State<Arc<AppState>>) -> Response {
    match status(&state) {
        "ok" | "degraded" => "ready\n".into_response(),
        other => (StatusCode::SERVICE_UNAVAILABLE, format!("{other}\n")).into_response(),
    }
}

/// `GET /metrics`, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    summary = "Metrics for Prometheus",
    responses((status = 200, description = "The text format", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let gauges = &state.metrics.gauges;
    if let Some(services) = state.services.get() {
        let now = services.ingest.snapshot();
        gauges.queue_events.set(now.held.events as i64);
        gauges.queue_bytes.set(now.held.bytes as i64);
        gauges.dead_queue_events.set(now.dead_held.events as i64);
        gauges.dead_queue_bytes.set(now.dead_held.bytes as i64);
        if let Some(journal) = &now.journal {
            journal_gauges(gauges, journal);
        }
        housekeeping_gauges(gauges, &services.database.housekeeping().status());
        let pool = services.database.status();
        for (state, count) in [("open", pool.open), ("idle", pool.idle), ("waiting", pool.waiting)] {
            gauges.pool.with_label_values(&[state]).set(count as i64);
        }
    }
    for task in state.supervisor.report() {
        if let Some(since) = task.since_success {
            gauges.task_since_success.with_label_values(&[&task.name]).set(since.as_secs_f64());
        }
    }
    gauges.body_bytes.set(state.bodies.used() as i64);
    match state.metrics.render() {
        Ok(text) => Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()),
        Err(error) => {
            tracing::error!(error = error.to_string(), "metrics cannot be rendered");
            Err(ApiError::internal())
        }
    }
}

fn housekeeping_gauges(gauges: &Gauges, status: &HousekeepingStatus) {
    gauges.clock_ahead_seconds.set(status.clock_ahead_s);
    gauges.deletion_refused.set(status.is_refused.into());
    gauges.partitions_failing.reset();
    for action in ["make", "drop"] {
        let failures = status.partitions.iter().filter(|failure| failure.action == action);
        for failure in failures {
            let state = failure.error.get(..5).unwrap_or_default();
            gauges.partitions_failing.with_label_values(&[action, &failure.day, state]).set(1);
        }
    }
}

fn journal_gauges(gauges: &Gauges, journal: &JournalSnapshot) {
    let usage = &journal.usage;
    for (state, bytes) in [
        ("pending", journal.pending_bytes),
        ("segments", usage.uncovered_bytes),
        ("kept", usage.kept_bytes),
        ("quarantined", usage.quarantined.bytes),
    ] {
        gauges.journal_bytes.with_label_values(&[state]).set(bytes as i64);
    }
    for state in Refusal::STATES {
        let refuses = journal.refusal.is_some_and(|refusal| refusal.state() == state);
        gauges.journal_refuses.with_label_values(&[state]).set(refuses.into());
    }
    let ledger = LedgerHealth::from(journal);
    for (state, events) in [
        ("accepted", ledger.accepted),
        ("committed", ledger.committed),
        ("duplicates", ledger.duplicates),
        ("dead", ledger.dead),
        ("discarded", ledger.discarded),
        ("quarantined", ledger.quarantined),
        ("pending", ledger.pending),
    ] {
        gauges.ledger.with_label_values(&[state]).set(events as i64);
    }
    gauges.lost.set(journal.lost as i64);
    gauges.acknowledged_lost.set(journal.acknowledged_lost.events as i64);
}

/// The process's resident memory, where `/proc` exists.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
