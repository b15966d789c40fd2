//! The capabilities that steer needs: refuses where they are missing, and gives up the others.
//!
//! A thread has its own: they are given up before any other thread is there, and every later one
//! inherits what is left.

use anyhow::{Context as _, Result, bail};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

/// Asked of every verb that touches a gateway.
const EVERY_VERB: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);
/// The agent while it comes up: `CAP_BPF` to make maps and load programs, and `CAP_PERFMON`,
/// without which the verifier takes no program that subtracts packet pointers.
const START: CapabilitySet = EVERY_VERB.union(CapabilitySet::PERFMON);
/// The agent once its programs are loaded: it attaches them to interfaces that come back, and
/// assigns VIPs. Maps that are pinned belong to whoever may open their pins; only making maps and
/// loading programs is for `CAP_BPF` (Linux 5.19).
const RUN: CapabilitySet = CapabilitySet::NET_ADMIN;
/// The supervisor, for the next start: what that needs, and may use for `swallow`.
const SUPERVISE: CapabilitySet = START.union(CapabilitySet::NET_RAW);

const NAMES: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
];

/// Refuses in one sentence where root or its capabilities are missing.
pub fn require() -> Result<()> {
    require_all(EVERY_VERB)
}

/// Refuses in one sentence where an agent could not load its programs.
pub fn require_to_start() -> Result<()> {
    require_all(START)
}

/// Refuses in one sentence where the agent cannot load its programs, and gives up what it does not
/// need for that. Afterwards no program that this process runs can have more.
pub(crate) fn keep_to_start() -> Result<()> {
    require_all(START)?;
    set_no_new_privs(true).context("do without new privileges")?;
    keep(START)
}

/// Gives up what no start needs, as far as it is there at all.
pub(crate) fn keep_to_supervise() -> Result<()> {
    let have = capabilities(None).context("read this process's capabilities")?.permitted;
    set_no_new_privs(true).context("do without new privileges")?;
    keep(have.intersection(SUPERVISE))
}

/// Gives up what only loading needs. Nothing may have started a thread yet.
pub(crate) fn keep_to_run() -> Result<()> {
    keep(RUN)?;
    log::info!("of all capabilities the agent keeps only {}", names(RUN));
    Ok(())
}

fn require_all(needed: CapabilitySet) -> Result<()> {
    let have = capabilities(None).context("read this process's capabilities")?.effective;
    match lacking(have, needed) {
        None => Ok(()),
        Some(lacking) => bail!(
            "steer needs root, or the capabilities {}: try again with sudo (this process lacks {lacking})",
            names(needed)
        ),
    }
}

/// The names of what is missing, if anything is.
fn lacking(have: CapabilitySet, needed: CapabilitySet) -> Option<String> {
    let lacking = needed.difference(have);
    (!lacking.is_empty()).then(|| names(lacking))
}

fn keep(kept: CapabilitySet) -> Result<()> {
    // Ambient ones go with the inheritable ones (capabilities(7)).
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
        .with_context(|| format!("keep to the capabilities {}", names(kept)))
}

fn names(set: CapabilitySet) -> String {
    let names =
        NAMES.iter().filter(|(capability, _)| set.contains(*capability)).map(|(_, name)| *name);
    let names = names.collect::<Vec<_>>();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_suffices_and_a_plain_user_does_not() {
        assert_eq!(lacking(CapabilitySet::all(), START), None);
        assert_eq!(
            lacking(CapabilitySet::empty(), EVERY_VERB).as_deref(),
            Some("CAP_BPF and CAP_NET_ADMIN")
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(lacking(EVERY_VERB, START).as_deref(), Some("CAP_PERFMON"));
        assert_eq!(names(START), "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
}
