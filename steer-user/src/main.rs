//! `steer`: parses arguments and dispatches.

use std::process::ExitCode;

use clap::Parser as _;
use steer_user::{cli::Cli, logging, show};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let plain = logging::start(cli.log_format());
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            if plain {
                show::error(&error);
            } else {
                log::error!("{error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
