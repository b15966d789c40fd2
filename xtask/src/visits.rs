//! `cargo xtask visits`: clients whose addresses change, and servers that steer can do little for,
//! in network namespaces.

use anyhow::Result;

use crate::{command, lab, setup::Job};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Server stacks of the matrix, separated by commas; gunicorn,go-1.27 unless given.
    #[arg(long)]
    servers: Option<String>,
    /// Modes, separated by commas; ticket12,ticket13 unless given.
    #[arg(long)]
    modes: Option<String>,
    /// Client stack of the matrix; openssl unless given.
    #[arg(long)]
    client: Option<String>,
    /// Backends.
    #[arg(long, value_name = "N")]
    backends: Option<String>,
    /// Clients.
    #[arg(long, value_name = "N")]
    clients: Option<String>,
    /// Visits of each client beside its first.
    #[arg(long, value_name = "N")]
    visits: Option<String>,
    /// A client's address changes at every N-th visit; several separated by commas, 1,2,10 unless
    /// given.
    #[arg(long, value_name = "N")]
    every: Option<String>,
    /// Values of the VIP's `fallback`; source,flow unless given.
    #[arg(long)]
    fallbacks: Option<String>,
    /// `ticket_key_name` of the VIP; where the stack has it, unless given.
    #[arg(long, value_name = "LAYOUT")]
    key_name: Option<String>,
    /// Hook of the gateway's interfaces: tc or xdp.
    #[arg(long)]
    hook: Option<String>,
    /// Dial the IPv6 VIP.
    #[arg(long)]
    ipv6: bool,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { no_install, ipv6, .. } = arguments;
    let (tree, mut visits) = lab::program("visits", Job::Matrix, *no_install, &[])?;
    visits.arg("--packages").arg(tree.target().join("peers"));
    for (flag, given) in [("--no-install", no_install), ("--ipv6", ipv6)] {
        if *given {
            visits.arg(flag);
        }
    }
    let options = [
        ("--servers", &arguments.servers),
        ("--modes", &arguments.modes),
        ("--client", &arguments.client),
        ("--backends", &arguments.backends),
        ("--clients", &arguments.clients),
        ("--visits", &arguments.visits),
        ("--every", &arguments.every),
        ("--fallbacks", &arguments.fallbacks),
        ("--key-name", &arguments.key_name),
        ("--hook", &arguments.hook),
    ];
    for (option, value) in options {
        if let Some(value) = value {
            visits.args([option, value]);
        }
    }
    command::run(&mut visits)
}
