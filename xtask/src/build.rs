//! `cargo xtask build`: the binary `steer`, its eBPF programs inside.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    command,
    setup::{self, Job},
    tree::Tree,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build without optimisation.
    #[arg(long, conflicts_with = "release")]
    debug: bool,
    /// Build with optimisation, as is done anyhow.
    #[arg(long)]
    release: bool,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tree = Tree::find()?;
    setup::ensure(&tree, Job::Build, arguments.no_install)?;
    let profile = if arguments.debug { Profile::Debug } else { Profile::Release };
    let steer = steer(&tree, profile)?;
    eprintln!("build: {}", steer.display());
    Ok(())
}

/// How cargo compiles the user-space part; the eBPF programs are always optimised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

/// Builds `steer` and returns its path.
pub(crate) fn steer(tree: &Tree, profile: Profile) -> Result<PathBuf> {
    program(tree, profile, "steer-user", "steer")
}

/// Builds one binary of a package and returns its path.
pub(crate) fn program(tree: &Tree, profile: Profile, package: &str, name: &str) -> Result<PathBuf> {
    let mut cargo = tree.cargo(&["build", "--package", package, "--bin", name]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    command::run_aside(&mut cargo)?;
    Ok(tree.built(if profile == Profile::Release { "release" } else { "debug" }, name))
}
