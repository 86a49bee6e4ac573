//! The worker processes, as the coordinator sees them.

use std::io;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::protocol::{GO, Message, Plan};

/// An event of a worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message.
    Received(Message),
    /// An end without a report, with the cause.
    Lost(String),
}

/// All workers of a run. Dropped, it kills those that still run.
pub(crate) struct Fleet {
    inputs: Vec<ChildStdin>,
    events: mpsc::Receiver<(usize, Event)>,
    // Dropped with this value: it aborts the readers, and each reader owns its process.
    _readers: JoinSet<()>,
}

impl Fleet {
    /// Starts one process of this program for each plan.
    pub(crate) async fn start(plans: &[Plan]) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let (events_in, events) = mpsc::channel(64);
        let mut fleet = Self { inputs: Vec::new(), events, _readers: JoinSet::new() };
        for (index, plan) in plans.iter().enumerate() {
            let mut child = Command::new(&program)
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C is for the coordinator, which then stops its workers in order.
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
            fleet._readers.spawn(read_worker(index, child, output, events_in.clone()));
        }
        Ok(fleet)
    }

    /// Starts every worker's clock.
    pub(crate) async fn go(&mut self) {
        for input in &mut self.inputs {
            let _ = input.write_all(format!("{GO}\n").as_bytes()).await;
        }
    }

    /// Makes every worker stop sending and report.
    pub(crate) fn stop(&mut self) {
        self.inputs.clear();
    }

    /// The next event and its worker; `None`: every worker has ended.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        self.events.recv().await
    }
}

async fn read_worker(
    index: usize,
    mut child: Child,
    output: ChildStdout,
    events_in: mpsc::Sender<(usize, Event)>,
) {
    let mut lines = BufReader::new(output).lines();
    let mut reported = false;
    while let Ok(Some(line)) = lines.next_line().await {
        let event = match serde_json::from_str(&line) {
            Ok(message) => Event::Received(message),
            Err(error) => Event::Lost(format!("sent an invalid message ({error})")),
        };
        reported |= matches!(event, Event::Received(Message::Done(_) | Message::Failed(_)) | Event::Lost(_));
        if events_in.send((index, event)).await.is_err() || reported {
            break;
        }
    }
    let ended = child.wait().await;
    if !reported {
        // Without a receiver the run is over.
        let _ = events_in
            .send((index, Event::Lost(ended.map_or_else(|error| error.to_string(), describe))))
            .await;
    }
}

fn describe(status: ExitStatus) -> String {
    format!("ended with {status} before its report")
}
