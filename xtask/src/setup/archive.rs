//! Debian's archive, another suite of it than the machine's own: apt with lists, status and cache
//! of its own below target/tools. The machine's apt, its lists and its hooks are left alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::command;

/// The key of Debian's archive, as its package installs it.
const KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite with its security updates, if it has any.
pub(super) struct Archive {
    config: PathBuf,
}

impl Archive {
    /// Makes apt's directory and fetches the suite's list of packages.
    pub(super) fn open(directory: &Path, suite: &str) -> Result<Self> {
        for place in ["state/lists/partial", "cache/archives/partial"] {
            let place = directory.join(place);
            fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
        }
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))
        };
        write("state/status", "")?;
        write(
            "sources.list",
            &sources(&Mirrors::of_this_machine()?, suite, Path::new(KEY).is_file()),
        )?;
        write("apt.conf", &config(directory))?;
        let archive = Self { config: directory.join("apt.conf") };
        command::run_aside(archive.apt("apt-get").args(["-q", "update"]))?;
        Ok(archive)
    }

    /// What a package depends on, directly or not, by name.
    pub(super) fn needed(&self, package: &str) -> Result<Vec<String>> {
        let mut depends = self.apt("apt-cache");
        let only =
            ["--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces"];
        let names =
            command::stdout_of(depends.args(["depends", "--recurse"]).args(only).arg(package))?;
        // A package's own line begins it; its relations are indented, and virtual packages stand in
        // angle brackets.
        let names = names
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric()));
        let names: Vec<String> = names.map(str::to_owned).collect();
        ensure!(!names.is_empty(), "the archive names no package {package}");
        Ok(names)
    }

    /// Downloads packages into a directory.
    pub(super) fn download(&self, packages: &[String], directory: &Path) -> Result<()> {
        let mut fetch = self.apt("apt-get");
        command::run_aside(fetch.args(["-q", "download"]).args(packages).current_dir(directory))
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.arg("-c").arg(&self.config).env("LC_ALL", "C");
        apt
    }
}

/// Where this machine gets Debian from, for debootstrap.
pub(crate) fn mirror() -> Result<String> {
    Ok(Mirrors::of_this_machine()?.main)
}

/// Where this machine gets Debian from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: Option<String>,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let format = "$(LABEL)|$(REPO_URI)";
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", format, "Created-By: Packages"]);
        let text = command::stdout_of(targets.env("LC_ALL", "C"))?;
        Self::parse(&text).context(
            "find the mirror that this machine gets Debian from: apt-get names none (`apt-get update` fetches its lists)",
        )
    }

    /// Reads lines `LABEL|URI`, the label as the repository's Release file has it.
    fn parse(targets: &str) -> Option<Self> {
        let of = |label: &str| {
            let mut uris = targets.lines().filter_map(|line| line.split_once('|'));
            uris.find(|(of, _)| *of == label).map(|(_, uri)| uri.to_owned())
        };
        Some(Self { main: of("Debian")?, security: of("Debian-Security") })
    }
}

/// Packages only: no descriptions in other languages, no software catalogue.
fn sources(mirrors: &Mirrors, suite: &str, has_key: bool) -> String {
    let key = if has_key { format!(" signed-by={KEY}") } else { String::new() };
    let line = |uri: &str, suite: &str| format!("deb [target=Packages{key}] {uri} {suite} main\n");
    let mut text = line(&mirrors.main, suite);
    if let Some(security) = mirrors.security.as_ref().filter(|_| !suite.ends_with("-backports")) {
        text += &line(security, &format!("{suite}-security"));
    }
    text
}

/// Read after the machine's own configuration, so that its proxies hold. Its hooks clear its own
/// cache: they go.
fn config(directory: &Path) -> String {
    let place = directory.display();
    format!(
        "#clear APT::Update;\n\
         Dir::State \"{place}/state\";\n\
         Dir::State::status \"{place}/state/status\";\n\
         Dir::Cache \"{place}/cache\";\n\
         Dir::Etc::SourceList \"{place}/sources.list\";\n\
         Dir::Etc::SourceParts \"-\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors() -> Mirrors {
        let targets = "Other|http://other/\nDebian|http://mirror/debian/\nDebian|http://mirror/debian/\n\
                       Debian-Security|http://mirror/security/\n";
        Mirrors::parse(targets).expect("a mirror")
    }

    #[test]
    fn the_mirror_is_told_by_its_label() {
        let security = Some("http://mirror/security/".to_owned());
        assert_eq!(mirrors(), Mirrors { main: "http://mirror/debian/".to_owned(), security });
        assert_eq!(Mirrors::parse("Ubuntu|http://mirror/ubuntu/\n"), None);
    }

    #[test]
    fn a_suite_comes_with_its_security_updates_and_backports_without() {
        let text = sources(&mirrors(), "trixie", true);
        let key = "[target=Packages signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        assert_eq!(
            text,
            format!(
                "deb {key} http://mirror/debian/ trixie main\ndeb {key} http://mirror/security/ trixie-security main\n"
            )
        );
        let backports = sources(&mirrors(), "trixie-backports", false);
        assert_eq!(
            backports,
            "deb [target=Packages] http://mirror/debian/ trixie-backports main\n"
        );
    }
}
