//! `cargo xtask monitoring`: alert rules and dashboard before Debian's Prometheus, in network
//! namespaces.

use anyhow::Result;

use crate::{command, lab, setup::Job};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
    /// Options for the program, such as `--picture FILE` or `--hold SECONDS`; xtask's own options
    /// stand before them.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "MONITORING ARGUMENTS"
    )]
    forwarded: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let job = Job::Monitoring;
    let (_, mut monitoring) = lab::program("monitoring", job, arguments.no_install, &[])?;
    command::run(monitoring.args(&arguments.forwarded))
}
