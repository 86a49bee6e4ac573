//! Load-test workers for Tidegate.
//!
//! ```text
//! run ─┬▶ collect ─▶ fleet ══ plan, go ══▶ worker ─┬▶ pace ◀ schedule, timer
//!      │               ◀══ counts, tally ══        └▶ sender × connections ─▶ client ─▶ the service
//!      ├▶ audit ─▶ health, database                     └ payload, tally
//!      └▶ report, progress
//! ```
//!
//! `drain`, [`crud`], [`get`], [`conversations`], `sse`, [`realtime`], [`streams`] and `large` measure one thing each, in one process.
//!
//! `run` plans the test and starts `worker` processes of the same program (by the [`protocol`]). A worker sends on a fixed [`schedule`] or as fast as answers come, and counts in a [`tally`]. At the end
//! `run` adds the tallies up, counts the run's rows in the [`database`], and the [`audit`] compares the two.

mod audit;
mod cli;
mod client;
mod collect;
mod conversations;
mod crud;
mod database;
mod descriptors;
mod drain;
mod environment;
mod fleet;
mod get;
mod health;
mod interrupts;
mod large;
mod pace;
mod payload;
mod program;
mod progress;
mod protocol;
mod realtime;
mod report;
mod resident;
mod run;
mod schedule;
mod sender;
mod sse;
mod streams;
mod tally;
mod timer;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(*args),
        Command::Drain(args) => drain::run(&args),
        Command::Sse(args) => sse::run(&args),
        Command::Crud(args) => crud::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Conversations(args) => conversations::run(&args),
        Command::Large(args) => large::run(&args),
        Command::Realtime(args) => realtime::run(&args),
        Command::StreamsAppend(args) => streams::append::run(&args),
        Command::StreamsRead(args) => streams::read::run(&args),
        Command::StreamsSse(args) => streams::sse::run(&args),
        Command::Worker => worker::run(),
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
