//! The binary `palisade`; everything is in the library beside it.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Gives memory back to the system after a burst of requests. glibc's keeps it: its arenas shrink from their
/// ends only, and there some long-lived entry of a cache lies mostly.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    node::cli::main()
}
