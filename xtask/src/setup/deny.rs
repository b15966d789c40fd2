//! cargo-deny, which `ci` runs where it is.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{command, tree::Tree};

/// The version that is built.
pub(crate) const VERSION: &str = "0.20.2";

/// The one that set-up built, or the machine's own.
pub(crate) fn find(tree: &Tree) -> Option<PathBuf> {
    let ours = tree.tools().join("bin/cargo-deny");
    if ours.is_file() { Some(ours) } else { command::find("cargo-deny") }
}

/// Builds it by cargo into target/tools.
pub(super) fn build(tree: &Tree) -> Result<()> {
    let scratch = tree.tools().join("build-deny");
    let mut cargo = tree.cargo(&[
        "install",
        "cargo-deny",
        "--version",
        VERSION,
        "--locked",
        "--no-default-features",
    ]);
    cargo.arg("--root").arg(tree.tools()).arg("--target-dir").arg(&scratch).env_remove("RUSTFLAGS");
    command::run_aside(&mut cargo).context("build cargo-deny")?;
    fs::remove_dir_all(&scratch).context("remove what the build of cargo-deny left")
}
