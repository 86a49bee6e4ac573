//! The `tidegate` program: the allocator, then the command line.

use std::process::ExitCode;

/// Many threads make small allocations, one per event: mimalloc is faster at them than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::run()
}
