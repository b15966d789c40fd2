//! `cargo xtask demo`: reconnecting TLS clients through plain layer 4 and through steer, side by
//! side.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use steer_tests::{
    agent::{Hook, Shape},
    cluster::{self, Failure, Show},
    demo::{self, Load, Options},
    l4::Snat,
    topology::Family,
};

/// Shows what steer is for: the same reconnecting clients through plain kernel layer 4 with
/// source-address persistence, then through steer. Exit code 0 only if steer resumed every session
/// on its owner without an error.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Hook of the gateway's interfaces.
    #[arg(long, value_enum, default_value = "tc")]
    hook: Hook,
    /// Where steer stands: it has the VIPs, or stands between a balancer that has them and the
    /// servers, as a router (inline) or as a bridge.
    #[arg(long, value_enum, default_value = "gateway")]
    shape: Shape,
    /// The balancer in front hides the clients' addresses behind its own.
    #[arg(long)]
    snat: bool,
    /// Connections that are open and silent beside the clients', through the balancer in front.
    #[arg(long, value_name = "N", default_value_t = 0)]
    open: usize,
    /// Dial the IPv6 VIP.
    #[arg(long)]
    ipv6: bool,
    /// Simulated clients, each with a session of its own.
    #[arg(long, value_name = "N", default_value_t = 64)]
    clients: usize,
    /// Reconnects in all, each from another address than the one before.
    #[arg(long, value_name = "N", default_value_t = 1920)]
    reconnects: usize,
    /// Clients at work at a time.
    #[arg(long, value_name = "N", default_value_t = 32)]
    parallel: usize,
    /// Two gateways, of which one fails: what that costs without replication and with it.
    #[arg(long, conflicts_with_all = ["hook", "shape", "snat", "open", "clients", "reconnects", "parallel"])]
    ha: bool,
    /// How the gateway fails; may be given several times [default: every way].
    #[arg(long = "failure", value_enum, value_name = "HOW", requires = "ha")]
    failures: Vec<Failure>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (shown, failed) = if arguments.ha {
        (cluster::show(&failovers(&arguments)), "a failover cost connections or sessions")
    } else {
        let failed = "steer did not resume every session on its owner without an error";
        (demo::run(&options(&arguments)), failed)
    };
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("demo: {failed}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &Arguments) -> Options {
    let Arguments { hook, shape, snat, open, clients, reconnects, parallel, json, .. } = *arguments;
    let snat = if snat { Snat::Yes } else { Snat::No };
    let load = Load { clients, reconnects, parallel };
    Options { hook, shape, snat, open, family: family(arguments), load, json }
}

fn failovers(arguments: &Arguments) -> Show {
    let every = || Failure::value_variants().to_vec();
    let failures = arguments.failures.clone();
    Show {
        failures: if failures.is_empty() { every() } else { failures },
        family: family(arguments),
        load: cluster::Load { ways: cluster::Way::ALL, transfers: 4, sessions: 48, visitors: 4 },
        json: arguments.json,
    }
}

fn family(arguments: &Arguments) -> Family {
    if arguments.ipv6 { Family::V6 } else { Family::V4 }
}
