//! What the machine's own tools say of its network, and the journal.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Each is asked if it is there; the first words name the entry.
const LINES: [&str; 11] = [
    "ip -statistics -details link",
    "ip address",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip rule",
    "ip neighbour",
    "nft list ruleset",
    "bpftool net",
    "bpftool prog show name steer_tc",
    "bpftool prog show name steer_xdp",
    "sysctl net.ipv4.ip_forward net.ipv4.conf net.ipv6.conf.all.forwarding",
];
/// The end of the agent's journal.
const JOURNAL: &str = "journalctl --unit steer --lines 2000 --no-pager --output short-iso";

/// Each command's name, and what it said.
pub(super) fn all() -> Vec<(String, Result<String>)> {
    LINES.iter().chain([&JOURNAL]).map(|line| (name(line), said(line))).collect()
}

/// The words without options, for a file's name.
fn name(line: &str) -> String {
    let words = line.split(' ').take(5).map(|word| word.trim_start_matches('-'));
    words.collect::<Vec<_>>().join("-")
}

fn said(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {program}"))?;
    ensure!(
        output.status.success(),
        "`{line}` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_command_has_a_name_of_its_own() {
        let names = LINES.iter().chain([&JOURNAL]).map(|line| name(line)).collect::<HashSet<_>>();
        assert_eq!(names.len(), LINES.len() + 1, "{names:?}");
        assert!(names.iter().all(|name| !name.contains('/')), "{names:?}");
    }
}
