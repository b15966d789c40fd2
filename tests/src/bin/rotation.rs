//! `cargo xtask rotation`: servers that make new ticket keys by themselves, in network namespaces.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use steer_tests::{
    matrix::{self, Packages},
    process, rotation,
};

/// Share of what is resumed directly that steer must keep once each server has changed its key
/// twice.
const GOAL: f64 = 0.97;

/// Measures how many sessions steer keeps of those that the same clients resume directly where
/// every server makes a new ticket key as often as its sessions end, and prints the same for named
/// keys. Exit code 0 only if it is 97 % in every pool.
#[derive(Parser)]
#[command(name = "rotation")]
struct Arguments {
    /// Backends, a pool for each number.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 8, 20])]
    backends: Vec<usize>,
    /// Clients, each with a session of its own.
    #[arg(long, default_value_t = 12)]
    clients: usize,
    /// How long a key and a session live, seconds.
    #[arg(long, default_value_t = 20)]
    lifetime: u64,
    /// Seconds between two visits of a client, on the average. What counts is its ratio to the
    /// lifetime: 1.33 at 20 s is as 4 s at 60 s.
    #[arg(long, default_value_t = 4.0 / 3.0)]
    every: f64,
    /// Lifetimes that each pool is run for.
    #[arg(long, default_value_t = 10)]
    lifetimes: u32,
    /// Folder of the packages that servers are run by.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/peers")]
    packages: PathBuf,
    /// Install no package.
    #[arg(long)]
    no_install: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!(
                "rotation: steer kept less than {GOAL} of what is resumed directly, see above"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("rotation: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    process::require_root()?;
    let directory = std::path::absolute(&arguments.packages)?;
    let (nginx, version) =
        matrix::current_nginx(&Packages { directory, install: !arguments.no_install })?;
    println!("{version}\n\n{}", rotation::head());
    let mut holds = true;
    for &n_backends in &arguments.backends {
        let &Arguments { clients: n_clients, lifetime, every, lifetimes, .. } = arguments;
        let nginx = nginx.clone();
        let outcome = rotation::run(&rotation::Options {
            nginx,
            n_backends,
            n_clients,
            lifetime,
            every,
            lifetimes,
        })?;
        holds &= outcome.kept(true) >= GOAL;
    }
    Ok(holds)
}
