//! `get`: one path in a closed loop, for any service, such as a list over a large collection. Each answer has to be a success.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use hyper::Method;

use super::{Context, Error, succeeded};
use crate::client::{Body, Connection};
use crate::document::Outcome;
use crate::findings::Findings;
use crate::tally::Times;

/// Unless `--duration` is given.
const DURATION_S: f64 = 10.0;
/// The least time limit of an answer: a list may take its time.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The arguments of `get`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GetArgs {
    /// Path with its query, encoded. Each {1000}, for any number, becomes a random number below it
    #[arg(long)]
    pub(crate) path: String,
    /// Connections
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
}

/// Measures. An answer that is no success ends the run.
pub(crate) async fn measure(context: &Context, args: &GetArgs) -> Result<Outcome, Error> {
    let path = PathTemplate::parse(&args.path);
    let duration = context.duration(DURATION_S);
    context.live.begin(duration.as_secs_f64(), Vec::new());
    let started = Instant::now();
    let clients = (0..args.connections).map(|_| async {
        let mut connection = Connection::open(context.target()).await?;
        let (mut times, mut bytes) = (Times::empty(), 0);
        while context.live.goes_on(started + duration) {
            let request = context.request(context.target(), Method::GET, &path.fill(), Bytes::new())?;
            let sent = Instant::now();
            let answer = connection.exchange(request, Body::Keep, TIMEOUT.max(context.timeout())).await?;
            let elapsed = sent.elapsed();
            bytes += succeeded(answer)?.body.len() as u64;
            times.record(elapsed);
            context.live.record(elapsed);
        }
        Ok::<_, Error>((times, bytes))
    });
    let all = join_all(clients).await;
    context.live.end("the last figures");
    let (mut times, mut bytes) = (Times::empty(), 0);
    for client in all {
        let (of_client, read) = client?;
        times.add(&of_client);
        bytes += read;
    }
    let mut outcome = Outcome::default();
    outcome.figure(
        "gets",
        format!(
            "{:.0}/s over {} connections, {} bytes each",
            times.len() as f64 / started.elapsed().as_secs_f64(),
            args.connections,
            bytes / times.len().max(1)
        ),
    );
    outcome.audit = Some(Findings::of("answers", times.len()));
    outcome.latency("get", times);
    Ok(outcome)
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
