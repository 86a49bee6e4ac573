//! `tidegate verify`: recounts tables and journal.

use std::ops::Range;
use std::sync::Arc;

use clap::Args;
use uuid::Uuid;

use super::{Failure, offline};
use crate::config::Config;
use crate::db;
use crate::ingest::journal::{self, RealFiles};
use crate::ingest::verify::{self, JournalVerdict, Verdict};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let verdict = offline::with_database(&config, async |database| {
        let books = verify::read(&database).await.map_err(|error| Failure::Run(error.with_sources()))?;
        Ok(verify::compare(&books, &held(&config)?))
    })?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&verdict).unwrap_or_default()),
        false => print(&verdict),
    }
    if verdict.is_fine() { Ok(()) } else { Err(Failure::Run("the books do not balance".into())) }
}

/// What the journal on this host holds.
fn held(config: &Config) -> Result<Vec<(Uuid, Range<u64>)>, Failure> {
    let dir = config.database.data_dir.join("journal");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let inspected = journal::inspect(Arc::new(RealFiles), &dir);
    let (store, _) = inspected.map_err(|error| Failure::Run(db::chain(&error)))?;
    Ok(store.journals().into_iter().map(|held| (held.journal.0, held.first..held.end)).collect())
}

fn print(verdict: &Verdict) {
    for journal in &verdict.journals {
        let JournalVerdict { journal: id, accepted, committed, duplicates, dead, .. } = journal;
        let JournalVerdict { discarded, quarantined, pending, removed, .. } = journal;
        println!(
            "journal {id}: {accepted} accepted = {committed} committed + {duplicates} duplicates + {dead} dead + {discarded} discarded + {quarantined} quarantined + {pending} pending"
        );
        if *removed > 0 {
            println!(
                "  {removed} of the committed were taken out of requests later, by a delete, a truncate or RETENTION_DAYS"
            );
        }
        for difference in &journal.differences {
            let ranges: Vec<String> =
                difference.ranges.iter().map(|(first, last)| format!("{first}–{last}")).collect();
            println!(
                "  DIFFERENCE: {} {}: {}",
                difference.events,
                difference.kind.describe(),
                ranges.join(", ")
            );
        }
    }
    if verdict.rows_without_journal > 0 {
        println!(
            "{} rows have no journal: they were stored with DURABILITY=memory",
            verdict.rows_without_journal
        );
    }
    println!("{}", if verdict.is_fine() { "the books balance" } else { "the books do not balance" });
}
