//! `cargo xtask monitoring`: deploy/monitoring before Debian's Prometheus.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use steer_tests::monitoring::{self, Options};

/// Checks alert rules, asks a Prometheus that scrapes an agent with traffic every query of the
/// dashboard.
#[derive(Parser)]
#[command(name = "monitoring")]
struct Arguments {
    /// Takes a picture of the built-in page, by Chromium.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Seconds for which the gateway stays with its traffic, for looking at it.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    hold: u64,
}

fn main() -> ExitCode {
    let Arguments { picture, hold } = Arguments::parse();
    let files = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/monitoring"));
    let options = Options { files, picture, hold: Duration::from_secs(hold) };
    match monitoring::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("monitoring: {error:#}");
            ExitCode::FAILURE
        }
    }
}
