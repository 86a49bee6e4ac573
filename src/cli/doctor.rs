//! `tidegate doctor`: the strongest ack level that this host can keep.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::output::print_line;
use super::{Failure, offline};
use crate::config::Config;
use crate::doctor;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The process that the crash drill starts and kills.
    #[arg(long, hide = true)]
    drill: Option<PathBuf>,
}

pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    if let Some(dir) = &args.drill {
        return doctor::write_until_killed(dir).map_err(|error| Failure::Run(error.to_string()));
    }
    let config = Config::from_env()?;
    let scratch = config.database.data_dir.join(format!("doctor-{}", Uuid::new_v4()));
    fs::create_dir_all(&scratch)
        .map_err(|error| Failure::Run(format!("cannot write to {}: {error}", scratch.display())))?;
    let host = doctor::check_host(&config, &scratch);
    let removed = fs::remove_dir_all(&scratch);
    for finding in &host {
        print_line!("{finding}");
    }
    let database = offline::with_database(&config, async |database| {
        Ok(doctor::check_database(&config, &database).await)
    })?;
    for finding in &database {
        print_line!("{finding}");
    }
    if let Err(error) = removed {
        print_line!("warn  scratch folder: {} is left: {error}", scratch.display());
    }
    let (fine, conclusion) = doctor::conclusion(&host, &database);
    print_line!("{conclusion}");
    if fine { Ok(()) } else { Err(Failure::Run("see the lines marked FAIL".into())) }
}
