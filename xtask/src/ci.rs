//! `cargo xtask ci`: what must pass before a change is taken; `.ci/run` runs it.

use std::env;

use anyhow::{Result, bail};

use crate::{
    command, rights,
    setup::{self, Job},
    test, toolchain,
    tree::Tree,
    verify,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    rights::require("ci")?;
    let tree = Tree::find()?;
    step("set-up");
    setup::ensure(&tree, Job::All, arguments.no_install)?;
    step("format");
    command::run(&mut tree.cargo(&["fmt", "--all", "--check"]))?;
    step("lint");
    let clippy = ["clippy", "--workspace", "--exclude", "steer-ebpf", "--all-targets", "--", "--deny", "warnings"];
    command::run(&mut tree.cargo(&clippy))?;
    lint_programs(&tree)?;
    step("test");
    test::all_defaults(&tree)?;
    step("verify");
    verify::all_defaults()?;
    step("dependencies");
    check_dependencies(&tree)
}

fn step(name: &str) {
    eprintln!("ci: {name}");
}

/// Lints the eBPF programs with the linter of the compiler that builds them.
fn lint_programs(tree: &Tree) -> Result<()> {
    if env::var_os(toolchain::OBJECT_VAR).is_some() {
        eprintln!("ci: skipped the lints of the eBPF programs: {} names a ready object", toolchain::OBJECT_VAR);
        return Ok(());
    }
    let toolchain = match toolchain::choose(tree.root()) {
        Ok(toolchain) => toolchain,
        Err(missing) => bail!("{missing}"),
    };
    let Some(linter) = toolchain.compiler.linter() else {
        eprintln!("ci: skipped the lints of the eBPF programs: {} has no clippy", toolchain.compiler.rustc.display());
        return Ok(());
    };
    // The build script's directory: `core` and the macros are compiled there already.
    let target_dir = tree.target().join("bpf");
    let mut cargo = toolchain.cargo(tree.root(), "check", env::consts::ARCH, endian(), &target_dir);
    // What `cargo clippy -- --deny warnings` sets; that command takes the linter beside itself, which is another version.
    cargo
        .env("RUSTC_WORKSPACE_WRAPPER", linter)
        .env("CLIPPY_ARGS", "--deny__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
    command::run(&mut cargo)
}

fn endian() -> &'static str {
    if cfg!(target_endian = "big") { "big" } else { "little" }
}

fn check_dependencies(tree: &Tree) -> Result<()> {
    if command::find("cargo-deny").is_none() {
        eprintln!("ci: skipped the check of licences and advisories: cargo-deny is not installed");
        return Ok(());
    }
    command::run(&mut tree.cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
    if command::run(&mut tree.cargo(&["deny", "fetch", "db"])).is_err() {
        eprintln!("ci: skipped the check of advisories: their database could not be fetched");
        return Ok(());
    }
    command::run(&mut tree.cargo(&["deny", "--locked", "--offline", "check", "advisories"]))
}
