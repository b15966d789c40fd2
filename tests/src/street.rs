//! Talkative servers behind a balancer, and their clients: transfers that are none of steer's
//! business go on, whatever happens to it.

use std::net::SocketAddr;

use anyhow::Result;

use crate::{
    agent::{Agent, Settings, Shape},
    l4::{self, Snat},
    setting::Setting,
    talk::{Crowd, Peers},
    topology::{Family, Lab, Plan, source, vip},
};

/// Transfers that have to be whole.
pub const CROWD: usize = 24;

/// Such servers and clients.
pub struct Street {
    // Before the lab, whose namespaces the servers live in.
    peers: Peers,
    /// The network.
    pub lab: Lab,
    family: Family,
    /// What [`Street::agent`] configures.
    pub steer: Settings,
}

impl Street {
    /// Builds it, with steer where `shape` says, behind the balancer.
    ///
    /// # Errors
    /// Without root, or when something does not come up.
    pub fn build(setting: Setting, shape: Shape, snat: Snat) -> Result<Self> {
        let bridge = shape == Shape::Bridge;
        let plan = Plan { offloads: setting.offloads, balancer: true, bridge, ..Plan::default() };
        let lab = Lab::build(&plan)?;
        l4::set_up(&lab, snat)?;
        let peers = Peers::start(&lab)?;
        let steer = Settings { shape, ..Settings::new(setting.hook) };
        Ok(Self { peers, lab, family: setting.family, steer })
    }

    /// Starts steer.
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub fn agent(&self) -> Result<Agent<'_>> {
        Agent::start(&self.lab, &self.steer)
    }

    /// Clients with these numbers dial the balancer and talk on.
    ///
    /// # Errors
    /// When one of them cannot connect.
    pub fn talk(&self, from: usize) -> Result<Crowd> {
        let dial = |client: usize| {
            let source = SocketAddr::new(source(self.family, client), 0);
            self.peers.dial(self.lab.client(), source, vip(self.family))
        };
        Ok(Crowd::of((from..from + CROWD).map(dial).collect::<Result<_>>()?))
    }
}
