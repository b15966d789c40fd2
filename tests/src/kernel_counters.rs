//! A namespace's own TCP and IP counters: the kernel's judgement of what steer sent it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::netns::NetNs;

/// Counters by `Group.Name`, as in /proc/net/snmp and netstat: `TcpExt.TCPSACKDiscard`, `Tcp.InCsumErrors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCounters {
    values: BTreeMap<String, i64>,
}

impl KernelCounters {
    /// Reads those of a namespace.
    ///
    /// # Errors
    /// When /proc cannot be read or has another form.
    pub fn read(ns: &NetNs) -> Result<Self> {
        let mut values = BTreeMap::new();
        for file in ["snmp", "netstat"] {
            parse_pairs(&ns.proc_net(file)?, &mut values).with_context(|| format!("read /proc/net/{file}"))?;
        }
        Ok(Self { values })
    }

    /// One counter.
    ///
    /// # Panics
    /// When there is none of that name: the test is wrong.
    #[track_caller]
    pub fn of(&self, name: &str) -> i64 {
        *self.values.get(name).unwrap_or_else(|| panic!("the kernel has no counter {name}"))
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(name, value): (&String, &i64)| {
            (name.clone(), value - before.values.get(name).copied().unwrap_or_default())
        };
        Self { values: self.values.iter().map(grown).collect() }
    }
}

/// Lines come in pairs: names, then values, both with the group's name in front.
fn parse_pairs(text: &str, values: &mut BTreeMap<String, i64>) -> Result<()> {
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let (group, names) = names.split_once(':').context("a line without a group")?;
        let (_, numbers) = numbers.split_once(':').context("a line without a group")?;
        for (name, number) in names.split_whitespace().zip(numbers.split_whitespace()) {
            // Unsigned where it matters to nobody here (MaxConn is -1).
            values.insert(format!("{group}.{name}"), number.parse().unwrap_or(i64::MAX));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_lines_become_named_values() -> Result<()> {
        let mut values = BTreeMap::new();
        parse_pairs("Tcp: A B\nTcp: 1 -1\nIp: A\nIp: 3\n", &mut values)?;
        assert_eq!(values["Tcp.A"], 1);
        assert_eq!(values["Tcp.B"], -1);
        assert_eq!(values["Ip.A"], 3);
        Ok(())
    }
}
