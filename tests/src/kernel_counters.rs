//! A namespace's own TCP and IP counters: the kernel's judgement of what steer sent it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::netns::NetNs;

/// Counters by `Group.Name`, as in /proc/net/snmp and netstat: `TcpExt.TCPSACKDiscard`,
/// `Tcp.InCsumErrors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCounters {
    values: BTreeMap<String, i64>,
}

const PAWS: &str = "TcpExt.PAWSEstab";
const SACK_DISCARD: &str = "TcpExt.TCPSACKDiscard";
/// How many bare acknowledgements may be overtaken in a short exchange.
const OVERTAKEN: i64 = 3;

impl KernelCounters {
    /// Reads those of a namespace.
    ///
    /// # Errors
    /// When /proc cannot be read or has another form.
    pub fn read(ns: &NetNs) -> Result<Self> {
        let mut values = BTreeMap::new();
        for file in ["snmp", "netstat"] {
            parse_pairs(&ns.proc_net(file)?, &mut values)
                .with_context(|| format!("read /proc/net/{file}"))?;
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

    /// What a kernel may not have to say about packets that steer made or changed, if it did, given
    /// what grew.
    pub fn harm(&self) -> Option<String> {
        let explained = |name| match name {
            // Linux doubts that a network duplicates more than was sent twice, and counts a D-SACK
            // here then.
            SACK_DISCARD => self.of("TcpExt.TCPDSACKIgnoredDubious"),
            // A copy that a newer segment overtook is old by its timestamp, and right so. Its
            // kernel had the data, and answers with a D-SACK; for data that it lacks it would
            // answer without (RFC 2883). Bare acknowledgements are overtaken, too, when the work
            // moves to another CPU: a few, and more the longer a transfer. Wrong timestamps would
            // be those of all segments.
            PAWS => self.of("TcpExt.TCPDSACKOldSent") + OVERTAKEN + self.of("Tcp.InSegs") / 200,
            _ => 0,
        };
        let harm = ["Tcp.InCsumErrors", PAWS, SACK_DISCARD];
        let found = harm.into_iter().find(|name| self.of(name) > explained(name))?;
        Some(format!("{found} {}, {} of them explained", self.of(found), explained(found)))
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
