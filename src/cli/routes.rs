//! `tidegate routes`: the user's own tables, on the database, with or without a running service.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::output::print_line;
use super::{Failure, offline};
use crate::config::Config;
use crate::db::{self, Database};
use crate::routes::{
    CheckReport, Definition, FillProgress, ListedRoute, RouteError, RouteName, RouteStore, Sample,
};

/// How long a command waits for COPYs and for a vacuum.
const PATIENCE: Duration = Duration::from_secs(600);
/// The time between two lines of progress in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct RoutesArgs {
    #[command(subcommand)]
    command: RoutesCommand,
}

#[derive(Debug, Subcommand)]
enum RoutesCommand {
    /// Add a route: events land in a table of yours, by one select over `batch`, in the transaction that stores them
    Add(AddArgs),
    /// List the routes
    List,
    /// Print a route as the command that adds it, with its state
    Show {
        /// The route
        name: String,
    },
    /// Route events again; those that were deferred come first
    Enable {
        /// The route
        name: String,
    },
    /// Let events pass
    Disable {
        /// The route
        name: String,
    },
    /// Remove a route, with its errors; its table stays
    Remove {
        /// The route
        name: String,
    },
    /// Route the events that are stored already, for a route that was never live; goes on with a backfill that is under way
    Backfill {
        /// The route
        name: String,
        /// Leave it to the running service
        #[arg(long)]
        no_wait: bool,
    },
    /// Try a definition on the newest events, and change nothing
    Check(CheckArgs),
    /// Derive a table and a route from the newest events
    Suggest(SuggestArgs),
    /// Print what the routes did
    Stats {
        /// A route; by default all
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The target: an existing table with its schema, as in app.signups
    #[arg(long, value_name = "TABLE")]
    into: String,
    /// One select over `batch`
    #[arg(long, value_name = "SELECT")]
    sql: String,
    /// Columns of a unique index of the target
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    key: Vec<String>,
    /// `do update set …` or `do nothing`
    #[arg(long, value_name = "CLAUSE")]
    on_conflict: Option<String>,
    /// The role that the route runs as
    #[arg(long)]
    role: Option<String>,
    /// An event whose row the target refuses becomes a dead letter
    #[arg(long)]
    strict: bool,
    /// The number of the newest events
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
    newest: u16,
    /// A file with a JSON array of payloads to try instead
    #[arg(long, value_name = "FILE", conflicts_with = "newest")]
    events: Option<std::path::PathBuf>,
}

#[derive(Debug, Args)]
struct SuggestArgs {
    /// The table to suggest, with its schema
    #[arg(long, value_name = "TABLE")]
    into: String,
    /// A condition on events, as in "payload->>'event' = 'signup'"
    #[arg(long = "where", value_name = "CONDITION", default_value = "true")]
    condition: String,
    /// Columns of the table's key: a newer event updates its row
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    key: Vec<String>,
    /// The number of the newest events to read
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    sample: u64,
    /// Create the table, and add the route under this name
    #[arg(long, value_name = "NAME")]
    apply: Option<String>,
    /// With --apply: route the events that are stored already, too
    #[arg(long, requires = "apply")]
    backfill: bool,
    /// With --backfill: leave it to the running service
    #[arg(long, requires = "backfill")]
    no_wait: bool,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The route's name: a-z, 0-9, _ and -
    name: String,
    /// The target: an existing table with its schema, as in app.signups
    #[arg(long, value_name = "TABLE")]
    into: String,
    /// One select over `batch`, which has the columns of requests; its columns are named as those of the target
    #[arg(long, value_name = "SELECT")]
    sql: String,
    /// Columns of a unique index of the target: of two events of a batch with one key the newer one wins
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    key: Vec<String>,
    /// `do update set …` or `do nothing`; by default, a key's row gets the other columns of the event
    #[arg(long, value_name = "CLAUSE")]
    on_conflict: Option<String>,
    /// The role that the route runs as; by default tidegate_routes, which is made
    #[arg(long)]
    role: Option<String>,
    /// An event whose row the target refuses becomes a dead letter, and is not stored
    #[arg(long)]
    strict: bool,
    /// One batch at a time: for several routes into one table
    #[arg(long)]
    serial: bool,
    /// Add it disabled
    #[arg(long, conflicts_with = "backfill")]
    disabled: bool,
    /// Route the events that are stored already, too
    #[arg(long)]
    backfill: bool,
    /// With --backfill: leave it to the running service
    #[arg(long, requires = "backfill")]
    no_wait: bool,
    /// Give an existing route this definition
    #[arg(long, conflicts_with_all = ["disabled", "backfill"])]
    replace: bool,
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Invalid { field, message } => {
                Self::Usage(format!("--{}: {message}", field.replace('_', "-")))
            }
            RouteError::Rights { role, cause, statements } => Self::Run(format!(
                "the role {role} needs more rights than this service's role can give ({cause}); an administrator runs:\n{};",
                statements.join(";\n")
            )),
            error => Self::Run(error.to_string()),
        }
    }
}

pub(super) fn run(args: RoutesArgs) -> Result<(), Failure> {
    let config = Config::from_env()?;
    offline::with_database(&config, async |database| {
        let migrated = db::migrate(&database, config.database.partitioning, config.modules()).await;
        migrated.map_err(|error| Failure::Run(db::chain(&error)))?;
        command(args.command, &database).await
    })
}

async fn command(command: RoutesCommand, database: &Database) -> Result<(), Failure> {
    let routes = RouteStore::new(database);
    match command {
        RoutesCommand::Add(args) => add(args, &routes).await?,
        RoutesCommand::List => routes.list().await?.iter().for_each(print_line),
        RoutesCommand::Show { name } => print_whole(&routes.get(&RouteName::parse(&name)?).await?),
        RoutesCommand::Enable { name } => {
            routes.enable(&RouteName::parse(&name)?, true, None).await?;
        }
        RoutesCommand::Disable { name } => {
            routes.enable(&RouteName::parse(&name)?, false, None).await?;
        }
        RoutesCommand::Remove { name } => {
            if !routes.remove(&RouteName::parse(&name)?, None, PATIENCE, wait_message()).await? {
                print_line!("{name} is disabled; the service drops its trigger once requests is free");
            }
        }
        RoutesCommand::Backfill { name, no_wait } => {
            let name = RouteName::parse(&name)?;
            if routes.get(&name).await?.backfill.is_none_or(|backfill| backfill.is_done) {
                routes.begin_backfill(&name, None, PATIENCE, wait_message()).await?;
            }
            fill(&name, !no_wait, &routes).await?;
        }
        RoutesCommand::Check(args) => check(args, &routes).await?,
        RoutesCommand::Suggest(args) => suggest(args, &routes).await?,
        RoutesCommand::Stats { name } => {
            let name = name.map(|name| RouteName::parse(&name)).transpose()?;
            let listed = match name {
                Some(name) => vec![routes.get(&name).await?],
                None => routes.list().await?,
            };
            listed.iter().for_each(print_stats);
        }
    }
    Ok(())
}

async fn add(args: AddArgs, routes: &RouteStore) -> Result<(), Failure> {
    let name = RouteName::parse(&args.name)?;
    let definition = Definition {
        into: args.into,
        sql: args.sql,
        key: args.key,
        on_conflict: args.on_conflict,
        role: args.role,
        strict: args.strict,
        serial: args.serial,
    };
    let added = match args.replace {
        true => routes.replace(&name, &definition, None).await?,
        false => {
            routes.add(&name, &definition, !args.disabled, args.backfill, PATIENCE, wait_message()).await?
        }
    };
    for note in added.notes {
        print_line!("note: {note}");
    }
    if args.backfill { fill(&name, !args.no_wait, routes).await } else { Ok(()) }
}

/// Routes the stored events by a backfill that has begun, or leaves it to the service.
async fn fill(name: &RouteName, waits: bool, routes: &RouteStore) -> Result<(), Failure> {
    let text = name.as_str();
    if !waits {
        print_line!(
            "the running service routes the stored events; `tidegate routes stats {text}` has its progress"
        );
        return Ok(());
    }
    let filled = routes.fill(name, fill_message(text)).await;
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    let route = filled?;
    print_line!(
        "{text}: {} stored events routed, {} rows, {} refused",
        route.backfill.map_or(0, |fill| fill.events),
        route.rows,
        route.errors
    );
    if route.errors > 0 {
        print_line!(
            "  GET /api/v1/dead-letters?reason=route&route={text} lists the refused events with their errors"
        );
    }
    Ok(())
}

/// Reports the progress of a backfill: on a terminal in one line, elsewhere each few seconds.
fn fill_message(name: &str) -> impl Fn(FillProgress) + Send + Sync {
    let is_terminal = std::io::stderr().is_terminal();
    let last = parking_lot::Mutex::new(None::<Instant>);
    move |FillProgress { events, total, deferred }| {
        let mut last = last.lock();
        if !is_terminal && last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            return;
        }
        *last = Some(Instant::now());
        let message = match total {
            Some(total) => format!("backfill of {name}: {events} of about {total} events routed"),
            None => format!("backfill of {name}: {events} events routed; {deferred} newer ones follow"),
        };
        if is_terminal {
            eprint!("\r\x1b[K{message}");
        } else {
            eprintln!("tidegate: {message}");
        }
    }
}

async fn check(args: CheckArgs, routes: &RouteStore) -> Result<(), Failure> {
    let definition = Definition {
        into: args.into,
        sql: args.sql,
        key: args.key,
        on_conflict: args.on_conflict,
        role: args.role,
        strict: args.strict,
        serial: false,
    };
    let sample = match args.events {
        None => Sample::Newest(args.newest.into()),
        Some(file) => {
            let read = std::fs::read_to_string(&file);
            Sample::Given(read.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?)
        }
    };
    let report = routes.check(&definition, &sample).await?;
    let CheckReport { events, rows, refused, share, .. } = report;
    print_line!("columns: {}", report.columns.join(", "));
    report.notes.iter().for_each(|note| print_line!("note: {note}"));
    print_line!(
        "{events} events: {rows} rows, {refused} refused, {:.0} % of the time of storing them",
        share * 100.0
    );
    for error in &report.errors {
        print_line!("  {} × {} {}, such as {}", error.events, error.sqlstate, error.message, error.example);
    }
    if !report.plan.is_empty() {
        print_line!("plan:");
        report.plan.iter().for_each(|line| print_line!("  {line}"));
    }
    match report.suspends {
        Some((state, error)) => Err(Failure::Run(format!("the route would be suspended: {state} {error}"))),
        None => Ok(()),
    }
}

async fn suggest(args: SuggestArgs, routes: &RouteStore) -> Result<(), Failure> {
    let name = args.apply.map(|name| RouteName::parse(&name)).transpose()?;
    let suggestion = routes.suggest(&args.into, &args.condition, &args.key, args.sample).await?;
    print_line!("-- {} of {} events", suggestion.events, suggestion.read);
    for column in suggestion.columns.iter().filter(|column| column.events < suggestion.events) {
        print_line!("-- {}: in {} of {} events", column.name, column.events, suggestion.events);
    }
    print_line!("{};", suggestion.table);
    let Some(name) = name else {
        let Definition { into, sql, key, .. } = &suggestion.definition;
        let key = if key.is_empty() { String::new() } else { format!(" --key {}", shell(&key.join(","))) };
        print_line!("\ntidegate routes add NAME --into {}{key} --sql {}", shell(into), shell(sql));
        return Ok(());
    };
    if suggestion.events == 0 {
        return Err(Failure::Run("no event fits the condition, so nothing was made".into()));
    }
    routes.apply_suggestion(&name, &suggestion, args.backfill, PATIENCE, wait_message()).await?;
    print_line!("-- made, with the route {}", name.as_str());
    if args.backfill { fill(&name, !args.no_wait, routes).await } else { Ok(()) }
}

/// A text as a word of a shell.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Reports what a command waits for, once for each holder.
fn wait_message() -> impl Fn(&str) + Send + Sync {
    let last = parking_lot::Mutex::new(String::new());
    move |holders: &str| {
        let mut last = last.lock();
        if *last != holders {
            holders.clone_into(&mut last);
            eprintln!("tidegate: waiting for {holders}; events are stored meanwhile");
        }
    }
}

fn print_line(route: &ListedRoute) {
    let ListedRoute { name, into, rows, errors, deferred, .. } = route;
    let state = route.state.name();
    print_line!("{name}  {state}  into {into}  {rows} rows  {errors} errors  {deferred} deferred");
}

fn print_stats(route: &ListedRoute) {
    print_line(route);
    let seconds = route.microseconds as f64 / 1e6;
    print_line!("  {} batches in {seconds:.3} s, {} rows refused so far", route.batches, route.refused);
    if let Some(backfill) = route.backfill {
        let state = if backfill.is_done { "done" } else { "under way" };
        print_line!("  backfill {state}: {} events read", backfill.events);
    }
    if let (Some((state, error)), Some(at)) = (&route.error, &route.suspended_at) {
        print_line!("  last suspended {at}: {state} {error}");
    }
}

fn print_whole(route: &ListedRoute) {
    let mut words = vec![format!("tidegate routes add {} --into {}", route.name, shell(&route.into))];
    words.push(format!("--sql {}", shell(&route.sql)));
    if !route.key.is_empty() {
        words.push(format!("--key {}", shell(&route.key.join(","))));
    }
    if let Some(clause) = &route.on_conflict {
        words.push(format!("--on-conflict {}", shell(clause)));
    }
    if route.role != crate::routes::ROLE {
        words.push(format!("--role {}", shell(&route.role)));
    }
    words.extend(route.strict.then(|| "--strict".to_owned()));
    words.extend(route.serial.then(|| "--serial".to_owned()));
    print_line!("{}", words.join(" "));
    print_stats(route);
}
