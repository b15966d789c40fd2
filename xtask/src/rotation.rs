//! `cargo xtask rotation`: servers that make new ticket keys by themselves, in network namespaces.

use anyhow::Result;

use crate::{command, lab, setup::Job};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Backends, a pool for each number.
    #[arg(long)]
    backends: Option<String>,
    /// Clients.
    #[arg(long)]
    clients: Option<String>,
    /// How long a key and a session live, seconds.
    #[arg(long)]
    lifetime: Option<String>,
    /// Seconds between two visits of a client.
    #[arg(long)]
    every: Option<String>,
    /// Lifetimes that each pool is run for.
    #[arg(long)]
    lifetimes: Option<String>,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { backends, clients, lifetime, every, lifetimes, no_install } = arguments;
    let (tree, mut rotation) = lab::program("rotation", Job::Matrix, *no_install, &[])?;
    rotation.arg("--packages").arg(tree.target().join("peers"));
    if *no_install {
        rotation.arg("--no-install");
    }
    let options = [
        ("--backends", backends),
        ("--clients", clients),
        ("--lifetime", lifetime),
        ("--every", every),
        ("--lifetimes", lifetimes),
    ];
    for (option, value) in options {
        if let Some(value) = value {
            rotation.args([option, value]);
        }
    }
    command::run(&mut rotation)
}
