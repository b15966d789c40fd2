//! `cargo xtask demo`: the main job on this machine, in network namespaces.

use anyhow::Result;

use crate::{
    build::{self, Profile},
    command, rights,
    setup::{self, Job},
    tree::Tree,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Hook of the gateway's interfaces.
    #[arg(long, value_parser = ["tc", "xdp"])]
    hook: Option<String>,
    /// Dial the IPv6 VIP.
    #[arg(long)]
    ipv6: bool,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    json: bool,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
    /// Further options for the demo program; `-- --help` lists them.
    #[arg(last = true, value_name = "DEMO ARGUMENTS")]
    forwarded: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    rights::require("demo")?;
    let tree = Tree::find()?;
    setup::ensure(&tree, Job::Demo, arguments.no_install)?;
    let steer = build::steer(&tree, Profile::Release)?;
    let mut demo = tree.cargo(&["run", "--release", "--package", "steer-tests", "--bin", "demo", "--"]);
    if let Some(hook) = &arguments.hook {
        demo.args(["--hook", hook]);
    }
    for (flag, is_set) in [("--ipv6", arguments.ipv6), ("--json", arguments.json)] {
        if is_set {
            demo.arg(flag);
        }
    }
    command::run(demo.args(&arguments.forwarded).env("STEER_BIN", steer))
}
