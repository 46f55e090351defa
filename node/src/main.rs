//! The binary `palisade`; everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::cli::main()
}
