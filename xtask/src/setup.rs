//! `cargo xtask setup`: finds what is missing, says so and why, then installs it. Run again, it
//! does nothing.

pub(crate) mod archive;
pub(crate) mod crates;
pub(crate) mod kernels;
mod linker;
mod packages;
pub(crate) mod unpacked;

use std::env;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use kernels::Series;
use unpacked::Unpacked;

use crate::{
    command, rights,
    toolchain::{self, Missing},
    tree::Tree,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report what is missing; exit code 1 if anything is.
    #[arg(long)]
    no_install: bool,
    /// What the machine shall be able to do.
    #[arg(long = "for", value_enum, default_value_t = Job::All)]
    job: Job,
}

/// What a machine can be set up for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Job {
    /// Compile.
    Build,
    /// Compile and run the tests.
    Test,
    /// Compile and run the demo.
    Demo,
    /// Compile and run the benchmarks.
    Bench,
    /// Compile and load the programs, also into other kernels in a virtual machine.
    Verify,
    /// All of these, and the linter for the eBPF programs.
    All,
    /// Compile and run the matrix: other TLS stacks, large, so that only this asks for them.
    Matrix,
    /// Compile and check the dependencies; cargo-deny takes minutes to build, so that only this
    /// asks for it.
    Deny,
    /// Compile and try alert rules and dashboard; Prometheus is large, so that only this asks for it.
    Monitoring,
    /// Make packages and try them; their tools take minutes to build, so that only this asks for
    /// them.
    Dist,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tree = Tree::find()?;
    ensure(&tree, arguments.job, arguments.no_install)?;
    eprintln!("setup: everything is there");
    Ok(())
}

/// Makes sure that everything a job needs is there; silent if it is.
pub(crate) fn ensure(tree: &Tree, job: Job, no_install: bool) -> Result<()> {
    let kernels: &[Series] =
        if matches!(job, Job::Verify | Job::All) { &Series::DEFAULT } else { &[] };
    ensure_with_kernels(tree, job, kernels, no_install)
}

/// As [`ensure`], with these kernels and an emulator to boot them.
pub(crate) fn ensure_with_kernels(
    tree: &Tree,
    job: Job,
    kernels: &[Series],
    no_install: bool,
) -> Result<()> {
    let plan = Plan::make(tree, job, kernels)?;
    if plan.is_empty() {
        return Ok(());
    }
    plan.report(no_install);
    if no_install && plan.is_optional() {
        return Ok(());
    }
    if no_install {
        bail!("the above is missing; without --no-install it is installed");
    }
    plan.carry_out(tree)
}

/// What is missing.
struct Plan {
    packages: Vec<&'static packages::Package>,
    linker: bool,
    tools: Vec<&'static crates::Tool>,
    unpacked: Vec<Unpacked>,
}

impl Plan {
    fn make(tree: &Tree, job: Job, kernels: &[Series]) -> Result<Self> {
        let mut packages = packages::missing_for(job);
        let mut linker = false;
        if env::var_os(toolchain::OBJECT_VAR).is_none() {
            let compiler = match toolchain::choose(tree.root()) {
                Ok(toolchain) => {
                    linker = linker::is_stale(tree, &toolchain)?;
                    Some(toolchain.compiler)
                }
                Err(missing) => {
                    linker = true;
                    match missing {
                        Missing::Linker(compiler) => Some(compiler),
                        Missing::Compiler => None,
                        Missing::NamedCompiler(_) => bail!("{missing}"),
                    }
                }
            };
            if compiler.is_none() {
                packages.extend(&packages::COMPILER);
            }
            if job == Job::All
                && compiler
                    .is_none_or(|compiler| compiler.is_debian() && compiler.linter().is_none())
            {
                packages.push(&packages::LINTER);
            }
        }
        let emulator = (!kernels.is_empty()).then_some(Unpacked::Emulator);
        let unpacked = emulator.into_iter().chain(kernels.iter().copied().map(Unpacked::Kernel));
        let unpacked = unpacked.filter(|unpacked| !unpacked.is_there(tree)).collect();
        let tools = crates::missing_for(tree, job);
        Ok(Self { packages, linker, tools, unpacked })
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty()
            && !self.linker
            && self.tools.is_empty()
            && self.unpacked.is_empty()
    }

    /// Whether the job can do without all of it.
    fn is_optional(&self) -> bool {
        self.packages.iter().all(|package| package.optional)
            && !self.linker
            && self.tools.is_empty()
            && self.unpacked.is_empty()
    }

    fn report(&self, no_install: bool) {
        eprintln!("setup: {}", if no_install { "missing:" } else { "missing, and installed now:" });
        for package in &self.packages {
            eprintln!("  {:<18} {} (package, by apt-get)", package.name, package.why);
        }
        if self.linker {
            eprintln!(
                "  {:<18} links the eBPF programs; must have the compiler's own LLVM (built by cargo into target/tools)",
                format!("bpf-linker {}", linker::VERSION)
            );
        }
        for tool in &self.tools {
            let name = format!("{} {}", tool.name, tool.version);
            eprintln!("  {name:<18} {} (built by cargo into target/tools)", tool.why);
        }
        for unpacked in &self.unpacked {
            eprintln!(
                "  {:<18} {} (packages unpacked into target/tools)",
                unpacked.name(),
                unpacked.why()
            );
        }
    }

    fn carry_out(&self, tree: &Tree) -> Result<()> {
        if !self.packages.is_empty() {
            packages::install(&self.packages)?;
        }
        if self.linker {
            match toolchain::choose(tree.root()) {
                Ok(found) => linker::build(tree, &found.compiler)?,
                Err(Missing::Linker(compiler)) => linker::build(tree, &compiler)?,
                Err(missing @ (Missing::Compiler | Missing::NamedCompiler(_))) => {
                    bail!("{missing}")
                }
            }
            if let Err(missing) = toolchain::choose(tree.root()) {
                bail!("{missing}, though it was just built");
            }
        }
        for tool in &self.tools {
            tool.build(tree)?;
        }
        for unpacked in &self.unpacked {
            unpacked.provide(tree)?;
        }
        Ok(())
    }
}

/// Fails with one sentence where packages are needed that this user or system cannot install.
fn require_installer() -> Result<()> {
    command::find("apt-get")
        .context("find apt-get: this is no Debian, install the packages above by other means")?;
    if !rights::is_root()? {
        bail!("installing packages needs root: run `cargo xtask setup` as root once");
    }
    Ok(())
}
