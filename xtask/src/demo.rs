//! `cargo xtask demo`: the main job on this machine, in network namespaces.

use anyhow::Result;

use crate::{command, lab, setup::Job};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Hook of the gateway's interfaces.
    #[arg(long, value_parser = ["tc", "xdp"])]
    hook: Option<String>,
    /// Where steer stands: it has the VIPs, or stands between a balancer that has them and the
    /// servers.
    #[arg(long, value_parser = ["gateway", "inline", "bridge"])]
    shape: Option<String>,
    /// The balancer in front hides the clients' addresses behind its own.
    #[arg(long)]
    snat: bool,
    /// Two gateways, of which one fails: what that costs without replication and with it.
    #[arg(long, conflicts_with_all = ["hook", "shape", "snat"])]
    ha: bool,
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
    let (_, mut demo) = lab::program("demo", Job::Demo, arguments.no_install, &[])?;
    if let Some(hook) = &arguments.hook {
        demo.args(["--hook", hook]);
    }
    if let Some(shape) = &arguments.shape {
        demo.args(["--shape", shape]);
    }
    let flags = [
        ("--ha", arguments.ha),
        ("--ipv6", arguments.ipv6),
        ("--json", arguments.json),
        ("--snat", arguments.snat),
    ];
    for (flag, is_set) in flags {
        if is_set {
            demo.arg(flag);
        }
    }
    command::run(demo.args(&arguments.forwarded))
}
