//! The machine a run was on, as the system tells: no names, no paths.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use super::table::Table;
use crate::process;

/// A program beside steer whose version matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// The backends.
    Nginx,
    /// The proxy to compare with.
    Haproxy,
    /// What nginx is linked with.
    Openssl,
    /// Plain kernel layer 4.
    Nft,
}

impl Peer {
    fn command(self) -> (&'static str, &'static str) {
        match self {
            Self::Nginx => ("nginx", "-v"),
            Self::Haproxy => ("haproxy", "-v"),
            Self::Openssl => ("openssl", "version"),
            Self::Nft => ("nft", "--version"),
        }
    }

    /// The first line in which it names its version.
    fn version(self) -> Result<String> {
        let (program, flag) = self.command();
        let output = Command::new(program)
            .arg(flag)
            .output()
            .with_context(|| format!("run {program} {flag}"))?;
        // nginx tells it on stderr.
        let said = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned();
        Ok(line
            .trim_start_matches("nginx version: ")
            .split(" - ")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned())
    }
}

/// What is written of a machine; `load` is that before the run.
pub(super) struct Machine {
    date: String,
    kernel: String,
    cpu: String,
    memory: String,
    steer: Option<String>,
    load: String,
    peers: Vec<(&'static str, String)>,
}

impl Machine {
    pub(super) fn look(peers: &[Peer]) -> Result<Self> {
        let cpuinfo = proc("cpuinfo")?;
        let model = field(&cpuinfo, "model name").unwrap_or("unknown");
        let cores = std::thread::available_parallelism()?;
        let flags = field(&cpuinfo, "flags").unwrap_or_default();
        let machine = if flags.split(' ').any(|flag| flag == "hypervisor") {
            ", a virtual machine"
        } else {
            ""
        };
        let kib: u64 = field(&proc("meminfo")?, "MemTotal")
            .and_then(|size| size.trim_end_matches(" kB").parse().ok())
            .context("read MemTotal of /proc/meminfo")?;
        let version = |peer: &Peer| Ok((peer.command().0, peer.version()?));
        Ok(Self {
            date: process::run(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?
                .trim()
                .to_owned(),
            kernel: format!("Linux {}", proc("sys/kernel/osrelease")?.trim()),
            cpu: format!("{model}, {cores} cores{machine}"),
            memory: format!("{:.1} GiB", kib as f64 / f64::from(1 << 20)),
            steer: commit(),
            load: load()?,
            peers: peers.iter().map(version).collect::<Result<_>>()?,
        })
    }

    /// The table of it, with the load at the time of writing.
    pub(super) fn table(&self) -> Result<String> {
        let load = format!("{} before the run, {} after it (1 minute)", self.load, load()?);
        let mut table = Table::new(&["", "as the system tells"])
            .row(["date", &self.date])
            .row(["kernel", &self.kernel])
            .row(["CPU", &self.cpu])
            .row(["memory", &self.memory])
            .row(["load average", &load]);
        if let Some(steer) = &self.steer {
            table = table.row(["steer", steer]);
        }
        for (name, version) in &self.peers {
            table = table.row([*name, version]);
        }
        Ok(table.to_string())
    }
}

/// The commit that is checked out, where git tells; pages of docs may differ from it.
fn commit() -> Option<String> {
    let git = |words: &str| process::run(Command::new("git").args(words.split(' '))).ok();
    let commit = git("rev-parse --short HEAD")?;
    let changed = git("status --porcelain --untracked-files=no -- :!docs")?;
    Some(format!(
        "commit {}{}",
        commit.trim(),
        if changed.is_empty() { "" } else { ", with changes" }
    ))
}

fn load() -> Result<String> {
    Ok(proc("loadavg")?.split(' ').next().unwrap_or_default().to_owned())
}

fn proc(file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{file}")).with_context(|| format!("read /proc/{file}"))
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(key, value)| (key.trim(), value.trim()))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_without_its_name() -> Result<()> {
        let table = Machine::look(&[Peer::Openssl])?.table()?;
        for known in ["kernel", "Linux ", "cores", "GiB", "OpenSSL "] {
            assert!(table.contains(known), "{known} is missing in {table}");
        }
        let name = proc("sys/kernel/hostname")?;
        assert!(!table.contains(name.trim()), "{table}");
        Ok(())
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        assert_eq!(field("a b : 1\nc: 2 kB\n", "c"), Some("2 kB"));
        assert_eq!(field("a b : 1\n", "a"), None);
    }
}
