//! `tidegate ingest`: sends the lines of files, folders and standard input to a service, each once.
//!
//! ```text
//! files ─▶ Source: lines from its offset ─▶ one batch ─▶ the service ─▶ rejects, checkpoint (synced) ─▶ the next batch
//! ```
//!
//! One batch is under way at a time. Its key is made of the file's identity and the offset at which it begins, and the service makes a key
//! for each line of that and the line's place. After a kill the batch begins at the same offset again, so lines that were stored already
//! have the same keys, whatever was appended since. This holds only while the offset of the batch under way is the one in the state file,
//! so the checkpoint is synced before the file's next batch. A part of a batch that is sent alone leaves the base of the keys where it is
//! ([`state::Progress`]).

mod decoder;
mod lines;
mod rejects;
mod source;
mod state;
mod watch;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;

use super::Failure;
use crate::outbound::event_sender::{EventSender, Sent};
use decoder::{Decoder, read_signature};
use lines::{BATCH_LINES, Batch};
use rejects::Rejects;
use source::Source;
use state::{Progress, State, StateError};
use watch::Watch;

/// The standard input among the paths.
const STANDARD_INPUT: &str = "-";
/// The first pause after a failed attempt, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The pause after a full disk.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// The most bytes of incomplete lines in memory.
const HELD_BYTES: usize = 64 * 1024 * 1024;
/// The time between two lines about the same trouble.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct IngestArgs {
    /// Files, folders, or - for standard input; gzip and zstd are decompressed
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Stay, and send what is appended; files may be rotated by renaming or by truncation
    #[arg(long)]
    follow: bool,
    /// The service
    #[arg(long, default_value = "http://127.0.0.1:3000", env = "TIDEGATE_URL")]
    url: String,
    /// A key with the scope events:write, unless the service is open
    #[arg(long, env = "TIDEGATE_KEY", hide_env_values = true)]
    token: Option<String>,
    /// The form of the lines; auto: JSON if the first one is an object or an array, else text
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// Names of files to take from folders, with * for any characters
    #[arg(long, default_value = "*")]
    matching: String,
    /// The file that remembers what was sent
    #[arg(long, default_value = "tidegate-ingest.state")]
    state: PathBuf,
    /// The file to which lines go that the service rejects
    #[arg(long, default_value = "tidegate-ingest.rejects")]
    rejects: PathBuf,
}

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Found out from the first line.
    Auto,
    /// A JSON value a line.
    Ndjson,
    /// Any text, which becomes {"line": …}.
    Text,
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::Run(error.to_string())
    }
}

pub(super) fn run(args: &IngestArgs) -> Result<(), Failure> {
    // As for the settings of the service, an empty variable is none.
    let token = args.token.as_deref().filter(|token| !token.trim().is_empty());
    let sender = EventSender::new(&args.url, token).map_err(|error| Failure::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Run(format!("no runtime: {error}")))?;
    let is_input = args.paths.iter().any(|path| path.as_os_str() == STANDARD_INPUT);
    if is_input && args.paths.len() > 1 {
        return Err(Failure::Usage("- stands alone".into()));
    }
    let state = match is_input {
        true => None,
        false => Some(State::open(&args.state)?),
    };
    let rejects = Rejects::open(&args.rejects, state.as_ref().and_then(State::rejects_bytes))
        .map_err(|error| Failure::Run(format!("{}: {error}", args.rejects.display())))?;
    let mut delivery = Delivery {
        sender,
        runtime,
        rejects,
        progress: progress(),
        sent: 0,
        rejected: 0,
        most_lines: BATCH_LINES,
        follow: args.follow,
        last_trouble: None,
    };
    match state {
        None => delivery.send_input(args.format)?,
        Some(mut state) => delivery.send_files(args, &mut state)?,
    }
    delivery.progress.finish_and_clear();
    eprintln!("{} lines sent, {} rejected", delivery.sent, delivery.rejected);
    match delivery.rejected {
        0 => Ok(()),
        _ => Err(Failure::Run(format!("rejected lines are in {}", args.rejects.display()))),
    }
}

/// Bytes so far; nothing unless standard error is a terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}")
    {
        bar.set_style(style);
    }
    bar
}

/// What takes batches to the service and records what became of them.
struct Delivery {
    sender: EventSender,
    runtime: Runtime,
    rejects: Rejects,
    progress: ProgressBar,
    sent: u64,
    rejected: u64,
    /// Lines of a batch that the service takes.
    most_lines: usize,
    follow: bool,
    last_trouble: Option<Instant>,
}

impl Delivery {
    /// Sends files and the files of folders, and with `--follow` what is appended to them.
    fn send_files(&mut self, args: &IngestArgs, state: &mut State) -> Result<(), Failure> {
        let mut watch = Watch::new(args);
        loop {
            let mut is_idle = !watch.scan(state, &self.progress)?;
            self.progress.set_length(watch.sources().map(|source| source.size()).sum());
            self.progress.set_position(watch.sources().map(|source| source.offset()).sum());
            let mut held = 0;
            for source in watch.sources() {
                match self.send_source(source, state) {
                    Ok(is_sent) => is_idle &= !is_sent,
                    Err(SourceError::Unreadable(error)) => {
                        self.progress.suspend(|| eprintln!("tidegate: {}: {error}", source.path().display()));
                        source.give_up();
                        is_idle = false;
                    }
                    Err(error) => return Err(error.into()),
                }
                held += source.held();
                if held > HELD_BYTES {
                    held -= source.held();
                    source.release();
                }
            }
            self.sync(state)?;
            match (is_idle, args.follow) {
                (false, _) => {}
                (true, true) => watch.wait(),
                (true, false) => break,
            }
        }
        match watch.troubles() {
            0 => Ok(()),
            troubles => {
                Err(Failure::Run(format!("{troubles} files or folders could not be read to their ends")))
            }
        }
    }

    /// Sends what a source has, up to a batch or a few. Returns whether there was something.
    fn send_source(&mut self, source: &mut Source, state: &mut State) -> Result<bool, SourceError> {
        let is_truncated = source.is_truncated()?;
        if is_truncated {
            // The beginning of a line that was read before.
            self.send_lines(source, state, true)?;
            source.begin_anew()?;
        }
        let has_ended = source.fill(self.follow)?;
        Ok(self.send_lines(source, state, has_ended)? || is_truncated || source.is_damaged())
    }

    /// Sends the lines that a source has read. Returns whether there are any.
    fn send_lines(
        &mut self,
        source: &mut Source,
        state: &mut State,
        has_ended: bool,
    ) -> Result<bool, SourceError> {
        let mut is_sent = false;
        while let Some(mut batch) = source.next_batch(has_ended)? {
            let needs_record = source.needs_record(state);
            if needs_record {
                self.record(source, state)?;
            }
            if needs_record || state.is_unsynced(source.id()) {
                self.sync(state)?;
            }
            let entry = source.entry();
            self.deliver(&entry.key, &entry.progress, &mut batch, source.path())?;
            source.advance(&batch);
            self.record(source, state)?;
            is_sent = true;
        }
        Ok(is_sent)
    }

    /// Writes a checkpoint.
    fn record(&mut self, source: &Source, state: &mut State) -> Result<(), SourceError> {
        loop {
            match state.record(source.entry(), self.rejects.bytes()) {
                Err(StateError::Io(path, error)) if self.waits_for_room(&path, &error) => {}
                recorded => return Ok(recorded?),
            }
        }
    }

    /// Makes checkpoints durable.
    fn sync(&mut self, state: &mut State) -> Result<(), SourceError> {
        loop {
            match state.sync() {
                Err(StateError::Io(path, error)) if self.waits_for_room(&path, &error) => {}
                synced => return Ok(synced?),
            }
        }
    }

    /// Waits a while if a disk is full and there is time.
    fn waits_for_room(&mut self, path: &Path, error: &io::Error) -> bool {
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if is_full && self.follow {
            self.report_trouble(&format!("waiting for room: {}: {error}", path.display()));
            std::thread::sleep(DISK_PAUSE);
        }
        is_full && self.follow
    }

    /// Sends standard input. It cannot be read again, so there is no checkpoint: the keys make retries safe.
    fn send_input(&mut self, format: Format) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::Run(format!("standard input: {error}"));
        let key = uuid::Uuid::new_v4().simple().to_string();
        let mut splitter = lines::LineSplitter::new(format);
        let mut input = io::stdin().lock();
        let signature = read_signature(&mut input).map_err(failed)?;
        let input = io::Cursor::new(signature.clone()).chain(input);
        let mut input = Decoder::new(&signature, input).map_err(failed)?;
        let (mut position, mut buffer) = (Progress::default(), vec![0; lines::READ_BYTES]);
        let mut damage = None;
        let mut has_ended = false;
        while !has_ended {
            match input.read(&mut buffer) {
                Ok(read) => {
                    has_ended = read == 0;
                    splitter.push(buffer.get(..read).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whole lines before the damage are sent.
                Err(error) => (damage, has_ended) = (Some(error), true),
            }
            while let Some(mut batch) =
                splitter.next_batch(has_ended && damage.is_none(), position.base_lines)
            {
                self.deliver(&key, &position, &mut batch, STANDARD_INPUT.as_ref())?;
                splitter.consume(batch.bytes());
                position.advance(batch.bytes(), batch.places(), batch.is_cut());
                self.progress.inc(batch.bytes());
            }
        }
        damage.map_or(Ok(()), |error| Err(failed(error)))
    }

    /// Sends a batch until it is accepted. One that is too large, or that takes too long, is cut to its first lines.
    fn deliver(
        &mut self,
        key: &str,
        position: &Progress,
        batch: &mut Batch,
        path: &Path,
    ) -> Result<(), SourceError> {
        let key = format!("tidegate-ingest:{key}:{}", position.base);
        let mut pause = FIRST_PAUSE;
        batch.limit(self.most_lines);
        loop {
            let sent = self.runtime.block_on(self.sender.send(batch.body(), &key));
            match sent {
                Sent::Accepted(rejected) => {
                    let rejected = batch.rejected(position.offset, rejected);
                    self.keep_rejects(path, &rejected)?;
                    self.sent += batch.lines().saturating_sub(rejected.len() as u64);
                    self.rejected += rejected.len() as u64;
                    self.last_trouble = None;
                    self.most_lines = (self.most_lines + self.most_lines / 16 + 1).min(BATCH_LINES);
                    return Ok(());
                }
                Sent::Again { after, is_slow, reason } => {
                    self.report_trouble(&format!("sending again: {reason}"));
                    if is_slow {
                        self.cut(batch);
                    }
                    let wait = after.unwrap_or(pause).min(LONGEST_PAUSE);
                    // Others that were refused at the same time come back at other times.
                    std::thread::sleep(wait.mul_f64(0.75 + fastrand::f64() / 2.0));
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Sent::TooLarge => {
                    if !self.cut(batch) {
                        batch.leave_out("too_large", "larger than the service takes");
                    }
                }
                Sent::Refused(reason) => return Err(SourceError::Refused(reason)),
            }
        }
    }

    /// Keeps half of a batch, and sends smaller ones for a while; false: it has one line.
    fn cut(&mut self, batch: &mut Batch) -> bool {
        let half = usize::try_from(batch.places() / 2).unwrap_or_default();
        if half > 0 {
            batch.limit(half);
            self.most_lines = half;
        }
        half > 0
    }

    fn keep_rejects(&mut self, path: &Path, rejected: &[lines::Reject]) -> Result<(), SourceError> {
        loop {
            match self.rejects.write(path, rejected) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let rejects = self.rejects.path().to_owned();
                    if !self.waits_for_room(&rejects, &error) {
                        return Err(SourceError::Rejects(rejects, error));
                    }
                }
            }
        }
    }

    /// Reports the first trouble, and one every ten seconds.
    fn report_trouble(&mut self, reason: &str) {
        if self.last_trouble.is_none_or(|last| last.elapsed() >= TROUBLE_INTERVAL) {
            self.progress.suspend(|| eprintln!("tidegate: {reason}"));
            self.last_trouble = Some(Instant::now());
        }
    }
}

/// Why a source cannot be sent.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    /// The file cannot be read; the others can.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// The service will never accept it.
    #[error("the service refused the lines: {0}")]
    Refused(String),
    /// Rejected lines cannot be kept.
    #[error("{0}: {1}")]
    Rejects(PathBuf, io::Error),
    /// The state cannot be saved.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Run(error.to_string())
    }
}
