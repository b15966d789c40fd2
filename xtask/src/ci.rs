//! `cargo xtask ci`: what must pass before a change is taken; `.ci/run` runs it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    command, doc, fuzz, rights,
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
    step("doc");
    doc::build(&tree, false)?;
    step("test");
    test::all_defaults(&tree)?;
    step("fuzz");
    match fuzz::missing() {
        Some(why) => eprintln!("ci: skipped the fuzz targets: {why}"),
        None => fuzz::smoke(&tree)?,
    }
    step("miri");
    match miri() {
        Ok(toolchain) => interpret(&tree, &toolchain)?,
        Err(why) => eprintln!("ci: skipped miri: {why}"),
    }
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

/// The toolchain that has miri and its library ready; nothing is fetched for it.
fn miri() -> Result<PathBuf, &'static str> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")));
    let entries = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok());
    let mut toolchains = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let toolchain = toolchains
        .find(|toolchain| ["cargo", "cargo-miri", "miri"].iter().all(|name| toolchain.join("bin").join(name).is_file()))
        .ok_or("no toolchain has the component miri")?;
    let setup = in_miri(&toolchain).args(["miri", "setup"]).env("CARGO_NET_OFFLINE", "true").output();
    match setup {
        Ok(output) if output.status.success() => Ok(toolchain),
        _ => Err("its library cannot be built without the network"),
    }
}

/// Interprets what is quick of the shared crate's tests: each of its own rules at least once.
fn interpret(tree: &Tree, toolchain: &Path) -> Result<()> {
    let mut cargo = in_miri(toolchain);
    cargo
        .current_dir(tree.root())
        .args(["miri", "test", "--locked", "--package", "steer-common", "--lib", "--test", "rehome"])
        .env("CARGO_TARGET_DIR", tree.target().join("miri"))
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "4");
    command::run(&mut cargo)
}

/// Cargo of a toolchain, deaf to the settings of the one that runs us.
fn in_miri(toolchain: &Path) -> Command {
    let bin = toolchain.join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut cargo = Command::new(bin.join("cargo"));
    let paths = env::join_paths([bin].into_iter().chain(env::split_paths(&path)));
    cargo.env("PATH", paths.unwrap_or(path)).env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO");
    cargo
}

fn check_dependencies(tree: &Tree) -> Result<()> {
    let Some(program) = setup::deny::find(tree) else {
        eprintln!(
            "ci: skipped the check of licences and advisories: cargo-deny is missing (cargo xtask setup --for deny)"
        );
        return Ok(());
    };
    let deny = |arguments: &[&str]| {
        let mut deny = Command::new(&program);
        deny.current_dir(tree.root()).args(arguments);
        command::run(&mut deny)
    };
    deny(&["--locked", "check", "bans", "licenses", "sources"])?;
    if deny(&["fetch", "db"]).is_err() {
        eprintln!("ci: skipped the check of advisories: their database could not be fetched");
        return Ok(());
    }
    deny(&["--locked", "--offline", "check", "advisories"])
}
