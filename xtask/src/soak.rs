//! `cargo xtask soak`: minutes of mixed traffic and chaos, in network namespaces.

use anyhow::Result;

use crate::{command, lab, setup::Job};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
    /// Options for the soak program, such as `--minutes 20 --record DIR`; xtask's own options stand
    /// before them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SOAK ARGUMENTS")]
    forwarded: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (_, mut soak) = lab::program("soak", Job::Test, arguments.no_install, &[])?;
    command::run(soak.args(&arguments.forwarded))
}
