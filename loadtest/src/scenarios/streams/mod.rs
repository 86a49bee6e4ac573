//! Load of Durable Streams: appends, reads and SSE, on any server of the protocol.
//!
//! All content is messages of one size that name their writer and their number ([`message`]), so that whatever is lost, repeated or out of order
//! is found. The streams of a run have names of their own, and are deleted at its end.

pub(crate) mod append;
mod message;
pub(crate) mod read;
pub(crate) mod sse;
mod usage;

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};

use super::{Context, Error, succeeded};
use crate::client::{Answer, Body, Connection, Target};
use message::LEAST_SIZE;

/// Unless `--duration` is given.
const DURATION_S: f64 = 10.0;
const NEXT_OFFSET: &str = "stream-next-offset";
const UP_TO_DATE: &str = "stream-up-to-date";
const NO_OFFSET: Error = Error::Unreadable("no offset");

/// The arguments that all loads of Durable Streams have.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamsArgs {
    /// The beginning of the streams' paths; the run and a number follow it
    #[arg(long, default_value = "/v1/stream/loadtest")]
    pub(crate) path: String,
    /// Bytes of each message
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(48..=1_048_576))]
    pub(crate) size: u32,
}

/// The servers and the streams of a run.
#[derive(Debug, Clone)]
struct Plan {
    targets: Vec<Target>,
    path: String,
    content_type: &'static str,
    size: usize,
    token: Option<HeaderValue>,
    timeout: Duration,
}

impl Plan {
    fn new(context: &Context, args: &StreamsArgs) -> Result<Self, Error> {
        let size = args.size as usize;
        if size < LEAST_SIZE {
            return Err(Error::Usage(format!("a message takes at least {LEAST_SIZE} bytes")));
        }
        let run: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
        Ok(Self {
            targets: context.common.url.clone(),
            path: format!("{}-{run}", args.path.trim_end_matches('/')),
            content_type: "text/plain",
            size,
            token: context.authorization().cloned(),
            timeout: context.timeout(),
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
            succeeded(connection.exchange(request, Body::Keep, self.timeout).await?)?;
        }
        Ok(())
    }

    /// Deletes the streams of a run.
    async fn delete(&self, streams: usize) -> Result<(), Error> {
        let mut connection = self.connect(0).await?;
        for number in 0..streams {
            let request =
                self.request(self.target(0), &Method::DELETE, &self.stream(number), Bytes::new())?;
            succeeded(connection.exchange(request, Body::Skip, self.timeout).await?)?;
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
        let answer = succeeded(connection.exchange(request, Body::Keep, self.timeout).await?)?;
        header(&answer, NEXT_OFFSET).ok_or(NO_OFFSET)
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
            let answer = succeeded(connection.exchange(request, Body::Keep, self.timeout).await?)?;
            answers += 1;
            piece(&answer.body);
            let next = header(&answer, NEXT_OFFSET).ok_or(NO_OFFSET)?;
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
