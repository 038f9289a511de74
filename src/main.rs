//! `downpipe`, the one binary: command line, signals and exit codes. The work is in the member crates.
//!
//! Exit codes: 0 done, 1 it could not be done, 2 the command line, the environment or the
//! configuration file is wrong.

mod cli;
mod config;
mod diagnostics;
mod health;
mod run;
mod shutdown;
mod verify;

use crate::cli::UsageError;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => error.exit(),
    };
    let Err(error) = run::run(command) else { return ExitCode::SUCCESS };
    match error.downcast::<UsageError>() {
        Ok(usage) => usage.exit(),
        Err(error) => {
            shutdown::last_words(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
