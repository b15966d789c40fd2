//! `cargo xtask visits`: clients whose addresses change, and servers that steer can do little for.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, builder::RangedU64ValueParser};
use steer_tests::{
    agent::Hook,
    matrix::{
        ClientStack, Mode, Packages, ServerStack,
        visits::{self, Fallback, Options},
    },
    topology::Family,
};

/// Runs clients whose address changes at every visit, or less often, against servers whose TLS 1.3
/// sessions no gateway can know (Go), and servers that accept none of their own sessions
/// (gunicorn); directly, and through steer by each `fallback`. Prints what was resumed, what chance
/// alone would resume, and how many flows steer moved, in the first half of the visits and in the
/// second. Exit code 0 only if no connection failed, and no more flows were moved to servers that
/// accept nothing than eight refusals in a row, and one of sixteen from then on, allow.
#[derive(Parser)]
#[command(name = "visits")]
struct Arguments {
    /// Server stacks: any of the matrix.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["gunicorn", "go-1.27"])]
    servers: Vec<ServerStack>,
    /// TLS version and what names a session.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["ticket12", "ticket13"])]
    modes: Vec<Mode>,
    /// The clients' stack: any of the matrix.
    #[arg(long, value_enum, default_value = "openssl")]
    client: ClientStack,
    /// Backends.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = number(200))]
    backends: usize,
    /// Clients, each with a session of its own.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = number(1000))]
    clients: usize,
    /// Visits of each client beside its first.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number(1_000_000))]
    visits: usize,
    /// A client's address changes at every visit (1), at every second (2), ...
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 10], value_parser = number(1_000_000))]
    every: Vec<usize>,
    /// Values of the VIP's `fallback`.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["source", "flow"])]
    fallbacks: Vec<Fallback>,
    /// `ticket_key_name` of the VIP; where the stack has it, unless given.
    #[arg(long, value_name = "LAYOUT")]
    key_name: Option<String>,
    /// Hook of the gateway's interfaces.
    #[arg(long, value_enum, default_value = "tc")]
    hook: Hook,
    /// Dial the IPv6 VIP.
    #[arg(long)]
    ipv6: bool,
    /// Folder of the packages that stacks are run by.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/peers")]
    packages: PathBuf,
    /// Install no package.
    #[arg(long)]
    no_install: bool,
}

/// From 1 to so many.
fn number(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!(
                "visits: a connection failed, or too many flows were moved in vain, see above"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("visits: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<bool> {
    let Arguments {
        servers,
        modes,
        client,
        every,
        fallbacks,
        key_name,
        hook,
        ipv6,
        packages,
        no_install,
        ..
    } = arguments;
    let packages = Packages { directory: std::path::absolute(packages)?, install: !no_install };
    let family = if ipv6 { Family::V6 } else { Family::V4 };
    visits::run(&Options {
        servers,
        modes,
        client,
        n_backends: arguments.backends,
        n_clients: arguments.clients,
        n_visits: arguments.visits,
        every,
        fallbacks,
        key_name,
        hook,
        family,
        packages,
    })
}
