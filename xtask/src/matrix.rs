//! `cargo xtask matrix`: other TLS stacks at both ends, in network namespaces.

use anyhow::Result;

use crate::{
    build::{self, Profile},
    command, rights,
    setup::{self, Job},
    tree::Tree,
};

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
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    rights::require("matrix")?;
    let tree = Tree::find()?;
    setup::ensure(&tree, Job::Matrix, arguments.no_install)?;
    let steer = build::steer(&tree, Profile::Release)?;
    let mut matrix = tree.cargo(&["run", "--release", "--package", "steer-tests", "--bin", "matrix"]);
    matrix.args(["--features", "post-quantum", "--"]);
    if arguments.json {
        matrix.arg("--json");
    }
    let Arguments { clients, servers, modes, reconnects, .. } = arguments;
    for (option, value) in
        [("--clients", clients), ("--servers", servers), ("--modes", modes), ("--reconnects", reconnects)]
    {
        if let Some(value) = value {
            matrix.args([option, value]);
        }
    }
    command::run(matrix.env("STEER_BIN", steer))
}
