//! `cargo xtask bench`: measurements, printed, not judged.

use anyhow::Result;

use crate::{command, lab, setup::Job, test};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
    /// What to measure, and the measurement's own arguments; xtask's own options stand before it.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "BENCH ARGUMENTS")]
    forwarded: Vec<String>,
}

/// Measurements that run programs of the feature `bench`.
const WITH_OBJECT: [&str; 4] = ["packet", "parse", "live", "scale"];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (tree, mut bench) = lab::program("bench", Job::Bench, arguments.no_install, &[])?;
    if arguments.forwarded.first().is_some_and(|what| WITH_OBJECT.contains(&what.as_str())) {
        bench.env("STEER_BENCH_OBJECT", test::programs_with(&tree, "bench")?);
    }
    command::run(bench.args(&arguments.forwarded))
}
