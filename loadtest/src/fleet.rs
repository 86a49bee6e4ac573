//! The worker processes, seen from the coordinator.

use std::io;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::protocol::{GO, Message, Plan};

/// What happened to a worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// It said something.
    Said(Message),
    /// It ended without its report; the text says how.
    Lost(String),
}

/// All workers of a run. Dropping it kills those that still run.
pub(crate) struct Fleet {
    inputs: Vec<ChildStdin>,
    events: mpsc::Receiver<(usize, Event)>,
    // Held for its drop: it aborts the readers, and each reader owns its process.
    _readers: JoinSet<()>,
}

impl Fleet {
    /// Starts one process of this very program for each plan.
    pub(crate) async fn start(plans: &[Plan]) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let (told, events) = mpsc::channel(64);
        let mut fleet = Self { inputs: Vec::new(), events, _readers: JoinSet::new() };
        for (index, plan) in plans.iter().enumerate() {
            let mut child = Command::new(&program)
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C is for the coordinator, which then ends its workers in good order.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()?;
            let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(io::Error::other("a worker has no pipes"));
            };
            let mut line = serde_json::to_vec(plan)?;
            line.push(b'\n');
            // A worker that ended already is reported by its reader.
            let _ = input.write_all(&line).await;
            fleet.inputs.push(input);
            fleet._readers.spawn(read_worker(index, child, output, told.clone()));
        }
        Ok(fleet)
    }

    /// Starts every worker's clock.
    pub(crate) async fn go(&mut self) {
        for input in &mut self.inputs {
            let _ = input.write_all(format!("{GO}\n").as_bytes()).await;
        }
    }

    /// Asks every worker to stop sending and to report.
    pub(crate) fn stop(&mut self) {
        self.inputs.clear();
    }

    /// The next event and the worker that it is about; none once every worker has ended.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        self.events.recv().await
    }
}

async fn read_worker(
    index: usize,
    mut child: Child,
    output: ChildStdout,
    told: mpsc::Sender<(usize, Event)>,
) {
    let mut lines = BufReader::new(output).lines();
    let mut reported = false;
    while let Ok(Some(line)) = lines.next_line().await {
        let event = match serde_json::from_str(&line) {
            Ok(message) => Event::Said(message),
            Err(error) => Event::Lost(format!("said something strange ({error})")),
        };
        reported |= matches!(event, Event::Said(Message::Done(_) | Message::Failed(_)) | Event::Lost(_));
        if told.send((index, event)).await.is_err() || reported {
            break;
        }
    }
    let ended = child.wait().await;
    if !reported {
        // Nobody listening means that the run is over.
        let _ = told.send((index, Event::Lost(ended.map_or_else(|error| error.to_string(), describe)))).await;
    }
}

fn describe(status: ExitStatus) -> String {
    format!("ended with {status} before its report")
}
