//! `tidegate completions` and `tidegate man`: made of the command line itself, so they cannot fall behind it.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::output::read_to_its_end;
use super::{Cli, Failure};

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    // Into memory first: the generator panics where standard output is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
    read_to_its_end(io::stdout().write_all(&script))
        .map_err(|error| Failure::Run(format!("cannot print: {error}")))
}

pub(super) fn man(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| Failure::Run(format!("cannot write to {}: {error}", folder.display())))
}
