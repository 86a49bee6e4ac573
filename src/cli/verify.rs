//! `tidegate verify`: recounts tables and journal.

use clap::Args;

use super::journal::print_losses;
use super::{Failure, offline};
use crate::config::Config;
use crate::db::{self, DbError};
use crate::ingest::journal::LossState;
use crate::ingest::journal::disk::{self, DiskError, LossRecords};
use crate::ingest::verify::{self, Host, JournalReport, VerifyReport};
use crate::routes::{RouteBooks, RouteStore};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let (report, routes) = offline::with_database(&config, async |database| {
        let failed = |error: DbError| Failure::Run(error.with_sources());
        let books = verify::read(&database).await.map_err(failed)?;
        let routes = RouteStore::new(&database).verify().await.map_err(failed)?;
        Ok((verify::compare(&books, &host(&config)?), routes))
    })?;
    let routes_agree = routes.iter().all(RouteBooks::agree);
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default()),
        false => {
            routes.iter().for_each(print_route);
            print(&report);
        }
    }
    if !routes_agree {
        return Err(Failure::Run("a route has events twice: in its table, and refused or deferred".into()));
    }
    match (report.balances(), report.lost()) {
        (true, 0) => Ok(()),
        (true, lost) => Err(Failure::Run(format!("{lost} acknowledged events are lost"))),
        (false, 0) => Err(Failure::Run("the books do not balance".into())),
        (false, lost) => {
            Err(Failure::Run(format!("the books do not balance, and {lost} acknowledged events are lost")))
        }
    }
}

/// The contents and losses of the journal on this host.
fn host(config: &Config) -> Result<Host, Failure> {
    let dir = config.database.data_dir.join("journal");
    if !dir.is_dir() {
        return Ok(Host::default());
    }
    let failed = |error: DiskError| Failure::Run(db::chain(&error));
    let (reader, _) = disk::inspect(&dir).map_err(failed)?;
    let losses = LossRecords::in_folder(&dir);
    Ok(Host {
        held: reader.held().into_iter().map(|held| (held.journal.0, held.first..held.end)).collect(),
        losses: losses.list().map_err(failed)?,
        acknowledged: losses.acknowledged_journals().map_err(failed)?,
    })
}

fn print_route(books: &RouteBooks) {
    let RouteBooks { name, rows, refused, deferred, refused_gone, deferred_gone, doubled } = books;
    println!("route {name}: {rows} rows, {refused} refused, {deferred} deferred");
    let gone = refused_gone + deferred_gone;
    if gone > 0 {
        println!("  {gone} of the refused and deferred events were taken out of requests later");
    }
    if let Some(doubled @ 1..) = doubled {
        println!("  DIFFERENCE: {doubled} rows of the table belong to events that are refused or deferred");
    }
}

fn print(report: &VerifyReport) {
    for journal in &report.journals {
        let JournalReport { journal: id, accepted, committed, duplicates, dead, .. } = journal;
        let JournalReport { discarded, quarantined, pending, removed, .. } = journal;
        println!(
            "journal {id}: {accepted} accepted = {committed} committed + {duplicates} duplicates + {dead} dead + {discarded} discarded + {quarantined} quarantined + {pending} pending"
        );
        if *removed > 0 {
            println!(
                "  {removed} of the committed were taken out of requests later: by a delete, a truncate, RETENTION_DAYS, or with a partition that was truncated, dropped or detached"
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
    if report.rows_without_journal > 0 {
        println!(
            "{} rows have no journal: they were imported, or stored with DURABILITY=memory or by another program",
            report.rows_without_journal
        );
    }
    print_losses(&report.losses.iter().map(|loss| (loss.clone(), LossState::Lost)).collect::<Vec<_>>());
    for foreign in &report.lost_elsewhere {
        println!(
            "LOST {}: {} acknowledged events, by its receipts; this host has no record of it: look at the host of its journal",
            foreign.journal, foreign.events
        );
    }
    println!("{}", if report.balances() { "the books balance" } else { "the books do not balance" });
}
