//! What the binary `live` does inside another kernel: flows are re-homed with real ends, the agent
//! lives through its states, and the gateway's interfaces are of every kind that a lab on this
//! machine may not have.

mod bridges;
mod life;
mod links;
mod rehome;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::{
    agent::Hook,
    client::Offer,
    scenario::Scenario,
    topology::{Family, Link},
};

/// One thing to try.
pub struct Case {
    /// What, in a few words.
    pub name: &'static str,
    run: fn() -> Result<String>,
}

impl Case {
    const fn new(name: &'static str, run: fn() -> Result<String>) -> Self {
        Self { name, run }
    }

    /// Tries it; what came of it in a few words, and how long it took.
    ///
    /// # Errors
    /// When it is not as it must be.
    pub fn run(&self) -> Result<String> {
        let start = Instant::now();
        let found = (self.run)().with_context(|| self.name)?;
        Ok(format!("{}: {found} ({} ms)", self.name, start.elapsed().as_millis()))
    }
}

/// All there is to try, the quick ones first.
pub const CASES: [Case; 13] = [
    Case::new("re-home tc v4 session ID", || rehome::by(Hook::Tc, Family::V4, Offer::SessionId)),
    Case::new("re-home tc v6 ticket 1.2", || rehome::by(Hook::Tc, Family::V6, Offer::Ticket12)),
    Case::new("re-home xdp v4 session ID", || rehome::by(Hook::Xdp, Family::V4, Offer::SessionId)),
    Case::new("re-home tc v4 ticket 1.3", || rehome::by(Hook::Tc, Family::V4, Offer::Ticket13)),
    Case::new("life of the agent", life::of_an_agent),
    Case::new("links vlan", || links::over(Hook::Auto, Link::Vlan, Link::Vlan)),
    Case::new("links vlan-aware bridge", || links::over(Hook::Auto, Link::Bridge, Link::Bridge)),
    Case::new("links bond", || links::over(Hook::Auto, Link::Bond, Link::Bond)),
    Case::new("links macvlan", || links::over(Hook::Auto, Link::Macvlan, Link::Macvlan)),
    Case::new("bridge, an owner in another VLAN", bridges::over_tags),
    Case::new("bridge that tells VLANs apart", bridges::refused_where_vlans_are_filtered),
    Case::new("links nic, native xdp", links::over_nics_by_xdp),
    Case::new("links nic and vlan on a nic", || links::over(Hook::Auto, Link::Nic, Link::NicVlan)),
];

/// Tables that an emulated processor makes and walks in no time: the cases of [`rehome`] have those
/// of the defaults.
fn small_tables(scenario: Scenario) -> Scenario {
    ["sessions = 4096", "flows = 4096", "splices = 1024", "handshakes = 1024", "pending = 512"]
        .into_iter()
        .fold(scenario, Scenario::size)
}
