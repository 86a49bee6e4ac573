//! The run of an import: a thread that splits the file into parts, and lanes that store them.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use uuid::Uuid;

use super::ImportsError;
use super::content::ImportContent;
use super::lane::{ImportEnd, LaneContext, refused};
use super::model::{ImportJob, Limits};
use super::parse::Parser;
use super::part::{Part, PartReader};
use super::store::{ImportStore, StoredPart};
use super::stored_parts::StoredParts;
use crate::conversations::Conversations;
use crate::db::DbError;
use crate::files::{Files, FilesError};
use crate::ingest::{BatchHook, WriteVerdict as Verdict};
use crate::lines::LineReader;
use crate::observe::{LogThrottle, Metrics};

/// The wait before the database is asked again.
const PAUSE: Duration = Duration::from_secs(2);
static WAITS: LogThrottle = LogThrottle::new();
/// The reason for clients if the end of an import cannot be recorded otherwise.
const END_DROPPED: &str =
    "a trigger of the database drops the row that records the end; all lines are stored or rejected";

/// The common dependencies of imports.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) store: ImportStore,
    pub(super) files: Files,
    /// `None`: they are off, and no part has any.
    pub(super) conversations: Option<Conversations>,
    pub(super) limits: Limits,
    pub(super) lanes: usize,
    pub(super) max_rejected: u64,
    pub(super) metrics: Arc<Metrics>,
    pub(super) hook: Arc<dyn BatchHook>,
    /// Files whose import's end could not be recorded, so that this is logged once.
    pub(super) unrecorded: parking_lot::Mutex<HashSet<Uuid>>,
}

impl Runner {
    /// Runs an import to its end, through outages of the database.
    pub(super) async fn run(&self, job: ImportJob) {
        let file = job.file_id;
        let ended = match self.open(&job).await {
            Ok(content) => self.store_all(&job, content).await,
            Err(FilesError::NotFound) => return,
            Err(FilesError::ContentMissing) => {
                tracing::info!(%file, "an import is left to the service with the file in its DATA_DIR/files");
                return;
            }
            // The next query for unfinished imports finds it; others run meanwhile.
            Err(FilesError::Disk(error)) => {
                tracing::error!(%file, %error, "a file to be imported cannot be opened; it is retried");
                return;
            }
            Err(error) => Err(error.to_string()),
        };
        if ended == Ok(false) {
            return;
        }
        match self.record(file, &ended).await {
            Err(error) => {
                let error = error.with_sources();
                if self.unrecorded.lock().insert(file) {
                    tracing::error!(%file, error, "the end of an import cannot be recorded; it is retried each minute");
                } else {
                    tracing::debug!(%file, error, "the end of an import still cannot be recorded");
                }
                return;
            }
            Ok(Some(why)) => tracing::warn!(%file, why, "an import failed"),
            Ok(None) => tracing::info!(%file, "a file is imported"),
        }
        self.unrecorded.lock().remove(&file);
    }

    /// Records the end of an import. Returns the reason why it counts as failed.
    async fn record(&self, file: Uuid, ended: &Result<bool, String>) -> Result<Option<String>, DbError> {
        let mut failure = ended.as_ref().err().cloned();
        loop {
            let recorded = match &failure {
                None => self.store.finish(file).await,
                Some(why) => self.store.fail(file, why).await,
            };
            match recorded {
                Ok(()) => return Ok(failure),
                Err(error) if Verdict::on(&error) == Verdict::Retry => pause(&error).await,
                // The client waits for an end: this one may be recorded.
                Err(error) if failure.is_none() && error.is_dropped_by_trigger() => {
                    tracing::error!(%file, error = error.with_sources(), "an import counts as failed although its lines are stored");
                    failure = Some(END_DROPPED.to_owned());
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn open(&self, job: &ImportJob) -> Result<File, FilesError> {
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

    /// Opens the content; checks all of it for a new import.
    async fn content(&self, file: File, is_new: bool) -> Result<ImportContent, String> {
        let max_bytes = self.files.config().max_file_bytes;
        let opened = tokio::task::spawn_blocking(move || {
            let content = ImportContent::open(file)?;
            if is_new {
                content.check(max_bytes)?;
            }
            Ok::<_, ImportsError>(content)
        });
        opened.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Stores every line that can be stored; returns false if the import's row is gone. The error is the reason for the client.
    async fn store_all(&self, job: &ImportJob, file: File) -> Result<bool, String> {
        let stored = loop {
            match self.store.parts(job.file_id).await {
                Err(error) if Verdict::on(&error) == Verdict::Retry => pause(&error).await,
                Err(error) => return Err(refused(&error)),
                Ok(stored) => break stored,
            }
        };
        let content = self.content(file, stored.is_empty()).await?;
        // Each lane has a part, and finds the next one ready.
        let (send, parts) = async_channel::bounded(self.lanes);
        let lanes = LaneContext {
            job: job.clone(),
            store: self.store.clone(),
            parts,
            stored_parts: StoredParts::new(stored.iter().map(|part| part.number)),
            rejected: AtomicU64::new(stored.iter().map(|part| part.rejected).sum()),
            max_rejected: self.max_rejected,
            conversations: self.conversations.clone(),
            metrics: Arc::clone(&self.metrics),
            hook: Arc::clone(&self.hook),
        };
        let (to_cut, limits) = (job.clone(), self.limits);
        let cutting = tokio::task::spawn_blocking(move || {
            cut(&content, &to_cut, limits, &stored, |part| send.send_blocking(part).is_ok())
        });
        // A lane that ends early must not cancel another's statement.
        let ended = futures_util::future::join_all((0..self.lanes).map(|_| lanes.run())).await;
        let ended: Result<Vec<()>, ImportEnd> = ended.into_iter().collect();
        // The splitting thread is not waited for.
        drop(lanes);
        let cut = cutting.await.map_err(io::Error::other).and_then(|cut| cut);
        match (ended, cut) {
            (Err(ImportEnd::Gone), _) => Ok(false),
            (Err(ImportEnd::Refused(why)), _) => Err(why),
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

/// Splits a file into parts, without those that are stored, until `send` returns false.
fn cut(
    content: &ImportContent,
    job: &ImportJob,
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
        let lines = LineReader::new(content.text(offset)?, limits.line_bytes);
        let mut cutter = PartReader::new(job, parser, lines, offset, number, line);
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

    fn job(part_bytes: u64) -> ImportJob {
        let plan =
            Plan { kind: Some(Kind::Event), mapping: Mapping::default(), allowed: Allowed::which(|_| true) };
        ImportJob { file_id: Uuid::nil(), owner: None, plan, part_bytes, started_us: 1_700_000_000_000_000 }
    }

    const LIMITS: Limits = Limits {
        line_bytes: 100,
        event_bytes: 100,
        title_bytes: 100,
        message_bytes: 100,
        metadata_bytes: 100,
        json_depth: 10,
        has_conversations: true,
    };

    fn parts(file: &File, job: &ImportJob, stored: &[StoredPart]) -> Vec<Part> {
        let mut parts = Vec::new();
        let content = ImportContent::open(file.try_clone().unwrap()).unwrap();
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
