//! `cargo xtask dist`: the packages of `steer` in target/dist, with checksums and a list of what
//! the binary is built from.

mod check;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    build::{self, Profile},
    command,
    setup::{
        self, Job,
        crates::{BOM, DEB, RPM, Tool},
    },
    tree::Tree,
};

/// Which licences there are; Debian wants those named that every system of it has.
const LICENSES: &str = "\
The eBPF programs inside the binary: MIT or GPL-2.0-only, at your choice. Everything else: MIT or Apache-2.0, at your
choice. On Debian systems the texts of the Apache License 2.0 and of the GNU General Public License, version 2, are in
/usr/share/common-licenses/Apache-2.0 and /usr/share/common-licenses/GPL-2. The MIT license:

";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Then judge the packages and install, use and remove one in a Debian 12 of its own (root).
    #[arg(long)]
    check: bool,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
}

/// What was made.
struct Made {
    deb: PathBuf,
    rpm: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tree = Tree::find()?;
    setup::ensure(&tree, Job::Dist, arguments.no_install)?;
    let made = make(&tree)?;
    if arguments.check {
        check::run(&tree, &made)?;
    }
    eprintln!("dist: {}", directory(&tree).display());
    Ok(())
}

/// Where packages are put; `steer-user/Cargo.toml` names what stands in `files` below it.
fn directory(tree: &Tree) -> PathBuf {
    tree.root().join("target/dist")
}

fn make(tree: &Tree) -> Result<Made> {
    let steer = build::steer(tree, Profile::Release)?;
    let directory = directory(tree);
    remove(&directory)?;
    let files = directory.join("files");
    fs::create_dir_all(&files).with_context(|| format!("make {}", files.display()))?;
    manual(tree, &files)?;
    licenses(tree, &files)?;
    changelog(tree, &files)?;
    fs::copy(&steer, files.join("steer")).context("copy the binary")?;
    command::run_aside(Command::new("strip").arg(files.join("steer")))?;
    let made = Made { deb: deb(tree, &directory)?, rpm: rpm(tree, &directory)? };
    bill_of_materials(tree, &directory)?;
    checksums(&directory)?;
    Ok(made)
}

/// Man pages, packed, and completions, by the command line's own definition.
fn manual(tree: &Tree, files: &Path) -> Result<()> {
    let run = ["run", "--release", "--package", "steer-user", "--example", "manual", "--"];
    command::run_aside(tree.cargo(&run).arg(files))?;
    let pages = list(&files.join("man"), "1")?;
    command::run_aside(Command::new("gzip").arg("-9n").args(pages))
}

fn licenses(tree: &Tree, files: &Path) -> Result<()> {
    let mit = fs::read_to_string(tree.root().join("LICENSE-MIT")).context("read LICENSE-MIT")?;
    fs::write(files.join("LICENSES"), format!("{LICENSES}{mit}")).context("write the licences")
}

/// The project's, packed, and Debian's own form of a changelog, which leads to it.
fn changelog(tree: &Tree, files: &Path) -> Result<()> {
    let upstream = files.join("upstream");
    fs::copy(tree.root().join("CHANGELOG.md"), &upstream).context("copy CHANGELOG.md")?;
    command::run_aside(Command::new("gzip").arg("-9n").arg(&upstream))?;
    let date = command::stdout_of(git(tree).args(["log", "-1", "--format=%aD"]))?;
    let version = env!("CARGO_PKG_VERSION");
    let text = format!(
        "steer ({version}-1) stable; urgency=medium\n\n  * The changes are told in changelog.gz beside this file.\n\n \
         -- The steer maintainers <maintainers@steer.invalid>  {}\n",
        date.trim()
    );
    fs::write(files.join("changelog"), text).context("write the changelog")
}

fn deb(tree: &Tree, directory: &Path) -> Result<PathBuf> {
    let mut deb = tool(tree, &DEB)?;
    deb.args(["--package", "steer-user", "--no-build", "--no-strip", "--quiet", "--output"])
        .arg(directory);
    command::run_aside(&mut deb)?;
    only(directory, "deb")
}

fn rpm(tree: &Tree, directory: &Path) -> Result<PathBuf> {
    let mut rpm = tool(tree, &RPM)?;
    command::run_aside(rpm.args(["--package", "steer-user", "--output"]).arg(directory))?;
    only(directory, "rpm")
}

/// One for the program, one for the eBPF programs inside.
fn bill_of_materials(tree: &Tree, directory: &Path) -> Result<()> {
    for (package, name) in [("steer-user", "steer"), ("steer-ebpf", "steer-ebpf")] {
        let mut bom = tool(tree, &BOM)?;
        let manifest = tree.root().join(package).join("Cargo.toml");
        bom.args(["cyclonedx", "--format", "json", "--override-filename", name]);
        command::run_aside(bom.arg("--manifest-path").arg(manifest))?;
        let file = format!("{name}.cdx.json");
        // It writes beside the manifest, of every member of the workspace that it meets.
        for member in ["steer-common", "steer-ebpf", "steer-user", "tests", "xtask"] {
            let written = tree.root().join(member).join(format!("{name}.json"));
            if member == package {
                fs::copy(&written, directory.join(&file))
                    .with_context(|| format!("copy {}", written.display()))?;
            }
            if written.exists() {
                fs::remove_file(&written)
                    .with_context(|| format!("remove {}", written.display()))?;
            }
        }
    }
    Ok(())
}

fn checksums(directory: &Path) -> Result<()> {
    let named = ["deb", "rpm", "json"].map(|ending| list(directory, ending));
    let mut names = Vec::new();
    for files in named {
        names.extend(files?.into_iter().filter_map(|file| Some(file.file_name()?.to_owned())));
    }
    let sums = File::create(directory.join("SHA256SUMS")).context("make SHA256SUMS")?;
    let mut sum = Command::new("sha256sum");
    command::run(sum.args(names).current_dir(directory).stdin(Stdio::null()).stdout(sums))
}

/// A tool in the checkout; what it makes bears the date of the commit.
fn tool(tree: &Tree, tool: &Tool) -> Result<Command> {
    let program = tool.find(tree).with_context(|| format!("find {}", tool.name))?;
    let date = command::stdout_of(git(tree).args(["log", "-1", "--format=%at"]))?;
    let mut command = Command::new(program);
    command
        .current_dir(tree.root())
        .env("CARGO_TARGET_DIR", tree.target())
        .env("SOURCE_DATE_EPOCH", date.trim());
    Ok(command)
}

fn git(tree: &Tree) -> Command {
    let mut git = Command::new("git");
    git.current_dir(tree.root());
    git
}

/// The files of a directory with this ending, in order.
fn list(directory: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("list {}", directory.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()
        .with_context(|| format!("list {}", directory.display()))?;
    files.retain(|file| file.extension().is_some_and(|own| own == ending));
    files.sort();
    Ok(files)
}

fn only(directory: &Path, ending: &str) -> Result<PathBuf> {
    let found = list(directory, ending)?.into_iter().next();
    found.with_context(|| format!("find what was made, *.{ending}, in {}", directory.display()))
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}
