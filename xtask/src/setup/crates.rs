//! Tools that cargo builds at a pinned version into target/tools.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::Job;
use crate::{command, tree::Tree};

/// A tool, by the name of its crate and its program.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    /// The version that is built.
    pub(crate) version: &'static str,
    pub(crate) why: &'static str,
    job: Job,
    features: &'static [&'static str],
}

/// Checks the dependencies; `ci` runs it where it is.
pub(crate) static DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    why: "checks licences, sources and advisories",
    job: Job::Deny,
    features: &["--no-default-features"],
};

/// Makes the package for Debian.
pub(crate) static DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
    why: "makes the package for Debian",
    job: Job::Dist,
    features: &[],
};

/// Makes the package for RPM systems.
pub(crate) static RPM: Tool = Tool {
    name: "cargo-generate-rpm",
    version: "0.21.1",
    why: "makes the package for RPM systems",
    job: Job::Dist,
    features: &[],
};

/// Lists what the binary is built from.
pub(crate) static BOM: Tool = Tool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
    why: "lists what the binary is built from (SBOM)",
    job: Job::Dist,
    features: &[],
};

/// The tools of a job that are not there.
pub(super) fn missing_for(tree: &Tree, job: Job) -> Vec<&'static Tool> {
    let needed = [&DENY, &DEB, &RPM, &BOM].into_iter().filter(|tool| tool.job == job);
    needed.filter(|tool| tool.find(tree).is_none()).collect()
}

impl Tool {
    /// The one that set-up built, or the machine's own.
    pub(crate) fn find(&self, tree: &Tree) -> Option<PathBuf> {
        let ours = tree.tools().join("bin").join(self.name);
        if ours.is_file() { Some(ours) } else { command::find(self.name) }
    }

    /// Builds it by cargo into target/tools.
    pub(super) fn build(&self, tree: &Tree) -> Result<()> {
        let scratch = tree.tools().join(format!("build-{}", self.name));
        let mut cargo = tree.cargo(&["install", self.name, "--version", self.version, "--locked"]);
        cargo
            .args(self.features)
            .arg("--root")
            .arg(tree.tools())
            .arg("--target-dir")
            .arg(&scratch)
            .env_remove("RUSTFLAGS");
        command::run_aside(&mut cargo).with_context(|| format!("build {}", self.name))?;
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("remove what the build of {} left", self.name))
    }
}
