//! Places inside the checkout, and cargo run in it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::toolchain;

/// The checkout that this xtask belongs to.
pub(crate) struct Tree {
    root: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Finds the checkout, and the target directory by where this program lies in it.
    pub(crate) fn find() -> Result<Self> {
        let own =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&own).parent().context("find the checkout above xtask")?.to_owned();
        let program = env::current_exe().context("find where this program lies")?;
        let target =
            program.ancestors().nth(2).context("find cargo's target directory")?.to_owned();
        Ok(Self { root, target })
    }

    /// The top of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Tools that set-up builds or unpacks: always inside the checkout.
    pub(crate) fn tools(&self) -> PathBuf {
        toolchain::tools_dir(&self.root)
    }

    /// Cargo's target directory.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// A program that cargo built, in the directory of `profile` (`debug` or `release`).
    pub(crate) fn built(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }

    /// Starts a cargo command line in the checkout.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target).args(arguments);
        command
    }
}
