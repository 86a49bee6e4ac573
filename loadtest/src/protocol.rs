//! The protocol of coordinator and worker: one JSON object per line.
//!
//! The coordinator writes to a worker's standard input: the [`Plan`], then [`GO`] once every worker is ready. The end of the
//! input, at any time, means "stop sending, wait for answers, report". A worker therefore never outlives its coordinator, and
//! the token is on no command line. The worker writes [`Message`]s to its standard output.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::client::Target;
use crate::environment::variable;
use crate::payload::Source;
use crate::schedule::{Lane, Phase};
use crate::tally::{Counts, Tally, Times};

/// The line that starts the clock.
pub(crate) const GO: &str = "go";

/// The plan of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The run's name, the first part of every trace id.
    pub(crate) run: String,
    /// This worker's index, from 0.
    pub(crate) worker: u32,
    /// The number of workers in the run.
    pub(crate) workers: u32,
    /// The service.
    pub(crate) target: Target,
    /// Sent as `Authorization: Bearer`.
    pub(crate) token: Option<Token>,
    /// Connections of this worker.
    pub(crate) connections: usize,
    /// The phases of a run with fixed rates, in requests per second over all workers; empty: a closed loop.
    pub(crate) phases: Vec<Phase>,
    /// The time during which requests are started, in seconds.
    pub(crate) duration_s: f64,
    /// The time limit of an answer, in seconds.
    pub(crate) timeout_s: f64,
    /// Lines per request; `None`: single events.
    pub(crate) batch: Option<usize>,
    /// The source of events.
    pub(crate) payload: Source,
    /// The percentage of events that a constraint of the run rejects.
    pub(crate) bad_percent: Option<f64>,
}

impl Plan {
    /// The worker's share of the run's requests.
    pub(crate) fn lane(&self) -> Lane {
        Lane { worker: self.worker, workers: self.workers }
    }

    /// Events in one request.
    pub(crate) fn events(&self) -> usize {
        self.batch.unwrap_or(1)
    }
}

/// A bearer token that no debug output shows.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Token(pub String);

impl Token {
    /// The token of the command line, or else of `LOADTEST_TOKEN`, which other users of the machine cannot see.
    pub(crate) fn shown(argument: Option<&str>) -> Option<Self> {
        argument.map(str::to_owned).or_else(|| variable("LOADTEST_TOKEN")).map(Self)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A message of a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// Every connection is open.
    Ready,
    /// The counts so far, and the latencies since the last such message.
    Progress(Box<Progress>),
    /// The worker has failed.
    Failed(String),
    /// The worker has its last answer and ends.
    Done(Box<Tally>),
}

/// What a worker reports while it runs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The counts so far.
    pub(crate) counts: Counts,
    /// From the due time to the answer, of the accepted requests since the last report.
    pub(crate) latest: Times,
}
