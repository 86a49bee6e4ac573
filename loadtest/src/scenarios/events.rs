//! `events`, `batch` and `run`: events at a fixed rate, or as fast as answers come.

use clap::Args;

use super::load::{self, LoadArgs, Mode, steady};
use super::{Context, Error};
use crate::cli::non_negative;
use crate::document::Outcome;

/// Unless `--duration` is given.
const DURATION_S: f64 = 10.0;

/// The arguments of `events` and `batch`.
#[derive(Debug, Clone, Args)]
pub(crate) struct EventsArgs {
    /// Events per second over all workers, on a fixed schedule (open loop). 0: every connection sends as soon as it has its
    /// answer (closed loop)
    #[arg(long, default_value = "0", value_parser = non_negative)]
    pub(crate) rate: f64,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// The arguments of `run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Form of the requests
    #[arg(long, value_enum, default_value = "single")]
    pub(crate) mode: Mode,
    #[command(flatten)]
    pub(crate) events: EventsArgs,
}

/// Sends events of one form.
pub(crate) async fn measure(context: &Context, args: &EventsArgs, mode: Mode) -> Result<Outcome, Error> {
    let duration = context.duration(DURATION_S);
    let phases = steady(args.rate, duration);
    let sent =
        load::conduct(context, &args.load, mode, async |load| load.send(&phases, duration).await.map(drop))
            .await;
    let (mut outcome, ()) = sent?;
    outcome.own_json = Some(outcome.details.clone());
    Ok(outcome)
}
