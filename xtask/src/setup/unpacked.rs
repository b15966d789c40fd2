//! Debian packages unpacked below target/tools: nothing is installed, and nothing that is installed
//! has to give way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::kernels::Series;
use crate::{command, tree::Tree};

/// Debian's emulator; other versions of its tools may be installed, and the two do not go together.
const EMULATOR: &str = "qemu-system-x86";
const EMULATOR_PROGRAM: &str = "qemu-system-x86_64";

/// Something that is unpacked rather than installed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unpacked {
    Emulator,
    Kernel(Series),
}

impl Unpacked {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Emulator => "qemu".to_owned(),
            Self::Kernel(series) => format!("kernel {}", series.word()),
        }
    }

    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Emulator => "boots other kernels",
            Self::Kernel(series) => series.why(),
        }
    }

    /// Tells whether it is there.
    pub(crate) fn is_there(self, tree: &Tree) -> bool {
        match self {
            Self::Emulator => {
                command::find(EMULATOR_PROGRAM).is_some() || emulator_directory(tree).is_dir()
            }
            Self::Kernel(series) => series.is_there(tree),
        }
    }

    /// Downloads and unpacks it.
    pub(crate) fn provide(self, tree: &Tree) -> Result<()> {
        command::find("apt-get")
            .with_context(|| format!("find apt-get: {} comes in Debian packages", self.name()))?;
        match self {
            Self::Emulator => provide_emulator(tree),
            Self::Kernel(series) => {
                series.provide(tree).with_context(|| format!("provide {}", self.name()))
            }
        }
    }
}

/// Unpacks what `fetch` downloads into the directory that it is given. `place` is there when all of
/// it is, not before.
pub(super) fn unpack(
    tree: &Tree,
    place: &Path,
    fetch: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let download = tree.tools().join("download");
    let unpacked = download.join("unpacked");
    remove(&download)?;
    fs::create_dir_all(&unpacked).with_context(|| format!("make {}", unpacked.display()))?;
    fetch(&download)?;
    for entry in fs::read_dir(&download).context("list what was downloaded")? {
        let archive = entry.context("list what was downloaded")?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            command::run_aside(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&unpacked))?;
        }
    }
    remove(place)?;
    fs::rename(&unpacked, place)
        .with_context(|| format!("move what was unpacked to {}", place.display()))?;
    remove(&download)
}

/// Takes the machine's own apt, for the emulator's libraries go with those installed. Its package
/// lists are fetched anew if the old ones do not serve.
fn provide_emulator(tree: &Tree) -> Result<()> {
    let provide = || {
        let packages = with_missing_dependencies(EMULATOR)?;
        unpack(tree, &emulator_directory(tree), |download| {
            // Apt's own user cannot write to a private checkout.
            let mut fetch = Command::new("apt-get");
            fetch.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(&packages);
            command::run_aside(fetch.current_dir(download))
        })
    };
    provide().or_else(|error| {
        eprintln!("setup: fetching the package lists anew ({error:#})");
        command::run_aside(Command::new("apt-get").args([
            "-q",
            "-o",
            "DPkg::Lock::Timeout=120",
            "update",
        ]))?;
        provide()
    })
}

fn emulator_directory(tree: &Tree) -> PathBuf {
    tree.tools().join("qemu")
}

/// Starts a command line for the emulator: the machine's own, or the unpacked one.
pub(crate) fn emulator(tree: &Tree) -> Command {
    if let Some(installed) = command::find(EMULATOR_PROGRAM) {
        return Command::new(installed);
    }
    let root = emulator_directory(tree);
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(root.join("usr/bin").join(EMULATOR_PROGRAM));
    command
        .env(
            "LD_LIBRARY_PATH",
            format!("{}:{}", libraries.display(), root.join("lib/x86_64-linux-gnu").display()),
        )
        .env("QEMU_MODULE_DIR", libraries.join("qemu"));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(firmware));
    }
    command
}

/// Lists a package and what it needs that is not installed: what apt would install, without doing
/// it.
fn with_missing_dependencies(package: &str) -> Result<Vec<String>> {
    let mut simulate = Command::new("apt-get");
    let plan = command::stdout_of(simulate.args([
        "--simulate",
        "install",
        "--no-install-recommends",
        package,
    ]))?;
    // Inst NAME [OLD VERSION] (VERSION ...)
    let names =
        plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "apt-get names nothing to install for {package}");
    Ok(names)
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}
