//! Debian packages unpacked below target/tools: nothing is installed, and nothing that is installed has to give way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{command, tree::Tree};

/// Debian's emulator; other versions of its tools may be installed, and the two do not go together.
const EMULATOR: &str = "qemu-system-x86";
const EMULATOR_PROGRAM: &str = "qemu-system-x86_64";

/// Depends on the newest 6.1 kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Something that is unpacked rather than installed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unpacked {
    Emulator,
    Kernel,
}

impl Unpacked {
    pub(crate) const ALL: [Self; 2] = [Self::Emulator, Self::Kernel];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Emulator => "qemu",
            Self::Kernel => "kernel-6.1",
        }
    }

    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Emulator => "runs the 6.1 kernel",
            Self::Kernel => "the oldest kernel that is supported, to try the programs in",
        }
    }

    /// Tells whether it is there.
    pub(crate) fn is_there(self, tree: &Tree) -> bool {
        match self {
            Self::Emulator => command::find(EMULATOR_PROGRAM).is_some() || self.directory(tree).is_dir(),
            Self::Kernel => self.directory(tree).is_dir(),
        }
    }

    /// Downloads and unpacks it. The package lists are fetched anew if the old ones do not serve.
    pub(crate) fn provide(self, tree: &Tree) -> Result<()> {
        command::find("apt-get").with_context(|| format!("find apt-get: {} comes in Debian packages", self.name()))?;
        let first = self.try_provide(tree);
        first.or_else(|error| {
            eprintln!("setup: fetching the package lists anew ({error:#})");
            command::run_aside(Command::new("apt-get").args(["-q", "-o", "DPkg::Lock::Timeout=120", "update"]))?;
            self.try_provide(tree)
        })
    }

    fn try_provide(self, tree: &Tree) -> Result<()> {
        let download = tree.tools().join("download");
        let unpacked = download.join("unpacked");
        remove(&download)?;
        fs::create_dir_all(&unpacked).with_context(|| format!("make {}", unpacked.display()))?;
        let packages = match self {
            Self::Emulator => with_missing_dependencies(EMULATOR)?,
            Self::Kernel => vec![newest_kernel()?],
        };
        let mut fetch = Command::new("apt-get");
        // Apt's own user cannot write to a private checkout.
        command::run_aside(
            fetch.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(&packages).current_dir(&download),
        )?;
        for entry in fs::read_dir(&download).context("list what was downloaded")? {
            let archive = entry.context("list what was downloaded")?.path();
            if archive.extension().is_some_and(|extension| extension == "deb") {
                command::run_aside(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&unpacked))?;
            }
        }
        // Renamed when complete: a directory that is there is whole.
        fs::rename(&unpacked, self.directory(tree)).with_context(|| format!("move {} to its place", self.name()))?;
        remove(&download)
    }

    fn directory(self, tree: &Tree) -> PathBuf {
        tree.tools().join(self.name())
    }
}

/// Starts a command line for the emulator: the machine's own, or the unpacked one.
pub(crate) fn emulator(tree: &Tree) -> Command {
    if let Some(installed) = command::find(EMULATOR_PROGRAM) {
        return Command::new(installed);
    }
    let root = Unpacked::Emulator.directory(tree);
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(root.join("usr/bin").join(EMULATOR_PROGRAM));
    command
        .env("LD_LIBRARY_PATH", format!("{}:{}", libraries.display(), root.join("lib/x86_64-linux-gnu").display()))
        .env("QEMU_MODULE_DIR", libraries.join("qemu"));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(firmware));
    }
    command
}

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// Directory of its modules, `lib/modules/VERSION`.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Finds the image and the modules of the unpacked kernel.
    pub(crate) fn find(tree: &Tree) -> Result<Self> {
        let directory = Unpacked::Kernel.directory(tree);
        let mut versions = fs::read_dir(directory.join("lib/modules")).context("find the 6.1 kernel")?;
        let version = versions.next().context("find the 6.1 kernel's modules")?.context("find the 6.1 kernel")?;
        let image = directory.join("boot").join(format!("vmlinuz-{}", version.file_name().display()));
        ensure!(image.is_file(), "find the 6.1 kernel: {} is not there", image.display());
        Ok(Self { image, modules: version.path() })
    }
}

/// Lists a package and what it needs that is not installed: what apt would install, without doing it.
fn with_missing_dependencies(package: &str) -> Result<Vec<String>> {
    let mut simulate = Command::new("apt-get");
    let plan = command::stdout_of(simulate.args(["--simulate", "install", "--no-install-recommends", package]))?;
    // Inst NAME [OLD VERSION] (VERSION ...)
    let names = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "apt-get names nothing to install for {package}");
    Ok(names)
}

/// Resolves the metapackage to the package with the kernel in it.
fn newest_kernel() -> Result<String> {
    let depends = command::stdout_of(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.with_context(|| format!("find the kernel that {KERNEL} depends on"))?;
    ensure!(package.starts_with("linux-image-6.1."), "this Debian offers {package}, not a 6.1 kernel");
    Ok(package.to_owned())
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}
