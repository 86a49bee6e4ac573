//! `tidegate redrive`: stores dead letters as events.

use clap::Args;
use uuid::Uuid;

use super::{Failure, offline};
use crate::config::{Config, limits};
use crate::ingest::dead_letters::{DeadLetterStore, Filter, Reason, Selection};
use crate::ingest::json::JsonLimits;

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct RedriveArgs {
    /// All dead letters of accepted events, without overloads, whose clients got 503
    #[arg(long)]
    all: bool,
    /// Dead letters with this reason; overloads become new events
    #[arg(long, value_parser = Reason::names())]
    reason: Option<String>,
    /// The dead letter with this id; repeatable
    #[arg(long)]
    id: Vec<Uuid>,
}

pub(super) fn run(args: RedriveArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let ids = (!args.id.is_empty()).then_some(args.id);
    let selection = Selection { ids, filter: Filter { reason: args.reason, ..Filter::default() } };
    let limits = JsonLimits { depth: limits::MAX_JSON_DEPTH, bytes: config.ingest.max_event_bytes };
    offline::with_database(&config, async |database| {
        let store = DeadLetterStore::new(&database);
        let done = store.redrive(&selection, limits, usize::MAX).await;
        let done = done.map_err(|error| Failure::Run(error.with_sources()))?;
        println!("{} stored, {} rejected again", done.stored, done.refused);
        if done.refused == 0 {
            Ok(())
        } else {
            Err(Failure::Run("some were rejected again; GET /api/v1/dead-letters has the reasons".into()))
        }
    })
}
