//! The `netpath` command: the agent and its client in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    netpath::cli::main()
}
