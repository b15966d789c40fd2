//! The programs of the stacks: where each is, how the others are installed, and what they say their
//! version is.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::process;

/// What a stack is run by.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// A program of the machine, by its name in PATH.
    Machine {
        /// Its name, or its path where it does not lie in PATH.
        name: &'static str,
        /// What makes it say its version.
        asked: &'static [&'static str],
        /// Other programs that it takes.
        with: &'static [&'static str],
    },
    /// A program out of a package of PyPI.
    Wheel {
        /// `name==version`.
        package: &'static str,
        /// Where it lies in the package; `ARCH` stands for the machine's architecture.
        file: &'static str,
        /// What makes it say its version.
        asked: &'static [&'static str],
    },
    /// Libraries out of a package of PyPI, that a script loads.
    Libraries {
        /// `name==version`.
        package: &'static str,
        /// Their folder in the package.
        file: &'static str,
        /// Python that prints their version, its argument the folder.
        asked: &'static str,
    },
    /// This program itself, by a crate that is linked.
    Crate(&'static str),
}

/// A program that can be run.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// In its own words.
    pub(super) version: String,
}

/// Where the packages are.
#[derive(Clone, Debug)]
pub struct Packages {
    /// One folder each, kept from run to run.
    pub directory: PathBuf,
    /// Whether what is missing is installed.
    pub install: bool,
}

impl Program {
    /// Finds it, installed now if it has to be.
    ///
    /// # Errors
    /// In one line, why it cannot be run.
    pub(super) fn find(self, packages: &Packages) -> Result<Found> {
        let (path, asked) = match self {
            Self::Crate(name) => {
                let version =
                    format!("{name} {}", locked(name).context("it is not in Cargo.lock")?);
                return Ok(Found { path: PathBuf::new(), version });
            }
            Self::Machine { name, asked, with } => {
                let find =
                    |name: &&str| in_path(name).with_context(|| format!("{name} is not installed"));
                with.iter().try_for_each(|name| find(name).map(drop))?;
                (find(&name)?, asked)
            }
            Self::Wheel { package, file, asked } => {
                let folder = packages.folder(package)?;
                (folder.join(file.replace("ARCH", env::consts::ARCH)), asked)
            }
            Self::Libraries { package, file, asked } => {
                let path = packages.folder(package)?.join(file);
                let version = process::run(Command::new("python3").args(["-c", asked]).arg(&path))?;
                return Ok(Found { path, version: version.trim().to_owned() });
            }
        };
        let version =
            first_line(&path, asked).with_context(|| format!("{} does not run", path.display()))?;
        Ok(Found { path, version })
    }
}

impl Packages {
    /// The folder of a package; there at once or not at all.
    fn folder(&self, package: &str) -> Result<PathBuf> {
        let folder = self.directory.join(package.replace("==", "-"));
        if folder.is_dir() {
            return Ok(folder);
        }
        ensure!(self.install, "{package} is not installed");
        eprintln!("matrix: installing {package} by pip");
        let new = tempfile::Builder::new().prefix(".new-").tempdir_in(self.made()?)?;
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]);
        pip.env("PIP_ROOT_USER_ACTION", "ignore").arg("--target").arg(new.path()).arg(package);
        let output = pip.output().context("run pip")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "pip cannot install {package}: {}",
            said.lines().rev().find(|line| !line.is_empty()).unwrap_or_default()
        );
        std::fs::rename(new.keep(), &folder)
            .with_context(|| format!("name the folder of {package}"))?;
        Ok(folder)
    }

    fn made(&self) -> Result<&Path> {
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("make {}", self.directory.display()))?;
        Ok(&self.directory)
    }
}

/// First line of what a program prints, on stdout or stderr.
pub(super) fn first_line(program: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned())
}

/// Finds a program in PATH or where system tools lie outside a plain user's PATH.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// The version of a crate that is linked.
fn locked(name: &str) -> Option<&'static str> {
    const LOCK: &str = include_str!("../../../Cargo.lock");
    let (_, after) = LOCK.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    after.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_said_in_one_line() {
        let packages = Packages { directory: "/nonexistent".into(), install: false };
        let why = |program: Program| {
            program.find(&packages).map_err(|error| format!("{error:#}")).map(|found| found.version)
        };
        let missing = Program::Machine { name: "no-such-program", asked: &[], with: &[] };
        assert_eq!(why(missing), Err("no-such-program is not installed".to_owned()));
        let package = Program::Wheel { package: "deno==2.9.8", file: "bin/deno", asked: &[] };
        assert_eq!(why(package), Err("deno==2.9.8 is not installed".to_owned()));
    }

    #[test]
    fn a_linked_crate_says_its_version() {
        assert!(locked("rustls").is_some_and(|version| version.starts_with("0.")));
        assert_eq!(locked("no-such-crate"), None);
    }
}
