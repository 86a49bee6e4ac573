//! Load of Durable Streams: appends, reads and SSE, on any server of the protocol.
//!
//! All content is messages of one size that name their writer and their number ([`message`]), so that whatever is lost, repeated or out of order
//! is found. The streams of a run have names of their own, and are deleted at its end.

pub(crate) mod append;
mod message;
pub(crate) mod read;
pub(crate) mod sse;
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};

use crate::cli::StreamsArgs;
use crate::client::{Answer, Body, ConnectError, Connection, Failure, Target, bearer};
use crate::protocol::Token;
use crate::tally::Times;
use message::LEAST_SIZE;

/// The time limit of one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
const NEXT_OFFSET: &str = "stream-next-offset";
const UP_TO_DATE: &str = "stream-up-to-date";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot connect to the server")]
    Connect(#[from] ConnectError),
    #[error("the URL, the path or the token holds characters that HTTP cannot carry")]
    Unsendable,
    #[error("no answer")]
    Unanswered,
    #[error("answered {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("an answer names no offset")]
    NoOffset,
    #[error("a message takes at least {LEAST_SIZE} bytes")]
    Size,
    #[error("cannot start")]
    Start(#[from] std::io::Error),
    #[error(transparent)]
    Descriptors(#[from] crate::descriptors::NoDescriptors),
    #[error("there is no process {0} on this machine")]
    NoProcess(u32),
}

impl From<Failure> for Error {
    fn from(_: Failure) -> Self {
        Self::Unanswered
    }
}

/// Runs a measurement. Its result is whether the audit found nothing.
fn finish(measured: Result<bool, Error>) -> ExitCode {
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn block_on(future: impl Future<Output = Result<bool, Error>>) -> Result<bool, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// The servers and the streams of a run.
#[derive(Debug, Clone)]
struct Plan {
    targets: Vec<Target>,
    path: String,
    content_type: &'static str,
    size: usize,
    token: Option<HeaderValue>,
}

impl Plan {
    fn new(args: &StreamsArgs) -> Result<Self, Error> {
        let size = args.size as usize;
        if size < LEAST_SIZE {
            return Err(Error::Size);
        }
        let token = Token::shown(args.token.as_deref());
        let run: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
        Ok(Self {
            targets: args.url.clone(),
            path: format!("{}-{run}", args.path.trim_end_matches('/')),
            content_type: "text/plain",
            size,
            token: token.map(|token| bearer(&token.0).ok_or(Error::Unsendable)).transpose()?,
        })
    }

    /// The path of a stream of the run.
    fn stream(&self, number: usize) -> String {
        format!("{}-{number}", self.path)
    }

    /// The server of a connection: they take turns.
    fn target(&self, connection: usize) -> &Target {
        &self.targets[connection % self.targets.len()]
    }

    async fn connect(&self, connection: usize) -> Result<Connection, Error> {
        Ok(Connection::open(self.target(connection)).await?)
    }

    fn request(
        &self,
        target: &Target,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut request =
            Request::builder().method(method).uri(target.path(path)).header(HOST, target.host_header());
        if matches!(*method, Method::PUT | Method::POST) {
            request = request.header(CONTENT_TYPE, self.content_type);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body)).map_err(|_| Error::Unsendable)
    }

    /// Creates the streams of a run.
    async fn create(&self, streams: usize) -> Result<(), Error> {
        let mut connection = self.connect(0).await?;
        for number in 0..streams {
            let request = self.request(self.target(0), &Method::PUT, &self.stream(number), Bytes::new())?;
            succeeded(connection.exchange(request, Body::Keep, TIMEOUT).await?)?;
        }
        Ok(())
    }

    /// Deletes the streams of a run.
    async fn delete(&self, streams: usize) -> Result<(), Error> {
        let mut connection = self.connect(0).await?;
        for number in 0..streams {
            let request =
                self.request(self.target(0), &Method::DELETE, &self.stream(number), Bytes::new())?;
            succeeded(connection.exchange(request, Body::Skip, TIMEOUT).await?)?;
        }
        Ok(())
    }

    /// Appends a body; returns the offset behind it.
    async fn append(
        &self,
        connection: &mut Connection,
        target: &Target,
        stream: &str,
        body: Bytes,
    ) -> Result<String, Error> {
        let request = self.request(target, &Method::POST, stream, body)?;
        let answer = succeeded(connection.exchange(request, Body::Keep, TIMEOUT).await?)?;
        header(&answer, NEXT_OFFSET).ok_or(Error::NoOffset)
    }

    /// Reads a stream from an offset to its end, and passes its bytes to `piece`. Returns the number of answers.
    async fn read_all(
        &self,
        connection: &mut Connection,
        target: &Target,
        stream: &str,
        mut piece: impl FnMut(&[u8]),
    ) -> Result<u64, Error> {
        let (mut offset, mut answers) = ("-1".to_owned(), 0);
        loop {
            let path = format!("{stream}?offset={offset}");
            let request = self.request(target, &Method::GET, &path, Bytes::new())?;
            let answer = succeeded(connection.exchange(request, Body::Keep, TIMEOUT).await?)?;
            answers += 1;
            piece(&answer.body);
            let next = header(&answer, NEXT_OFFSET).ok_or(Error::NoOffset)?;
            if header(&answer, UP_TO_DATE).is_some() || next == offset {
                return Ok(answers);
            }
            offset = next;
        }
    }
}

fn header(answer: &Answer, name: &str) -> Option<String> {
    answer.headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn succeeded(answer: Answer) -> Result<Answer, Error> {
    if (200..300).contains(&answer.status) {
        return Ok(answer);
    }
    let body = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
    Err(Error::Refused { status: answer.status, body })
}

/// Times in milliseconds on one line.
fn milliseconds(times: &Times) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let at = |percentile| ms(times.at(percentile));
    format!(
        "p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
        at(50.0),
        at(99.0),
        at(99.9),
        ms(times.max())
    )
}
