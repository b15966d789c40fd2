//! `cargo xtask ci`: what must pass before a change is taken; `.ci/run` runs it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command, doc, fuzz,
    report::{Outcome, Report},
    rights,
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
    /// Run only this step; may be given several times.
    #[arg(long, value_name = "STEP", value_parser = STEPS.map(|(name, _)| name))]
    only: Vec<String>,
}

type Step = fn(&Tree, &Arguments) -> Result<Outcome>;

/// What is run, in this order: what fails soon comes first.
const STEPS: [(&str, Step); 11] = [
    ("set-up", set_up),
    ("format", format),
    ("lint", lint),
    ("lint programs", lint_programs),
    ("doc", document),
    ("test", run_tests),
    ("fuzz", fuzz_briefly),
    ("miri", interpret),
    ("verify", load_programs),
    ("dependencies", check_dependencies),
    ("advisories", check_advisories),
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    rights::require("ci")?;
    let tree = Tree::find()?;
    let mut report = Report::new(STEPS.map(|(name, _)| name));
    let result = run_steps(&tree, arguments, &mut report);
    eprint!("ci: what became of each step\n{report}");
    result
}

/// Runs one step after the other up to the first that fails.
fn run_steps(tree: &Tree, arguments: &Arguments, report: &mut Report) -> Result<()> {
    for (name, step) in STEPS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
            report.done(name, Outcome::Skipped("not asked for".to_owned()));
            continue;
        }
        eprintln!("ci: {name}");
        match step(tree, arguments) {
            Ok(outcome) => report.done(name, outcome),
            Err(error) => {
                report.failed(name);
                return Err(error).with_context(|| format!("the step \"{name}\" of ci failed"));
            }
        }
    }
    Ok(())
}

fn set_up(tree: &Tree, arguments: &Arguments) -> Result<Outcome> {
    setup::ensure(tree, Job::All, arguments.no_install)?;
    Ok(Outcome::Passed)
}

fn format(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    command::run(&mut tree.cargo(&["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed)
}

fn lint(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    let clippy = [
        "clippy",
        "--workspace",
        "--exclude",
        "steer-ebpf",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    command::run(&mut tree.cargo(&clippy))?;
    Ok(Outcome::Passed)
}

/// Lints the eBPF programs with the linter of the compiler that builds them.
fn lint_programs(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    if env::var_os(toolchain::OBJECT_VAR).is_some() {
        return Ok(Outcome::Skipped(format!("{} names a ready object", toolchain::OBJECT_VAR)));
    }
    let toolchain = match toolchain::choose(tree.root()) {
        Ok(toolchain) => toolchain,
        Err(missing) => bail!("{missing}"),
    };
    let Some(linter) = toolchain.compiler.linter() else {
        return Ok(Outcome::Skipped(format!(
            "{} has no clippy",
            toolchain.compiler.rustc.display()
        )));
    };
    // The build script's directory: `core` and the macros are compiled there already.
    let target_dir = tree.target().join("bpf");
    // As they are released, and as they are measured.
    for features in ["", "bench"] {
        let mut cargo =
            toolchain.cargo(tree.root(), "check", env::consts::ARCH, endian(), &target_dir);
        // What `cargo clippy -- --deny warnings` sets; that command takes the linter beside itself,
        // which is another version.
        cargo
            .args(["--features", features])
            .env("RUSTC_WORKSPACE_WRAPPER", &linter)
            .env("CLIPPY_ARGS", "--deny__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
        command::run(&mut cargo)?;
    }
    Ok(Outcome::Passed)
}

fn endian() -> &'static str {
    if cfg!(target_endian = "big") { "big" } else { "little" }
}

fn document(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    doc::build(tree, false)?;
    Ok(Outcome::Passed)
}

fn run_tests(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    test::all_defaults(tree)?;
    Ok(Outcome::Passed)
}

fn fuzz_briefly(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    if let Some(why) = fuzz::missing() {
        return Ok(Outcome::Skipped(why.to_owned()));
    }
    fuzz::smoke(tree)?;
    Ok(Outcome::Passed)
}

/// Interprets what is quick of the shared crate's tests: each of its own rules at least once.
fn interpret(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    let toolchain = match miri() {
        Ok(toolchain) => toolchain,
        Err(why) => return Ok(Outcome::Skipped(why.to_owned())),
    };
    let mut cargo = in_miri(&toolchain);
    cargo
        .current_dir(tree.root())
        .args([
            "miri",
            "test",
            "--locked",
            "--package",
            "steer-common",
            "--lib",
            "--test",
            "rehome",
        ])
        .env("CARGO_TARGET_DIR", tree.target().join("miri"))
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "4");
    command::run(&mut cargo)?;
    Ok(Outcome::Passed)
}

/// The toolchain that has miri and its library ready; nothing is fetched for it.
fn miri() -> Result<PathBuf, &'static str> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")));
    let entries = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok());
    let mut toolchains = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let toolchain = toolchains
        .find(|toolchain| {
            ["cargo", "cargo-miri", "miri"]
                .iter()
                .all(|name| toolchain.join("bin").join(name).is_file())
        })
        .ok_or("no toolchain has the component miri")?;
    let setup =
        in_miri(&toolchain).args(["miri", "setup"]).env("CARGO_NET_OFFLINE", "true").output();
    match setup {
        Ok(output) if output.status.success() => Ok(toolchain),
        _ => Err("miri's library cannot be built without the network"),
    }
}

/// Cargo of a toolchain, deaf to the settings of the one that runs us.
fn in_miri(toolchain: &Path) -> Command {
    let bin = toolchain.join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut cargo = Command::new(bin.join("cargo"));
    let paths = env::join_paths([bin].into_iter().chain(env::split_paths(&path)));
    cargo
        .env("PATH", paths.unwrap_or(path))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .env_remove("CARGO");
    cargo
}

fn load_programs(_: &Tree, _: &Arguments) -> Result<Outcome> {
    verify::all_defaults()?;
    Ok(Outcome::Passed)
}

fn check_dependencies(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    let Some(mut deny) = deny(tree) else { return Ok(without_deny()) };
    command::run(deny.args(["--locked", "check", "bans", "licenses", "sources"]))?;
    Ok(Outcome::Passed)
}

fn check_advisories(tree: &Tree, _: &Arguments) -> Result<Outcome> {
    let (Some(mut fetch), Some(mut check)) = (deny(tree), deny(tree)) else {
        return Ok(without_deny());
    };
    if command::run(fetch.args(["fetch", "db"])).is_err() {
        return Ok(Outcome::Skipped("their database could not be fetched".to_owned()));
    }
    command::run(check.args(["--locked", "--offline", "check", "advisories"]))?;
    Ok(Outcome::Passed)
}

/// Starts a command line of cargo-deny, where it is there.
fn deny(tree: &Tree) -> Option<Command> {
    let mut deny = Command::new(setup::crates::DENY.find(tree)?);
    deny.current_dir(tree.root());
    Some(deny)
}

fn without_deny() -> Outcome {
    Outcome::Skipped("cargo-deny is missing (cargo xtask setup --for deny)".to_owned())
}
