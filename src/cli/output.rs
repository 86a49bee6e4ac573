//! Standard output of commands.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};

/// Prints a line as `println!` does, which panics where the reader is gone.
macro_rules! print_line {
    () => { $crate::cli::output::line(format_args!("")) };
    ($($argument:tt)*) => { $crate::cli::output::line(format_args!($($argument)*)) };
}
pub(super) use print_line;

/// Prints a line. The process ends with exit code 1 where it cannot be written.
pub(super) fn line(text: fmt::Arguments<'_>) {
    if let Err(error) = read_to_its_end(writeln!(io::stdout().lock(), "{text}")) {
        eprintln!("tidegate: cannot print: {error}");
        std::process::exit(1);
    }
}

/// The result of a write to standard output. A reader that left, as `head` does, is no failure: the command goes on without it.
pub(super) fn read_to_its_end(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}
