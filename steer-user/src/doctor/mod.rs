//! `steer doctor`: whether a gateway can work on this machine, and what keeps it from that, before its
//! agent starts and while it runs.
//!
//! What the agent warns of and what `steer config check` says comes from the same code; here stands
//! what nobody looks at all the time.

mod around;
mod filters;
mod interfaces;
mod neighbours;
mod probe;

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    agent::{self, checks, plan},
    config::{Config, Pool},
    plane::{PinDir, kernel::Kernel, rights},
    report::{HealthState, Status},
};

/// What was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The worst that was found.
    pub state: HealthState,
    /// Everything that was looked at, in the order in which it matters.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: String,
    /// How it is.
    pub state: FindingState,
    /// What was found and, unless all is well, what to do.
    pub text: String,
}

/// How something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingState {
    /// As it should be.
    Good,
    /// Connections or sessions may be lost.
    Warning,
    /// The gateway cannot work.
    Wrong,
}

impl FindingState {
    /// The word in CLI and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
        }
    }

    /// How a gateway is where this is the worst finding.
    const fn health(self) -> HealthState {
        match self {
            Self::Good => HealthState::Healthy,
            Self::Warning => HealthState::Degraded,
            Self::Wrong => HealthState::Down,
        }
    }
}

/// Findings as they come.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &str, state: FindingState, text: impl Into<String>) {
        self.0.push(Finding { check: check.to_owned(), state, text: text.into() });
    }

    fn good(&mut self, check: &str, text: impl Into<String>) {
        self.add(check, FindingState::Good, text);
    }

    fn warn(&mut self, check: &str, text: impl Into<String>) {
        self.add(check, FindingState::Warning, text);
    }

    fn wrong(&mut self, check: &str, text: impl Into<String>) {
        self.add(check, FindingState::Wrong, text);
    }

    /// Each of these is a warning; where there is none, this is said.
    fn warnings(&mut self, check: &str, texts: impl IntoIterator<Item = String>, good: &str) {
        let texts = texts.into_iter().collect::<BTreeSet<_>>();
        if texts.is_empty() {
            self.good(check, good);
        }
        texts.into_iter().for_each(|text| self.warn(check, text));
    }

    fn done(self) -> Diagnosis {
        let worst = self.0.iter().map(|finding| finding.state).max();
        let state = worst.unwrap_or(FindingState::Good).health();
        Diagnosis { state, findings: self.0 }
    }
}

/// Looks at the machine as this configuration wants to use it, and at the gateway if one is there.
///
/// # Errors
/// When no runtime can be started; what cannot be looked at is a finding.
pub fn examine(file: &Path, dir: &PinDir, socket: &Path) -> Result<Diagnosis> {
    let mut findings = Findings::default();
    let kernel = Kernel::running();
    match kernel.require() {
        Ok(()) => findings.good("kernel", format!("{kernel} can run the programs")),
        Err(error) => findings.wrong("kernel", format!("{error:#}")),
    }
    match rights::require_to_start() {
        Ok(()) => findings.good("rights", "this process may load programs"),
        Err(error) => findings.wrong("rights", format!("{error:#}")),
    }
    match dir.require_bpf_fs() {
        Ok(()) => {
            findings.good("bpffs", format!("{} is on a BPF file system", dir.root().display()))
        }
        Err(error) => {
            let remedy = "mount one with `mount -t bpf bpf /sys/fs/bpf`";
            findings.wrong("bpffs", format!("{error:#}; {remedy}"));
        }
    }
    match Config::load(file) {
        Ok(config) => {
            let text = format!("{} is well-formed ({})", file.display(), config.counts());
            findings.good("configuration", text);
            configured(&mut findings, &config, dir)?;
        }
        Err(error) => findings.wrong("configuration", format!("{error:#}")),
    }
    running(&mut findings, dir, socket);
    Ok(findings.done())
}

/// What depends on the configuration.
fn configured(findings: &mut Findings, config: &Config, dir: &PinDir) -> Result<()> {
    match plan::judge(config, dir) {
        Ok(judged) => {
            memory(findings, &judged.memory);
            let destroys = judged.destroys.iter();
            let destroys =
                destroys.map(|lost| format!("a start needs --force, for it would destroy {lost}"));
            let all = judged.warnings.iter().cloned().chain(destroys);
            findings.warnings("start", all, "a start with this file would be taken");
        }
        Err(error) => findings.wrong("start", format!("a start would be refused: {error:#}")),
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        match agent::refusals(config).await {
            Ok(refusals) => {
                let all = refusals.iter().map(ToString::to_string);
                findings.warnings("interfaces", all, "every interface is there and can be used");
            }
            Err(error) => findings.warn("interfaces", format!("{error:#}")),
        }
        interfaces::look(findings, config, dir);
        around::look(findings, config).await;
        filters::look(findings, config);
        neighbours::look(findings, config).await;
        probe::look(findings, config).await;
    });
    Ok(())
}

fn memory(findings: &mut Findings, memory: &crate::plane::Memory) {
    const MEBI: u64 = 1 << 20;
    let (name, largest) = memory.largest;
    let text = format!(
        "the tables take {} MiB, {} MiB of it still to be made; {name} is the largest with {} MiB",
        memory.total.div_ceil(MEBI),
        memory.new.div_ceil(MEBI),
        largest.div_ceil(MEBI)
    );
    match memory.available {
        // The agent, and packets, want some, too.
        Some(available) if memory.new > available / 2 => {
            let free = available / MEBI;
            findings.warn(
                "memory",
                format!("{text}: more than half of the {free} MiB that are free; lower [sizes]"),
            );
        }
        Some(available) => {
            findings.good("memory", format!("{text}; {} MiB are free", available / MEBI))
        }
        None => findings.good("memory", text),
    }
}

/// The gateway that is there, if one is.
fn running(findings: &mut Findings, dir: &PinDir, socket: &Path) {
    if dir.layouts().is_empty() {
        findings.good("gateway", "none is there yet: systemctl start steer, then ask again");
        return;
    }
    let status = match Status::read(dir, socket) {
        Ok(status) => status,
        Err(error) => return findings.wrong("gateway", format!("{error:#}")),
    };
    let known = findings.0.iter().map(|finding| finding.text.clone()).collect::<HashSet<_>>();
    let state = match status.health.state {
        HealthState::Healthy => FindingState::Good,
        HealthState::Degraded => FindingState::Warning,
        HealthState::Down => FindingState::Wrong,
    };
    let because = match &status.health.because[..] {
        [] => "it is healthy".to_owned(),
        because => because.join("; "),
    };
    findings.add("gateway", state, because);
    let new = status.warnings.into_iter().filter(|warning| !known.contains(warning));
    new.for_each(|warning| findings.warn("gateway", warning));
    let full = |table: &&crate::report::TableReport| {
        table.entries * 10 >= u64::from(table.max_entries) * 9
    };
    let tables = status.tables.iter().filter(full).map(|table| {
        format!(
            "the table {} holds {} of {} entries: raise it in [sizes] (docs/memory.md)",
            table.name, table.entries, table.max_entries
        )
    });
    findings.warnings("tables", tables, "no table is nearly full");
}

/// Addresses whose packets are routed here: VIPs, and backends that are not behind a bridge.
fn routed(config: &Config) -> BTreeSet<IpAddr> {
    let pools = config.pools.iter().filter(|pool| !pool.is_bridged());
    let backends = pools.flat_map(|pool: &Pool| &pool.backends);
    let vips = config.addresses().map(|vip| vip.ip());
    vips.chain(backends.map(|backend| backend.address.ip())).collect()
}

/// Sentences of warnings.
fn texts(warnings: Vec<checks::Warning>) -> impl Iterator<Item = String> {
    warnings.into_iter().map(|warning| warning.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_gateways_state() {
        let mut findings = Findings::default();
        findings.good("a", "x");
        assert_eq!(Findings(findings.0.clone()).done().state, HealthState::Healthy);
        findings.warnings("b", ["y".to_owned(), "y".to_owned()], "z");
        assert_eq!(findings.0.len(), 2, "what is said twice is said once");
        assert_eq!(Findings(findings.0.clone()).done().state, HealthState::Degraded);
        findings.wrong("c", "w");
        assert_eq!(findings.done().state, HealthState::Down);
    }

    #[test]
    fn tables_that_take_more_than_half_of_what_is_free_are_warned_of_with_the_sum() {
        let of = |new, available| {
            let largest = ("flows", 3 << 20);
            let memory = crate::plane::Memory { total: 4 << 20, new, largest, available };
            let mut findings = Findings::default();
            super::memory(&mut findings, &memory);
            findings.0.remove(0)
        };
        let tight = of(4 << 20, Some(6 << 20));
        assert_eq!(tight.state, FindingState::Warning);
        assert!(tight.text.contains("4 MiB") && tight.text.contains("of the 6 MiB"), "{tight:?}");
        assert_eq!(of(0, Some(6 << 20)).state, FindingState::Good, "they are there already");
        assert_eq!(of(4 << 20, None).state, FindingState::Good);
    }
}
