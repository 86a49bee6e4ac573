//! Load of reads: one path in a closed loop, for any service, such as a list over a large collection.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};

use crate::client::{Body, ConnectError, Connection, Target, bearer};
use crate::protocol::Token;
use crate::tally::Times;

/// The time limit of one answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The arguments of `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// URL of the service
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    pub(crate) url: Target,
    /// Path with its query, encoded. Each {1000}, for any number, becomes a random number below it
    #[arg(long)]
    pub(crate) path: String,
    /// Connections
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
    /// Duration, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Bearer token for the service [env: LOADTEST_TOKEN]
    #[arg(long)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot connect to the service")]
    Connect(#[from] ConnectError),
    #[error("the URL, the path or the token holds characters that HTTP cannot carry")]
    Unsendable,
    #[error("no answer")]
    Unanswered,
    #[error("answered {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("cannot start")]
    Runtime(#[from] std::io::Error),
}

/// Measures; the exit code is 0 if every answer was a success.
pub(crate) fn run(args: &GetArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Error::Runtime).and_then(|runtime| runtime.block_on(measure(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {}", crate::describe(&error));
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &GetArgs) -> Result<(), Error> {
    let token = Token::shown(args.token.as_deref());
    let token = token.map(|token| bearer(&token.0).ok_or(Error::Unsendable)).transpose()?;
    let path = PathTemplate::parse(&args.url.path(&args.path));
    let host = HeaderValue::from_str(&args.url.host_header()).map_err(|_| Error::Unsendable)?;
    let started = Instant::now();
    let deadline = started + Duration::from_secs(args.seconds.into());
    let clients = (0..args.connections).map(|_| async {
        let mut connection = Connection::open(&args.url).await?;
        let (mut times, mut bytes) = (Times::empty(), 0);
        while Instant::now() < deadline {
            let mut request = Request::get(path.fill()).header(HOST, &host);
            if let Some(token) = &token {
                request = request.header(AUTHORIZATION, token);
            }
            let request = request.body(Full::<Bytes>::default()).map_err(|_| Error::Unsendable)?;
            let sent = Instant::now();
            let answer =
                connection.exchange(request, Body::Keep, TIMEOUT).await.map_err(|_| Error::Unanswered)?;
            times.record(sent.elapsed());
            if answer.status != 200 {
                let body = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
                return Err(Error::Refused { status: answer.status, body });
            }
            bytes += answer.body.len() as u64;
        }
        Ok((times, bytes))
    });
    let (mut times, mut bytes) = (Times::empty(), 0);
    for client in join_all(clients).await {
        let (of_client, read) = client?;
        times.add(&of_client);
        bytes += read;
    }
    let ms = |percentile| times.at(percentile).as_secs_f64() * 1e3;
    println!(
        "get: {:.0}/s over {} connections, p50 {:.2} ms, p99 {:.2} ms, {} bytes each",
        times.len() as f64 / started.elapsed().as_secs_f64(),
        args.connections,
        ms(50.0),
        ms(99.0),
        bytes / times.len().max(1)
    );
    Ok(())
}

/// A path with random numbers.
struct PathTemplate {
    first: String,
    /// The limits of the numbers, each with the text behind it.
    numbers: Vec<(u64, String)>,
}

impl PathTemplate {
    fn parse(path: &str) -> Self {
        let mut parts = path.split('{');
        let (mut first, mut numbers) =
            (parts.next().unwrap_or_default().to_owned(), Vec::<(u64, String)>::new());
        for part in parts {
            let number = part.split_once('}').and_then(|(digits, text)| Some((digits.parse().ok()?, text)));
            match number {
                Some((limit @ 1.., text)) => numbers.push((limit, text.to_owned())),
                // Another brace is literal.
                _ => {
                    let text = numbers.last_mut().map_or(&mut first, |(_, text)| text);
                    text.push('{');
                    text.push_str(part);
                }
            }
        }
        Self { first, numbers }
    }

    fn fill(&self) -> String {
        let mut path = self.first.clone();
        for (limit, text) in &self.numbers {
            path.push_str(&fastrand::u64(..*limit).to_string());
            path.push_str(text);
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_braces_become_random_ones_and_other_braces_stay() {
        for (path, filled) in
            [("/a?n={1}&m={1}", "/a?n=0&m=0"), ("/a", "/a"), ("/{x}/{1}/{0}{", "/{x}/0/{0}{"), ("{1}", "0")]
        {
            assert_eq!(PathTemplate::parse(path).fill(), filled);
        }
        let path = PathTemplate::parse("/{10}");
        let all: std::collections::BTreeSet<String> = (0..1_000).map(|_| path.fill()).collect();
        assert_eq!(all.len(), 10);
    }
}
