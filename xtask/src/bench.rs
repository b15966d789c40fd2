//! `cargo xtask bench`: measurements, printed, not judged.

use anyhow::Result;

use crate::{
    build::{self, Profile},
    command, rights,
    setup::{self, Job},
    test,
    tree::Tree,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
    /// What to measure, and the measurement's own arguments; xtask's own options stand before it.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "BENCH ARGUMENTS")]
    forwarded: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    rights::require("bench")?;
    let tree = Tree::find()?;
    setup::ensure(&tree, Job::Test, arguments.no_install)?;
    let steer = build::steer(&tree, Profile::Release)?;
    let mut bench = tree.cargo(&["run", "--release", "--package", "steer-tests", "--bin", "bench", "--"]);
    if arguments.forwarded.first().is_some_and(|what| what == "parse" || what == "packet") {
        bench.env("STEER_BENCH_OBJECT", test::programs_with(&tree, "bench")?);
    }
    command::run(bench.args(&arguments.forwarded).env("STEER_BIN", steer))
}
