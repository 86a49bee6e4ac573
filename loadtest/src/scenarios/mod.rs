//! The scenarios, one a file, and what all have in common: the view, the audit, the report and the exit code.

pub(crate) mod chaos;
pub(crate) mod conversations;
pub(crate) mod crud;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod get;
pub(crate) mod large;
pub(crate) mod load;
pub(crate) mod mixed;
pub(crate) mod ramp;
pub(crate) mod realtime;
pub(crate) mod soak;
pub(crate) mod spike;
pub(crate) mod sse;
pub(crate) mod streams;

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use tokio::task::LocalSet;

use crate::cli::Common;
use crate::client::{Answer, ConnectError, Failure, Target, bearer};
use crate::descriptors::NoDescriptors;
use crate::document::{self, Document, Machine, Outcome};
use crate::findings::{FAILED, USAGE};
use crate::health::{self, Health};
use crate::interrupts::Interrupts;
use crate::live::Live;
use crate::payload::now_ms;
use crate::protocol::Token;
use crate::report::print;
use crate::resident::ResidentError;
use crate::view::View;
use crate::{collect, database, payload, program};

pub(crate) use load::SendingArgs;

/// Bytes of an answer that an error quotes.
const QUOTED: usize = 300;
/// Interrupts after which nothing is waited for, nor cleaned up.
const LAST_INTERRUPT: u32 = 3;

/// The reason why a scenario has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Payload(#[from] payload::Error),
    #[error("the token holds characters that a header cannot carry")]
    Token,
    #[error("the URL, the path or the token holds characters that HTTP cannot carry")]
    Unsendable,
    #[error("cannot connect to the service")]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Service(#[from] health::Error),
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error(transparent)]
    Workers(#[from] collect::Error),
    #[error(transparent)]
    Resident(#[from] ResidentError),
    #[error(transparent)]
    Descriptors(#[from] NoDescriptors),
    #[error(transparent)]
    Program(#[from] program::Error),
    #[error("no answer{}", .0.as_ref().map(|what| format!(" ({what})")).unwrap_or_default())]
    Unanswered(Option<String>),
    #[error("answered {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("an answer is not what it should be: {0}")]
    Unreadable(&'static str),
    #[error("the service does not report pending events")]
    NoPending,
    #[error("there is no process {0} on this machine")]
    NoProcess(u32),
    #[error(transparent)]
    PocketBase(#[from] realtime::PocketBaseError),
    #[error("{ready} of {all} streams are ready; refused: {refused}")]
    NotReady { ready: u64, all: usize, refused: String },
    #[error("the service that the run started: {0}")]
    Started(String),
    #[error(transparent)]
    Report(#[from] document::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("a part of the run failed")]
    Io(#[from] std::io::Error),
}

impl From<Failure> for Error {
    fn from(_: Failure) -> Self {
        Self::Unanswered(None)
    }
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Payload(_) | Self::Token | Self::Database(database::Error::BadUrl(_)) => {
                USAGE
            }
            _ => FAILED,
        }
    }
}

/// What all scenarios are given.
pub(crate) struct Context {
    pub(crate) live: Arc<Live>,
    pub(crate) common: Common,
    token: Option<Token>,
    header: Option<HeaderValue>,
}

impl Context {
    fn new(common: Common) -> Result<Self, Error> {
        let token = Token::shown(common.token.as_deref());
        let header = token.as_ref().map(|token| bearer(&token.0).ok_or(Error::Token)).transpose()?;
        Ok(Self { live: Arc::default(), common, token, header })
    }

    /// The service, or the first of several.
    pub(crate) fn target(&self) -> &Target {
        self.common.target()
    }

    /// The token.
    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// The duration of the load; `default_s` unless it is given.
    pub(crate) fn duration(&self, default_s: f64) -> Duration {
        Duration::from_secs_f64(self.common.duration.unwrap_or(default_s))
    }

    /// The time limit of an answer.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.common.timeout)
    }

    /// The service's health.
    pub(crate) fn health(&self) -> Health {
        Health::new(self.target().clone(), self.token.clone())
    }

    /// A request to `target`; a body is JSON.
    pub(crate) fn request(
        &self,
        target: &Target,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let body = body.into();
        let mut request =
            Request::builder().method(method).uri(target.path(path)).header(HOST, target.host_header());
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(header) = &self.header {
            request = request.header(AUTHORIZATION, header);
        }
        request.body(Full::new(body)).map_err(|_| Error::Unsendable)
    }

    /// The authorization header.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }
}

/// An answer with a status of success.
pub(crate) fn succeeded(answer: Answer) -> Result<Answer, Error> {
    if (200..300).contains(&answer.status) {
        return Ok(answer);
    }
    let body = String::from_utf8_lossy(&answer.body).chars().take(QUOTED).collect();
    Err(Error::Refused { status: answer.status, body })
}

/// Runs a scenario: shows its progress, prints and writes its results. The exit code is that of its audit.
pub(crate) fn run<F>(name: &str, common: Common, scenario: F) -> ExitCode
where
    F: AsyncFnOnce(&Context) -> Result<Outcome, Error>,
{
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("loadtest: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match LocalSet::new().block_on(&runtime, conduct(name, common, scenario)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

async fn conduct<F>(name: &str, common: Common, scenario: F) -> Result<u8, Error>
where
    F: AsyncFnOnce(&Context) -> Result<Outcome, Error>,
{
    let report = common.report.clone();
    let context = Context::new(common)?;
    let started_at_ms = now_ms();
    let service = match context.health().version().await {
        Some(version) => format!("{}, version {version}", context.target().url("")),
        None => context.target().url(""),
    };
    let machine = Machine::here(service);
    let view = Rc::new(View::start(name, None));
    let watching = tokio::task::spawn_local({
        let (live, health, view) = (Arc::clone(&context.live), context.health(), Rc::clone(&view));
        async move { live.watch(Some(health), &view).await }
    });
    let mut interrupts = Interrupts::listen()?;
    let last_interrupt = async {
        loop {
            interrupts.next().await;
            match context.live.interrupt() {
                1 => context.live.note("interrupted: the load ends in order; once more ends it at once"),
                LAST_INTERRUPT.. => return,
                _ => context.live.note("interrupted again: the load ends at once; once more ends all"),
            }
        }
    };
    let outcome = tokio::select! {
        outcome = scenario(&context) => outcome,
        () = last_interrupt => Err(Error::Interrupted),
    };
    watching.abort();
    context.live.unshown().iter().for_each(|note| view.note(note));
    view.finish();
    let mut outcome = outcome?;
    outcome.interrupted |= context.live.is_stopped();
    print(&outcome.render());
    let code = outcome.exit_code();
    if let Some(path) = report {
        write(name, &path, outcome, machine, started_at_ms, &context.live)?;
    }
    Ok(code)
}

/// Writes the report: a folder, or a file of JSON.
fn write(
    name: &str,
    path: &Path,
    mut outcome: Outcome,
    machine: Machine,
    started_at_ms: u64,
    live: &Live,
) -> Result<(), Error> {
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    // Of a load of events, a file has these results alone, as it always had.
    if let (true, Some(own)) = (is_json, outcome.own_json.take()) {
        let json = serde_json::to_vec_pretty(&own).map_err(std::io::Error::from)?;
        let written = std::fs::write(path, json);
        return Ok(written.map_err(|error| document::Error::Unwritten(path.to_path_buf(), error))?);
    }
    let document = Document::new(name, machine, started_at_ms, outcome, live.take());
    if is_json {
        document.write_json(path)?;
    } else {
        document.write(path)?;
        eprintln!("wrote {}", path.join("report.html").display());
    }
    Ok(())
}
