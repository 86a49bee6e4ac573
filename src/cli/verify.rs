//! `tidegate verify`: recounts tables and journal.

use clap::Args;
use serde::Serialize;

use super::journal::print_losses;
use super::output::print_line;
use super::{Failure, offline};
use crate::config::Config;
use crate::db::{self, DbError};
use crate::ingest::journal::LossState;
use crate::ingest::journal::disk::{self, DiskError, LossRecords};
use crate::ingest::verify::{self, Host, JournalReport, VerifyReport};
use crate::routes::{RouteBooks, RouteStore, TargetBooks};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The report as JSON.
#[derive(Serialize)]
struct Verified<'a> {
    #[serde(flatten)]
    report: &'a VerifyReport,
    routes: &'a [RouteBooks],
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let (report, routes) = offline::with_database(&config, async |database| {
        let failed = |error: DbError| Failure::Run(error.with_sources());
        let books = verify::read(&database).await.map_err(failed)?;
        let routes = RouteStore::new(&database).verify().await?;
        Ok((verify::compare(&books, &host(&config)?), routes))
    })?;
    let routes_agree = routes.iter().all(RouteBooks::agree);
    match args.json {
        true => {
            let verified = Verified { report: &report, routes: &routes };
            print_line!("{}", serde_json::to_string_pretty(&verified).unwrap_or_default());
        }
        false => {
            routes.iter().for_each(print_route);
            print(&report);
        }
    }
    if !routes_agree {
        let text = "a route has events twice: in its table, or in its table and refused or deferred";
        return Err(Failure::Run(text.into()));
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
    let RouteBooks { name, rows, refused, deferred, refused_gone, deferred_gone, target } = books;
    print_line!("route {name}: {rows} rows, {refused} refused, {deferred} deferred");
    let gone = refused_gone + deferred_gone;
    if gone > 0 {
        print_line!("  {gone} of the refused and deferred events were taken out of requests later");
    }
    let Some(TargetBooks { column, rows, doubled, repeated, without_event, not_routed }) = target else {
        print_line!(
            "  its table is not compared: no column of it is the event's id, or several routes write to it"
        );
        return;
    };
    let differences = [
        (*doubled, "belong to events that are refused or deferred"),
        (*repeated, "are more than the select makes of their events"),
    ];
    for (number, text) in differences.into_iter().filter(|(number, _)| *number > 0) {
        print_line!("  DIFFERENCE: {number} of {rows} rows of the table {text}, by its column {column}");
    }
    if *without_event > 0 {
        print_line!("  {without_event} rows of the table belong to no event that the select takes now");
    }
    if let Some(events @ 1..) = not_routed {
        print_line!(
            "  {events} events that the select takes have no row: stored before the route or while it was disabled, or deleted since"
        );
    }
}

fn print(report: &VerifyReport) {
    for journal in &report.journals {
        let JournalReport { journal: id, accepted, committed, duplicates, dead, .. } = journal;
        let JournalReport { discarded, quarantined, pending, removed, .. } = journal;
        print_line!(
            "journal {id}: {accepted} accepted = {committed} committed + {duplicates} duplicates + {dead} dead + {discarded} discarded + {quarantined} quarantined + {pending} pending"
        );
        if *removed > 0 {
            print_line!(
                "  {removed} of the committed were taken out of requests later: by a delete, a truncate, RETENTION_DAYS, or with a partition that was truncated, dropped or detached"
            );
        }
        for difference in &journal.differences {
            let ranges: Vec<String> =
                difference.ranges.iter().map(|(first, last)| format!("{first}–{last}")).collect();
            print_line!(
                "  DIFFERENCE: {} {}: {}",
                difference.events,
                difference.kind.describe(),
                ranges.join(", ")
            );
        }
    }
    if report.rows_without_journal > 0 {
        print_line!(
            "{} rows have no journal: they were imported, or stored with DURABILITY=memory or by another program",
            report.rows_without_journal
        );
    }
    print_losses(&report.losses.iter().map(|loss| (loss.clone(), LossState::Lost)).collect::<Vec<_>>());
    for foreign in &report.lost_elsewhere {
        print_line!(
            "LOST {}: {} acknowledged events, by its receipts; this host has no record of it: look at the host of its journal",
            foreign.journal,
            foreign.events
        );
    }
    print_line!("{}", if report.balances() { "the books balance" } else { "the books do not balance" });
}
