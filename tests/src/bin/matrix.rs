//! `cargo xtask matrix`: TLS stacks at both ends, through plain layer 4, HAProxy and steer.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use steer_tests::{
    agent::Shape,
    matrix::{self, ClientStack, Mode, Options, Packages, ServerStack},
};

/// Runs TLS clients of several stacks against servers of several stacks, each directly, through
/// plain kernel layer 4, through HAProxy's SSL-ID stick table, and through steer, and counts
/// resumed sessions. Exit code 0 only if steer resumed as many as the same stacks did directly (of
/// private TLS 1.3 tickets 99 %) in every cell that can be served.
#[derive(Parser)]
#[command(name = "matrix")]
struct Arguments {
    /// Client stacks.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = all::<ClientStack>())]
    clients: Vec<ClientStack>,
    /// Server stacks.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = all::<ServerStack>())]
    servers: Vec<ServerStack>,
    /// TLS version and what names a session.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = all::<Mode>())]
    modes: Vec<Mode>,
    /// Sessions offered per cell and way.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = at_least_one)]
    reconnects: usize,
    /// Compare `ticket_key_name = "auto"` with the right layout instead of the ways: nothing is
    /// learned before the offers are counted. Exit code 0 only if it loses four offers at most in
    /// every cell.
    #[arg(long)]
    layouts: bool,
    /// Where steer stands: it has the VIP, or stands behind a balancer that has it.
    #[arg(long, value_enum, default_value = "gateway")]
    shape: Shape,
    /// Print one JSON object per cell instead of tables.
    #[arg(long)]
    json: bool,
    /// Folder of the packages that stacks are run by.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/peers")]
    packages: PathBuf,
    /// Install no package.
    #[arg(long)]
    no_install: bool,
}

fn all<T: ValueEnum + Clone>() -> Vec<T> {
    T::value_variants().to_vec()
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of at least 1".to_owned()),
        Ok(n) => Ok(n),
    }
}

fn main() -> ExitCode {
    let Arguments {
        clients,
        servers,
        modes,
        reconnects,
        layouts,
        shape,
        json,
        packages,
        no_install,
    } = Arguments::parse();
    let packages = std::path::absolute(&packages).unwrap_or(packages);
    let packages = Packages { directory: packages, install: !no_install };
    let options = Options { clients, servers, modes, reconnects, layouts, shape, json, packages };
    match matrix::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("matrix: steer resumed fewer sessions than could be, see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}
