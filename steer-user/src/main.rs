//! `steer`: parses arguments and dispatches.

use std::process::ExitCode;

use clap::Parser as _;
use steer_user::{cli::Cli, show};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().filter_or("STEER_LOG", "info")).init();
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            show::note(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
