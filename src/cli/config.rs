//! `tidegate config check`: the settings of this environment, checked, with the origin of each.

use std::path::Path;

use clap::Subcommand;

use super::Failure;
use super::output::print_line;
use crate::config::{Origin, Variables, effective};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the settings and list each with its value and origin; secrets are masked. Exit 2 for one that is invalid
    Check,
}

pub(super) fn run(command: &ConfigCommand) -> Result<(), Failure> {
    let ConfigCommand::Check = command;
    let settings = effective(&Variables::from_process(Path::new(".env"))?)?;
    for (concern, settings) in settings.concerns {
        print_line!("# {concern}");
        for setting in settings {
            let (name, origin) = (setting.name, setting.origin.name());
            let line = match setting.origin {
                Origin::Unset => format!("#{name}="),
                _ => format!("{name}={}", quoted(&setting.value)),
            };
            print_line!("{line:<40} # {origin}");
        }
        print_line!();
    }
    for note in settings.notes {
        eprintln!("tidegate: {note}");
    }
    Ok(())
}

/// A value as `.env` takes it.
fn quoted(value: &str) -> String {
    let is_plain = !value.contains(|c: char| c.is_whitespace() || "'\"#$\\".contains(c));
    if is_plain || value.contains('\'') { value.to_owned() } else { format!("'{value}'") }
}
