//! `mixed`: events, records, conversations and event streams at the same time, each with its own audit: what one kind of load costs the others.

use clap::Args;

use super::conversations::{self, ConversationsArgs};
use super::crud::{self, CrudArgs};
use super::events::{self, EventsArgs};
use super::load::{LoadArgs, Mode};
use super::sse::{self, SseArgs};
use super::{Context, Error};
use crate::cli::{non_negative, positive};
use crate::document::Outcome;
use crate::findings::Findings;

/// The path of the records.
const RECORDS: &str = "/api/stress/records/loadtest";

/// The arguments of `mixed`. A part of 0 is left out.
#[derive(Debug, Clone, Args)]
pub(crate) struct MixedArgs {
    /// Events per second over all workers, on a fixed schedule
    #[arg(long, default_value = "1000", value_parser = non_negative)]
    pub(crate) rate: f64,
    /// Connections that create records, and then get them, in a closed loop
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub(crate) record_connections: u16,
    /// Clients that chat
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(0..=20_000))]
    pub(crate) chat_clients: u16,
    /// Streams of server-sent events
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) streams: u32,
    /// Messages per second of each stream
    #[arg(long, default_value = "10", value_parser = positive)]
    pub(crate) stream_rate: f64,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// Unless `--duration` is given.
const DURATION_S: f64 = 20.0;

/// Runs all parts at the same time.
pub(crate) async fn measure(context: &Context, args: &MixedArgs) -> Result<Outcome, Error> {
    let duration_s = context.duration(DURATION_S).as_secs_f64();
    let for_parts = |seconds: f64| {
        let mut common = context.common.clone();
        common.duration = Some(seconds);
        Context {
            common,
            live: std::sync::Arc::clone(&context.live),
            token: context.token.clone(),
            header: context.header.clone(),
        }
    };
    let (whole, half) = (for_parts(duration_s), for_parts(duration_s / 2.0));
    let events_args = EventsArgs { rate: args.rate, load: args.load.clone() };
    let crud_args = CrudArgs { path: RECORDS.to_owned(), connections: args.record_connections };
    let chat_args = ConversationsArgs { clients: args.chat_clients, pause_ms: 1_000.0 };
    let sse_args = SseArgs { clients: args.streams, rate: args.stream_rate, size: 100 };

    // The load of all, so that its rates do not count as those of a part.
    context.live.begin(duration_s, Vec::new());
    let parts = tokio::join!(
        part(args.rate > 0.0, events::measure(&whole, &events_args, Mode::Single)),
        part(args.record_connections > 0, crud::measure(&half, &crud_args)),
        part(args.chat_clients > 0, conversations::measure(&whole, &chat_args)),
        part(args.streams > 0, sse::measure(&whole, &sse_args)),
    );
    context.live.end("the last figures");
    let mut sum = Outcome::default();
    let mut findings: Option<Findings> = None;
    let parts = [("events", parts.0), ("records", parts.1), ("conversations", parts.2), ("streams", parts.3)];
    for (name, measured) in parts {
        let outcome = match measured {
            None => continue,
            Some(Ok(outcome)) => outcome,
            // The other parts have their results.
            Some(Err(error)) => {
                sum.failures.push(format!("{name}: {}", crate::describe(&error)));
                continue;
            }
        };
        sum.latencies
            .extend(outcome.latencies.into_iter().map(|(kind, times)| (format!("{name}: {kind}"), times)));
        let figures = outcome.tabled.into_iter().chain(outcome.figures);
        sum.figures.extend(figures.map(|(kind, value)| (format!("{name}: {kind}"), value)));
        sum.failures.extend(outcome.failures.into_iter().map(|failure| format!("{name}: {failure}")));
        sum.interrupted |= outcome.interrupted;
        if let Some(audit) = outcome.audit {
            sum.figure(&format!("{name}: audit"), audit.verdict());
            findings.get_or_insert_default().add(&audit);
        }
    }
    sum.audit = findings;
    Ok(sum)
}

/// A part, if it is wanted.
async fn part(
    is_wanted: bool,
    measure: impl Future<Output = Result<Outcome, Error>>,
) -> Option<Result<Outcome, Error>> {
    if is_wanted { Some(measure.await) } else { None }
}
