//! Runs an import: a thread that cuts the file into parts, and lanes that store them.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use super::ImportsError;
use super::content::Content;
use super::lane::{Ended, Lanes, refused};
use super::lines::Lines;
use super::model::{Job, Limits};
use super::parse::Parser;
use super::part::{Cutter, Part};
use super::store::{Store, StoredPart};
use super::turns::Turns;
use crate::conversations::Conversations;
use crate::db::DbError;
use crate::files::{Files, FilesError};
use crate::ingest::WriteVerdict as Verdict;
use crate::observe::{LogThrottle, Metrics};

/// Before the database is asked again.
const PAUSE: Duration = Duration::from_secs(2);
static WAITS: LogThrottle = LogThrottle::new();

/// What imports run with.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) store: Store,
    pub(super) files: Files,
    pub(super) conversations: Conversations,
    pub(super) limits: Limits,
    pub(super) lanes: usize,
    pub(super) max_rejected: u64,
    pub(super) metrics: Arc<Metrics>,
}

impl Runner {
    /// Runs an import to its end, whatever the database does meanwhile.
    pub(super) async fn run(&self, job: Job) {
        let file = job.file_id;
        let ended = match self.open(&job).await {
            Ok(content) => self.store_all(&job, content).await,
            Err(FilesError::NotFound) => return,
            Err(FilesError::ContentMissing) => {
                tracing::info!(%file, "an import is left to the service that has the file in its DATA_DIR/files");
                return;
            }
            // Whoever looks next for what is unfinished finds it, and others have their turn until then.
            Err(FilesError::Disk(error)) => {
                tracing::error!(%file, %error, "a file that is to be imported cannot be opened; it is tried again");
                return;
            }
            Err(error) => Err(error.to_string()),
        };
        let told = loop {
            let told = match &ended {
                Ok(true) => self.store.finish(file).await,
                Ok(false) => return,
                Err(why) => self.store.fail(file, why).await,
            };
            match told {
                Err(error) if Verdict::on(&error) == Verdict::Retry => pause(&error).await,
                told => break told,
            }
        };
        match (ended, told) {
            (_, Err(error)) => {
                tracing::error!(%file, error = error.with_sources(), "an import's end was not noted");
            }
            (Err(why), _) => tracing::warn!(%file, why, "an import failed"),
            (Ok(_), _) => tracing::info!(%file, "a file is imported"),
        }
    }

    async fn open(&self, job: &Job) -> Result<File, FilesError> {
        loop {
            let opened = match self.files.find(job.owner, job.file_id).await {
                Ok(file) => self.files.open(&file).await,
                Err(error) => Err(error),
            };
            match opened {
                Err(FilesError::Database(error)) if Verdict::on(&error) == Verdict::Retry => {
                    pause(&error).await;
                }
                opened => return opened,
            }
        }
    }

    /// A file's content, of which all can be read.
    async fn content(&self, file: File, is_new: bool) -> Result<Content, String> {
        let max_bytes = self.files.config().max_file_bytes;
        let opened = tokio::task::spawn_blocking(move || {
            let content = Content::open(file)?;
            if is_new {
                content.check(max_bytes)?;
            }
            Ok::<_, ImportsError>(content)
        });
        opened.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Stores every line that can be stored; false if the import is not there any more. An error is told to the client.
    async fn store_all(&self, job: &Job, file: File) -> Result<bool, String> {
        let stored = loop {
            match self.store.parts(job.file_id).await {
                Err(error) if Verdict::on(&error) == Verdict::Retry => pause(&error).await,
                Err(error) => return Err(refused(&error)),
                Ok(stored) => break stored,
            }
        };
        let content = self.content(file, stored.is_empty()).await?;
        // Each lane has a part, and finds the next one cut.
        let (send, parts) = mpsc::channel(self.lanes);
        let lanes = Lanes {
            job: job.clone(),
            store: self.store.clone(),
            parts: Mutex::new(parts),
            turns: Turns::new(stored.iter().map(|part| part.number)),
            rejected: AtomicU64::new(stored.iter().map(|part| part.rejected).sum()),
            max_rejected: self.max_rejected,
            conversations: self.conversations.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let (to_cut, limits) = (job.clone(), self.limits);
        let cutting = tokio::task::spawn_blocking(move || {
            cut(&content, &to_cut, limits, &stored, |part| send.blocking_send(part).is_ok())
        });
        // One that ends early must not break off another's statement.
        let ended = futures_util::future::join_all((0..self.lanes).map(|_| lanes.run())).await;
        let ended: Result<Vec<()>, Ended> = ended.into_iter().collect();
        // What is left to be cut is not waited for.
        drop(lanes);
        let cut = cutting.await.map_err(io::Error::other).and_then(|cut| cut);
        match (ended, cut) {
            (Err(Ended::Gone), _) => Ok(false),
            (Err(Ended::Refused(why)), _) => Err(why),
            (Ok(_), Err(error)) => {
                tracing::error!(file = %job.file_id, %error, "a file cannot be read");
                Err("the file cannot be read".into())
            }
            (Ok(_), Ok(())) => Ok(true),
        }
    }
}

async fn pause(error: &DbError) {
    if let Some(left_out) = WAITS.ready() {
        tracing::warn!(error = error.with_sources(), left_out, "an import waits for the database");
    }
    tokio::time::sleep(PAUSE).await;
}

/// Cuts a file into parts, but for those that are stored, until `send` takes no more.
fn cut(
    content: &Content,
    job: &Job,
    limits: Limits,
    stored: &[StoredPart],
    mut send: impl FnMut(Part) -> bool,
) -> io::Result<()> {
    let mut stored = stored.iter().peekable();
    let (mut number, mut offset, mut line) = (0, 0, 1);
    loop {
        while let Some(part) = stored.next_if(|part| part.number == number) {
            (number, offset, line) = (number + 1, part.end_offset, part.first_line + part.lines);
        }
        let parser = Parser::new(&job.plan, limits, job.started_us);
        let lines = Lines::new(content.text(offset)?, limits.line_bytes);
        let mut cutter = Cutter::new(job, parser, lines, offset, number, line);
        while stored.peek().is_none_or(|part| part.number != number) {
            let Some(part) = cutter.next()? else { return Ok(()) };
            (number, offset, line) = (number + 1, part.end_offset, part.first_line + part.lines);
            if !send(part) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::model::{Allowed, Kind, Mapping, Plan};
    use super::*;

    fn job(part_bytes: u64) -> Job {
        let plan =
            Plan { kind: Some(Kind::Event), mapping: Mapping::default(), allowed: Allowed::which(|_| true) };
        Job { file_id: Uuid::nil(), owner: None, plan, part_bytes, started_us: 1_700_000_000_000_000 }
    }

    const LIMITS: Limits = Limits {
        line_bytes: 100,
        event_bytes: 100,
        title_bytes: 100,
        message_bytes: 100,
        metadata_bytes: 100,
        json_depth: 10,
    };

    fn parts(file: &File, job: &Job, stored: &[StoredPart]) -> Vec<Part> {
        let mut parts = Vec::new();
        let content = Content::open(file.try_clone().unwrap()).unwrap();
        cut(&content, job, LIMITS, stored, |part| {
            parts.push(part);
            true
        })
        .unwrap();
        parts
    }

    proptest! {
        #[test]
        fn a_file_is_cut_at_the_same_places_whatever_is_stored_of_it(
            lines in prop::collection::vec("[0-9]{0,5}", 0..40), part_bytes in 1_u64..30, kept in prop::collection::vec(any::<bool>(), 40)
        ) {
            let path = std::env::temp_dir().join(format!("tidegate-cut-{}", Uuid::new_v4()));
            let text = lines.join("\n");
            File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
            let file = File::open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let job = job(part_bytes);
            let all = parts(&file, &job, &[]);
            let count: u64 = all.iter().map(|part| part.lines).sum();
            prop_assert_eq!(count, text.lines().count() as u64);
            let stored: Vec<StoredPart> = all.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(part, _)| StoredPart {
                number: part.number,
                first_line: part.first_line,
                lines: part.lines,
                end_offset: part.end_offset,
                rejected: 0,
            }).collect();
            let rest = parts(&file, &job, &stored);
            let expected: Vec<&Part> = all.iter().filter(|part| !stored.iter().any(|stored| stored.number == part.number)).collect();
            let shown = |part: &Part| (part.number, part.first_line, part.lines, part.end_offset, part.events.stretch(0..part.events.len()).to_vec());
            prop_assert_eq!(rest.iter().map(shown).collect::<Vec<_>>(), expected.into_iter().map(shown).collect::<Vec<_>>());
        }
    }
}
