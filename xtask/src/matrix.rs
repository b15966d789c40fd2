//! `cargo xtask matrix`: other TLS stacks at both ends, in network namespaces.

use anyhow::Result;

use crate::{command, lab, setup::Job};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object per cell and line instead of tables.
    #[arg(long)]
    json: bool,
    /// Client stacks, separated by commas; all unless given.
    #[arg(long)]
    clients: Option<String>,
    /// Server stacks, separated by commas; all unless given.
    #[arg(long)]
    servers: Option<String>,
    /// Modes, separated by commas: id12, ticket12, ticket13, named13; all unless given.
    #[arg(long)]
    modes: Option<String>,
    /// Sessions offered per cell and way.
    #[arg(long, value_name = "N")]
    reconnects: Option<String>,
    /// Compare `ticket_key_name = "auto"` with the right layout instead of the ways.
    #[arg(long)]
    layouts: bool,
    /// Where steer stands: it has the VIP, or stands behind a balancer that has it.
    #[arg(long, value_parser = ["gateway", "inline", "bridge"])]
    shape: Option<String>,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (tree, mut matrix) =
        lab::program("matrix", Job::Matrix, arguments.no_install, &["--features", "post-quantum"])?;
    // The stacks that apt does not have: the program installs them itself, for it has the table of
    // the stacks.
    matrix.arg("--packages").arg(tree.target().join("peers"));
    if arguments.no_install {
        matrix.arg("--no-install");
    }
    if arguments.layouts {
        matrix.arg("--layouts");
    }
    if arguments.json {
        matrix.arg("--json");
    }
    let Arguments { clients, servers, modes, reconnects, shape, .. } = arguments;
    for (option, value) in [
        ("--clients", clients),
        ("--servers", servers),
        ("--modes", modes),
        ("--reconnects", reconnects),
        ("--shape", shape),
    ] {
        if let Some(value) = value {
            matrix.args([option, value]);
        }
    }
    command::run(&mut matrix)
}
