//! `tidegate redrive`: stores dead letters as events, or routes events again that a route refused.

use clap::Args;
use uuid::Uuid;

use super::output::print_line;
use super::{Failure, offline};
use crate::config::{Config, limits};
use crate::db::Database;
use crate::ingest::dead_letters::{DeadLetterStore, Filter, Reason, Selection};
use crate::ingest::json::JsonLimits;
use crate::routes::{self, Rerouted, RouteErrorStore, RouteName};

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct RedriveArgs {
    /// All dead letters of accepted events, without overloads, whose clients got 503
    #[arg(long, conflicts_with_all = ["reason", "id", "route"])]
    all: bool,
    /// Dead letters with this reason; overloads become new events
    #[arg(long, value_parser = Reason::names(), conflicts_with_all = ["id", "route"])]
    reason: Option<String>,
    /// The dead letter with this id; repeatable
    #[arg(long)]
    id: Vec<Uuid>,
    /// The events that this route refused: all, or those of --id or --sqlstate; they run through it again
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// With --route: those that it refused with this SQLSTATE
    #[arg(long, requires = "route")]
    sqlstate: Option<String>,
}

pub(super) fn run(args: RedriveArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    let ids = (!args.id.is_empty()).then_some(args.id);
    if let Some(route) = args.route {
        let name = RouteName::parse(&route)?;
        return offline::with_database(&config, async |database| {
            redrive_route(&database, &name, ids.as_deref(), args.sqlstate.as_deref()).await
        });
    }
    let selection = Selection { ids, filter: Filter { reason: args.reason, ..Filter::default() } };
    let limits = JsonLimits { depth: limits::MAX_JSON_DEPTH, bytes: config.ingest.max_event_bytes };
    offline::with_database(&config, async |database| {
        let store = DeadLetterStore::new(&database);
        let done = store.redrive(&selection, limits, usize::MAX, &*routes::hook(&database)).await;
        let done = done.map_err(|error| Failure::Run(error.with_sources()))?;
        print_line!("{} stored, {} rejected again", done.stored, done.refused);
        if done.refused == 0 {
            Ok(())
        } else {
            Err(Failure::Run("some were rejected again; GET /api/v1/dead-letters has the reasons".into()))
        }
    })
}

async fn redrive_route(
    database: &Database,
    name: &RouteName,
    ids: Option<&[Uuid]>,
    sqlstate: Option<&str>,
) -> Result<(), Failure> {
    let done = RouteErrorStore::new(database).redrive(name, ids, sqlstate, u64::MAX).await?;
    let Rerouted { taken, refused, missing, .. } = done;
    print_line!("{taken} routed, {refused} refused again");
    if missing > 0 {
        print_line!("{missing} are no longer stored; their errors are forgotten");
    }
    match refused {
        0 => Ok(()),
        _ => {
            let text = format!(
                "some were refused again; GET /api/v1/dead-letters?reason=route&route={} has the reasons",
                name.as_str()
            );
            Err(Failure::Run(text))
        }
    }
}
