//! The `tidegate` program: the allocator, then the command line.

use std::process::ExitCode;

/// Small allocations of many threads, one an event: mimalloc serves and frees them faster than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::run()
}
