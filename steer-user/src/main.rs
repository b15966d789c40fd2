//! `steer`: parses arguments and dispatches.

use std::process::ExitCode;

use clap::Parser as _;
use steer_user::{cli::Cli, logging, show};

fn main() -> ExitCode {
    logging::start();
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            show::error(&error);
            ExitCode::FAILURE
        }
    }
}
