//! `cargo xtask test`: host tests first, for they fail in seconds; then end to end in network
//! namespaces.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};

use crate::{
    build::{self, Profile},
    command, rights,
    setup::{self, Job},
    toolchain,
    tree::Tree,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run every end-to-end case on every hook, family and offload setting.
    #[arg(long)]
    all: bool,
    /// End-to-end tests at a time; each has its own namespaces, but all share the processors and
    /// their timing.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
    /// Filter and options for the test programs.
    #[arg(last = true, value_name = "TEST ARGUMENTS")]
    forwarded: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    rights::require("test")?;
    let tree = Tree::find()?;
    setup::ensure(&tree, Job::Test, arguments.no_install)?;
    passes(&tree, arguments)
}

/// Runs the tests with what README's command uses.
pub(crate) fn all_defaults(tree: &Tree) -> Result<()> {
    passes(tree, &Arguments { all: false, threads: 1, no_install: false, forwarded: Vec::new() })
}

fn passes(tree: &Tree, arguments: &Arguments) -> Result<()> {
    // Debug: the shared code runs with overflow checks, and its dependencies are optimised by the
    // workspace's profile.
    let steer = build::steer(tree, Profile::Debug)?;
    let host = ["test", "--workspace", "--exclude", "steer-ebpf", "--exclude", "steer-tests", "--"];
    command::run(tree.cargo(&host).args(&arguments.forwarded))?;

    let mutant = mutant_without_sack(tree)?;
    let mut end_to_end = tree.cargo(&["test", "--package", "steer-tests", "--", "--test-threads"]);
    end_to_end
        .arg(arguments.threads.to_string())
        .args(&arguments.forwarded)
        .env("STEER_BIN", steer)
        .env("STEER_MUTANT_SACK", mutant);
    if arguments.all {
        end_to_end.env("STEER_TEST_ALL", "1");
    }
    command::run(&mut end_to_end)
}

/// Builds programs that do not translate SACK: a test asserts that this is noticed.
fn mutant_without_sack(tree: &Tree) -> Result<PathBuf> {
    programs_with(tree, "mutant-sack")
}

/// Builds the programs with a feature that no release has.
pub(crate) fn programs_with(tree: &Tree, feature: &str) -> Result<PathBuf> {
    let toolchain = toolchain::choose(tree.root())
        .map_err(|missing| anyhow!("choose an eBPF compiler: {missing}"))?;
    let target_dir = tree.target().join("bpf");
    let endian = if cfg!(target_endian = "little") { "little" } else { "big" };
    let mut build =
        toolchain.cargo(tree.root(), "build", std::env::consts::ARCH, endian, &target_dir);
    command::run(build.args(["--features", feature]))?;
    let built = target_dir.join(toolchain::bpf_target(endian)).join("release/steer");
    let object = tree.target().join(format!("{feature}.bpf.o"));
    std::fs::copy(&built, &object)
        .with_context(|| format!("copy {} to {}", built.display(), object.display()))?;
    Ok(object)
}
