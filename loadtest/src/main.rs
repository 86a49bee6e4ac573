//! Load tests of Tidegate.
//!
//! ```text
//! scenarios ─┬▶ load ─▶ collect ─▶ fleet ══ plan, go ══▶ worker ─┬▶ pace ◀ schedule, timer
//!            │             ◀══ counts, latencies, tally ══       └▶ sender × connections ─▶ client ─▶ the service
//!            ├▶ client ─▶ the service                                 └ payload, tally
//!            ├▶ live ─▶ view                  each second
//!            ├▶ audit ─▶ health, database
//!            └▶ document: the report
//! ```
//!
//! A scenario of [`scenarios`] is a function from its arguments to an outcome: figures, latencies, and the findings of its audit. What all have in
//! common stands around it: the view, the report, interrupts and the exit code. What is recorded in [`live`] is shown each second, and drawn in the
//! report.
//!
//! Loads of events start `worker` processes of the same program (by the [`protocol`]). A worker sends on a fixed [`schedule`] or as fast as answers
//! come, and counts in a [`tally`]. At the end the tallies are added up, the run's rows are counted in the [`database`], and the [`audit`] compares
//! the two. All other scenarios run in one process.

mod audit;
mod bisect;
mod cli;
mod client;
mod collect;
mod database;
mod descriptors;
mod document;
mod environment;
mod findings;
mod fleet;
mod health;
mod interrupts;
mod live;
mod order;
mod pace;
mod payload;
mod program;
mod protocol;
mod report;
mod resident;
mod scenarios;
mod schedule;
mod sender;
mod statistics;
mod tally;
mod timer;
mod view;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, With};
use crate::scenarios::load::Mode;
use crate::scenarios::{
    chaos, conversations, crud, drain, events, get, large, mixed, ramp, realtime, run, soak, spike, sse,
    streams,
};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Events(args) => {
            let With { own, common } = *args;
            run("events", common, async |context| events::measure(context, &own, Mode::Single).await)
        }
        Command::Batch(args) => {
            let With { own, common } = *args;
            run("batch", common, async |context| events::measure(context, &own, Mode::Batch).await)
        }
        Command::Run(args) => {
            let With { own, common } = *args;
            let name = if own.mode == Mode::Batch { "batch" } else { "events" };
            run(name, common, async |context| events::measure(context, &own.events, own.mode).await)
        }
        Command::Ramp(args) => {
            let With { own, common } = *args;
            run("ramp", common, async |context| ramp::measure(context, &own).await)
        }
        Command::Spike(args) => {
            let With { own, common } = *args;
            run("spike", common, async |context| spike::measure(context, &own).await)
        }
        Command::Soak(args) => {
            let With { own, common } = *args;
            run("soak", common, async |context| soak::measure(context, &own).await)
        }
        Command::Mixed(args) => {
            let With { own, common } = *args;
            run("mixed", common, async |context| mixed::measure(context, &own).await)
        }
        Command::Chaos(args) => {
            let With { own, common } = *args;
            chaos::run(&own, common)
        }
        Command::Drain(args) => {
            let With { own, common } = *args;
            run("drain", common, async |context| drain::measure(context, &own).await)
        }
        Command::Sse(With { own, common }) => {
            run("sse", common, async |context| sse::measure(context, &own).await)
        }
        Command::Realtime(With { own, common }) => {
            run("realtime", common, async |context| realtime::measure(context, &own).await)
        }
        Command::Crud(With { own, common }) => {
            run("crud", common, async |context| crud::measure(context, &own).await)
        }
        Command::Get(With { own, common }) => {
            run("get", common, async |context| get::measure(context, &own).await)
        }
        Command::Conversations(With { own, common }) => {
            run("conversations", common, async |context| conversations::measure(context, &own).await)
        }
        Command::Large(With { own, common }) => {
            run("large", common, async |context| large::measure(context, &own).await)
        }
        Command::StreamsAppend(With { own, common }) => {
            run("streams-append", common, async |context| streams::append::measure(context, &own).await)
        }
        Command::StreamsRead(With { own, common }) => {
            run("streams-read", common, async |context| streams::read::measure(context, &own).await)
        }
        Command::StreamsSse(With { own, common }) => {
            run("streams-sse", common, async |context| streams::sse::measure(context, &own).await)
        }
        Command::Worker(args) => worker::run(&args),
        Command::Compare(args) => document::compare::run(&args.a, &args.b),
    }
}

/// An error and its causes on one line, without causes that an error repeats in its own text.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}
