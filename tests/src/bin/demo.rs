//! `cargo xtask demo`: reconnecting TLS clients through plain layer 4 and through steer, side by
//! side.

use std::process::ExitCode;

use clap::Parser;
use steer_tests::{
    agent::{Hook, Shape},
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
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match demo::run(&options(&Arguments::parse())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("demo: steer did not resume every session on its owner without an error");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &Arguments) -> Options {
    let Arguments { hook, shape, snat, open, ipv6, clients, reconnects, parallel, json } =
        *arguments;
    let family = if ipv6 { Family::V6 } else { Family::V4 };
    let snat = if snat { Snat::Yes } else { Snat::No };
    Options { hook, shape, snat, open, family, load: Load { clients, reconnects, parallel }, json }
}
