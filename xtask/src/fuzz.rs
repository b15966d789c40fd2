//! `cargo xtask fuzz`: the fuzz targets, from their committed corpora on.
//!
//! The targets are laid out for cargo-fuzz, which adds an address sanitizer and with it needs a
//! nightly compiler. The code under test has no unsafe, so coverage is all that is needed, and any
//! compiler and no tool gives that.

use std::{env, fs, process::Command};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{command, tree::Tree};

/// The targets in `fuzz/fuzz_targets`.
const TARGETS: [&str; 9] = [
    "client_hello",
    "server_flight",
    "gather",
    "segment",
    "config",
    "request",
    "capture",
    "assess",
    "rows",
];

/// What each target gets in `cargo xtask ci`: a minute in all.
const SMOKE_SECONDS: u32 = 8;

/// Longest input, bytes: a hello's buffer and a few bytes before it.
const INPUT_MAX: u32 = 16 * 1024 + 16;

/// What libFuzzer goes by: a counter for each edge.
const FLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each target runs.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// The target; all of them unless one is named.
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(why) = missing() {
        bail!("cannot fuzz: {why}");
    }
    let tree = Tree::find()?;
    let targets = TARGETS
        .into_iter()
        .filter(|target| arguments.target.as_deref().is_none_or(|named| named == *target));
    fuzz(&tree, targets, arguments.seconds)
}

/// Runs every target for a moment.
pub(crate) fn smoke(tree: &Tree) -> Result<()> {
    fuzz(tree, TARGETS, SMOKE_SECONDS)
}

/// Why nothing can be fuzzed here; `None` where it can.
pub(crate) fn missing() -> Option<&'static str> {
    let compiler = env::var_os("CXX").is_some()
        || ["c++", "g++", "clang++"].into_iter().any(|cxx| command::find(cxx).is_some());
    (!compiler).then_some("no C++ compiler to build libFuzzer with")
}

fn fuzz(tree: &Tree, targets: impl IntoIterator<Item = &'static str>, seconds: u32) -> Result<()> {
    // A target of its own name keeps the flags from build scripts.
    let machine = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let target_dir = tree.target().join("fuzz");
    command::run(
        tree.cargo(&[
            "build",
            "--release",
            "--locked",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--target",
            &machine,
        ])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")),
    )?;
    for target in targets {
        let found = target_dir.join("corpus").join(target);
        let artifacts = target_dir.join("artifacts").join(target);
        for directory in [&found, &artifacts] {
            fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        eprintln!("fuzz: {target} for {seconds} s");
        let mut fuzzer = Command::new(target_dir.join(&machine).join("release").join(target));
        fuzzer
            .current_dir(tree.root())
            .args([
                "-verbosity=0".to_owned(),
                format!("-max_total_time={seconds}"),
                format!("-max_len={INPUT_MAX}"),
            ])
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(&found)
            .arg(tree.root().join("fuzz/corpus").join(target));
        command::run(&mut fuzzer).map_err(|error| {
            anyhow!("{error:#}: what {target} failed on lies in {}", artifacts.display())
        })?;
    }
    Ok(())
}
